//! A relay outside, and behind a firewall that admits nothing an agent and a hidden server.
//!
//! | who | where |
//! | --- | --- |
//! | relay | server 1 |
//! | client | server 2 |
//! | firewall, with NAT | gateway 1 |
//! | agent | terminal 1 |
//! | hidden server | terminal 2 |

use crate::gateway::KAMEI;
use crate::lab::{Background, Host, Lab, Plan, Ran, wait_until};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where agents come in.
const AGENTS_PORT: u16 = 443;

/// All of it.
pub struct Relayed {
    pub lab: Lab,
    pub relay: Process,
}

/// A relay or an agent that runs.
pub struct Process {
    pub host: Host,
    pub process: Background,
    role: &'static str,
    pub control: PathBuf,
}

impl Relayed {
    /// A relay with these servers, `name=port` or `name=port=channel` each, these lines at the head of its file, and no agent.
    #[track_caller]
    pub fn new(servers: &[&str], lines: &str) -> Self {
        Self::behind(1, servers, lines)
    }

    /// The same with so many firewalls in a row.
    #[track_caller]
    pub fn behind(firewalls: u8, servers: &[&str], lines: &str) -> Self {
        let lab = Lab::new(Plan::gateways(firewalls).terminals(3).servers(3).unwatched());
        let rules = "table inet firewall {
            chain forward { type filter hook forward priority 0; policy drop;
                ct state established,related accept
                iifname gi oifname go accept
            }
            chain leave { type nat hook postrouting priority 100; oifname go masquerade; }
        }";
        for number in 1..=firewalls {
            let firewall = lab.gateway(number);
            firewall.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").ok();
            firewall.run(&format!("nft -f - <<'END'\n{rules}\nEND")).ok();
        }
        let relay = lab.server(1);
        let mut text = format!("listen = [\":{AGENTS_PORT}\"]\npublic = \"{}:{AGENTS_PORT}\"\n{lines}\n", relay.v4);
        for server in servers {
            let mut words = server.split('=');
            let (name, port) = (words.next().unwrap(), words.next().unwrap());
            let channel = words.next().map(|channel| format!("channel = \"{channel}\"\n")).unwrap_or_default();
            text.push_str(&format!("[[server]]\nname = \"{name}\"\nport = {port}\n{channel}"));
        }
        std::fs::write(lab.scratch().join("relay.toml"), text).unwrap();
        let relay = start_relay(&lab);
        Self { lab, relay }
    }

    /// Who calls.
    pub fn client(&self) -> Host {
        self.lab.server(2)
    }

    /// Who is called, behind the firewall.
    pub fn hidden(&self) -> Host {
        self.lab.terminal(2)
    }

    /// Where clients call the relay.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.relay.host.v4, port).into()
    }

    /// The relay is started anew, with the same state.
    #[track_caller]
    pub fn restart_relay(&mut self) {
        let _ = self.relay.process.child.kill();
        let _ = self.relay.process.child.wait();
        self.relay = start_relay(&self.lab);
    }

    /// The words behind `kamei` that the relay prints for an agent of this name.
    #[track_caller]
    pub fn invite(&self, name: &str, servers: &str) -> String {
        let line = self.relay.ask(&format!("invite {name} --publish {servers}")).ok();
        let token = line.split_whitespace().skip_while(|word| *word != "--invite").nth(1);
        token.unwrap_or_else(|| panic!("no token in {line}")).to_owned()
    }

    /// An agent on terminal 1 that has joined and publishes this, `name=host:port` each.
    #[track_caller]
    pub fn join(&self, publish: &[&str], flags: &[&str]) -> Process {
        let names: Vec<&str> = publish.iter().filter_map(|publish| publish.split('=').next()).collect();
        let token = self.invite("factory-7", &names.join(","));
        let agent =
            self.agent_at(&self.lab.terminal(1), "factory-7", publish, &[&["--invite", &token], flags].concat());
        self.wait_here("factory-7", names.len());
        agent
    }

    /// An agent at this host, whose state is its name's.
    pub fn agent_at(&self, host: &Host, name: &str, publish: &[&str], flags: &[&str]) -> Process {
        let relay = format!("{}:{AGENTS_PORT}", self.relay.host.v4);
        let mut arguments = vec!["--relay".to_owned(), relay];
        arguments.extend(publish.iter().flat_map(|publish| ["--publish".to_owned(), (*publish).to_owned()]));
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        start(host, self.lab.scratch(), ("agent", name), &arguments)
    }

    /// The same with a configuration file.
    pub fn agent_of_file(&self, host: &Host, name: &str, file: &Path, flags: &[&str]) -> Process {
        let mut arguments = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        start(host, self.lab.scratch(), ("agent", name), &arguments)
    }

    /// Another relay beside the first, ready.
    #[track_caller]
    pub fn start_another(&self, name: &str, flags: &[&str]) -> Process {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let relay = start(&self.relay.host, self.lab.scratch(), ("relay", name), &flags);
        wait_until("another relay to be ready", || relay.ask("status").succeeded());
        relay
    }

    /// Stops the relay in order.
    #[track_caller]
    pub fn stop_relay(&mut self) {
        self.relay.process.signal(rustix::process::Signal::TERM);
        assert!(self.relay.process.wait().success(), "{}", self.relay.log());
    }

    /// Waits until the relay has this agent with so many servers.
    #[track_caller]
    pub fn wait_here(&self, name: &str, servers: usize) {
        wait_until(&format!("agent {name} to be here"), || {
            let agent = self.agent_of(name);
            agent["state"] == "here" && agent["servers"].as_array().is_some_and(|all| all.len() == servers)
        });
    }

    /// What the relay says of an agent.
    pub fn agent_of(&self, name: &str) -> Value {
        let ran = self.relay.ask("agents --json");
        let all: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
        all.as_array().into_iter().flatten().find(|agent| agent["name"] == name).cloned().unwrap_or_default()
    }

    /// Connections that the relay has.
    #[track_caller]
    pub fn connections(&self) -> Vec<Value> {
        serde_json::from_str(&self.relay.ask("connections --json").ok()).unwrap()
    }

    /// How many were refused for this reason.
    #[track_caller]
    pub fn refused(&self, reason: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.relay.ask("status --json").ok()).unwrap();
        status["refused"][reason].as_u64().unwrap_or(0)
    }
}

#[track_caller]
fn start_relay(lab: &Lab) -> Process {
    let file = lab.scratch().join("relay.toml");
    let arguments = ["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let mut relay = start(&lab.server(1), lab.scratch(), ("relay", "relay"), &arguments);
    wait_until("the relay to be ready", || {
        let ended = relay.process.child.try_wait().unwrap();
        assert!(ended.is_none(), "the relay did not start:\n{}", relay.process.output());
        relay.ask("status").succeeded()
    });
    relay
}

fn start(host: &Host, scratch: &Path, (role, name): (&'static str, &str), arguments: &[String]) -> Process {
    let (state, control) = (scratch.join(format!("{name}-state")), scratch.join(format!("{name}.sock")));
    let mut words = vec![KAMEI, role, "--state-dir", state.to_str().unwrap(), "--control", control.to_str().unwrap()];
    words.extend(arguments.iter().map(String::as_str));
    let process = host.spawn(name, &words);
    Process { host: host.clone(), process, role, control }
}

impl Process {
    /// `kamei ROLE QUESTION --control …`.
    pub fn ask(&self, question: &str) -> Ran {
        self.host.run(&format!("exec {KAMEI} {} {question} --control {}", self.role, self.control.display()))
    }

    pub fn log(&self) -> String {
        self.process.output()
    }
}
