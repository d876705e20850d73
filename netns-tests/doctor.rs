//! `kamei doctor` on hosts with one thing wrong each, and beside an operator's own firewall.

use crate::gateway::KAMEI;
use crate::lab::{Family, Lab, Plan, Ran, need, wait_for};
use crate::one_view::nft;
use crate::traffic::{Web, curl};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A firewall as many have it: nothing is forwarded that no rule accepts, and what goes out is masqueraded.
const FIREWALL: &str = r#"
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state invalid drop
    }
}
table inet nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "go" masquerade
    }
}"#;

/// What many have against addresses that should not come from outside.
const BOGONS: &str = r#"
table inet raw {
    chain prerouting {
        type filter hook prerouting priority raw;
        iifname "go" ip daddr 10.0.0.0/8 drop
    }
}"#;

/// What the manual says to add: for calls, answers and callbacks; and that terminals keep their own addresses.
const RULES: [&str; 5] = [
    "insert rule inet filter forward iifname \"gi\" oifname \"go\" accept",
    "insert rule inet filter forward ct state established,related accept",
    "insert rule inet filter forward iifname \"go\" oifname \"gi\" accept",
    "insert rule inet nat postrouting ip saddr 10.77.143.0/24 oifname \"go\" accept",
    "insert rule inet nat postrouting ip6 saddr fd5a:77e1:9c0d::/64 oifname \"go\" accept",
];
/// The one of them that lets callbacks in.
const CALLBACKS: usize = 2;

const CONFIG: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.1.0/24\"\n[[pool]]\nrange = \"2001:db8:18:1::/64\"\n";

/// Doctor's words about a gateway with this configuration, after `before` on the same shell line.
pub fn examine(lab: &Lab, config: &str, before: &str) -> Ran {
    let file = lab.scratch().join("doctor.toml");
    let state = format!("state-dir = \"{}\"\n", lab.scratch().join("state").display());
    fs::write(&file, state + config).unwrap();
    lab.gateway(1).run(&format!("{before} exec {KAMEI} doctor --config {}", file.display()))
}

#[track_caller]
fn assert_wrong(ran: &Ran, words: &str) {
    let wrong: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(wrong.len() == 1 && wrong[0].contains(words), "{words}: {}", ran.stdout);
}

#[test]
fn a_good_host_is_called_good_before_and_while_a_gateway_runs() {
    let lab = Lab::new(Plan::gateways(1));
    let before = examine(&lab, CONFIG, "");
    assert_eq!(before.code, Some(0), "{}{}", before.stdout, before.stderr);
    assert!(before.stdout.contains("fine   TAP devices with several queues"), "{}", before.stdout);
    assert!(before.stdout.contains("198.18.1.0/24 lies in no network of go"), "{}", before.stdout);
    let _gateway = lab.start(1);
    let running = examine(&lab, CONFIG, "");
    assert_eq!(running.code, Some(0), "{}{}", running.stdout, running.stderr);
    assert!(running.stdout.contains("a gateway --tun kamei is running"), "{}", running.stdout);
}

#[test]
fn after_kill_9_it_says_that_the_inside_is_blocked_until_the_gateway_is_back_or_cleared_away() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let host = lab.gateway(1);
    let words = "the dead gateway --tun kamei keeps its interfaces closed";
    lab.start(1).kill();
    assert_wrong(&examine(&lab, CONFIG, ""), words);
    let bare = host.run(&format!("{KAMEI} doctor"));
    assert!(bare.code == Some(1) && bare.stdout.contains(words), "{}", bare.stdout);
    let gateway = lab.start(1);
    let running = examine(&lab, CONFIG, "");
    assert_eq!(running.code, Some(0), "{}", running.stdout);
    gateway.kill();
    let opens = "what comes from inside goes out untranslated from now on";
    let cleaned = host.run(&format!("{KAMEI} cleanup")).ok();
    assert!(!cleaned.contains(opens), "{cleaned}");
    let cleared = examine(&lab, CONFIG, "");
    assert_eq!(cleared.code, Some(0), "{}", cleared.stdout);
    // A machine that forwards without the gateway is open then.
    host.set_sysctl("net.ipv4.ip_forward", "1");
    lab.start(1).kill();
    let cleaned = host.run(&format!("{KAMEI} cleanup")).ok();
    assert!(cleaned.contains(&format!("this machine forwards IPv4: {opens}")), "{cleaned}");
}

