//! Wrong input: one clear line, a code that is not zero, and nothing left behind.

use crate::gateway::KAMEI;
use crate::lab::{Host, Lab, Plan, Ran};
use crate::life::Snapshot;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;
const NOBODY: i32 = 4;

/// Checks one command: its code, one line on stderr that holds these words, the network as before.
struct Bench {
    lab: Lab,
    host: Host,
    complaints: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        let lab = Lab::new(Plan::gateways(1));
        let host = lab.gateway(1);
        Self { lab, host, complaints: Vec::new() }
    }

    fn gateway(&mut self, arguments: &str, code: i32, words: &[&str]) {
        self.gateway_behind("", arguments, code, words);
    }

    /// `wrapper kamei gateway arguments`.
    fn gateway_behind(&mut self, wrapper: &str, arguments: &str, code: i32, words: &[&str]) {
        let before = Snapshot::of(&self.host);
        let (control, state) = (self.lab.control(1), self.lab.scratch().join("state"));
        let paths = if arguments.contains("--control") {
            String::new()
        } else {
            format!("--control {} --state-dir {}", control.display(), state.display())
        };
        let ran = self.host.run(&format!("{wrapper} timeout 10 {KAMEI} gateway {arguments} {paths}"));
        self.judge(&ran, code, words);
        before.assert_unchanged(&self.host);
        if !arguments.contains("--control") && control.exists() {
            self.complaints.push(format!("{arguments}: left its control socket behind"));
        }
    }

    fn command(&mut self, line: &str, code: i32, words: &[&str]) {
        let ran = self.host.run(&format!("timeout 10 {KAMEI} {line}"));
        self.judge(&ran, code, words);
    }

    fn judge(&mut self, ran: &Ran, code: i32, words: &[&str]) {
        let mut faults = Vec::new();
        if ran.code != Some(code) {
            faults.push(format!("code {:?}, not {code}", ran.code));
        }
        if ran.stderr.trim_end().lines().count() != 1 {
            faults.push("not one line".to_owned());
        }
        faults.extend(
            words.iter().filter(|word| !ran.stderr.contains(**word)).map(|word| format!("does not say '{word}'")),
        );
        if ran.stderr.contains("panicked") || ran.stderr.contains("Os {") {
            faults.push("not for people".to_owned());
        }
        if !faults.is_empty() {
            self.complaints.push(format!(
                "{}\n    {}\n    said: {}",
                ran.line,
                faults.join(", "),
                ran.stderr.trim_end()
            ));
        }
    }

    #[track_caller]
    fn done(self) {
        assert!(self.complaints.is_empty(), "\n{}", self.complaints.join("\n"));
    }
}

#[test]
fn wrong_interfaces() {
    let mut bench = Bench::new();
    let pool = "--pool 198.18.1.0/24";
    bench.gateway(&format!("--inside gj --outside go {pool}"), FAILED, &["gj", "gi"]);
    bench.gateway(&format!("--inside gi --outside nowhere0 {pool}"), FAILED, &["nowhere0"]);
    bench.gateway(&format!("--inside gi --outside gi {pool}"), USAGE, &["gi"]);
    bench.gateway(&format!("--inside gi --inside go --outside go {pool}"), USAGE, &["go"]);
    bench.gateway(&format!("--inside gi --inside gi --outside go {pool}"), USAGE, &["gi"]);
    bench.gateway(
        &format!("--inside an-interface-with-a-long-name --outside go {pool}"),
        USAGE,
        &["an-interface-with-a-long-name"],
    );
    bench.gateway("--outside go --pool 198.18.1.0/24", USAGE, &["inside"]);
    bench.gateway("--inside gi --pool 198.18.1.0/24", USAGE, &["outside"]);
    bench.done();
}

