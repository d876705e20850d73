//! Interfaces come and go while packets flow: the gateway follows, and nothing leaks meanwhile.
//!
//! The host forwards before kamei comes: only kamei stands between inside and outside. What a server hears is searched
//! for every inside address.

use crate::capture::Capture;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Plan, wait_until};
use crate::privacy::{both_families, let_pass, router, under_fire};
use crate::traffic::{Echo, Web, ask_udp, curl};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

struct Scene {
    lab: Lab,
    gateway: Gateway,
    /// Hardware address of the inside interface: who is made again keeps it, or neighbours take a while to learn.
    mac: String,
    _echo: Echo,
    _webs: [Web; 2],
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(Plan::gateways(1).unwatched());
        router(&lab);
        let gateway = lab.start(1);
        let _echo = Echo::start(&lab.server(1), 5000);
        let _webs = [Web::start(&lab.server(1), 80), Web::start(&lab.terminal(1), 8080)];
        let link = gateway.host.run("ip -o link show dev gi").ok();
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
        Self { lab, gateway, mac, _echo, _webs }
    }

    fn host(&self) -> &Host {
        &self.gateway.host
    }

    #[track_caller]
    fn run(&self, command: &str) {
        self.host().run(command).ok();
    }

    /// Whether both families get through.
    fn works(&self) -> bool {
        let ask = |to| ask_udp(&self.lab.terminal(1), to, b"works", Duration::from_millis(300)).is_some();
        both_families(&self.lab.server(1)).into_iter().all(ask)
    }

    /// Changes interfaces under fire; afterwards everything works again, a callback too, and nothing has leaked.
    fn survives(&self, change: impl FnOnce(&AtomicU64)) {
        let (terminal, server) = (self.lab.terminal(1), self.lab.server(1));
        assert!(self.works());
        let wire = Capture::start(&server, "eth0");
        under_fire(&terminal, &both_families(&server), |sent| {
            let_pass(sent, 100);
            change(sent);
            let_pass(sent, 300);
        });
        wait_until("packets to pass again", || self.works());
        for family in [Family::V4, Family::V6] {
            curl(&terminal, server.address(family), 80);
            let virtual_ip = self.gateway.virtual_ip(terminal.address(family));
            assert_eq!(curl(&server, virtual_ip, 8080), format!("{} 8080", server.address(family)));
        }
        let wire = wire.finish();
        assert!(wire.has_bytes(b"from the inside"));
        wire.assert_hidden(&self.lab.hidden(1));
    }

    #[track_caller]
    fn wait_for_one_line(&self, words: &str) {
        wait_until(&format!("a line '{words}'"), || self.gateway.log().contains(words));
        std::thread::sleep(Duration::from_millis(1500)); // another look at the interfaces
        assert_eq!(self.gateway.log().matches(words).count(), 1, "{}", self.gateway.log());
    }

    /// The inside interface is made anew under `name`, plugged in, up and with its addresses.
    fn make_inside(&self, name: &str) {
        let lan = format!("{}-inside", self.lab.name);
        let (v4, v6) = self.lab.gateway_inside(1);
        let mac = &self.mac;
        self.run(&format!(
            "ip link add {name} address {mac} type veth peer name gateway1 netns {lan} && ip link set {name} up"
        ));
        self.run(&format!("ip -n {lan} link set gateway1 master lan up"));
        self.run(&format!("ip address add {v4}/24 brd + dev {name} && ip address add {v6}/64 dev {name} nodad"));
    }
}

/// Routes that the kernel takes away with a link and does not bring back.
fn outside_addresses(lab: &Lab, name: &str) -> String {
    let host = lab.gateway(1);
    format!("ip address replace {}/24 brd + dev {name} && ip address replace {}/64 dev {name} nodad", host.v4, host.v6)
}

#[test]
fn s_the_inside_interface_goes_down_and_up() {
    let scene = Scene::new();
    scene.survives(|sent| {
        for _ in 0..3 {
            scene.run("ip link set gi down");
            let_pass(sent, 100);
            let (_, v6) = scene.lab.gateway_inside(1);
            scene.run(&format!("ip link set gi up && ip address replace {v6}/64 dev gi nodad"));
            let_pass(sent, 100);
        }
    });
    // Longer than a moment: it is said.
    scene.run("ip link set gi down");
    scene.wait_for_one_line("interface 'gi' is down; the gateway waits for it to come up");
    scene.run("ip link set gi up");
    scene.wait_for_one_line("interface 'gi' is up again");
}