/// Doctor's words on a machine with systemd, which says this of the unit, and with the configuration where that has it.
fn booted(lab: &Lab, enabled: &str, unit: &str, config: &str) -> Ran {
    let (bin, etc) = (lab.scratch().join("bin"), lab.scratch().join("etc"));
    let name = unit.trim_start_matches("kamei@").trim_end_matches(".service").replace("kamei", "gateway");
    let program = format!("#!/bin/sh\n[ \"$*\" = 'is-enabled {unit}' ] && echo {enabled}\n");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("systemctl"), program).unwrap();
    fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    for directory in ["kamei", "network"] {
        fs::create_dir_all(etc.join(directory)).unwrap();
    }
    fs::write(etc.join("kamei").join(format!("{name}.toml")), config).unwrap();
    fs::write(etc.join("network/interfaces"), "auto gi go\n").unwrap();
    // A view of its own: nothing of it is on this machine.
    let line = format!(
        "mount --bind {} /etc && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && \
         PATH={}:$PATH exec {KAMEI} doctor --config /etc/kamei/{name}.toml",
        etc.display(),
        bin.display()
    );
    lab.gateway(1).run(&line)
}

#[test]
fn what_a_reboot_would_do_is_said_of_the_unit_the_state_the_interfaces_and_forwarding() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let config = |directory: &str| format!("state-dir = \"{directory}\"\n{CONFIG}");
    let disk = lab.scratch().join("state").display().to_string();
    let line = |ran: &Ran| {
        let lines: Vec<&str> = ran.stdout.lines().filter(|line| line.contains("after a reboot: ")).collect();
        assert!(!lines.is_empty(), "{}{}", ran.stdout, ran.stderr);
        lines.join("\n")
    };
    for unit in ["kamei.service", "kamei@north.service"] {
        let good = line(&booted(&lab, "enabled", unit, &config(&disk)));
        assert!(good.starts_with(&format!("fine   after a reboot: {unit} starts the gateway")), "{good}");
        let off = line(&booted(&lab, "disabled", unit, &config(&disk)));
        assert!(off.contains(&format!("note   after a reboot: {unit} is not enabled")), "{off}");
    }
    let lost = line(&booted(&lab, "enabled", "kamei.service", &config("/run/kamei-state")));
    assert!(lost.contains("all bindings are forgotten: /run/kamei-state is in memory"), "{lost}");
    // Without systemd, and with interfaces that somebody has made by hand.
    let bare = line(&examine(&lab, CONFIG, "mount -t tmpfs tmpfs /run &&"));
    assert!(bare.contains("nothing is found that starts the gateway") && bare.contains("that makes gi"), "{bare}");
}

#[test]
fn a_file_of_networkd_that_would_take_the_devices_of_a_named_gateway_is_said() {
    let lab = Lab::new(Plan::gateways(1));
    let directory = lab.scratch().join("networkd");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("90-all.network"), "[Match]\nName=second* tun*\n[Network]\nDHCP=yes\n").unwrap();
    let before = format!("mount --bind {} /etc/systemd/network &&", directory.display());
    let words = "90-all.network makes systemd-networkd configure the gateway's own devices";
    let named = format!("tun = \"second\"\n{CONFIG}");
    let taken = examine(&lab, &named, &before);
    assert!(taken.code == Some(0) && taken.stdout.contains(words), "{}{}", taken.stdout, taken.stderr);
    assert!(!examine(&lab, CONFIG, &before).stdout.contains(words));
    fs::write(directory.join("00-second.network"), "[Match]\nName=second-nat second-in*\n[Link]\nUnmanaged=yes\n")
        .unwrap();
    assert!(!examine(&lab, &named, &before).stdout.contains(words));
}

