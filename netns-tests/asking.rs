//! How a client asks for a server: by SOCKS5 or HTTP CONNECT, at the relay's `proxy`.

use crate::lab::{Host, Ran, wait_until};
use crate::relayed::Relayed;
use crate::traffic::{Web, accept, connect, listen};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where clients ask.
const PORT: u16 = 1080;
/// Nothing comes while this lasts: long enough for what would come at once.
const MOMENT: Duration = Duration::from_millis(700);

/// A relay with a proxy, these lines in its section, and these behind it.
fn asked(servers: &[&str], clients: &str, lines: &str) -> Relayed {
    Relayed::new(servers, &format!("{lines}\n[proxy]\nlisten = [\":{PORT}\"]\n{clients}"))
}

/// Lets a client in, and returns NAME:PASSWORD.
fn admit(relayed: &Relayed, name: &str, flags: &str) -> String {
    relayed.relay.ask(&format!("admit {name} {flags}")).ok().trim().to_owned()
}

/// `curl` by a proxy of this kind, `user` is NAME:PASSWORD.
fn curl(relayed: &Relayed, client: &Host, (kind, user): (&str, Option<&str>), more: &str) -> Ran {
    let user = user.map(|user| format!("--proxy-user '{user}'")).unwrap_or_default();
    let proxy = format!("--proxytunnel --proxy {kind}://{}", relayed.at(PORT));
    client.run(&format!("curl -sS --max-time 20 {proxy} {user} {more}"))
}

/// Sends these bytes one by one.
fn bytewise(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_nodelay(true).unwrap();
    for byte in bytes {
        stream.write_all(std::slice::from_ref(byte)).unwrap();
    }
}

/// Reads so many bytes.
#[track_caller]
fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// All that comes until the other end closes in order.
#[track_caller]
fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

/// The SOCKS5 request for this name and port 80, without a greeting.
fn socks5_request(name: &str) -> Vec<u8> {
    [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap()], name.as_bytes(), &[0, 80]].concat()
}

