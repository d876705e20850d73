//! The program under test.

use crate::lab::{Background, Family, Host, Lab, Ran, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The binary that cargo built for these tests.
pub const KAMEI: &str = env!("CARGO_BIN_EXE_kamei");

/// A running `kamei gateway`.
pub struct Gateway {
    pub host: Host,
    process: Background,
    control: PathBuf,
}

impl Lab {
    /// Gateway k with both its pools, ready.
    #[track_caller]
    pub fn start(&self, k: u8) -> Gateway {
        let pools = ["--pool", &Self::pool_v4(k), "--pool", &Self::pool_v6(k)];
        let fast_path = self.plan.fast_path.map(|mode| ["--fast-path", mode]);
        self.start_with(k, &[&pools[..], fast_path.as_ref().map_or(&[], |words| words)].concat())
    }

    /// All gateways of the row, ready.
    #[track_caller]
    pub fn start_all(&self) -> Vec<Gateway> {
        (1..=self.plan.gateways).map(|k| self.start(k)).collect()
    }

    /// Gateway k with these arguments behind `--inside gi --outside go`, ready.
    #[track_caller]
    pub fn start_with(&self, k: u8, arguments: &[&str]) -> Gateway {
        self.start_exactly(k, &[&["--inside", "gi", "--outside", "go"], arguments].concat())
    }

    /// Gateway k with a configuration file, ready.
    #[track_caller]
    pub fn start_from_file(&self, k: u8, text: &str) -> Gateway {
        let path = self.scratch().join(format!("gateway{k}.toml"));
        std::fs::write(&path, text).unwrap();
        self.start_exactly(k, &["--config", path.to_str().unwrap()])
    }

    #[track_caller]
    fn start_exactly(&self, k: u8, arguments: &[&str]) -> Gateway {
        self.start_by(k, &[&[KAMEI, "gateway"], arguments].concat())
    }

    /// Gateway k behind a line of shell that prepares its own view of the files, ready.
    #[track_caller]
    pub fn start_prepared(&self, k: u8, prepare: &str, arguments: &[&str]) -> Gateway {
        let line = format!("{prepare} && exec \"$0\" \"$@\"");
        let command = ["sh", "-c", &line, KAMEI, "gateway", "--inside", "gi", "--outside", "go"];
        self.start_by(k, &[&command, arguments].concat())
    }

    /// Gateway k, ready, by a command that takes the paths of socket and state as further arguments.
    #[track_caller]
    pub fn start_by(&self, k: u8, command: &[&str]) -> Gateway {
        let host = self.gateway(k);
        let (control, state) = (self.control(k), self.scratch().join(format!("state{k}")));
        let paths = ["--control", control.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let process = host.spawn("kamei", &[command, &paths].concat());
        let mut gateway = Gateway { host, process, control };
        wait_until("the gateway to be ready", || {
            let ended = gateway.process.child.try_wait().unwrap();
            assert!(ended.is_none(), "gateway {k} did not start:\n{}", gateway.log());
            gateway.ask("status --wait 1").succeeded()
        });
        gateway
    }

    /// The control socket of gateway k.
    pub fn control(&self, k: u8) -> PathBuf {
        self.scratch().join(format!("gateway{k}.sock"))
    }
}

impl Gateway {
    /// `kamei QUESTION --control ...`.
    pub fn ask(&self, question: &str) -> Ran {
        self.host.run(&format!("exec {KAMEI} {question} --control {}", self.control.display()))
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ask("status --json").ok()).unwrap()
    }

    /// How many packets were dropped for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        let status = self.status();
        status["drops"][reason].as_u64().unwrap_or_else(|| panic!("no counter '{reason}' in {status}"))
    }

    #[track_caller]
    pub fn bindings(&self) -> Vec<Value> {
        match serde_json::from_str(&self.ask("bindings --json").ok()).unwrap() {
            Value::Array(bindings) => bindings,
            other => panic!("bindings --json is no array: {other}"),
        }
    }

    /// The binding of this terminal and family; panics unless there is exactly one.
    #[track_caller]
    pub fn binding(&self, terminal: IpAddr) -> Value {
        let mut found: Vec<Value> =
            self.bindings().into_iter().filter(|b| b["terminal"] == terminal.to_string().as_str()).collect();
        assert!(found.len() == 1, "{terminal} has {} bindings: {found:?}", found.len());
        found.remove(0)
    }

    #[track_caller]
    pub fn virtual_ip(&self, terminal: IpAddr) -> IpAddr {
        self.binding(terminal)["virtual_ip"].as_str().unwrap().parse().unwrap()
    }

    /// Whether any binding mentions the address.
    #[track_caller]
    pub fn knows(&self, address: IpAddr) -> bool {
        self.ask("bindings --json").ok().contains(&format!("\"{address}\""))
    }

    /// How often the threads of the process have gone to sleep and been woken, so far, by their names.
    pub fn naps(&self) -> BTreeMap<String, u64> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let read = |task: &Path, file: &str| std::fs::read_to_string(task.join(file)).unwrap();
        tasks
            .map(|task| task.unwrap().path())
            .map(|task| {
                let status = read(&task, "status");
                let naps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
                (read(&task, "comm").trim().to_owned(), naps.trim().parse().unwrap())
            })
            .collect()
    }

    /// Memory that the process has now.
    #[track_caller]
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn log(&self) -> String {
        self.process.output()
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Ends as an operator ends it; a gateway ends with code 0 then.
    #[track_caller]
    pub fn stop(self) {
        self.end_by(Signal::TERM);
    }

    #[track_caller]
    pub fn end_by(mut self, signal: Signal) {
        self.process.signal(signal);
        let status = self.process.wait();
        assert!(status.code() == Some(0), "ended with {status}\n{}", self.log());
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}

/// Walks a callback back through a row of gateways: the address that the outside knows for a terminal.
#[track_caller]
pub fn outermost(gateways: &[Gateway], terminal: &Host, family: Family) -> IpAddr {
    gateways.iter().fold(terminal.address(family), |address, gateway| gateway.virtual_ip(address))
}
