//! What is wrong with a host, or would be for a gateway on it, in words, with what to do.

mod finding;
mod firewall;
mod fullness;
mod managers;
mod modules;
mod reboot;

pub use finding::{Finding, Grade};

use finding::ask;

use crate::config::{Config, FastPathHook, FastPathMode};
use crate::device::tap;
use crate::fastpath::{self, Entrance, NoXdp, overtaking, without_xdp};
use crate::host::confine::{Confinement, Profile};
use crate::host::{Framing, KernelError, Plan, Survey, filtered_at_ports};
use crate::nat::Realm;
use crate::wire::AddressRange;
use aya::programs::ProgramType;
use aya::sys::is_program_supported;
use ipnet::IpNet;
use rustix::fs::Access;
use std::path::Path;

/// Of `bpffs` (linux/magic.h).
const BPF_FS: i64 = 0xcafe_4a11;
/// The kernel that has TCX.
const TCX: (u32, u32) = (6, 6);
/// The kernel that has BPF programs at the hooks of netfilter.
const BPF_AT_HOOKS: (u32, u32) = (6, 4);

const BY_FILTERS: &str =
    "by filters on clsact, and whoever deletes that opens the inside until the gateway has put them back";
const BY_TABLE: &str = "an nftables table (inet kamei-guard-…) guards undeclared ways out, and after `nft flush ruleset` \
                        they are open until the gateway has put it back";

/// Looks at this host, for a gateway with this configuration if there is one. Makes a device of the name `kamei-doctor` and
/// loads a program of two instructions, each for a moment; changes nothing else. `file` is where the configuration is from.
pub fn examine(config: Option<&Config>, file: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![devices(), landlock(), sysctls()];
    findings.extend(modules::examine());
    findings.extend(programs(config));
    findings.extend(killed(config));
    findings.extend(fullness::examine(Path::new("/proc")));
    if let Some(config) = config {
        let (found, sources) = network(config);
        findings.extend(found);
        findings.extend(links(config));
        findings.extend(managers::examine(config));
        findings.push(state(&config.state_dir));
        findings.extend(reboot::examine(config, file));
        findings.extend(firewall::examine(config, &sources));
        findings.extend(ipsec(config, &sources));
    }
    findings
}

fn devices() -> Finding {
    match tap::create(&["kamei-doctor".to_owned()], 2, crate::config::Offload::Auto) {
        Ok((_, offload)) => Finding::fine(format!("TAP devices with several queues, offloads: {offload}")),
        Err(error) => Finding::wrong(error.to_string()),
    }
}

/// By confining a thread that has nothing else to do.
fn landlock() -> Finding {
    let tried = std::thread::spawn(|| Confinement::new(Profile::GATEWAY, Vec::new()).enter()).join();
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

/// Gateways that were killed; of those that the configuration is not for, [`network`] tells.
fn killed(config: Option<&Config>) -> Vec<Finding> {
    let mut names = crate::host::dead(fastpath::has_left);
    if let Some(config) = config {
        names.retain(|name| *name == config.tun);
    }
    let say = |tun: String| {
        Finding::wrong(format!(
            "the dead gateway --tun {tun} keeps its interfaces closed: nothing from inside gets out; start it again, or \
             clear it with: kamei cleanup --tun {tun}"
        ))
    };
    names.into_iter().map(say).collect()
}

/// What translates: eBPF programs, and what they hold on to.
fn programs(config: Option<&Config>) -> Vec<Finding> {
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => {}
        Ok(false) => {
            let what =
                "this kernel takes no eBPF programs at tc (CONFIG_NET_CLS_ACT, CONFIG_BPF_SYSCALL): no gateway starts";
            return vec![Finding::wrong(what)];
        }
        Err(error) => {
            let what =
                "no gateway starts without eBPF programs; run as root, and in a container with CAP_BPF, CAP_PERFMON";
            return vec![Finding::wrong(format!("{what} ({error})"))];
        }
    }
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let has_file_system = rustix::fs::statfs("/sys/fs/bpf").is_ok_and(|about| about.f_type == BPF_FS);
    let fast_path = config.map(|config| config.fast_path);
    let hook = fast_path.and_then(|fast| fast.hook);
    let mut findings = Vec::new();
    if has_file_system {
        findings.extend([seat(&release, version >= TCX, hook), guard(version >= BPF_AT_HOOKS)]);
        findings.push(Finding::fine("/sys/fs/bpf keeps known flows over a restart"));
    } else if hook == Some(FastPathHook::Tcx) {
        findings.push(Finding::wrong("fast-path-hook = \"tcx\" needs a BPF file system; mount -t bpf bpf /sys/fs/bpf"));
    } else {
        findings.push(Finding::note(format!(
            "/sys/fs/bpf is no BPF file system: packets are translated {BY_FILTERS}; {BY_TABLE}; a restart forgets known \
             flows; and the packaged unit, which may mount none, does not start; mount -t bpf bpf /sys/fs/bpf"
        )));
    }
    for name in config.map_or(&[][..], |config| &config.outsides) {
        let index = std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex"));
        let index = index.ok().and_then(|text| text.trim().parse().ok());
        let tun = config.map_or("", |config| &config.tun);
        let overtaking = index.map(|index| overtaking(tun, index)).unwrap_or_default();
        findings.extend(overtaking.into_iter().map(|who| {
            let what = "and may end the way of packets there, which pass untranslated then; attach it behind";
            Finding::wrong(format!("{who} comes before the gateway's programs at {name}, {what}"))
        }));
    }
    findings
}

