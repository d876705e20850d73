//! What a running gateway may still do, who may ask it, and who cannot get in its way.

use crate::gateway::KAMEI;
use crate::lab::{Family, Lab, Plan, wait_for, wait_until};
use crate::relayed::Relayed;
use crate::traffic::{Web, curl};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;
/// The same without CAP_PERFMON: a worker loads no programs.
const WORKERS: u64 = 1 << 12 | 1 << 39;
/// CAP_NET_BIND_SERVICE and CAP_NET_ADMIN: ports and virtual IPs.
const RELAYS: u64 = 1 << 10 | 1 << 12;
/// Neither root nor anybody.
const NOBODY: &str = "setpriv --reuid 65534 --regid 65534";

/// The lines of /proc/PID/task/TID/status by thread: name, then what it says of privileges.
fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let pair = |line: &str| line.split_once(":\t").map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    status.map(|text| text.lines().filter_map(pair).collect()).collect()
}

#[test]
fn every_thread_of_a_running_gateway_has_given_up_what_it_does_not_need() {
    let lab = Lab::new(Plan::gateways(1));
    let gateway = lab.start(1);
    gateway.bindings(); // the control socket's helpers are threads too
    let threads = threads(gateway.pid());
    let names: Vec<&str> = threads.iter().map(|thread| thread["Name"].as_str()).collect();
    for name in ["kamei", "control", "worker-0", "housekeeping"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for thread in &threads {
        let bits = |key: &str| u64::from_str_radix(&thread[key], 16).unwrap();
        let is_worker = thread["Name"].starts_with("worker");
        let held = if is_worker { WORKERS } else { KEPT };
        assert_eq!([bits("CapEff"), bits("CapPrm"), bits("CapBnd")], [held, held, KEPT], "{thread:?}");
        assert_eq!([bits("CapInh"), bits("CapAmb")], [0; 2], "{thread:?}");
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"), "{thread:?}");
        let filters = if is_worker { "3" } else { "2" };
        assert_eq!(thread["Seccomp_filters"], filters, "{thread:?}");
    }
    assert!(!gateway.log().contains("Landlock"), "this kernel has all of it:\n{}", gateway.log());
}

#[test]
fn hardening_can_be_switched_off() {
    let lab = Lab::new(Plan::gateways(1));
    let text = "inside = [\"gi\"]\noutside = [\"go\"]\nhardening = \"off\"\n[[pool]]\nrange = \"198.18.1.0/24\"\n";
    let gateway = lab.start_from_file(1, text);
    for thread in threads(gateway.pid()) {
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("0", "0"), "{thread:?}");
    }
}

#[test]
fn every_thread_of_relay_and_agent_has_given_up_what_it_does_not_need() {
    let relayed = Relayed::new(&["web=8000"], "pool = [\"198.18.5.0/24\"]");
    let hidden = relayed.hidden();
    let _web = Web::start(&hidden, 80);
    let token = relayed.invite("factory-7", "web");
    let file = relayed.lab.scratch().join("agent.toml");
    let text = format!(
        "relay = [\"{}:443\"]\nmetrics = \"127.0.0.1:9470\"\n[[publish]]\nname = \"web\"\ntarget = \"{}:80\"\n",
        relayed.relay.host.v4, hidden.v4
    );
    fs::write(&file, text).unwrap();
    let inside = relayed.lab.terminal(1);
    let agent = relayed.agent_of_file(&inside, "factory-7", &file, &["--invite", &token]);
    relayed.wait_here("factory-7", 1);
    curl(&relayed.client(), relayed.relay.host.address(Family::V4), 8000);
    assert!(inside.run("curl -sSf http://127.0.0.1:9470/metrics").ok().contains("kamei_"));
    for (process, held) in [(&relayed.relay, RELAYS), (&agent, 0)] {
        for thread in threads(process.process.child.id()) {
            let bits = |key: &str| u64::from_str_radix(&thread[key], 16).unwrap();
            assert_eq!(["CapEff", "CapPrm", "CapBnd"].map(bits), [held; 3], "{thread:?}");
            assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"), "{thread:?}");
        }
        assert!(!process.log().contains("Landlock"), "this kernel has all of it:\n{}", process.log());
    }
}