/// Files of systemd-networkd for a device `second-nat`, each set with a name for it.
const NETWORKS: [(&str, &[(&str, &str)]); 10] = [
    ("taken", &[("etc/a.network", TAKES)]),
    ("left", &[("etc/a.network", TAKES), ("run/0.network", LEAVES)]),
    ("left by a drop-in", &[("etc/a.network", TAKES), ("run/a.network.d/x.conf", "[Link]\nUnmanaged=yes\n")]),
    ("taken by a drop-in", &[("lib/a.network", LEAVES), ("etc/a.network.d/x.conf", "[Link]\nUnmanaged=no\n")]),
    ("named by a drop-in", &[("etc/a.network", "[Match]\nName=x\n"), ("lib/a.network.d/x.conf", TAKES)]),
    (
        "a drop-in before another of its name",
        &[
            ("etc/a.network", TAKES),
            ("etc/a.network.d/x.conf", "[Link]\n"),
            ("run/a.network.d/x.conf", "[Link]\nUnmanaged=yes\n"),
        ],
    ),
    ("masked with its drop-ins", &[("etc/a.network", ""), ("lib/a.network", TAKES), ("etc/a.network.d/x.conf", TAKES)]),
    ("all but", &[("etc/a.network", "[Match]\nName=x\nName=!second*\n")]),
    ("on two lines", &[("etc/a.network", "[Match]\nNoSuchKey=1\nName=x \\\n second-[a-n]at\nHost=!nowhere\n")]),
    ("not to be read", &[("etc/a.network", "[Match]\nName=*\n[Link\n")]),
];
const TAKES: &str = "[Match]\nName=second*\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n";
const LEAVES: &str = "[Match]\nName=second*\n[Link]\nUnmanaged=yes\n";

#[test]
fn what_it_says_of_files_of_networkd_is_what_networkd_does() {
    need("networkctl", "systemd");
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    host.run("ip tuntap add dev second-nat mode tap && ip link set second-nat up").ok();
    let index = host.run("cat /sys/class/net/second-nat/ifindex").ok();
    for (name, files) in NETWORKS {
        let places = lab.scratch().join(name.replace(' ', "-"));
        for place in ["etc", "run", "lib", "netif"] {
            fs::create_dir_all(places.join(place)).unwrap();
        }
        for (path, text) in files {
            fs::create_dir_all(places.join(path).parent().unwrap()).unwrap();
            fs::write(places.join(path), text).unwrap();
        }
        let at = places.display();
        let before = format!(
            "mount -t tmpfs none /run && mkdir -p /run/systemd/network /run/systemd/netif && \
             mount --bind {at}/etc /etc/systemd/network && mount --bind {at}/run /run/systemd/network && \
             mount --bind {at}/lib /usr/lib/systemd/network &&"
        );
        let said = examine(&lab, &format!("tun = \"second\"\n{CONFIG}"), &before).stdout;
        // Where /sys can be written it waits for udev.
        let line = format!(
            "{before} mount --bind {at}/netif /run/systemd/netif && cd /run/systemd/netif && mkdir links leases lldp && \
             chown -R systemd-network: . && mount -o remount,ro,bind /sys && exec /lib/systemd/systemd-networkd"
        );
        let _networkd = host.spawn("networkd", &["sh", "-c", &line]);
        let link = places.join("netif/links").join(index.trim());
        let taken = wait_for("networkd to judge the device", || {
            let text = fs::read_to_string(&link).unwrap_or_default();
            let is_taken = text.contains("NETWORK_FILE=");
            (is_taken || text.contains("ADMIN_STATE=unmanaged")).then_some(is_taken)
        });
        assert_eq!(said.contains("systemd-networkd configure"), taken, "{name}: {said}");
    }
}