/// Drivers, where programs are to sit in them.
fn drivers(interfaces: &[(String, u32, Framing)]) -> Vec<Finding> {
    let entrance = |(name, index, framing): &(String, u32, Framing)| {
        let Framing::Ethernet(ethernet) = framing else { return None };
        Some(Entrance { name: name.clone(), index: *index, realm: Realm::Outside, ethernet: Some(*ethernet) })
    };
    let entrances: Vec<Entrance> = interfaces.iter().filter_map(entrance).collect();
    let without = match without_xdp(&entrances) {
        Ok(without) => without,
        Err(error) => {
            return vec![Finding::wrong(format!(
                "this kernel does not tell which drivers have XDP (Linux 6.3 does): fast-path = \"xdp\" is refused; \
                 \"redirect\" is not ({error})"
            ))];
        }
    };
    if without.is_empty() {
        return vec![Finding::fine("drivers run XDP programs at the interfaces with Ethernet headers")];
    }
    let refused = |(name, why): (String, NoXdp)| {
        Finding::wrong(format!(
            "fast-path = \"xdp\" is refused at {name}: {why}; \"redirect\" needs nothing of drivers"
        ))
    };
    without.into_iter().map(refused).collect()
}

/// Where at tc the programs are.
fn seat(release: &str, has_tcx: bool, hook: Option<FastPathHook>) -> Finding {
    match hook {
        Some(FastPathHook::Tcx) if !has_tcx => Finding::wrong(format!(
            "Linux {release} has no TCX (6.6 has), but fast-path-hook = \"tcx\"; leave that key out, or say \"clsact\""
        )),
        Some(FastPathHook::Clsact) => Finding::note(format!("packets are translated {BY_FILTERS} (fast-path-hook)")),
        _ if has_tcx => Finding::fine(format!("Linux {release} has TCX, where packets are translated")),
        _ => Finding::note(format!("Linux {release} has no TCX (6.6 has): packets are translated {BY_FILTERS}")),
    }
}

/// What keeps inside packets from leaving by undeclared interfaces.
fn guard(has_hooks: bool) -> Finding {
    if !has_hooks || !is_program_supported(ProgramType::Netfilter).unwrap_or(false) {
        Finding::note(format!("this kernel takes no eBPF programs at netfilter's hooks (6.4 can): {BY_TABLE}"))
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::note(format!("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF): {BY_TABLE}"))
    } else {
        Finding::fine("an eBPF program at netfilter's forward hook can guard undeclared ways out")
    }
}

/// Interfaces, pools, neighbours; and the prefixes of the insides.
/// What of the firewall alone is wrong for this gateway.
pub fn examine_firewall(config: &Config) -> Vec<Finding> {
    firewall::examine(config, &network(config).1)
}