#[test]
fn wrong_pools() {
    let mut bench = Bench::new();
    let interfaces = "--inside gi --outside go";
    let pools = |list: &[&str]| list.iter().fold(interfaces.to_owned(), |line, pool| format!("{line} --pool {pool}"));
    bench.gateway(interfaces, USAGE, &["pool"]);
    for absurd in [
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/24",
        "224.0.0.0/8",
        "169.254.0.0/16",
        "255.255.255.255",
        "0.0.0.0/8",
        "ff00::/16",
        "fe80::/64",
        "::1",
    ] {
        bench.gateway(&pools(&[absurd]), USAGE, &["pool"]);
    }
    for misspelt in [
        "198.18.1.0/33",
        "198.18.1.0/-1",
        "198.18.1.1/24",
        "198.18.1",
        "198.18.1.9-198.18.1.1",
        "198.18.1.1-2001:db8::1",
        "pool",
        "''",
    ] {
        bench.gateway(&pools(&[misspelt]), USAGE, &[]);
    }
    bench.gateway(&pools(&["198.18.1.0/24", "198.18.1.128/25"]), USAGE, &["198.18.1.128/25", "198.18.1.0/24"]);
    bench.gateway(&pools(&["10.77.143.0/25"]), FAILED, &["10.77.143.0/25"]);
    bench.gateway(&pools(&["10.0.0.0/8"]), FAILED, &["10.0.0.0/8", "10.77.143."]);
    bench.gateway(&pools(&["203.0.113.1"]), FAILED, &["203.0.113.1"]);
    bench.gateway(&pools(&["fd5a:77e1:9c0d::/64"]), FAILED, &["fd5a:77e1:9c0d::/64"]);
    bench.done();
}

#[test]
fn wrong_options() {
    let mut bench = Bench::new();
    let right = "--inside gi --outside go --pool 198.18.1.0/24";
    for wrong in [
        "--callback everybody",
        "--callback 192.0.2.1/24",
        "--callback 192.0.2.0/24,",
        "--workers 0",
        "--workers many",
        "--workers 100000",
        "--tun a-name-too-long",
        "--tun a/b",
        "--tun ''",
    ] {
        bench.gateway(&format!("{right} {wrong}"), USAGE, &[]);
    }
    bench.done();
}

#[test]
fn wrong_configuration_files() {
    let mut bench = Bench::new();
    let file = bench.lab.scratch().join("wrong.toml");
    let right = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n";
    let cases: [(&str, &[&str]); 6] = [
        ("insid = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n", &["insid", "inside", ":1"]),
        ("inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrang = \"198.18.1.0/24\"\n", &["rang", "range", ":4"]),
        ("inside = [\"gi\"\n", &["wrong.toml"]),
        ("inside = 7\noutside = [\"go\"]\n", &[":1"]),
        ("", &["inside"]),
        ("\0\u{7f}", &["wrong.toml"]),
    ];
    let encoded: [(&[u8], &[&str]); 2] = [
        (b"\xff\xfei\0n\0", &["wrong.toml", "UTF-16", "save it as UTF-8"]),
        (b"# M\xfcnchen\ninside = [\"gi\"]\n", &["wrong.toml", "line 1", "0xfc"]),
    ];
    let cases = cases.map(|(text, words)| (text.as_bytes(), words));
    for (text, words) in cases.into_iter().chain(encoded) {
        std::fs::write(&file, text).unwrap();
        bench.gateway(&format!("--config {}", file.display()), USAGE, words);
        // `check` names every problem, a line each: only the code is judged here.
        let checked = bench.host.run(&format!("{KAMEI} check {}", file.display()));
        let text = String::from_utf8_lossy(text);
        assert_eq!(checked.code, Some(USAGE), "check of {text:?}: {}{}", checked.stdout, checked.stderr);
    }
    std::fs::write(&file, "\u{feff}".to_owned() + right).unwrap();
    bench.host.run(&format!("{KAMEI} check {}", file.display())).ok();
    bench.gateway("--config /nowhere/gateway.toml", USAGE, &["/nowhere/gateway.toml"]);
    bench.done();
}

