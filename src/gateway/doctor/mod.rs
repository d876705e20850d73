//! What is wrong with a host, or would be for a gateway on it, in words, with what to do.

mod firewall;

use super::confine::Confinement;
use super::kernel::{KernelError, Survey};
use crate::config::{Config, FastPathMode};
use crate::device::tun;
use crate::wire::AddressRange;
use ipnet::IpNet;
use rustix::fs::Access;
use std::path::Path;
use std::process::{Command, Stdio};

/// Of `bpffs` (linux/magic.h).
const BPF_FS: i64 = 0xcafe_4a11;
/// The kernel that has TCX.
const TCX: (u32, u32) = (6, 6);
/// The kernel that tells what drivers can.
const XDP: (u32, u32) = (6, 3);

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It works; it could be better, or the operator should know.
    Note,
    /// It will not work until it is put right.
    Wrong,
}

/// One finding: a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is to be taken.
    pub grade: Grade,
    /// What is so, and what to do.
    pub text: String,
}

impl Finding {
    fn fine(text: impl Into<String>) -> Self {
        Self { grade: Grade::Fine, text: text.into() }
    }

    fn note(text: impl Into<String>) -> Self {
        Self { grade: Grade::Note, text: text.into() }
    }

    fn wrong(text: impl Into<String>) -> Self {
        Self { grade: Grade::Wrong, text: text.into() }
    }
}

/// Looks at this host, for a gateway with this configuration if there is one. Makes a TUN device of the name
/// `kamei-doctor` for a moment; changes nothing else.
pub fn examine(config: Option<&Config>) -> Vec<Finding> {
    let mut findings = vec![devices(), landlock(), sysctls()];
    findings.extend(fast_path(config));
    if let Some(config) = config {
        findings.extend(network(config));
        findings.extend(links(config));
        findings.push(state(&config.state_dir));
        findings.extend(firewall(config));
    }
    findings
}

fn devices() -> Finding {
    match tun::create(&["kamei-doctor".to_owned()], 2, crate::config::Offload::Auto) {
        Ok((_, offload)) => Finding::fine(format!("TUN devices with several queues, offloads: {offload}")),
        Err(error) => Finding::wrong(error.to_string()),
    }
}

/// By confining a thread that has nothing else to do.
fn landlock() -> Finding {
    let tried = std::thread::spawn(|| Confinement::new(Vec::new(), Vec::new()).enter()).join();
    match tried {
        Ok(Ok(None)) => Finding::fine("capabilities, Landlock and seccomp can be given up once the gateway is set up"),
        Ok(Ok(Some(lacking))) => Finding::note(lacking),
        Ok(Err(error)) => Finding::wrong(error.to_string()),
        Err(_) => Finding::wrong("the process cannot be confined; hardening = \"off\" goes without"),
    }
}

fn sysctls() -> Finding {
    let forwarding = "/proc/sys/net/ipv4/conf/all/forwarding";
    match rustix::fs::access(forwarding, Access::WRITE_OK) {
        Ok(()) => Finding::fine("kernel settings can be written (the gateway switches forwarding on, and off again)"),
        Err(error) => Finding::wrong(format!(
            "/proc/sys/net cannot be written ({error}); run as root, and in a container mount /proc/sys writable"
        )),
    }
}

fn fast_path(config: Option<&Config>) -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut findings = vec![if version >= TCX {
        Finding::fine(format!("Linux {release} has TCX for the fast path"))
    } else {
        Finding::note(format!("Linux {release} has no TCX (6.6 has): the fast path is a filter on clsact"))
    }];
    if version < XDP && config.is_some_and(|config| config.fast_path.mode == FastPathMode::Xdp) {
        let what =
            "does not tell which drivers have XDP (6.3 does): fast-path = \"xdp\" is refused; \"redirect\" is not";
        findings.push(Finding::wrong(format!("Linux {release} {what}")));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        findings.push(Finding::note("this kernel has no BTF: tools cannot show what the fast path does"));
    }
    if rustix::fs::statfs("/sys/fs/bpf").is_ok_and(|about| about.f_type == BPF_FS) {
        findings.push(Finding::fine("/sys/fs/bpf keeps the fast path over a restart"));
    } else {
        let what = "/sys/fs/bpf is no bpffs: the fast path ends with the process; `mount -t bpf bpf /sys/fs/bpf`";
        findings.push(Finding::note(what));
    }
    findings
}