fn network(config: &Config) -> (Vec<Finding>, Vec<IpNet>) {
    let plan = Plan::of(config, fastpath::has_left);
    let survey = match Survey::take(&plan) {
        Ok(survey) => survey,
        Err(error) => return (vec![Finding::wrong(error.to_string())], Vec::new()),
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
    if config.fast_path.mode == FastPathMode::Xdp {
        findings.extend(drivers(&survey.interfaces));
    }
    for range in &plan.pools {
        findings.push(route(range, &survey.lans, &plan.outsides));
    }
    for (address, hardware) in survey.used_elsewhere {
        findings.push(Finding::wrong(format!(
            "{address} is in a pool, but the machine {hardware} uses it; name it under `reserved` in that pool, or give \
             that machine another address"
        )));
    }
    (findings, survey.sources)
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
        && config.policy.mss.is_none()
    {
        let mss = narrow.saturating_sub(if config.pools.iter().any(|pool| !pool.range.is_v4()) { 60 } else { 40 });
        findings.push(Finding::note(format!(
            "packets may be {wide} bytes inside and {narrow} outside: path MTU discovery is needed, or mss = {mss}"
        )));
    }
    findings.extend(config.outsides.iter().filter_map(|name| bridge(name)));
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

fn bridge(name: &str) -> Option<Finding> {
    let bridge = Path::new("/sys/class/net").join(name).join("bridge");
    if !bridge.exists() {
        return None;
    }
    let is_on = |key: &str| std::fs::read_to_string(bridge.join(key)).is_ok_and(|value| value.trim() != "0");
    filtered_at_ports(name, (is_on("nf_call_iptables"), is_on("nf_call_ip6tables"))).map(Finding::note)
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

/// Outgoing IPsec policies come before translation.
fn ipsec(config: &Config, sources: &[IpNet]) -> Vec<Finding> {
    let said = ask("ip", &["xfrm", "policy"]).unwrap_or_default();
    let found = outgoing_policies(&said).into_iter().filter(|(from, to)| {
        let overlaps = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
        sources.iter().any(|source| overlaps(source, from)) && !config.exempt.iter().any(|exempt| exempt.contains(to))
    });
    let say = |(from, to): (IpNet, IpNet)| {
        Finding::note(format!(
            "an IPsec policy takes what terminals send from {from} to {to} before it can be translated, so that is dropped \
             (ipsec); to send it with the terminals' own addresses: exempt = [\"{to}\"]"
        ))
    };
    found.map(say).collect()
}

/// Sources and destinations of policies that transform, from `ip xfrm policy`.
fn outgoing_policies(said: &str) -> Vec<(IpNet, IpNet)> {
    let mut policies = Vec::new();
    let mut selector = None;
    let mut is_outgoing = false;
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["src", from, "dst", to, ..] if !line.starts_with(char::is_whitespace) => {
                selector = prefix(from).zip(prefix(to));
                is_outgoing = false;
            }
            ["dir", direction, ..] => is_outgoing = *direction == "out",
            ["tmpl", ..] if is_outgoing => policies.extend(selector.take()),
            _ => {}
        }
    }
    policies
}

fn prefix(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outgoing_ipsec_policies_are_told_from_others() {
        let said = "src 10.0.0.0/24 dst 10.9.0.0/16 \n\tdir out priority 0 \n\ttmpl src 192.0.2.1 dst 192.0.2.2\n\
                    \t\tproto esp reqid 1 mode tunnel\n\
                    src 10.9.0.0/16 dst 10.0.0.0/24 \n\tdir fwd priority 0 \n\ttmpl src 192.0.2.2 dst 192.0.2.1\n\
                    src 2001:db8::1 dst ::/0 \n\tdir out action block priority 0 \n\
                    src 0.0.0.0/0 dst 0.0.0.0/0 \n\tsocket in priority 0 \n";
        let expected = ("10.0.0.0/24".parse().unwrap(), "10.9.0.0/16".parse().unwrap());
        assert_eq!(outgoing_policies(said), [expected]);
    }
}