#[test]
fn s_the_outside_interface_goes_down_and_up() {
    let scene = Scene::new();
    scene.survives(|sent| {
        for _ in 0..3 {
            scene.run("ip link set go down");
            let_pass(sent, 100);
            scene.run(&format!("ip link set go up && {}", outside_addresses(&scene.lab, "go")));
            let_pass(sent, 100);
        }
    });
}

#[test]
fn s_the_inside_interface_is_renamed() {
    let scene = Scene::new();
    // Since Linux 6.2 an interface that is up can be renamed.
    scene.survives(|sent| {
        scene.run("ip link set gi name lan0");
        let_pass(sent, 500);
    });
    scene.wait_for_one_line("interface 'gi' is now called 'lan0'");
    scene.survives(|_| scene.run("ip link set lan0 name gi"));
    scene.wait_for_one_line("interface 'lan0' is now called 'gi'");
}

#[test]
fn s_the_outside_interface_is_renamed() {
    let scene = Scene::new();
    scene.survives(|sent| {
        scene.run("ip link set go name wan0");
        let_pass(sent, 500);
    });
    scene.wait_for_one_line("interface 'go' is now called 'wan0'");
}

#[test]
fn s_a_renamed_interface_is_left_as_it_was() {
    let lab = Lab::new(Plan::gateways(1));
    let host = lab.gateway(1);
    let before = crate::life::Snapshot::of(&host);
    let gateway = lab.start(1);
    host.run("ip link set gi name lan0").ok();
    wait_until("the gateway to follow", || gateway.log().contains("is now called 'lan0'"));
    gateway.stop();
    host.run("ip link set lan0 name gi").ok();
    before.assert_unchanged(&host);
}

#[test]
fn s_the_inside_interface_is_deleted_and_made_again() {
    let scene = Scene::new();
    scene.survives(|sent| {
        scene.run("ip link delete gi");
        let_pass(sent, 200);
        scene.make_inside("gi");
    });
    // Longer than a moment: it is said that the gateway waits, and that it is over.
    scene.run("ip link delete gi");
    wait_until("a word about it", || scene.gateway.log().contains("interface 'gi' has gone"));
    scene.make_inside("gi");
    wait_until("a word about it", || scene.gateway.log().contains("interface 'gi' is back"));
}

/// As some network managers do it: made under a name of its own, configured, then renamed.
#[test]
fn s_the_inside_interface_is_made_again_under_another_name_first() {
    let scene = Scene::new();
    scene.survives(|sent| {
        scene.run("ip link delete gi");
        wait_until("a word about it", || scene.gateway.log().contains("interface 'gi' has gone"));
        scene.make_inside("veth77");
        for family in ["ipv4", "ipv6"] {
            scene.host().set_sysctl(&format!("net.{family}.conf.veth77.forwarding"), "1");
        }
        let_pass(sent, 1000);
        scene.run("ip link set veth77 name gi");
    });
}

#[test]
fn s_the_inside_address_changes() {
    let scene = Scene::new();
    let (terminal, server) = (scene.lab.terminal(1), scene.lab.server(1));
    scene.survives(|sent| {
        scene.run("ip address delete 10.77.143.1/24 dev gi && ip address add 10.77.143.254/24 brd + dev gi");
        terminal.run("ip route replace default via 10.77.143.254").ok();
        let_pass(sent, 300);
    });
    scene.wait_for_one_line("this machine's addresses inside are now: 10.77.143.254,");
    // A whole new network.
    scene.run("ip address add 10.78.9.1/24 brd + dev gi && ip address delete 10.77.143.254/24 dev gi");
    terminal.run("ip address add 10.78.9.11/24 dev eth0 && ip route replace default via 10.78.9.1 src 10.78.9.11").ok();
    wait_until("the new network to be served", || {
        ask_udp(&terminal, both_families(&server)[0], b"new", Duration::from_millis(300)).is_some()
    });
    assert!(scene.gateway.knows([10, 78, 9, 11].into()));
}

#[test]
fn s_the_outside_address_changes() {
    let scene = Scene::new();
    let server = scene.lab.server(1);
    scene.survives(|sent| {
        scene.run("ip address delete 203.0.113.1/24 dev go && ip address add 203.0.113.2/24 brd + dev go");
        server.run("ip route replace default via 203.0.113.2").ok();
        let_pass(sent, 300);
    });
    scene.wait_for_one_line("this machine's addresses outside are now: 203.0.113.2,");
}