#[test]
fn rc5_a_client_asks_by_socks5_or_http_connect_with_a_name_a_tls_name_or_a_virtual_ip() {
    let pool = "pool = [\"198.18.7.0/24\"]";
    let mut relayed = asked(&["ssh=2222"], "", pool);
    let hidden = relayed.hidden();
    let _web = Web::start(&hidden, 8080);
    let _agent = relayed.join(&[&format!("web={}:8080", hidden.v4)], &[]);
    let (client, alice) = (relayed.client(), admit(&relayed, "alice", ""));
    let virtual_ip: serde_json::Value = serde_json::from_str(&relayed.relay.ask("servers --json").ok()).unwrap();
    let web = virtual_ip.as_array().unwrap().iter().find(|server| server["server"]["name"] == "web").unwrap();
    let virtual_ip = web["virtual_ips"][0].as_str().unwrap().to_owned();
    for kind in ["socks5h", "http"] {
        for host in ["web", "WEB.", "web:9", &format!("{virtual_ip}:8080")] {
            // The server says at which port it was reached.
            let page = curl(&relayed, &client, (kind, Some(&alice)), &format!("http://{host}/")).ok();
            assert!(page.ends_with(" 8080"), "{kind} {host}: {page}");
        }
        let elsewhere = curl(&relayed, &client, (kind, Some(&alice)), &format!("http://{virtual_ip}:81/"));
        assert!(!elsewhere.succeeded(), "another port of a virtual IP");
    }
    assert_eq!(relayed.refused("no_server"), 2);
    for kind in ["socks5", "http"] {
        let proxy = format!("--proxy {} --proxy-type {kind} --proxy-auth {alice}", relayed.at(PORT));
        let page = client.run(&format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | ncat {proxy} web 80")).ok();
        assert!(page.starts_with("HTTP/1.1 200"), "ncat by {kind}: {page}");
    }
    assert!(relayed.relay.log().contains("alice at"), "{}", relayed.relay.log());
    // Who is let in outlives the relay.
    relayed.restart_relay();
    relayed.wait_here("factory-7", 1);
    curl(&relayed, &client, ("socks5h", Some(&alice)), "http://web/").ok();
    assert!(relayed.relay.ask("clients").ok().contains("alice"));
    assert!(relayed.relay.ask("status").ok().contains("clients ask"));
}

#[test]
fn rc2_who_proves_nothing_is_served_nowhere_and_hears_the_same() {
    let relayed = asked(&[], "", "");
    let hidden = relayed.hidden();
    let _web = Web::start(&hidden, 80);
    let _agent = relayed.join(&[&format!("web={}:80", hidden.v4), &format!("db={}:80", hidden.v4)], &[]);
    let client = relayed.client();
    let status = |user: Option<&str>, host: &str| {
        let more = format!("-o /dev/null -w '%{{http_connect}}' http://{host}/");
        curl(&relayed, &client, ("http", user), &more).stdout
    };
    let code = |user: Option<&str>| curl(&relayed, &client, ("socks5h", user), "http://web/").code;
    // Nobody was let in.
    assert_eq!((status(None, "web").as_str(), code(None)), ("407", Some(97)));
    let alice = admit(&relayed, "alice", "--call web");
    for wrong in ["alice:wrong", "nobody:wrong", "alice:", ":x"] {
        assert_eq!((status(Some(wrong), "web").as_str(), code(Some(wrong))), ("407", Some(97)), "{wrong}");
    }
    assert_eq!((status(None, "web").as_str(), code(None)), ("407", Some(97)));
    assert_eq!((status(Some(&alice), "web").as_str(), code(Some(&alice))), ("200", Some(0)));
    // What she may not call is refused, whether it is there or not.
    assert_eq!(status(Some(&alice), "db"), "403");
    assert!(relayed.refused("not_proved") >= 10 && relayed.refused("not_allowed") == 1);
    assert!(!relayed.relay.log().contains("wrong"), "a password in the log:\n{}", relayed.relay.log());
    // One that the operator has chosen, by standard input, and a wrong one.
    let chosen = relayed.relay.host.run(&format!(
        "printf 'correct horse\\n' | {} relay admit bob --password-file - --control {}",
        crate::gateway::KAMEI,
        relayed.relay.control.display()
    ));
    assert_eq!(chosen.ok(), "bob:correct horse\n");
    assert_eq!(status(Some("bob:correct horse"), "db"), "200");
    let taken = relayed.relay.ask("admit factory-7");
    assert!(!taken.succeeded() && taken.stderr.contains("'factory-7' is a member already"), "{}", taken.stderr);
}

#[test]
fn rc6_a_client_hears_of_success_when_the_server_has_answered_and_of_the_cause_otherwise() {
    let relayed = asked(&["away=3333"], "clients = [\"203.0.113.0/24\"]", "");
    let hidden = relayed.hidden();
    let server = listen(&hidden, 80);
    hidden.run("nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in tcp dport 7 drop'").ok();
    let publish =
        [("web", 80), ("closed", 81), ("silent", 7)].map(|(name, port)| format!("{name}={}:{port}", hidden.v4));
    let publish: Vec<&str> = publish.iter().map(String::as_str).collect();
    let file = relayed.lab.scratch().join("agent.toml");
    std::fs::write(&file, "dial-time = \"1s\"\n").unwrap();
    let _agent = relayed.join(&publish, &["--config", file.to_str().unwrap()]);
    let client = relayed.client();
    let ask = |name: &str| {
        let mut socks5 = connect(&client, relayed.at(PORT));
        // Offers a password that it does not have.
        bytewise(&mut socks5, &[5, 2, 2, 0]);
        assert_eq!(read(&mut socks5, 2), [5, 0]);
        bytewise(&mut socks5, &socks5_request(name));
        let code = read(&mut socks5, 10)[1];
        if code != 0 {
            assert_eq!(rest(&mut socks5), "");
        }
        let mut http = connect(&client, relayed.at(PORT));
        bytewise(&mut http, format!("CONNECT {name}:80 HTTP/1.1\r\nHost: {name}:80\r\n\r\n").as_bytes());
        let head = read(&mut http, 12);
        (code, String::from_utf8_lossy(&head[9..]).into_owned(), http)
    };
    for (name, code, status, cause) in [
        ("closed", 5, "502", "connection_refused"),
        ("silent", 6, "504", "connection_timeout"),
        ("away", 3, "503", "destination_unavailable"),
        ("none", 4, "404", "destination_not_found"),
        ("10.0.0.2", 4, "404", "destination_not_found"),
    ] {
        let (said_code, said_status, mut http) = ask(name);
        assert_eq!((said_code, said_status.as_str()), (code, status), "{name}");
        let told = rest(&mut http);
        assert!(told.contains(&format!("Proxy-Status: kamei; error={cause};")), "{name}: {told}");
    }
    let (code, status, http) = ask("web");
    assert_eq!((code, status.as_str()), (0, "200"));
    drop((http, accept(&server), accept(&server)));
    // Not before: the call that nothing answers is told of nothing, while it lasts.
    let mut silent = connect(&client, relayed.at(PORT));
    silent.write_all(b"CONNECT silent:7 HTTP/1.1\r\n\r\n").unwrap();
    silent.set_read_timeout(Some(MOMENT)).unwrap();
    assert!(silent.read(&mut [0]).is_err());
    wait_until("no connection to be left", || relayed.connections().is_empty());
}

#[test]
fn rc6_what_a_client_says_behind_its_request_arrives_first_and_whole() {
    let relayed = asked(&[], "clients = [\"203.0.113.0/24\"]", "");
    let hidden = relayed.hidden();
    let server = listen(&hidden, 80);
    let _agent = relayed.join(&[&format!("web={}:80", hidden.v4)], &[]);
    let early = b"said before anybody has answered";
    let socks5 = [&[5, 1, 0][..], &socks5_request("web"), early].concat();
    let http = [&b"CONNECT web:80 HTTP/1.1\r\n\r\n"[..], early].concat();
    for (request, reply) in [(socks5, 12), (http, 19)] {
        let mut client = connect(&relayed.client(), relayed.at(PORT));
        client.write_all(&request).unwrap();
        let (mut called, _) = accept(&server);
        assert_eq!(read(&mut called, early.len()), early);
        called.write_all(b"answer").unwrap();
        drop(called);
        read(&mut client, reply);
        assert_eq!(rest(&mut client), "answer");
    }
}

#[test]
fn rc2_a_right_that_goes_ends_what_runs_under_it() {
    let mut relayed = asked(&[], "clients = [\"203.0.113.0/24\"]", "");
    let hidden = relayed.hidden();
    let server = listen(&hidden, 80);
    let _agent = relayed.join(&[&format!("web={}:80", hidden.v4)], &[]);
    let open = |user: Option<&str>| {
        let proof = user.map(|user| data_encoding::BASE64.encode(user.as_bytes()));
        let proof = proof.map(|proof| format!("Proxy-Authorization: Basic {proof}\r\n")).unwrap_or_default();
        let mut stream = connect(&relayed.client(), relayed.at(PORT));
        stream.write_all(format!("CONNECT web:80 HTTP/1.1\r\n{proof}\r\n").as_bytes()).unwrap();
        assert_eq!(read(&mut stream, 12), b"HTTP/1.1 200");
        (stream, accept(&server))
    };
    let (alice, bob) = (admit(&relayed, "alice", "--call web"), admit(&relayed, "bob", ""));
    let (_alice, _bob, _nobody) = (open(Some(&alice)), open(Some(&bob)), open(None));
    let names = |relayed: &Relayed| {
        let all = relayed.connections();
        let mut names: Vec<String> =
            all.iter().map(|one| one["client_name"].as_str().unwrap_or("-").to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&relayed), ["-", "alice", "bob"]);
    assert!(relayed.relay.ask("connections").ok().contains("alice at "));
    admit(&relayed, "alice", "--call db");
    wait_until("alice's connection to end", || names(&relayed) == ["-", "bob"]);
    assert_eq!(relayed.relay.ask("revoke bob").ok(), "revoked: bob; 1 connection ended\n");
    wait_until("bob's connection to end", || names(&relayed) == ["-"]);
    let file = relayed.lab.scratch().join("relay.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("203.0.113.0/24", "192.0.2.0/24")).unwrap();
    relayed.relay.process.signal(rustix::process::Signal::HUP);
    wait_until("the connection of nobody to end", || names(&relayed).is_empty());
    relayed.stop_relay();
}

#[test]
fn rc6_half_a_request_none_and_another_protocol_are_let_go_and_hold_nothing() {
    let relayed = asked(&[], "clients = [\"203.0.113.12\"]", "");
    let hidden = relayed.hidden();
    let _web = Web::start(&hidden, 80);
    let _agent = relayed.join(&[&format!("web={}:80", hidden.v4)], &[]);
    let stranger = relayed.lab.server(3);
    // More than one address may have: those beyond are let go at once, the others when their time is over.
    let silent: Vec<TcpStream> = (0..40).map(|_| connect(&stranger, relayed.at(PORT))).collect();
    curl(&relayed, &relayed.client(), ("socks5h", None), "http://web/").ok();
    let said = |bytes: &[u8]| {
        let mut client = connect(&relayed.client(), relayed.at(PORT));
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = Vec::new();
        let _ = client.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    };
    for half in [&b""[..], &[5], &[5, 3, 0], b"CONNECT web:80 HTTP/1.1\r\n", &[4, 1, 0, 80, 1, 2, 3, 4, 0]] {
        assert!(!said(half).contains("200"), "{half:?}");
    }
    assert!(said(b"GET http://web/ HTTP/1.1\r\n\r\n").contains("405 Method Not Allowed\r\nAllow: CONNECT"));
    assert!(said(&[b"CONNECT web:80 HTTP/1.1\r\na: ".to_vec(), vec![b'a'; 9000]].concat()).contains("431"));
    assert_eq!(said(&[5, 1, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).as_bytes()[..4], [5, 0, 5, 7]);
    for mut stream in silent {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        assert!(text.is_empty());
    }
    wait_until("no connection to be left", || relayed.connections().is_empty());
    curl(&relayed, &relayed.client(), ("http", None), "http://web/").ok();
}
