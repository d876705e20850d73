//! A network in namespaces: terminals, gateways in a row, servers. Gone when dropped, whatever happened.
//!
//! | where | interface | IPv4 | IPv6 |
//! | --- | --- | --- | --- |
//! | terminal i | `eth0` | 10.77.143.(10+i) | fd5a:77e1:9c0d::b0:(10+i) |
//! | gateway 1, inside | `gi` | 10.77.143.1 | fd5a:77e1:9c0d::b0:1 |
//! | gateway k, outside | `go` | 172.29.(100+k).1 | fd5a:77e1:9c0d:(100+k)::1 |
//! | gateway k+1, inside | `gi` | 172.29.(100+k).2 | fd5a:77e1:9c0d:(100+k)::2 |
//! | last gateway, outside | `go` | 203.0.113.1 | 2001:db8:113::1 |
//! | server i | `eth0` | 203.0.113.(10+i) | 2001:db8:113::(10+i) |
//! | pool of gateway k | | 198.18.k.0/24 | 2001:db8:18:k::/64 |
//!
//! Inside addresses have no runs of zeros, so that finding one on a wire means something.
//! Servers have a default route through the last gateway: whatever it lets out or in, it can reach.

use crate::capture::Capture;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take to come true, and a command to end. Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(5);

/// How many times as long: a virtual machine whose every instruction is translated says so.
pub fn patience() -> u32 {
    std::env::var("KAMEI_TEST_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// What to build.
#[derive(Clone, Copy)]
pub struct Plan {
    pub gateways: u8,
    pub terminals: u8,
    pub servers: u8,
    /// Whether the last gateway's outside wire is captured throughout (kept when the test fails).
    pub watched: bool,
    /// `--fast-path` of the gateways, unless it is the default.
    pub fast_path: Option<&'static str>,
}

impl Plan {
    /// One terminal, `gateways` gateways, one server.
    pub fn gateways(gateways: u8) -> Self {
        Self { gateways, terminals: 1, servers: 1, watched: true, fast_path: None }
    }

    pub fn terminals(self, terminals: u8) -> Self {
        Self { terminals, ..self }
    }

    pub fn servers(self, servers: u8) -> Self {
        Self { servers, ..self }
    }

    /// No capture: for tests that move much data.
    pub fn unwatched(self) -> Self {
        Self { watched: false, ..self }
    }

    /// The gateways send out at once what they translate in the kernel.
    pub fn redirecting(self) -> Self {
        Self { fast_path: Some("redirect"), ..self }
    }

    /// They do so in the drivers, which is right here because nothing is left to hardware that is not there.
    pub fn by_xdp(self) -> Self {
        Self { fast_path: Some("xdp"), ..self }
    }
}

/// The network.
pub struct Lab {
    pub name: String,
    pub plan: Plan,
    scratch: tempfile::TempDir,
    watch: Option<Capture>,
}

/// A host: a network namespace with one address of each family that others know it by.
#[derive(Clone)]
pub struct Host {
    pub name: String,
    pub namespace: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// Where its processes leave their output.
    pub dir: PathBuf,
}

impl Lab {
    pub fn new(plan: Plan) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        assert!(rustix::process::geteuid().is_root(), "netns tests make network namespaces: run them as root");
        for (tool, package) in
            [("ip", "iproute2"), ("sysctl", "procps"), ("tcpdump", "tcpdump"), ("setpriv", "util-linux")]
        {
            need(tool, package);
        }
        SWEEP.call_once(remove_labs_of_the_dead);
        let name = format!("kt{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let scratch = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().unwrap();
        let mut lab = Self { name, plan, scratch, watch: None };
        lab.build();
        if plan.watched {
            lab.watch = Some(lab.outside_wire(plan.gateways));
        }
        lab
    }

    /// A capture of what is on the outside wire of gateway k, taken at its far end. (A tap at the gateway's own end sees
    /// some packets that arrive a second time, translated.)
    pub fn outside_wire(&self, k: u8) -> Capture {
        if k == self.plan.gateways {
            Capture::start(&self.named("outside"), &format!("gateway{k}"))
        } else {
            Capture::start(&self.gateway(k + 1), "gi")
        }
    }

    pub fn terminal(&self, i: u8) -> Host {
        assert!((1..=self.plan.terminals).contains(&i));
        self.host(format!("terminal{i}"), terminal_v4(i), terminal_v6(i))
    }

    pub fn server(&self, i: u8) -> Host {
        assert!((1..=self.plan.servers).contains(&i));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, u16::from(10 + i));
        self.host(format!("server{i}"), Ipv4Addr::new(203, 0, 113, 10 + i), v6)
    }

    /// Gateway k, counted from the inside; its addresses here are the outside ones.
    pub fn gateway(&self, k: u8) -> Host {
        assert!((1..=self.plan.gateways).contains(&k));
        let (v4, v6) = self.gateway_outside(k);
        self.host(format!("gateway{k}"), v4, v6)
    }

    /// The inside addresses of gateway k.
    pub fn gateway_inside(&self, k: u8) -> (Ipv4Addr, Ipv6Addr) {
        match k {
            1 => (Ipv4Addr::new(10, 77, 143, 1), terminal_prefix_v6(1)),
            _ => (Ipv4Addr::new(172, 29, 99 + k, 2), link_v6(k - 1, 2)),
        }
    }

    fn gateway_outside(&self, k: u8) -> (Ipv4Addr, Ipv6Addr) {
        match k {
            k if k == self.plan.gateways => {
                (Ipv4Addr::new(203, 0, 113, 1), Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1))
            }
            _ => (Ipv4Addr::new(172, 29, 100 + k, 1), link_v6(k, 1)),
        }
    }

    pub fn pool_v4(k: u8) -> String {
        format!("198.18.{k}.0/24")
    }

    pub fn pool_v6(k: u8) -> String {
        format!("2001:db8:18:{k}::/64")
    }

    /// What must never be seen on the wire behind gateway k: terminals and inside addresses of gateways 1 to k.
    pub fn hidden(&self, k: u8) -> Vec<IpAddr> {
        let mut hidden: Vec<IpAddr> = Vec::new();
        for i in 1..=self.plan.terminals {
            hidden.extend([IpAddr::from(terminal_v4(i)), terminal_v6(i).into()]);
        }
        for k in 1..=k {
            let (v4, v6) = self.gateway_inside(k);
            hidden.extend([IpAddr::from(v4), v6.into()]);
        }
        for k in 1..k {
            let (v4, v6) = self.gateway_outside(k);
            hidden.extend([IpAddr::from(v4), v6.into()]);
        }
        hidden
    }

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn host(&self, name: String, v4: Ipv4Addr, v6: Ipv6Addr) -> Host {
        Host { namespace: format!("{}-{name}", self.name), name, v4, v6, dir: self.scratch.path().to_owned() }
    }

    /// A host without an address: a switch.
    pub fn named(&self, name: &str) -> Host {
        self.host(name.to_owned(), Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
    }

    fn build(&self) {
        let plan = self.plan;
        let mut hosts: Vec<Host> = (1..=plan.terminals).map(|i| self.terminal(i)).collect();
        hosts.extend((1..=plan.gateways).map(|k| self.gateway(k)));
        hosts.extend((1..=plan.servers).map(|i| self.server(i)));
        // Switches: bridges in a namespace without addresses.
        hosts.extend(["inside", "outside"].map(|name| self.named(name)));
        for host in &hosts {
            let ns = &host.namespace;
            ip(&format!("netns add {ns}"));
            ip(&format!("-n {ns} link set lo up"));
            // Duplicate address detection would hold IPv6 back for a second; nobody advertises routes here.
            let keys = ["accept_dad", "accept_ra"].map(|key| format!("net.ipv6.conf.default.{key}=0")).join(" ");
            host.run(&format!("exec sysctl -qw {keys}")).ok();
        }
        for lan in ["inside", "outside"] {
            self.on(lan, "link add lan type bridge mcast_snooping 0");
            self.on(lan, "link set lan up");
        }
        for i in 1..=plan.terminals {
            self.plug(&format!("terminal{i}"), "eth0", "inside");
        }
        for i in 1..=plan.servers {
            self.plug(&format!("server{i}"), "eth0", "outside");
        }
        self.plug("gateway1", "gi", "inside");
        self.plug(&format!("gateway{}", plan.gateways), "go", "outside");
        for k in 1..plan.gateways {
            self.wire(&format!("gateway{k}"), "go", &format!("gateway{}", k + 1), "gi");
        }
        self.address_and_route();
        if plan.fast_path == Some("xdp") {
            need("ethtool", "ethtool");
            self.finish_packets_before_sending();
        }
    }

    /// Both ends of the gateway's wires send checksums and VLAN tags in the packets, and take frames from XDP.
    fn finish_packets_before_sending(&self) {
        let gateways = (1..=self.plan.gateways).map(|k| self.gateway(k));
        let mut ends: Vec<(Host, String)> =
            gateways.flat_map(|host| ["gi", "go"].map(|interface| (host.clone(), interface.to_owned()))).collect();
        ends.push((self.named("inside"), "gateway1".to_owned()));
        ends.push((self.named("outside"), format!("gateway{}", self.plan.gateways)));
        for (host, interface) in ends {
            let settings = "tx off tx-vlan-hw-insert off tx-vlan-stag-hw-insert off gro on";
            host.run(&format!("ethtool -K {interface} {settings}")).ok();
        }
    }

    fn address_and_route(&self) {
        let plan = self.plan;
        let (gateway_v4, gateway_v6) = self.gateway_inside(1);
        for host in (1..=plan.terminals).map(|i| self.terminal(i)) {
            self.address(&host.name, "eth0", host.v4, 24, host.v6);
            self.default_route(&host.name, gateway_v4, gateway_v6);
        }
        for k in 1..=plan.gateways {
            let name = format!("gateway{k}");
            let (inside, outside) = (self.gateway_inside(k), self.gateway_outside(k));
            self.address(&name, "gi", inside.0, if k == 1 { 24 } else { 30 }, inside.1);
            self.address(&name, "go", outside.0, if k == plan.gateways { 24 } else { 30 }, outside.1);
        }
        for k in 1..plan.gateways {
            let (v4, v6) = self.gateway_inside(k + 1);
            self.default_route(&format!("gateway{k}"), v4, v6);
            let (v4, v6) = self.gateway_outside(k);
            self.on(&format!("gateway{}", k + 1), &format!("route add {} via {v4}", Self::pool_v4(k)));
            self.on(&format!("gateway{}", k + 1), &format!("-6 route add {} via {v6}", Self::pool_v6(k)));
        }
        let (v4, v6) = self.gateway_outside(plan.gateways);
        for host in (1..=plan.servers).map(|i| self.server(i)) {
            self.address(&host.name, "eth0", host.v4, 24, host.v6);
            self.default_route(&host.name, v4, v6);
        }
    }

    /// `ip -n NAMESPACE ...` in a host.
    fn on(&self, host: &str, command: &str) {
        ip(&format!("-n {}-{host} {command}", self.name));
    }

    fn wire(&self, a: &str, a_interface: &str, b: &str, b_interface: &str) {
        self.on(a, &format!("link add {a_interface} type veth peer name {b_interface} netns {}-{b}", self.name));
        self.on(a, &format!("link set {a_interface} up"));
        self.on(b, &format!("link set {b_interface} up"));
    }

    fn plug(&self, host: &str, interface: &str, lan: &str) {
        self.wire(lan, host, host, interface);
        self.on(lan, &format!("link set {host} master lan"));
    }

    fn address(&self, host: &str, interface: &str, v4: Ipv4Addr, length: u8, v6: Ipv6Addr) {
        self.on(host, &format!("address add {v4}/{length} brd + dev {interface}"));
        self.on(host, &format!("address add {v6}/64 dev {interface} nodad"));
    }

    fn default_route(&self, host: &str, v4: Ipv4Addr, v6: Ipv6Addr) {
        self.on(host, &format!("route add default via {v4}"));
        self.on(host, &format!("-6 route add default via {v6}"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.watch.take());
        if std::thread::panicking() {
            print_logs(self.scratch.path());
        }
        remove_namespaces(|namespace| namespace.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('-')));
    }
}

fn terminal_v4(i: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 143, 10 + i)
}

