//! Relay and agent: a server behind a firewall that admits nothing is called from outside. Each test's name begins with the
//! requirement of JP2001-356973 A that it shows.

use crate::capture::Capture;
use crate::lab::{Host, wait_until};
use crate::relayed::Relayed;
use crate::traffic::{Web, accept, connect, curl, curl_in_vain, expect_pattern, listen, send_pattern};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// All kinds of data channels.
const CHANNELS: [&str; 3] = ["shared", "own", "plain"];

fn target(hidden: &Host, name: &str, port: u16) -> String {
    format!("{name}={}:{port}", hidden.v4)
}

/// A relay with the server `web` at port 8000, the agent, and a listener at the hidden server.
fn web(channel: &str, lines: &str) -> (Relayed, crate::relayed::Process) {
    let server = format!("web=8000={channel}");
    let relayed = Relayed::new(&[&server], lines);
    let agent = relayed.join(&[&target(&relayed.hidden(), "web", 80)], &[]);
    (relayed, agent)
}

/// A call from this host is reset, without a byte: in the middle of the connect, if the reset is quick.
#[track_caller]
fn assert_reset(from: &Host, to: SocketAddr) {
    let called = from.inside(|| TcpStream::connect_timeout(&to, crate::lab::DEADLINE));
    let heard = called.and_then(|mut stream| {
        stream.set_read_timeout(Some(crate::lab::DEADLINE))?;
        stream.read(&mut [0; 1])
    });
    assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Established TCP connections of a host to this port, or at it.
fn established(host: &Host, filter: &str) -> usize {
    host.run(&format!("ss -Htn state established '{filter}'")).ok().lines().count()
}

#[test]
fn rc1_rc9_the_control_channel_is_the_only_standing_connection_and_comes_back_by_itself() {
    let (mut relayed, agent) = web("own", "");
    assert_eq!(established(&agent.host, "dport = :443"), 1);
    assert_eq!(established(&relayed.hidden(), "sport = :80"), 0);
    relayed.restart_relay();
    relayed.wait_here("factory-7", 1);
    assert_eq!(established(&agent.host, "dport = :443"), 1);
    let _web = Web::start(&relayed.hidden(), 80);
    wait_until("a call after the relay's restart", || {
        !curl(&relayed.client(), relayed.relay.host.v4.into(), 8000).is_empty()
    });
}

#[test]
fn rc2_a_wrong_proof_is_refused_with_one_line() {
    let relayed = Relayed::new(&["web=8000"], "");
    let token = relayed.invite("factory-7", "web");
    let publish = target(&relayed.hidden(), "web", 80);
    let first = relayed.agent_at(&relayed.lab.terminal(1), "factory-7", &[&publish], &["--invite", &token]);
    relayed.wait_here("factory-7", 1);
    // The same invitation at another host: spent.
    let mut second = relayed.agent_at(&relayed.lab.terminal(3), "thief", &[&publish], &["--invite", &token]);
    assert!(!second.process.wait().success());
    assert!(second.log().contains("refuses the invitation"), "{}", second.log());
    assert!(!second.log().contains("panicked"), "{}", second.log());
    // An invitation of another relay: this one has another key.
    let other = Relayed::new(&["web=8000"], "");
    let foreign = other.invite("factory-7", "web");
    let third = relayed.agent_at(&relayed.lab.terminal(3), "lost", &[&publish], &["--invite", &foreign]);
    wait_until("the wrong fingerprint to be told", || third.log().contains("fingerprint"));
    assert_eq!(relayed.agent_of("factory-7")["state"], "here", "{}", first.log());
}

#[test]
fn rc4_a_server_that_the_invitation_does_not_list_is_not_published() {
    let relayed = Relayed::new(&["web=8000", "ssh=2222"], "");
    let token = relayed.invite("factory-7", "web");
    let hidden = relayed.hidden();
    let publish = [target(&hidden, "web", 80), target(&hidden, "ssh", 22)];
    let publish: Vec<&str> = publish.iter().map(String::as_str).collect();
    let agent = relayed.agent_at(&relayed.lab.terminal(1), "factory-7", &publish, &["--invite", &token]);
    relayed.wait_here("factory-7", 1);
    wait_until("the agent to say so", || agent.log().contains("ssh is not published"));
    curl_in_vain(&relayed.client(), relayed.relay.host.v4.into(), 2222);
    assert!(relayed.refused("agent_away") > 0);
}

#[test]
fn rc5_rc7_rc9_rc10_a_client_calls_by_port_and_nothing_comes_in_through_the_firewall() {
    for channel in CHANNELS {
        let (relayed, agent) = web(channel, "");
        let web = Web::start(&relayed.hidden(), 80);
        let wire = Capture::start(&relayed.lab.gateway(1), "go");
        assert!(!curl(&relayed.client(), relayed.relay.host.v4.into(), 8000).is_empty());
        assert!(web.access_log().contains(&agent.host.v4.to_string()), "{}", web.access_log());
        let packets = wire.finish();
        let firewall = relayed.lab.gateway(1).v4;
        let opens_inwards = |packet: &&[u8]| packet[9] == 6 && packet[usize::from(packet[0] & 15) * 4 + 13] & 0x12 == 2;
        assert_eq!(packets.between(relayed.relay.host.v4, firewall).filter(opens_inwards).count(), 0);
        wait_until("the connection to be over", || relayed.connections().is_empty());
        assert_eq!(established(&agent.host, "dport = :443"), 1, "{channel}");
        // The agent was told the relay's number of the connection.
        let log = relayed.relay.log();
        let number = log.split("connection ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        assert!(agent.log().contains(&format!("connection {number} ")), "{log}\n{}", agent.log());
    }
}

#[test]
fn rc6_rc11_what_the_client_has_sent_before_the_way_is_open_arrives_first_and_whole() {
    for channel in CHANNELS {
        let (relayed, agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        agent.process.suspend();
        let client = connect(&relayed.client(), relayed.at(8000));
        let mut sender = client.try_clone().unwrap();
        let seed = 7;
        sender.write_all(b"early").unwrap();
        wait_until("the call to wait", || relayed.connections().iter().any(|one| one["state"] == "called"));
        let sending = std::thread::spawn(move || send_pattern(sender, seed, 64));
        agent.process.signal(Signal::CONT);
        let (mut server, _) = accept(&listener);
        let mut early = [0; 5];
        server.read_exact(&mut early).unwrap();
        assert_eq!(&early, b"early");
        expect_pattern(&server, seed, 64);
        sending.join().unwrap();
        server.write_all(b"late").unwrap();
        drop(server);
        let mut heard = Vec::new();
        (&client).read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"late", "{channel}");
    }
}

/// A data channel in the clear is joined by its token alone, and what it carries is the client's bytes and nothing else.
#[test]
fn rc8_in_the_clear_who_has_no_token_is_joined_to_nothing() {
    let (relayed, agent) = web("plain", "");
    let server = listen(&relayed.hidden(), 80);
    let ask = |token: &str| {
        let mut stranger = connect(&relayed.lab.server(3), relayed.at(443));
        let id = relayed
            .connections()
            .first()
            .and_then(|one| one["id"].as_str().map(str::to_owned))
            .unwrap_or("0".repeat(16));
        let head = format!("GET /.well-known/masque/accept/{id}/ HTTP/1.1\r\nUpgrade: connect-accept\r\n{token}\r\n");
        let _ = stranger.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let right_form = format!("Authorization: Bearer {}\r\n", "0".repeat(32));
    // Nobody is waited for: the port speaks TLS alone.
    assert!(!ask(&right_form).starts_with("HTTP"));
    // A call that waits: its agent stands still.
    agent.process.suspend();
    let mut client = connect(&relayed.client(), relayed.at(8000));
    client.write_all(b"held").unwrap();
    wait_until("the call to be put to the agent", || {
        relayed.connections().first().is_some_and(|one| one["state"] == "called")
    });
    for (token, status) in [("", "400"), ("Authorization: Bearer x\r\n", "400"), (right_form.as_str(), "404")] {
        assert!(ask(token).starts_with(&format!("HTTP/1.1 {status} ")), "{token}");
    }
    agent.process.signal(Signal::CONT);
    let (mut called, _) = accept(&server);
    let mut held = [0; 4];
    called.read_exact(&mut held).unwrap();
    assert_eq!(&held, b"held");
    let wire = Capture::start(&relayed.lab.gateway(1), "go");
    client.write_all(b"and more of it").unwrap();
    called.read_exact(&mut [0; 14]).unwrap();
    let seen = wire.finish();
    let is_there = |packet: &&[u8]| packet.ends_with(b"and more of it");
    assert_eq!(seen.between(relayed.relay.host.v4, relayed.lab.gateway(1).v4).filter(is_there).count(), 1);
    assert!(!ask(&right_form).starts_with("HTTP"));
}

#[test]
fn rc11_half_close_passes_in_either_direction_and_the_other_goes_on() {
    for channel in CHANNELS {
        let (relayed, _agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        for server_first in [false, true] {
            let client = connect(&relayed.client(), relayed.at(8000));
            (&client).write_all(b"!").unwrap();
            let (mut server, _) = accept(&listener);
            server.read_exact(&mut [0; 1]).unwrap();
            let (first, second) = if server_first { (&server, &client) } else { (&client, &server) };
            first.shutdown(Shutdown::Write).unwrap();
            let mut reader = second;
            assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
            std::thread::scope(|scope| {
                scope.spawn(|| send_pattern(second.try_clone().unwrap(), 9, 32));
                expect_pattern(first, 9, 32);
            });
        }
        wait_until("both connections to be over", || relayed.connections().is_empty());
    }
}

#[test]
fn rc12_an_abrupt_end_of_either_is_one_at_the_other_and_nothing_stays_open() {
    for channel in CHANNELS {
        let (relayed, agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        for server_first in [false, true] {
            let client = connect(&relayed.client(), relayed.at(8000));
            (&client).write_all(b"!").unwrap();
            let (mut server, _) = accept(&listener);
            server.read_exact(&mut [0; 1]).unwrap();
            let (ends, mut stays) = if server_first { (server, client) } else { (client, server) };
            rustix::net::sockopt::set_socket_linger(&ends, Some(Duration::ZERO)).unwrap();
            drop(ends);
            let error = stays.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{channel}");
        }
        wait_until("both connections to be over", || relayed.connections().is_empty());
        wait_until("the data channels to be closed", || established(&agent.host, "dport = :443") == 1);
        assert_eq!(established(&agent.host, "dport = :80"), 0);
    }
}

#[test]
fn rc12_a_server_that_refuses_is_a_reset_without_a_byte_and_counted_by_reason() {
    let (relayed, agent) = web("shared", "");
    assert_reset(&relayed.client(), relayed.at(8000));
    assert_eq!(relayed.refused("server_refused"), 1);
    assert!(agent.log().contains("is not reached"), "{}", agent.log());
}

#[test]
fn rc13_connections_are_bounded_and_a_busy_port_is_no_obstacle_to_the_next_call() {
    for channel in CHANNELS {
        let (relayed, _agent) = web(channel, "[limits]\nof-client = 60");
        let listener = listen(&relayed.hidden(), 80);
        let clients: Vec<TcpStream> = (0..60).map(|_| connect(&relayed.client(), relayed.at(8000))).collect();
        let servers: Vec<TcpStream> = (0..60).map(|_| accept(&listener).0).collect();
        assert_eq!(relayed.connections().len(), 60);
        assert_reset(&relayed.client(), relayed.at(8000));
        assert_eq!(relayed.refused("client_full"), 1);
        drop((clients, servers));
        wait_until("all connections to be over", || relayed.connections().is_empty());
        let client = connect(&relayed.client(), relayed.at(8000));
        let _server = accept(&listener);
        drop(client);
    }
}

#[test]
fn rc14_many_agents_and_servers_each_reached_by_its_own_port() {
    let relayed = Relayed::new(&["a=8001", "b=8002", "c=8003"], "");
    let (one, two) = (relayed.lab.terminal(1), relayed.lab.terminal(3));
    let hidden = relayed.hidden();
    let (a, b, c) = (target(&hidden, "a", 81), target(&hidden, "b", 82), target(&two, "c", 83));
    let (first, second) = (relayed.invite("one", "a,b"), relayed.invite("two", "c"));
    let _one = relayed.agent_at(&one, "one", &[&a, &b], &["--invite", &first]);
    // This agent is on the server's own host (C15).
    let _two = relayed.agent_at(&two, "two", &[&c], &["--invite", &second]);
    relayed.wait_here("one", 2);
    relayed.wait_here("two", 1);
    for (host, port) in [(&hidden, 81), (&hidden, 82), (&two, 83)] {
        let listener = listen(host, port);
        let mut client = connect(&relayed.client(), relayed.at(7920 + port));
        let (mut server, _) = accept(&listener);
        server.write_all(&port.to_be_bytes()).unwrap();
        let mut heard = [0; 2];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(u16::from_be_bytes(heard), port);
    }
}

#[test]
fn rc5_a_published_server_is_called_by_its_virtual_ip_which_it_keeps() {
    let mut relayed = Relayed::new(&[], "pool = [\"198.19.7.0/24\", \"2001:db8:19:7::/64\"]");
    let client = relayed.client();
    client.run(&format!("ip route add 198.19.7.0/24 via {}", relayed.relay.host.v4)).ok();
    client.run(&format!("ip -6 route add 2001:db8:19:7::/64 via {}", relayed.relay.host.v6)).ok();
    // The relay has port 443 at all its addresses, and the server its own 443 at its virtual IP.
    let hidden = relayed.hidden();
    let agent = relayed.join(&[&target(&hidden, "web", 443)], &[]);
    let _web = Web::start(&hidden, 443);
    let virtual_ips = |relayed: &Relayed| -> Vec<IpAddr> {
        let servers: Value = serde_json::from_str(&relayed.relay.ask("servers --json").ok()).unwrap();
        serde_json::from_value(servers[0]["virtual_ips"].clone()).unwrap()
    };
    let first = virtual_ips(&relayed);
    assert_eq!(first.len(), 2);
    for address in &first {
        assert_eq!(curl(&client, *address, 443), format!("{} 443", agent.host.v4));
    }
    relayed.restart_relay();
    relayed.wait_here("factory-7", 1);
    assert_eq!(virtual_ips(&relayed), first);
    wait_until("a call after the restart", || {
        client.run(&format!("curl -sS --max-time 2 {}", crate::traffic::url(first[0], 443, ""))).succeeded()
    });
    drop(agent);
    wait_until("the agent to be away", || relayed.agent_of("factory-7")["state"] == "away");
    // Not the relay's own port 443, which is open at all addresses.
    assert_reset(&client, (first[0], 443).into());
    assert_eq!(relayed.refused("agent_away"), 1);
    let relay = relayed.relay.host.clone();
    relayed.stop_relay();
    assert_eq!(relay.run("ip route show table local 198.19.7.0/24").ok(), "");
}

#[test]
fn the_server_is_told_the_clients_address_by_the_proxy_protocol() {
    let relayed = Relayed::new(&["web=8000"], "");
    let (hidden, client) = (relayed.hidden(), relayed.client());
    let token = relayed.invite("factory-7", "web");
    let text = format!(
        "relay = [\"{}:443\"]\n[[publish]]\nname = \"web\"\ntarget = \"{}:80\"\nproxy-protocol = true\n",
        relayed.relay.host.v4, hidden.v4
    );
    let file = relayed.lab.scratch().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let _agent = relayed.agent_of_file(&relayed.lab.terminal(1), "factory-7", &file, &["--invite", &token]);
    relayed.wait_here("factory-7", 1);
    let listener = listen(&hidden, 80);
    let mut caller = connect(&client, relayed.at(8000));
    caller.write_all(b"hello").unwrap();
    let (mut server, _) = accept(&listener);
    let mut head = [0; 28];
    server.read_exact(&mut head).unwrap();
    // The PROXY protocol, version 2: signature, version and command, family, length, both addresses, both ports.
    assert_eq!(&head[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!((&head[16..20], &head[20..24]), (&client.v4.octets()[..], &hidden.v4.octets()[..]));
    assert_eq!(&head[24..26], caller.local_addr().unwrap().port().to_be_bytes());
    let mut hello = [0; 5];
    server.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
}

#[test]
fn a_call_waits_for_an_agent_that_is_away_where_the_operator_says_so() {
    let (relayed, agent) = web("shared", "hold = \"1m\"");
    let listener = listen(&relayed.hidden(), 80);
    drop(agent);
    wait_until("the agent to be away", || relayed.agent_of("factory-7")["state"] == "away");
    let mut client = connect(&relayed.client(), relayed.at(8000));
    wait_until("the call to wait", || relayed.connections().iter().any(|one| one["state"] == "held"));
    let publish = target(&relayed.hidden(), "web", 80);
    // Without an invitation: the key in its state directory is known.
    let _agent = relayed.agent_at(&relayed.lab.terminal(1), "factory-7", &[&publish], &[]);
    let (mut server, _) = accept(&listener);
    server.write_all(b"!").unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn what_is_typed_wrong_has_one_line_and_an_exit_code() {
    let relayed = Relayed::new(&["web=8000"], "");
    let relay = &relayed.relay.host;
    let mistake = |line: &str, code: i32, words: &str| {
        let ran = relay.run(&format!("exec {} {line}", crate::gateway::KAMEI));
        assert_eq!(ran.code, Some(code), "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.lines().count() == 1, "{line}: {}", ran.stderr);
    };
    let scratch = relayed.lab.scratch().display().to_string();
    mistake("relay --server web=8000", 2, "says where agents come in");
    mistake("relay --listen :443 --server web", 2, "is no NAME=VALUE");
    mistake("relay --listen :443 --server Web=80", 2, "Web");
    mistake("relay --listen :443 --proxy 1080", 2, "'1080' is no address and port");
    mistake("relay --listen :443 --proxy 127.0.0.1:443", 2, "127.0.0.1:443 is where agents come in");
    mistake(
        &format!("relay --listen :443 --state-dir {scratch}/other --control {scratch}/other.sock"),
        1,
        "another program has the port",
    );
    mistake(
        &format!("relay --listen :444 --state-dir {scratch}/relay-state --control {scratch}/other.sock"),
        1,
        "another relay uses the state directory",
    );
    mistake(&format!("relay agents --control {scratch}/nobody.sock"), 4, "no relay answers");
    mistake("agent --relay 203.0.113.11:443", 2, "nothing is published");
    mistake(
        &format!(
            "agent --relay 203.0.113.11:443 --publish web=10.0.0.1:80 --state-dir {scratch}/new --control {scratch}/new.sock"
        ),
        2,
        "has not joined",
    );
    mistake("agent --relay 203.0.113.11:443 --publish web=10.0.0.1:80 --invite kamei1-abc", 2, "--invite");
    let ran = relay.run(&format!("exec {} check {scratch}/relay.toml", crate::gateway::KAMEI)).ok();
    assert!(ran.contains("ok, relay, agents at [::]:443, 1 servers have ports"), "{ran}");
    std::fs::write(format!("{scratch}/wrong.toml"), "relay = [\"relay:443\"]\npublish = 5\n").unwrap();
    mistake(&format!("check {scratch}/wrong.toml"), 2, "wrong.toml:2: publish: takes");
    for (question, code, words) in [
        ("invite Factory --publish web", 3, "Factory"),
        ("revoke nobody", 3, "nobody is called 'nobody'"),
        ("admit Alice", 3, "Alice"),
        ("admit alice --call 'web,s h'", 3, "s h"),
        ("admit alice --password-file /nowhere", 2, "/nowhere"),
        ("admit alice --password-file /dev/null", 3, "a password has 8 to 255 bytes"),
        ("revoke 'web?x'", 2, "only a-z, 0-9 and '-'"),
        ("close 00000000000000ff", 3, "there is no connection"),
        ("close xyz", 2, "no ID"),
    ] {
        let ran = relayed.relay.ask(question);
        assert_eq!(ran.code, Some(code), "{question}: {}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.lines().count() == 1, "{question}: {}", ran.stderr);
    }
}

#[test]
fn an_invitation_names_an_address_that_agents_can_call_or_is_refused() {
    let relayed = Relayed::new(&["web=8000"], "");
    let relay = relayed.start_another("other", &["--listen", ":4443", "--server", "web=8001"]);
    let ran = relay.ask("invite factory-7 --publish web");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("--public HOST:PORT"), "{}", ran.stderr);
    drop(relay);
    let relay = relayed.start_another("third", &["--listen", "203.0.113.11:4443", "--server", "web=8001"]);
    let line = relay.ask("invite factory-7 --publish web").ok();
    assert!(line.starts_with("kamei agent --relay 203.0.113.11:4443 --invite kamei1-"), "{line}");
}

#[test]
fn an_agent_that_hangs_is_away_soon_and_its_callers_are_reset() {
    let (relayed, agent) = web("shared", "probe-every = \"1s\"\nprobe-patience = \"4s\"");
    let listener = listen(&relayed.hidden(), 80);
    let mut client = connect(&relayed.client(), relayed.at(8000));
    let _server = accept(&listener);
    agent.process.suspend();
    wait_until("the agent to be away", || relayed.agent_of("factory-7")["state"] == "away");
    assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    curl_in_vain(&relayed.client(), relayed.relay.host.v4.into(), 8000);
    agent.process.signal(Signal::CONT);
    relayed.wait_here("factory-7", 1);
}

#[test]
fn an_agent_or_a_relay_that_is_killed_in_the_middle_of_a_transfer_is_an_abrupt_end_and_no_short_answer() {
    for (channel, is_relay) in CHANNELS.iter().flat_map(|channel| [(channel, false), (channel, true)]) {
        let (mut relayed, mut agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        let mut client = connect(&relayed.client(), relayed.at(8000));
        let (mut server, _) = accept(&listener);
        server.write_all(&[7; 100_000]).unwrap();
        client.write_all(&[8; 1000]).unwrap();
        client.read_exact(&mut [0; 50_000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        let killed = if is_relay { &mut relayed.relay.process } else { &mut agent.process };
        killed.child.kill().unwrap();
        killed.wait();
        for end in [&mut client, &mut server] {
            let error = end.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{channel}");
        }
        if !is_relay {
            wait_until("the connection to be over", || relayed.connections().is_empty());
        }
    }
}

#[test]
fn a_right_that_is_taken_away_ends_the_agent_and_what_runs() {
    for channel in CHANNELS {
        let (relayed, agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        let mut client = connect(&relayed.client(), relayed.at(8000));
        let (mut server, _) = accept(&listener);
        relayed.relay.ask("revoke factory-7").ok();
        assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(server.read(&mut [0; 1]).is_err(), "{channel}");
        wait_until("the agent to hear why", || agent.log().contains("revoked"));
        curl_in_vain(&relayed.client(), relayed.relay.host.v4.into(), 8000);
    }
}

#[test]
fn rh13_a_reader_that_stops_holds_up_no_other() {
    for channel in CHANNELS {
        let (relayed, _agent) = web(channel, "");
        let listener = listen(&relayed.hidden(), 80);
        // As much as comes is sent to twenty clients that read nothing of it.
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let client = connect(&relayed.client(), relayed.at(8000));
            let (filling, _) = accept(&listener);
            filling.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            while (&filling).write(&[7; 1 << 18]).is_ok() {}
            stalled.push((client, filling));
        }
        for seed in 1..4 {
            let client = connect(&relayed.client(), relayed.at(8000));
            let (server, _) = accept(&listener);
            std::thread::scope(|scope| {
                scope.spawn(|| send_pattern(server, seed, 64));
                expect_pattern(&client, seed, 64);
            });
        }
        drop(stalled);
        wait_until("all connections to be over", || relayed.connections().is_empty());
    }
}
