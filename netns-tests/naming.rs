//! How a client names the server: by a TLS server name, where agents come in.

use crate::lab::{Family, wait_until};
use crate::relayed::Relayed;
use crate::traffic::{accept, connect, curl_in_vain, listen};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

/// A server of this name without a port, and more keys of its section.
fn section(server: &str, more: &str) -> String {
    format!("[[server]]\nname = \"{server}\"\n{more}\n")
}

/// A ClientHello that names this server, in one record.
fn hello(name: &str) -> Vec<u8> {
    let long = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let names = long(&[&[0][..], &long(name.as_bytes())].concat());
    let extensions = [&[0, 0][..], &long(&names)].concat();
    let body = [&[3, 3][..], &[9; 32], &[0], &long(&[0x13, 1]), &[1, 0], &long(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &long(&[&[1][..], &length[1..], &body].concat())].concat()
}

/// The relay ends the connection, before this end gives up waiting.
#[track_caller]
fn assert_let_go(client: &mut TcpStream) {
    if let Err(error) = client.read_to_end(&mut Vec::new()) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn rc5_a_client_names_the_server_by_a_tls_server_name_and_the_server_opens_it_itself() {
    let relayed = Relayed::new(&[], &section("web", "sni = [\"web.example.org\", \"*.lab.example.org\"]"));
    let hidden = relayed.hidden();
    let names = vec!["web.example.org".to_owned(), "a.lab.example.org".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let file = |name: &str, text: String| {
        let path = relayed.lab.scratch().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("web.pem", own.cert.pem()), file("web.key", own.signing_key.serialize_pem()));
    let serve = format!(
        "import http.server, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('{certificate}', '{key}')
class Hidden(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'hidden ' + self.path.encode())
server = http.server.ThreadingHTTPServer(('', 443), Hidden)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()"
    );
    let _server = hidden.spawn("https", &["/usr/bin/python3", "-c", &serve]);
    wait_until("the hidden server to listen", || hidden.run("ss -Hltn 'sport = :443'").stdout.contains(":443"));
    let _agent = relayed.join(&[&format!("web={}:443", hidden.v4)], &[]);

    let client = relayed.client();
    let get = |name: &str| {
        let at = format!("--resolve {name}:443:{}", relayed.relay.host.v4);
        client.run(&format!("curl -sS --max-time 20 --cacert {certificate} {at} https://{name}/page"))
    };
    assert_eq!(get("web.example.org").ok(), "hidden /page");
    assert_eq!(get("a.lab.example.org").ok(), "hidden /page");
    // Any other name is for the relay itself, which shows its own certificate.
    for name in ["x.example.org", "a.b.lab.example.org"] {
        assert_eq!(get(name).code, Some(60), "{name}");
    }
    assert!(relayed.relay.ask("servers").ok().contains("web.example.org,*.lab.example.org"));
    wait_until("no connection to be left", || relayed.connections().is_empty());
    relayed.wait_here("factory-7", 1);
}

#[test]
fn rc6_a_hello_that_comes_byte_by_byte_arrives_whole_and_nothing_of_it_is_taken() {
    let relayed = Relayed::new(&[], &section("web", "sni = [\"web.example.org\"]\nclients = [\"203.0.113.12\"]"));
    let hidden = relayed.hidden();
    let server = listen(&hidden, 443);
    let _agent = relayed.join(&[&format!("web={}:443", hidden.v4)], &[]);
    let hello = hello("WEB.example.org");
    let mut stranger = connect(&relayed.lab.server(3), relayed.at(443));
    stranger.write_all(&hello).unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "who is not welcome");
    assert_eq!(relayed.refused("not_allowed"), 1);

    let mut client = connect(&relayed.client(), relayed.at(443));
    client.set_nodelay(true).unwrap();
    for byte in &hello {
        client.write_all(std::slice::from_ref(byte)).unwrap();
    }
    client.write_all(b"and more").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut called, _) = accept(&server);
    let mut heard = Vec::new();
    called.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, [&hello[..], b"and more"].concat());
    called.write_all(b"answer").unwrap();
    drop(called);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[test]
fn rc6_half_a_hello_and_none_are_let_go_and_hold_nothing() {
    let relayed = Relayed::new(&["ssh=2222"], &section("web", "sni = [\"web.example.org\"]"));
    let hello = hello("web.example.org");
    let mut silent = connect(&relayed.client(), relayed.at(443));
    silent.write_all(&hello[..hello.len() - 1]).unwrap();
    for bytes in [&hello[..hello.len() - 1], b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut client = connect(&relayed.client(), relayed.at(443));
        client.write_all(bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_let_go(&mut client);
    }
    assert_let_go(&mut silent);
    // Nobody publishes it.
    let mut client = connect(&relayed.client(), relayed.at(443));
    client.write_all(&hello).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(relayed.refused("agent_away"), 1);
    curl_in_vain(&relayed.client(), relayed.relay.host.address(Family::V4), 2222);
    wait_until("no connection to be left", || relayed.connections().is_empty());
}