fn terminal_v6(i: u8) -> Ipv6Addr {
    terminal_prefix_v6(10 + u16::from(i))
}

fn terminal_prefix_v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd5a, 0x77e1, 0x9c0d, 0, 0, 0, 0xb0, last)
}

fn link_v6(k: u8, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd5a, 0x77e1, 0x9c0d, u16::from(100 + k), 0, 0, 0, last)
}

// --- running things in a host -------------------------------------------------------------------------------------

/// What became of a command.
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its output; panics if it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "{} gave {:?}\n{}{}", self.line, self.code, self.stdout, self.stderr);
        self.stdout
    }

    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }
}

impl Host {
    /// Runs a shell line in the host and waits for its end.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        let (stdout, stderr) = (self.fresh_file("out"), self.fresh_file("err"));
        let mut child = self.shell(line);
        child.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let mut child = child.spawn().unwrap();
        let end = Instant::now() + 3 * DEADLINE * patience();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(POLL);
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let ran = Ran {
            line: format!("{}: {line}", self.name),
            code: status.code(),
            stdout: read(&stdout),
            stderr: read(&stderr),
        };
        for path in [stdout, stderr] {
            fs::remove_file(path).unwrap();
        }
        if let (None, Some(signal)) = (ran.code, status.signal()) {
            eprintln!("{} was ended by signal {signal}", ran.line);
        }
        ran
    }

    /// Starts a program (no shell) in the background; its output goes to `log`.
    pub fn spawn(&self, log: &str, program: &[&str]) -> Background {
        let log = self.dir.join(format!("{}-{log}.log", self.name));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            // Should this process be killed, its children end too.
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(program)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Background { what: program.join(" "), child, log }
    }

    /// Runs `work` in a thread that is inside this host's network; sockets it makes stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                use std::os::fd::AsFd;
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    pub fn set_sysctl(&self, key: &str, value: &str) {
        self.run(&format!("sysctl -qw {key}={value}")).ok();
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "sh", "-c", line]).stdin(Stdio::null());
        command
    }

    fn fresh_file(&self, suffix: &str) -> PathBuf {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        self.dir.join(format!("{}-{}.{suffix}", self.name, COUNTER.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Tests that are the same for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A process in a host; killed when dropped.
pub struct Background {
    pub what: String,
    pub child: std::process::Child,
    pub log: PathBuf,
}

impl Background {
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops all of its threads, as a suspended machine does; the signal alone reaches them a moment later.
    #[track_caller]
    pub fn suspend(&self) {
        self.signal(rustix::process::Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
        wait_until(&format!("{} to stand still", self.what), || {
            let tasks = fs::read_dir(&tasks).unwrap().flatten();
            let mut stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
            stats.all(is_stopped)
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> std::process::ExitStatus {
        wait_for(&format!("the end of {}", self.what), || self.child.try_wait().unwrap())
    }

    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Either may fail because it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Polls until `probe` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = DEADLINE * patience();
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether this kernel has something, by a line that works only then. A small one may lack it, and the test shows nothing;
/// in the virtual machine (`scripts/vm`) the kernel has everything, and that it has not is a failure.
#[track_caller]
pub fn has(host: &Host, what: &str, line: &str) -> bool {
    let ran = host.run(line);
    if !ran.succeeded() {
        let must = std::env::var_os("KAMEI_TEST_EVERY_LINK").is_some();
        assert!(!must, "this kernel is to have {what}: {} gave {:?}\n{}", ran.line, ran.code, ran.stderr);
        eprintln!("this kernel has no {what}: not shown here");
    }
    ran.succeeded()
}

/// Fails with the name of the Debian package when a program is missing.
#[track_caller]
pub fn need(tool: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(tool).is_file());
    assert!(found, "'{tool}' is missing: apt-get install {package} (or scripts/setup)");
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Labs whose test process was killed before it could clear up.
fn remove_labs_of_the_dead() {
    remove_namespaces(|namespace| {
        let pid = namespace.strip_prefix("kt").and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        pid.and_then(|pid| pid.parse::<u32>().ok()).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

/// Ends what still runs in those namespaces, then removes them.
fn remove_namespaces(which: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for namespace in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|n| which(n)) {
        if let Ok(pids) = Command::new("ip").args(["netns", "pids", &namespace]).output() {
            for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
                let pid: Option<rustix::process::Pid> = rustix::process::Pid::from_raw(pid);
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
        }
        let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
    }
}

/// What gateways and servers said, for the reader of a failed test.
fn print_logs(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"))
    {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        eprintln!("--- {}\n{text}", path.display());
    }
}
