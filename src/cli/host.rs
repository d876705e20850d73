//! What of this host stands in the way of a packet that the gateway would let pass: routes, interfaces, firewall.

use crate::config::{Config, Draft};
use crate::control::Status;
use crate::doctor::{Grade, examine_firewall};
use crate::nat::Explanation;
use crate::selftest::{not_forwarded, way};
use std::net::IpAddr;

/// Sentences, each with what to do; none where nothing stands in the way, as far as can be told from here.
pub fn in_the_way(explanation: &Explanation, asked: (IpAddr, IpAddr), status: &Status) -> Vec<String> {
    let (Some(_), Some(destination)) = (&explanation.to, explanation.destination) else { return Vec::new() };
    let gateway = &status.gateway;
    let mut said = if explanation.from == "outside" {
        inward(asked.0, destination, &gateway.outsides, &gateway.insides)
    } else {
        outward(asked, &gateway.outsides, &gateway.insides)
    };
    if let Some(config) = config_of(status) {
        let findings = examine_firewall(&config).into_iter().filter(|finding| finding.grade == Grade::Wrong);
        said.extend(findings.map(|finding| format!("{}.", finding.text.trim_end_matches('.'))));
    }
    said
}

fn outward((terminal, peer): (IpAddr, IpAddr), outsides: &[String], insides: &[String]) -> Vec<String> {
    // Where answers go must be where the terminal is.
    let back = outsides.first().map(|outside| way(peer, terminal, outside));
    let inside = match back {
        Some(Ok(way)) if insides.contains(&way.interface) => way.interface,
        Some(Ok(way)) => {
            return vec![format!(
                "There is no way back: the route to {terminal} leads by '{}', which is no inside interface; see `ip route get \
                 {terminal}`, and route it to one of {}.",
                way.interface,
                insides.join(", ")
            )];
        }
        Some(Err(words)) => {
            return vec![format!(
                "There is no way back: the kernel says '{words}' of {terminal}; route it to one of {}.",
                insides.join(", ")
            )];
        }
        None => return Vec::new(),
    };
    match way(terminal, peer, &inside) {
        Ok(way) if outsides.contains(&way.interface) || insides.contains(&way.interface) => Vec::new(),
        Ok(way) => vec![format!(
            "It would not come to kamei: the route to {peer} leads by '{}', which is neither inside nor outside, so it is \
             dropped there (undeclared_way); declare that interface as outside, or route {peer} by one of {}.",
            way.interface,
            outsides.join(", ")
        )],
        Err(words) => not_forwarded(&words, &inside)
            .into_iter()
            .map(|why| format!("It would not come to kamei, the kernel says '{words}': {why}."))
            .collect(),
    }
}

fn inward(peer: IpAddr, terminal: IpAddr, outsides: &[String], insides: &[String]) -> Vec<String> {
    let Some(outside) = outsides.first() else { return Vec::new() };
    match way(peer, terminal, outside) {
        Ok(way) if insides.contains(&way.interface) => Vec::new(),
        Ok(way) => vec![format!(
            "It would not reach the terminal: the route to {terminal} leads by '{}', which is no inside interface; see `ip route \
             get {terminal}`, and route it to one of {}.",
            way.interface,
            insides.join(", ")
        )],
        Err(words) => not_forwarded(&words, outside)
            .into_iter()
            .map(|why| format!("It would not reach the terminal, the kernel says '{words}': {why}."))
            .collect(),
    }
}

/// As far as the firewall matters.
fn config_of(status: &Status) -> Option<Config> {
    let names = |names: &[String]| names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let gateway = &status.gateway;
    let mut text = format!("inside = [{}]\noutside = [{}]\n", names(&gateway.insides), names(&gateway.outsides));
    text.push_str(&format!("tun = {:?}\n", gateway.tun));
    for pool in &status.nat.pools {
        text.push_str(&format!("[[pool]]\nrange = \"{}\"\n", pool.range));
    }
    Draft::parse(&text).ok()?.check().ok()
}