/// Interfaces, pools, rules, neighbours.
fn network(config: &Config) -> Vec<Finding> {
    let plan = super::plan(config);
    let survey = match Survey::take(&plan) {
        Ok(survey) => survey,
        Err(error) => return vec![Finding::wrong(error.to_string())],
    };
    let mut findings = Vec::new();
    match survey.remarks {
        Ok(remarks) => findings.extend(remarks.into_iter().map(Finding::note)),
        Err(KernelError::NotPermitted) => {
            findings.push(Finding::wrong("only root can look at everything; run kamei doctor as root"));
        }
        Err(error) => findings.push(Finding::wrong(error.to_string())),
    }
    if survey.running {
        findings.push(Finding::fine(format!("a gateway --tun {} is running", plan.tun)));
    }
    for range in &plan.pools {
        findings.push(route(range, &survey.lans, &plan.outsides));
    }
    if !survey.rules_before.is_empty() {
        let priorities: Vec<String> = survey.rules_before.iter().map(u32::to_string).collect();
        findings.push(Finding::wrong(format!(
            "policy rules of priority {} come before the gateway's and may lead packets past it, untranslated; give them \
             a priority above 7429 (ip rule)",
            priorities.join(", ")
        )));
    }
    for (address, hardware) in survey.used_elsewhere {
        findings.push(Finding::wrong(format!(
            "{address} is in a pool, but the machine {hardware} uses it; name it under `reserved` in that pool, or give \
             that machine another address"
        )));
    }
    findings
}

fn route(range: &AddressRange, lans: &[IpNet], outsides: &[String]) -> Finding {
    let here = lans.iter().find(|lan| AddressRange::from(**lan).overlaps(range));
    match here {
        Some(lan) => Finding::fine(format!("pool {range} lies in {lan}: the gateway answers for it")),
        None => Finding::note(format!(
            "pool {range} lies in no network of {}: whoever is to call back must have a route for it by this machine",
            outsides.join(", ")
        )),
    }
}

/// Sizes and offloads of the interfaces.
fn links(config: &Config) -> Vec<Finding> {
    let mtu = |name: &String| -> Option<u32> {
        std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
    };
    let insides: Vec<&String> = config.insides.iter().flat_map(|inside| &inside.interfaces).collect();
    let narrow = config.outsides.iter().filter_map(mtu).min();
    let wide = insides.iter().copied().filter_map(mtu).max();
    let mut findings = Vec::new();
    if let (Some(narrow), Some(wide)) = (narrow, wide)
        && narrow < wide
        && config.mss.is_none()
    {
        let mss = narrow.saturating_sub(if config.pools.iter().any(|pool| !pool.range.is_v4()) { 60 } else { 40 });
        findings.push(Finding::note(format!(
            "packets may be {wide} bytes inside and {narrow} outside: path MTU discovery is needed, or mss = {mss}"
        )));
    }
    for name in insides.into_iter().chain(&config.outsides) {
        let said = ask("ethtool", &["-k", name]).unwrap_or_default();
        if said.contains("large-receive-offload: on") {
            let what = "merges packets so that they cannot be forwarded as they came";
            findings.push(Finding::wrong(format!("{name} {what}; ethtool -K {name} lro off")));
        }
        if said.contains("generic-receive-offload: off") {
            let what = "hands packets over one by one, which is slow";
            findings.push(Finding::note(format!("{name} {what}; ethtool -K {name} gro on")));
        }
    }
    findings
}

fn state(directory: &Path) -> Finding {
    let nearest = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::access(nearest, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if nearest.is_dir() => Finding::fine(format!("state can be kept in {}", directory.display())),
        Ok(()) => Finding::wrong(format!("{} is not a directory; choose another state-dir", nearest.display())),
        Err(error) => Finding::wrong(format!(
            "state cannot be kept in {}: {} cannot be written ({error}); choose another state-dir",
            directory.display(),
            nearest.display()
        )),
    }
}

fn firewall(config: &Config) -> Vec<Finding> {
    let legacy = ["ip_tables_names", "ip6_tables_names"].iter().any(|name| {
        std::fs::read_to_string(Path::new("/proc/self/net").join(name)).is_ok_and(|tables| !tables.trim().is_empty())
    });
    let mut findings = Vec::new();
    if legacy {
        let what = "there are rules of the old iptables, which kamei doctor cannot read";
        findings
            .push(Finding::note(format!("{what}; they must let the gateway's devices forward (iptables-legacy -S)")));
    }
    let Some(text) = ask("nft", &["-j", "list", "ruleset"]) else {
        findings.push(Finding::note("nft cannot be asked, so firewall rules were not looked at"));
        return findings;
    };
    findings.extend(firewall::judge(&text, config));
    findings
}

/// What a program says; nothing if it is not there or fails.
fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
