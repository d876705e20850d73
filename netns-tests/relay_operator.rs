//! What an operator does to a relay and an agent that run: looks at them, changes their configuration, installs them.

use crate::gateway::KAMEI;
use crate::lab::{Host, wait_until};
use crate::relayed::{Process, Relayed};
use crate::traffic::{accept, connect, curl_in_vain, listen};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

fn target(hidden: &Host, name: &str, port: u16) -> String {
    format!("{name}={}:{port}", hidden.v4)
}

/// Bytes pass in both directions.
#[track_caller]
fn assert_open(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
}

/// `kamei QUESTION --control …`, of whichever role is there.
fn general(process: &Process, question: &str) -> crate::lab::Ran {
    process.host.run(&format!("exec {KAMEI} {question} --control {}", process.control.display()))
}

#[test]
fn a_relay_reloads_its_servers_and_only_the_connections_of_those_that_go_end() {
    let relayed = Relayed::new(&["web=8000", "ssh=2222"], "");
    let hidden = relayed.hidden();
    let publish = [target(&hidden, "web", 80), target(&hidden, "ssh", 22)];
    let _agent = relayed.join(&publish.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    let (web, ssh) = (listen(&hidden, 80), listen(&hidden, 22));
    let mut to_web = connect(&relayed.client(), relayed.at(8000));
    let (mut of_web, _) = accept(&web);
    let mut to_ssh = connect(&relayed.client(), relayed.at(2222));
    let (mut of_ssh, _) = accept(&ssh);
    assert_open(&mut to_web, &mut of_web);
    assert_open(&mut to_ssh, &mut of_ssh);

    let file = relayed.lab.scratch().join("relay.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let after =
        before.replace("port = 8000", "port = 8001").split("[[server]]\nname = \"ssh\"").next().unwrap().to_owned();
    // What cannot be done is one line, and changes nothing.
    for (text, words) in [
        (after.replace(":443\"]", ":444\"]"), "listen can only be changed by a restart; nothing was changed"),
        (after.replace("port = 8001", "port = 0"), "port: 0 is no port"),
        (format!("{after}[[server]]\nname = \"db\"\nport = 5432\n"), "another program has the port"),
    ] {
        let _taken = listen(&relayed.relay.host, 5432);
        std::fs::write(&file, text).unwrap();
        let ran = general(&relayed.relay, "reload");
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        assert!(ran.stderr.contains(words) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        assert_open(&mut to_ssh, &mut of_ssh);
    }
    std::fs::write(&file, after).unwrap();
    let planned = general(&relayed.relay, "reload --dry-run").ok();
    assert!(planned.contains("server ssh goes") && planned.contains("nothing was changed"), "{planned}");
    assert_open(&mut to_ssh, &mut of_ssh);
    let done = general(&relayed.relay, "reload").ok();
    assert!(done.contains("server web changes") && done.contains("in force"), "{done}");
    assert_eq!(to_ssh.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    curl_in_vain(&relayed.client(), relayed.relay.host.v4.into(), 2222);
    assert_open(&mut to_web, &mut of_web);
    let mut anew = connect(&relayed.client(), relayed.at(8001));
    let (mut of_anew, _) = accept(&web);
    assert_open(&mut anew, &mut of_anew);
    assert!(general(&relayed.relay, "reload").ok().contains("nothing has changed"));

    // Who is not welcome any more goes, by a signal as well.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("port = 8001", "port = 8001\nclients = [\"192.0.2.1\"]")).unwrap();
    relayed.relay.process.signal(rustix::process::Signal::HUP);
    assert_eq!(anew.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    wait_until("all connections to be over", || relayed.connections().is_empty());
}

#[test]
fn rc3_an_agent_reloads_what_it_publishes_and_only_the_connections_of_what_goes_end() {
    for channel in ["shared", "own", "plain"] {
        let relayed = Relayed::new(&[&format!("web=8000={channel}"), &format!("ssh=2222={channel}")], "");
        let hidden = relayed.hidden();
        let token = relayed.invite("factory-7", "web,ssh,db");
        let file = relayed.lab.scratch().join("agent.toml");
        let publish = |names: &[(&str, u16)]| {
            let each = |(name, port): &(&str, u16)| {
                format!("[[publish]]\nname = \"{name}\"\ntarget = \"{}:{port}\"\n", hidden.v4)
            };
            let text = names.iter().map(each).collect::<String>();
            std::fs::write(&file, format!("relay = [\"{}:443\"]\n{text}", relayed.relay.host.v4)).unwrap();
        };
        publish(&[("web", 80), ("ssh", 22)]);
        let agent = relayed.agent_of_file(&relayed.lab.terminal(1), "factory-7", &file, &["--invite", &token]);
        relayed.wait_here("factory-7", 2);
        let (web, ssh) = (listen(&hidden, 80), listen(&hidden, 22));
        let mut to_web = connect(&relayed.client(), relayed.at(8000));
        let (mut of_web, _) = accept(&web);
        let mut to_ssh = connect(&relayed.client(), relayed.at(2222));
        let (mut of_ssh, _) = accept(&ssh);
        assert_open(&mut to_ssh, &mut of_ssh);
        publish(&[("web", 80), ("db", 5432), ("more", 1)]);
        let done = general(&agent, "reload").ok();
        assert!(done.contains("server ssh goes") && done.contains("server db comes"), "{done}");
        assert!(to_ssh.read(&mut [0; 1]).is_err(), "{channel}");
        wait_until("the relay to know", || {
            let servers = relayed.agent_of("factory-7")["servers"].to_string();
            servers.contains("db") && !servers.contains("ssh") && !servers.contains("more")
        });
        assert_open(&mut to_web, &mut of_web);
    }
}

#[test]
fn status_and_the_clients_of_a_role_say_whose_a_socket_is() {
    let relayed = Relayed::new(&["web=8000"], "");
    let agent = relayed.join(&[&target(&relayed.hidden(), "web", 80)], &[]);
    assert!(general(&relayed.relay, "status").ok().contains(", relay, up"));
    assert!(general(&agent, "status").ok().contains(", agent, up"));
    assert!(general(&agent, "status --json").ok().contains("\"role\": \"agent\""));
    let top = general(&relayed.relay, "top --once").ok();
    assert!(top.contains(", relay, up") && top.contains("factory-7") && top.contains("BYTES IN"), "{top}");
    let control = relayed.relay.control.display();
    for (question, words) in [
        ("status --role gateway".to_owned(), "is the socket of a relay, not of a gateway"),
        ("bindings".to_owned(), "is the socket of a relay, not of a gateway"),
        ("agent status".to_owned(), "is the socket of a relay, not of an agent"),
    ] {
        let ran = relayed.relay.host.run(&format!("exec {KAMEI} {question} --control {control}"));
        assert!(ran.stderr.contains(words) && ran.stderr.lines().count() == 1, "{question}: {}", ran.stderr);
    }
    let scratch = relayed.lab.scratch().display();
    let second = format!("exec {KAMEI} relay --listen :444 --state-dir {scratch}/second --control {control}");
    let ran = relayed.relay.host.run(&second);
    assert!(ran.stderr.contains("another process of kamei serves"), "{}", ran.stderr);
    // Every mistake of the flags at once.
    let ran = relayed
        .relay
        .host
        .run(&format!("exec {KAMEI} relay --listen 443 --server web --server ssh=x --metrics 192.0.2.1:1"));
    assert_eq!((ran.code, ran.stderr.lines().count()), (Some(2), 4), "{}", ran.stderr);
    let twice = relayed.relay.ask("invite other --publish web,web").ok();
    assert_eq!(twice.matches("--publish").count(), 1, "{twice}");
}

#[test]
fn a_relay_moves_to_another_host_and_its_agents_come_without_a_new_invitation() {
    let mut relayed = Relayed::new(&["web=8000"], "");
    let hidden = relayed.hidden();
    let server = listen(&hidden, 80);
    let _agent = relayed.join(&[&target(&hidden, "web", 80)], &[]);
    let host = relayed.relay.host.clone();
    let scratch = relayed.lab.scratch().to_owned();
    let (state, file) = (scratch.join("relay-state"), scratch.join("moved"));
    let ask = |what: &str| {
        host.run(&format!("exec {KAMEI} relay state {what} {} --state-dir {}", file.display(), state.display()))
    };
    let runs = ask("export");
    assert_eq!(runs.code, Some(1), "{}", runs.stderr);
    assert!(runs.stderr.contains("stop it first") && !file.exists(), "{}", runs.stderr);
    relayed.stop_relay();
    ask("export").ok();
    assert_eq!(host.run(&format!("stat -c %a {}", file.display())).ok().trim(), "600");
    assert!(ask("export").stderr.contains("cannot write"), "no file is replaced");
    assert!(ask("import").stderr.contains("nothing replaces"), "nor a state");

    std::fs::rename(&state, scratch.join("before")).unwrap();
    let said = ask("import").ok();
    assert!(said.contains("1 member"), "{said}");
    relayed.restart_relay();
    relayed.wait_here("factory-7", 1);
    let mut client = connect(&relayed.client(), relayed.at(8000));
    let (mut called, _) = accept(&server);
    assert_open(&mut client, &mut called);
}