#[test]
fn a_group_may_look_but_not_touch_and_others_may_not_even_look() {
    let lab = Lab::new(Plan::gateways(1));
    let _web = Web::start(&lab.server(1), 80);
    let text = "inside = [\"gi\"]\noutside = [\"go\"]\ncontrol-group = \"4711\"\n[[pool]]\nrange = \"198.18.1.0/24\"\n";
    let gateway = lab.start_from_file(1, text);
    curl(&lab.terminal(1), lab.server(1).address(Family::V4), 80);
    fs::set_permissions(lab.scratch(), PermissionsExt::from_mode(0o755)).unwrap();
    let terminal = lab.terminal(1).v4;
    let socket = gateway.control().display().to_string();
    let as_member = |request: &str| {
        let url = format!("http://kamei/v1/bindings/{terminal}");
        gateway.host.run(&format!("{NOBODY} --groups 4711 curl -sS --unix-socket {socket} -X {request} {url}")).stdout
    };
    assert!(as_member("GET").contains("198.18.1."));
    for request in ["DELETE", "PATCH -d '{}'", "PUT -d '{}'", "POST"] {
        assert!(as_member(request).contains("may look, not change"), "{request}: {}", as_member(request));
    }
    let stranger = gateway.host.run(&format!("{NOBODY} --clear-groups {KAMEI} status --control {socket}"));
    assert_eq!(stranger.code, Some(3), "{}{}", stranger.stdout, stranger.stderr);
    assert!(gateway.knows(terminal.into()));
}

#[test]
fn nobody_without_rights_can_keep_a_gateway_from_starting() {
    let lab = Lab::new(Plan::gateways(1));
    // Abstract names are anybody's to take; nothing may hang on them.
    let squat = "import socket, time
held = [socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM) for _ in range(2)]
names = ['kamei/gateway/kamei', 'kamei/set-up']
for number, each in enumerate(held): each.bind('\\0' + names[number % 2])
print('held', flush=True)
time.sleep(600)";
    let host = lab.gateway(1);
    let squatter = host.spawn(
        "squatter",
        &[&NOBODY.split(' ').collect::<Vec<_>>()[..], &["--clear-groups", "/usr/bin/python3", "-c", squat]].concat(),
    );
    wait_until("the names to be taken", || squatter.output().contains("held"));
    let ran = host.run(&format!("{NOBODY} --clear-groups flock --nonblock /run/kamei/set-up.lock true"));
    assert!(!ran.succeeded(), "the directory of the locks is root's alone");
    lab.start(1).stop();
}

#[test]
fn systemd_hears_of_the_start_the_life_and_the_end() {
    let lab = Lab::new(Plan::gateways(1));
    let path = lab.scratch().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let said = || {
        wait_for("a word for systemd", || {
            let mut text = [0; 200];
            let length = systemd.recv(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text[..length]).into_owned())
        })
    };
    let environment = [format!("NOTIFY_SOCKET={}", path.display()), "WATCHDOG_USEC=3000000".to_owned()];
    let (control, state) = (lab.control(1), lab.scratch().join("state1"));
    let arguments = format!(
        "--inside gi --outside go --pool 198.18.1.0/24 --control {} --state-dir {}",
        control.display(),
        state.display()
    );
    let program =
        [&["env", &environment[0], &environment[1], KAMEI, "gateway"], &arguments.split(' ').collect::<Vec<_>>()[..]]
            .concat();
    let mut process = lab.gateway(1).spawn("kamei", &program);
    assert!(said().starts_with("READY=1\nSTATUS=serving 1 pools"));
    assert_eq!([said(), said()], ["WATCHDOG=1", "WATCHDOG=1"], "the workers look up each time");
    process.signal(rustix::process::Signal::TERM);
    wait_until("the word that it stops", || said() == "STOPPING=1");
    assert_eq!(process.wait().code(), Some(0), "{}", process.output());
}