/// A stand-in for a program of another package, which prints what that one prints.
#[test]
fn that_network_manager_counts_the_devices_as_its_own_is_said_with_what_keeps_it_off() {
    let lab = Lab::new(Plan::gateways(1));
    let merged = lab.scratch().join("merged");
    let program = lab.scratch().join("NetworkManager");
    fs::write(&program, format!("#!/bin/sh\n[ \"$*\" = --print-config ] && cat {}\n", merged.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&merged, "[keyfile]\n# rename=false\n[device]\n# wifi.backend=wpa_supplicant\n").unwrap();
    let named = format!("tun = \"second\"\n{CONFIG}");
    let running = "mount -t tmpfs none /run && mkdir /run/NetworkManager &&";
    let path = format!("PATH={}:$PATH && export PATH &&", lab.scratch().display());
    let words = "NetworkManager counts second-nat as its own";
    let taken = examine(&lab, &named, &format!("{running} {path}"));
    assert!(taken.code == Some(0) && taken.stdout.contains(words), "{}{}", taken.stdout, taken.stderr);
    assert!(!examine(&lab, &named, &path).stdout.contains(words), "it does not run");
    fs::write(&merged, "[keyfile]\nunmanaged-devices=interface-name:second-nat,interface-name:second-in*\n").unwrap();
    assert!(!examine(&lab, &named, &format!("{running} {path}")).stdout.contains(words));
}

#[test]
fn each_thing_wrong_is_named_with_what_to_do() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    host.run("ip rule add priority 100 from 10.0.0.0/8 lookup main").ok();
    let ruled = examine(&lab, CONFIG, "");
    assert_eq!(ruled.code, Some(0), "routing rules are nobody's fault: {}", ruled.stdout);
    host.run("ip rule delete priority 100").ok();

    host.run("ip link add br7 type bridge && ip link set gi master br7").ok();
    assert_wrong(&examine(&lab, CONFIG, ""), "br7");
    host.run("ip link set gi nomaster && ip link delete br7").ok();

    nft(&host, BOGONS);
    let rule = "nft insert rule inet raw prerouting iifname \"go\" ip daddr 10.77.143.0/24 accept";
    assert_wrong(&examine(&lab, CONFIG, ""), rule);
    host.run("nft delete table inet raw").ok();

    let on_lan = CONFIG.replace("198.18.1.0/24", "203.0.113.128/25");
    host.run("ip neigh add 203.0.113.130 lladdr 02:00:00:00:00:07 dev go").ok();
    assert_wrong(&examine(&lab, &on_lan, ""), "203.0.113.130 is in a pool, but the machine 02:00:00:00:00:07 uses it");
    host.run("ip neigh delete 203.0.113.130 dev go").ok();

    assert_wrong(&examine(&lab, &CONFIG.replace("\"go\"", "\"goo\""), ""), "did you mean 'go'?");
    let read_only = |path: &str| format!("mount --bind {path} {path} && mount -o remount,ro,bind {path} &&");
    let scratch = lab.scratch().display().to_string();
    assert_wrong(&examine(&lab, CONFIG, &read_only(&scratch)), "state cannot be kept in");
    assert_wrong(&examine(&lab, CONFIG, &read_only("/proc/sys")), "/proc/sys/net cannot be written");
    let no_tun = "mount --bind /dev/null /dev/net/tun &&";
    assert_eq!(examine(&lab, CONFIG, no_tun).code, Some(1));

    host.run("ip link set go mtu 1400").ok();
    let narrow = examine(&lab, CONFIG, "");
    assert!(narrow.code == Some(0) && narrow.stdout.contains("mss = 1340"), "{}", narrow.stdout);
}

#[test]
fn beside_a_firewall_that_drops_and_masquerades_it_works_with_the_rules_that_doctor_names() {
    let lab = Lab::new(Plan::gateways(1));
    let (host, terminal, server) = (lab.gateway(1), lab.terminal(1), lab.server(1));
    let _webs = [Web::start(&server, 80), Web::start(&terminal, 8080)];
    nft(&host, FIREWALL);
    let said = examine(&lab, CONFIG, "").stdout;
    for rule in RULES {
        assert!(said.contains(&format!("nft {rule}")), "{rule}\n{said}");
    }
    let gateway = lab.start(1);
    let blocked = terminal.run(&format!("curl -sS --max-time 1 http://{}/", server.v4));
    assert!(!blocked.succeeded(), "the firewall is in force");

    let without_callbacks: Vec<&str> = RULES.into_iter().filter(|rule| *rule != RULES[CALLBACKS]).collect();
    nft(&host, &without_callbacks.join("\n"));
    assert_wrong(&examine(&lab, CONFIG, ""), RULES[CALLBACKS]);
    let families = [Family::V4, Family::V6];
    for family in families {
        let seen = curl(&terminal, server.address(family), 80);
        assert_eq!(seen, format!("{} 80", gateway.virtual_ip(terminal.address(family))));
    }
    let back = gateway.virtual_ip(terminal.v4.into());
    assert!(!server.run(&format!("curl -sS --max-time 1 http://{back}:8080/")).succeeded(), "and lets no callback in");

    nft(&host, RULES[CALLBACKS]);
    let said = examine(&lab, CONFIG, "");
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    for family in families {
        let virtual_ip = gateway.virtual_ip(terminal.address(family));
        assert_eq!(curl(&server, virtual_ip, 8080), format!("{} 8080", server.address(family)));
    }
}