#[test]
fn a_host_that_cannot_be_a_gateway() {
    let mut bench = Bench::new();
    let right = "--inside gi --outside go --pool 198.18.1.0/24";
    std::os::unix::fs::chown(bench.lab.scratch(), Some(65_534), None).unwrap();
    let kamei = bench.lab.scratch().join("kamei");
    std::fs::copy(KAMEI, &kamei).unwrap();
    let nobody = "setpriv --reuid nobody --regid nogroup --clear-groups";
    let control = bench.lab.control(1);
    let ran = bench.host.run(&format!(
        "{nobody} {} gateway {right} --control {} --state-dir {}/s",
        kamei.display(),
        control.display(),
        bench.lab.scratch().display()
    ));
    bench.judge(&ran, FAILED, &["root"]);
    // /dev/net is hidden behind an empty file system in a mount namespace of this one command.
    let no_tun = "mount -t tmpfs -o nodev none /dev/net &&";
    bench.gateway_behind(no_tun, right, FAILED, &["/dev/net/tun"]);
    bench.host.run("ip tuntap add mode tun name kamei-nat").ok();
    bench.gateway(right, FAILED, &["kamei-nat"]);
    bench.host.run("ip link delete kamei-nat").ok();
    let state = format!("{right} --control {} --state-dir {}", control.display(), bench.lab.scratch().display());
    bench.gateway(&state, FAILED, &["belongs to another user", "chown"]);
    std::os::unix::fs::chown(bench.lab.scratch(), Some(0), None).unwrap();
    bench.gateway(
        &format!("{right} --control /nowhere/at/all.sock --state-dir {}", bench.lab.scratch().display()),
        FAILED,
        &["/nowhere/at"],
    );
    std::fs::write(bench.lab.scratch().join("file"), "").unwrap();
    let file = bench.lab.scratch().join("file");
    bench.gateway(
        &format!("{right} --control {} --state-dir {}", control.display(), file.display()),
        FAILED,
        &["file"],
    );
    bench.done();
}

#[test]
fn a_second_gateway_is_refused() {
    let mut bench = Bench::new();
    let first = bench.lab.start(1);
    let (other_control, other_state) = (bench.lab.scratch().join("second.sock"), bench.lab.scratch().join("second"));
    let others = format!("--control {} --state-dir {}", other_control.display(), other_state.display());
    let mine = format!("--control {} --state-dir {}", bench.lab.control(1).display(), other_state.display());
    let right = "--inside gi --outside go";
    bench.gateway(&format!("{right} --pool 198.18.9.0/24 {others}"), FAILED, &["kamei"]); // the same TUN
    bench.gateway(&format!("{right} --pool 198.18.9.0/24 --tun other {mine}"), FAILED, &["gateway1.sock"]);
    bench.gateway(&format!("{right} --pool 198.18.1.0/25 --tun other {others}"), FAILED, &["--tun kamei"]);
    assert!(!other_control.exists());
    assert!(first.ask("status").succeeded(), "the first one is unharmed");
    first.stop();
    bench.done();
}

#[test]
fn questions_that_have_no_answer() {
    let mut bench = Bench::new();
    let control = bench.lab.control(1);
    let asked = |question: &str| format!("{question} --control {}", control.display());
    for question in ["status", "bindings", "bindings show 10.77.143.11", "bindings release 10.77.143.11"] {
        bench.command(&asked(question), NOBODY, &["gateway1.sock"]);
    }
    let begin = std::time::Instant::now();
    bench.command(&asked("status --wait 1"), NOBODY, &["gateway1.sock"]);
    assert!(begin.elapsed() >= std::time::Duration::from_secs(1));

    let gateway = bench.lab.start(1);
    for question in ["bindings show 10.77.143.11", "bindings show 198.18.1.9", "bindings release 10.77.143.11"] {
        bench.command(&asked(question), REFUSED, &[question.rsplit(' ').next().unwrap_or_default()]);
    }
    for pin in ["10.77.143.11 192.0.2.1", "10.77.143.11 2001:db8:18:1::5", "192.0.2.77 198.18.1.9"] {
        bench.command(&asked(&format!("bindings pin {pin}")), REFUSED, &[]);
    }
    gateway.ask("bindings pin 10.77.143.11 198.18.1.9").ok();
    bench.command(&asked("bindings pin 10.77.143.12 198.18.1.9"), REFUSED, &["198.18.1.9", "10.77.143.11"]);
    for nonsense in
        ["bindings show terminal1", "bindings pin 10.77.143.11", "bindings release", "bindins", "status --wait soon"]
    {
        let ran = bench.host.run(&format!("{KAMEI} {}", asked(nonsense)));
        assert_eq!(ran.code, Some(USAGE), "{nonsense}: {}", ran.stderr);
    }
    gateway.stop();
    // A socket file that nobody serves.
    bench
        .host
        .run(&format!(
            "socat -u UNIX-LISTEN:{0},unlink-close=0 /dev/null & until [ -S {0} ]; do sleep 0.02; done; kill $!",
            control.display()
        ))
        .ok();
    bench.command(&asked("status"), NOBODY, &["gateway1.sock"]);
    bench.done();
}
