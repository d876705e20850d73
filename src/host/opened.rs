//! What a stop opens: a machine that forwarded before the gateway came forwards again when it has gone, untranslated.

use super::plan::Plan;
use std::fs;

/// The families in which packets from inside go out when the gateway has gone: what an inside interface receives is forwarded,
/// and a route leads out by an outside interface.
pub(super) fn families(plan: &Plan) -> Vec<&'static str> {
    let is_on = |key: String| fs::read_to_string(format!("/proc/sys/net/{key}")).is_ok_and(|value| value.trim() != "0");
    let mut insides = plan.insides.iter().flat_map(|inside| &inside.interfaces);
    let leads_out = |file: &str, leads: fn(&str) -> Option<&str>| {
        // Of this network namespace, unlike /proc/net.
        let routes = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        routes.lines().filter_map(leads).any(|interface| plan.outsides.iter().any(|outside| outside == interface))
    };
    let v4 = insides.any(|name| is_on(format!("ipv4/conf/{name}/forwarding"))) && leads_out("route", interface4);
    let v6 = is_on("ipv6/conf/all/forwarding".to_owned()) && leads_out("ipv6_route", interface6);
    [(v4, "IPv4"), (v6, "IPv6")].into_iter().filter_map(|(is_open, name)| is_open.then_some(name)).collect()
}

/// Says it, if there is something to say.
pub(super) fn warn(plan: &Plan) {
    let families = families(plan);
    if families.is_empty() {
        return;
    }
    let insides: Vec<&str> = plan.insides.iter().flat_map(|inside| &inside.interfaces).map(String::as_str).collect();
    log::warn!(
        "this machine forwards {} without the gateway too: what comes in by {} goes out by {} UNTRANSLATED now; --on-stop \
         leave (on-stop = \"leave\") keeps it closed until the next start",
        families.join(" and "),
        insides.join(", "),
        plan.outsides.join(", ")
    );
}

/// The interface of a line of /proc/net/route.
fn interface4(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

/// The interface of a line of /proc/net/ipv6_route, unless the route is for the link alone or multicast.
fn interface6(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let to = words.next()?;
    if to.starts_with("fe8") || to.starts_with("ff") { None } else { words.next_back() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_their_interface() {
        assert_eq!(interface4("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"), Some("eth0"));
        let v6 = |to: &str| {
            format!("{to} 40 00000000000000000000000000000000 00 {to} 00000100 00000001 00000000 00000001     eth0")
        };
        assert_eq!(interface6(&v6("20010db8000000000000000000000000")), Some("eth0"));
        assert_eq!(interface6(&v6("fe800000000000000000000000000000")), None);
        assert_eq!(interface6(&v6("ff000000000000000000000000000000")), None);
        assert_eq!((interface4(""), interface6("")), (None, None));
    }
}
