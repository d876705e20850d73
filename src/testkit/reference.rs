//! A slow, obvious translator to hold the real one against: lists and linear scans, every checksum summed anew.
//! It shares no code with the real one but the settings it is given and the names of the reasons.

use super::packets;
use crate::nat::{CallbackPolicy, DropReason, Hairpin, InsideNumber, PoolSettings, Realm, Settings};
use pnet::packet::ip::IpNextHeaderProtocol;
use pnet::util;
use std::net::IpAddr;

/// What is expected of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// These bytes go there; checksums that were wrong before are listed by offset, and only have to stay wrong.
    Forward {
        to: Realm,
        bytes: Vec<u8>,
        wrong: Vec<usize>,
    },
    Drop(DropReason),
}

pub struct Reference {
    settings: Settings,
    own_inside: Vec<IpAddr>,
    bindings: Vec<Binding>,
    contacts: Vec<(usize, IpAddr)>,
    answered: Vec<(usize, IpAddr)>,
}

#[derive(Clone, Copy, Debug)]
struct Binding {
    inside: InsideNumber,
    terminal: IpAddr,
    virtual_ip: IpAddr,
    group: usize,
}

/// What a packet says of itself.
#[derive(Clone, Copy, Debug)]
struct Look {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: usize,
    end: usize,
    /// 0: whole, 1: first fragment, 2: later one.
    fragment: u8,
}

type Judged = Result<(Realm, Vec<u8>, Vec<usize>), DropReason>;

impl Reference {
    pub fn new(settings: Settings, own_inside: Vec<IpAddr>) -> Self {
        Self { settings, own_inside, bindings: Vec::new(), contacts: Vec::new(), answered: Vec::new() }
    }

    /// Judges a packet. `chosen` is the virtual IP that the real one has given to a new terminal: which one is not for the
    /// reference to guess, but it must have been free.
    pub fn judge(&mut self, bytes: &[u8], partial: bool, realm: Realm, chosen: Option<IpAddr>) -> Expected {
        match self.walk(bytes, partial, realm, chosen) {
            Ok((to, bytes, wrong)) => Expected::Forward { to, bytes, wrong },
            Err(reason) => Expected::Drop(reason),
        }
    }

    fn walk(&mut self, bytes: &[u8], partial: bool, realm: Realm, chosen: Option<IpAddr>) -> Judged {
        let look = look(bytes, true)?;
        let icmp_type = bytes.get(look.transport).copied().filter(|_| look.fragment < 2 && look.transport < look.end);
        let is_v4 = look.source.is_ipv4();
        let icmp = if look.fragment == 2 { None } else { icmp_kind(look.protocol, is_v4, icmp_type) };
        match icmp {
            Some(Icmp::Error) => return self.error(bytes, look, partial, realm),
            Some(Icmp::Local) => return Err(DropReason::NotUnicast),
            _ => {}
        }
        if look.protocol == 51 && look.fragment < 2 {
            return Err(DropReason::AuthenticationHeader);
        }
        let opens = look.fragment < 2
            && match look.protocol {
                6 => bytes[look.transport + 13] & 0x16 == 0x02,
                1 if is_v4 => icmp == Some(Icmp::Query),
                58 if !is_v4 => icmp == Some(Icmp::Query),
                _ => true,
            };
        let is_query = icmp == Some(Icmp::Query);
        let calls = look.fragment < 2 && (is_query || look.protocol == 6 && opens);
        let mut out = bytes.to_vec();
        let to = match realm {
            Realm::Inside(inside) => {
                let (source, destination, to) = self.outbound(&look, inside, opens, calls, chosen)?;
                write(&mut out, &look, source, destination);
                to
            }
            Realm::Outside => {
                let (destination, to) = self.inbound(&look, calls)?;
                write(&mut out, &look, None, Some(destination));
                to
            }
        };
        let wrong = resum(bytes, &mut out, &look, partial);
        Ok((to, out, wrong))
    }

    fn outbound(
        &mut self,
        look: &Look,
        inside: InsideNumber,
        opens: bool,
        calls: bool,
        chosen: Option<IpAddr>,
    ) -> Result<(Option<IpAddr>, Option<IpAddr>, Realm), DropReason> {
        if !is_unicast(look.destination) {
            return Err(DropReason::NotUnicast);
        }
        if self.pool_of(look.destination).is_none() {
            let caller = self.caller(look, inside, opens, chosen)?;
            return Ok((Some(self.bindings[caller].virtual_ip), None, Realm::Outside));
        }
        if self.settings.policy.hairpin == Hairpin::Off {
            return Err(DropReason::Hairpin);
        }
        let callee = self.callee(look.destination)?;
        let caller = self.caller(look, inside, opens, chosen)?;
        let shown = self.bindings[caller].virtual_ip;
        if caller != callee {
            if self.settings.policy.hairpin == Hairpin::Policy {
                self.may_call(callee, shown, calls)?;
            }
            self.hear(callee, shown, look.fragment < 2 && !calls);
        }
        let Binding { terminal, inside, .. } = self.bindings[callee];
        Ok((Some(shown), Some(terminal), Realm::Inside(inside)))
    }

    fn inbound(&mut self, look: &Look, calls: bool) -> Result<(IpAddr, Realm), DropReason> {
        let callee = self.callee(look.destination)?;
        let Binding { terminal, inside, .. } = self.bindings[callee];
        let inside_address =
            self.settings.insides[usize::from(inside.get())].sources.iter().any(|p| p.contains(&look.source));
        if !is_unicast(look.source) || self.pool_of(look.source).is_some() || inside_address {
            return Err(DropReason::SpoofedSource);
        }
        self.may_call(callee, look.source, calls)?;
        self.hear(callee, look.source, look.fragment < 2 && !calls);
        Ok((terminal, Realm::Inside(inside)))
    }

    fn caller(
        &mut self,
        look: &Look,
        inside: InsideNumber,
        opens: bool,
        chosen: Option<IpAddr>,
    ) -> Result<usize, DropReason> {
        let group = self.group_for(look.destination).ok_or(DropReason::NoPool)?;
        let known = self.bindings.iter().position(|b| (b.group, b.inside, b.terminal) == (group, inside, look.source));
        let index = match known {
            Some(index) => index,
            None if !opens || look.fragment == 2 => return Err(DropReason::NotAFirstPacket),
            None => {
                if !is_unicast(look.source) || self.pool_of(look.source).is_some() {
                    return Err(DropReason::SpoofedSource);
                }
                if !self.settings.insides[usize::from(inside.get())].sources.iter().any(|p| p.contains(&look.source)) {
                    return Err(DropReason::SourceNotInside);
                }
                let taken = |address: IpAddr| self.bindings.iter().any(|b| b.virtual_ip == address);
                let pools = self.settings.pools.iter().filter(|pool| self.group_of(pool) == group);
                let size: u128 = pools.clone().map(|pool| pool.range.size()).sum();
                if self.bindings.iter().filter(|b| b.group == group).count() as u128 == size {
                    return Err(DropReason::PoolExhausted);
                }
                let virtual_ip = chosen.expect("the real one made no binding");
                assert!(pools.clone().any(|pool| pool.range.contains(virtual_ip.into())), "{virtual_ip} is elsewhere");
                assert!(!taken(virtual_ip), "{virtual_ip} given twice");
                self.bindings.push(Binding { inside, terminal: look.source, virtual_ip, group });
                self.bindings.len() - 1
            }
        };
        if !self.contacts.contains(&(index, look.destination)) {
            self.contacts.push((index, look.destination));
        }
        Ok(index)
    }

    fn callee(&self, virtual_ip: IpAddr) -> Result<usize, DropReason> {
        self.pool_of(virtual_ip).ok_or(DropReason::NotVirtual)?;
        self.bindings.iter().position(|b| b.virtual_ip == virtual_ip).ok_or(DropReason::NoBinding)
    }

    /// A peer that was called has sent something.
    fn hear(&mut self, callee: usize, peer: IpAddr, answers: bool) {
        if answers && self.contacts.contains(&(callee, peer)) {
            self.answered.push((callee, peer));
        }
    }

    fn may_call(&self, callee: usize, peer: IpAddr, calls: bool) -> Result<(), DropReason> {
        if self.group_for(peer) != Some(self.bindings[callee].group) {
            return Err(DropReason::WrongPool);
        }
        let welcome = match &self.settings.policy.callback {
            CallbackPolicy::Contacted | CallbackPolicy::Answered => false,
            CallbackPolicy::Anyone => true,
            CallbackPolicy::Prefixes(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&peer)),
        };
        if !welcome && !self.contacts.contains(&(callee, peer)) {
            return Err(DropReason::NotContacted);
        }
        let waits =
            self.settings.policy.callback == CallbackPolicy::Answered && !self.answered.contains(&(callee, peer));
        if calls && waits { Err(DropReason::NotAnswered) } else { Ok(()) }
    }

    /// The first pool with the same destinations and family stands for its group.
    fn group_of(&self, pool: &PoolSettings) -> usize {
        let alike =
            |other: &PoolSettings| other.destinations == pool.destinations && other.range.is_v4() == pool.range.is_v4();
        self.settings.pools.iter().position(alike).unwrap()
    }

    fn group_for(&self, peer: IpAddr) -> Option<usize> {
        let mut best: Option<(u8, usize)> = None;
        for pool in self.settings.pools.iter().filter(|pool| pool.range.is_v4() == peer.is_ipv4()) {
            for prefix in pool.destinations.iter().filter(|prefix| prefix.contains(&peer)) {
                if best.is_none_or(|(length, _)| prefix.prefix_len() > length) {
                    best = Some((prefix.prefix_len(), self.group_of(pool)));
                }
            }
        }
        let default = |pool: &&PoolSettings| pool.destinations.is_empty() && pool.range.is_v4() == peer.is_ipv4();
        best.map(|(_, group)| group)
            .or_else(|| self.settings.pools.iter().find(default).map(|pool| self.group_of(pool)))
    }

    fn pool_of(&self, address: IpAddr) -> Option<usize> {
        self.settings.pools.iter().position(|pool| pool.range.contains(address.into()))
    }

    fn is_hidden(&self, address: IpAddr) -> bool {
        self.settings.insides.iter().flat_map(|inside| &inside.sources).any(|prefix| prefix.contains(&address))
            || self.own_inside.contains(&address)
    }

    fn own(&self, addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
        addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// The virtual IP by which `peer` knows an inside address.
    fn shown_to(&self, peer: IpAddr, inside: InsideNumber, address: IpAddr) -> Option<IpAddr> {
        let group = self.group_for(peer)?;
        self.bindings
            .iter()
            .find(|b| (b.group, b.inside, b.terminal) == (group, inside, address))
            .map(|binding| binding.virtual_ip)
    }

    fn error(&self, bytes: &[u8], look: Look, partial: bool, realm: Realm) -> Judged {
        if look.fragment == 0 && !partial && right_sum(bytes, &look) != Some(true) {
            return Err(DropReason::IcmpChecksum);
        }
        let at = look.transport + 8;
        let quote_bytes = &bytes[at.min(look.end)..look.end];
        let quote = self::look(quote_bytes, false).map_err(|reason| match reason {
            DropReason::Malformed | DropReason::UnknownVersion => DropReason::IcmpErrorTruncated,
            other => other,
        })?;
        if quote.source.is_ipv4() != look.source.is_ipv4() {
            return Err(DropReason::IcmpErrorTruncated);
        }
        let kind = quote_bytes.get(quote.transport).filter(|_| quote.fragment != 2);
        let kind = icmp_kind(quote.protocol, quote.source.is_ipv4(), kind.copied());
        if matches!(kind, Some(Icmp::Error | Icmp::Local)) {
            return Err(DropReason::IcmpErrorUnrelated);
        }
        if realm == Realm::Outside && self.pool_of(look.destination).is_some() {
            let is_own = self.settings.own_outside.contains(&look.source) || self.own_inside.contains(&look.source);
            let is_fit = is_unicast(look.source) && self.pool_of(look.source).is_none() && !self.is_hidden(look.source);
            if !is_fit && !is_own {
                return Err(DropReason::SpoofedSource);
            }
            let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            let told = word(look.transport + 4);
            let is_narrow = match (look.source.is_ipv4(), bytes[look.transport], bytes[look.transport + 1]) {
                (true, 3, 4) => (1..68).contains(&(told & 0xffff)),
                (false, 2, _) => told < 1280,
                _ => false,
            };
            if is_narrow {
                return Err(DropReason::IcmpErrorMtu);
            }
        }
        // What to write: outer source, outer destination, quoted source, quoted destination.
        let (to, outer, quoted) = self.restore(&look, &quote, realm)?;
        if outer == (None, None) && quoted == (None, None) {
            return Ok((to, bytes.to_vec(), Vec::new()));
        }
        let mut inner = quote_bytes.to_vec();
        write(&mut inner, &quote, quoted.0, quoted.1);
        let mut wrong: Vec<usize> = resum(quote_bytes, &mut inner, &quote, false);
        wrong.iter_mut().for_each(|offset| *offset += at);
        let mut out = bytes.to_vec();
        out[at..look.end].copy_from_slice(&inner);
        write(&mut out, &look, outer.0, outer.1);
        let outer_wrong = resum(bytes, &mut out, &look, partial);
        // A quote whose checksum cannot be summed (it is cut off) makes the sum of the whole unpredictable as well.
        if !wrong.is_empty() {
            wrong.push(look.transport + 2);
        }
        wrong.extend(outer_wrong);
        Ok((to, out, wrong))
    }

    #[allow(clippy::type_complexity, reason = "a test's way to say four addresses, each of which may stay")]
    fn restore(
        &self,
        look: &Look,
        quote: &Look,
        realm: Realm,
    ) -> Result<(Realm, (Option<IpAddr>, Option<IpAddr>), (Option<IpAddr>, Option<IpAddr>)), DropReason> {
        let insides = || (0..self.settings.insides.len()).map(InsideNumber::of_place);
        let about_virtual = self.pool_of(look.destination).is_some();
        let own_outside = self.own(&self.settings.own_outside, look.source);
        let of_our_own = Some(look.source).filter(|own| self.settings.own_outside.contains(own)).or(own_outside);
        let from_kernel = self.settings.own_outside.contains(&look.source) || self.own_inside.contains(&look.source);
        let by_hairpin = |from: Option<InsideNumber>| {
            let caller = self.bindings[self.callee(look.destination)?];
            if quote.source != look.destination {
                return Err(DropReason::IcmpErrorUnrelated);
            }
            let mut candidates = insides().filter(|inside| from.is_none_or(|from| from == *inside));
            let called = candidates.find_map(|inside| self.shown_to(look.destination, inside, quote.destination));
            let sender = from
                .and_then(|inside| self.shown_to(look.destination, inside, look.source))
                .or_else(|| self.own(&self.own_inside, look.source))
                .ok_or(DropReason::NoOwnAddress)?;
            let called = called.ok_or(DropReason::IcmpErrorUnrelated)?;
            let terminal = Some(caller.terminal);
            Ok((Realm::Inside(caller.inside), (Some(sender), terminal), (terminal, Some(called))))
        };
        match realm {
            Realm::Outside if about_virtual => {
                let callee = self.callee(look.destination)?;
                if quote.source != look.destination {
                    return Err(DropReason::IcmpErrorUnrelated);
                }
                if from_kernel && self.is_hidden(quote.destination) {
                    return by_hairpin(None);
                }
                self.may_call(callee, quote.destination, false).map_err(|_| DropReason::IcmpErrorUnrelated)?;
                let Binding { terminal, inside, .. } = self.bindings[callee];
                Ok((Realm::Inside(inside), (None, Some(terminal)), (Some(terminal), None)))
            }
            Realm::Inside(inside) if about_virtual => by_hairpin(Some(inside)),
            Realm::Inside(inside) => {
                if quote.source != look.destination {
                    return Err(DropReason::IcmpErrorUnrelated);
                }
                self.group_for(quote.source).ok_or(DropReason::IcmpErrorUnrelated)?;
                let called = self.shown_to(quote.source, inside, quote.destination);
                let called = called.ok_or(DropReason::IcmpErrorUnrelated)?;
                let sender = self.shown_to(quote.source, inside, look.source).or(own_outside);
                Ok((Realm::Outside, (Some(sender.ok_or(DropReason::NoOwnAddress)?), None), (None, Some(called))))
            }
            Realm::Outside => {
                let group = self.group_for(look.destination).filter(|_| quote.source == look.destination);
                let of_terminal = |inside: &InsideNumber| {
                    self.bindings
                        .iter()
                        .position(|b| Some(b.group) == group && b.inside == *inside && b.terminal == quote.destination)
                };
                let candidates: Vec<usize> = insides().filter_map(|inside| of_terminal(&inside)).collect();
                let called = candidates.iter().find(|b| self.may_call(**b, look.destination, false).is_ok());
                match called.or(candidates.first()) {
                    Some(_) if own_outside.is_none() && self.is_hidden(look.source) => Err(DropReason::NoOwnAddress),
                    Some(binding) => {
                        let shown = self.bindings[*binding].virtual_ip;
                        Ok((Realm::Outside, (of_our_own, None), (None, Some(shown))))
                    }
                    None if [look.source, quote.source, quote.destination].iter().any(|a| self.is_hidden(*a)) => {
                        Err(DropReason::IcmpErrorUnrelated)
                    }
                    None => Ok((Realm::Outside, (None, None), (None, None))),
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Icmp {
    Query,
    Error,
    Local,
    Other,
}

fn icmp_kind(protocol: u8, is_v4: bool, icmp_type: Option<u8>) -> Option<Icmp> {
    Some(match (protocol, is_v4, icmp_type?) {
        (1, true, 3 | 4 | 11 | 12) => Icmp::Error,
        (1, true, 5) => Icmp::Local,
        (1, true, 8 | 13 | 15 | 17) => Icmp::Query,
        (1, true, _) => Icmp::Other,
        (58, false, 128) => Icmp::Query,
        (58, false, 0..=127) => Icmp::Error,
        (58, false, 133..=137) => Icmp::Local,
        (58, false, _) => Icmp::Other,
        _ => return None,
    })
}

/// Reads a packet that must be whole, or (`complete` false) a quote that may be cut off behind its addresses.
fn look(bytes: &[u8], complete: bool) -> Result<Look, DropReason> {
    let word = |at: usize| usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
    let Some(first) = bytes.first() else { return Err(DropReason::Malformed) };
    let mut look = match first >> 4 {
        4 => {
            if bytes.len() < 20 || first & 15 < 5 || bytes.len() < usize::from(first & 15) * 4 {
                return Err(DropReason::Malformed);
            }
            let header = usize::from(first & 15) * 4;
            let end = word(2);
            if complete && (end < header || end > bytes.len()) {
                return Err(DropReason::Malformed);
            }
            options(&bytes[20..header], complete)?;
            let fragment = match (word(6) & 0x1fff, bytes[6] & 0x20) {
                (0, 0) => 0,
                (0, _) => 1,
                (1, _) if bytes[9] == 6 => return Err(DropReason::OverlappingFragment),
                _ => 2,
            };
            let (source, destination) = packets::addresses(bytes);
            Look {
                source,
                destination,
                protocol: bytes[9],
                transport: header,
                end: end.clamp(header, bytes.len()),
                fragment,
            }
        }
        6 => {
            if bytes.len() < 40 || (complete && 40 + word(4) > bytes.len()) {
                return Err(DropReason::Malformed);
            }
            let (source, destination) = packets::addresses(bytes);
            let mapped = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
            if mapped(source) || mapped(destination) {
                return Err(DropReason::MappedAddress);
            }
            let end = (40 + word(4)).min(bytes.len());
            let mut look = Look { source, destination, protocol: bytes[6], transport: 40, end, fragment: 0 };
            while matches!(look.protocol, 0 | 43 | 44 | 60) && look.fragment < 2 {
                let rest = &bytes[look.transport..end];
                let length = if look.protocol == 44 { 8 } else { rest.get(1).map_or(8, |n| usize::from(*n) * 8 + 8) };
                if rest.len() < length.max(8) {
                    return match (complete, look.fragment) {
                        (false, _) => Ok(look),
                        (true, 1) => Err(DropReason::TinyFragment),
                        (true, _) => Err(DropReason::Malformed),
                    };
                }
                if look.protocol == 43 && rest[3] > 0 {
                    return Err(DropReason::SourceRoute);
                }
                if look.protocol == 44 {
                    let offset = (usize::from(rest[2]) << 8 | usize::from(rest[3])) >> 3;
                    look.fragment = match (offset, rest[3] & 1) {
                        (0, 0) => look.fragment,
                        (0, _) => 1,
                        _ => 2,
                    };
                }
                look.protocol = rest[0];
                look.transport += length;
            }
            look
        }
        _ => return Err(DropReason::UnknownVersion),
    };
    look.end = look.end.max(look.transport.min(bytes.len()));
    let least = match (look.protocol, look.source.is_ipv4()) {
        (6, _) => 20,
        (17 | 136, _) | (1, true) | (58 | 135, false) => 8,
        (33, _) => 12,
        _ => 0,
    };
    if complete && look.fragment < 2 && look.end - look.transport < least {
        return Err(if look.fragment == 0 { DropReason::Malformed } else { DropReason::TinyFragment });
    }
    Ok(look)
}

fn options(mut options: &[u8], complete: bool) -> Result<(), DropReason> {
    let (mut routed, mut records) = (false, false);
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                records |= *kind == 7;
                let Some(length) = rest.first() else {
                    routed |= matches!(kind, 131 | 137);
                    break;
                };
                match kind {
                    131 | 137 => routed |= rest.get(1).is_none_or(|pointer| pointer <= length),
                    68 => records |= rest.get(2).is_some_and(|flag| flag & 15 != 0),
                    _ => {}
                }
                options = options.get(usize::from(*length).max(2)..).unwrap_or_default();
            }
        }
    }
    match (routed, records && complete) {
        (true, _) => Err(DropReason::SourceRoute),
        (_, true) => Err(DropReason::RecordsAddresses),
        _ => Ok(()),
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            first != 0 && !a.is_loopback() && !a.is_link_local() && !a.is_multicast() && !a.is_broadcast()
        }
        IpAddr::V6(a) => {
            !a.is_unspecified() && !a.is_loopback() && !a.is_multicast() && a.segments()[0] & 0xffc0 != 0xfe80
        }
    }
}

fn write(bytes: &mut [u8], look: &Look, source: Option<IpAddr>, destination: Option<IpAddr>) {
    let (at, length) = if look.source.is_ipv4() { (12, 4) } else { (8, 16) };
    for (place, address) in [(at, source), (at + length, destination)] {
        match address {
            Some(IpAddr::V4(address)) => bytes[place..place + 4].copy_from_slice(&address.octets()),
            Some(IpAddr::V6(address)) => bytes[place..place + 16].copy_from_slice(&address.octets()),
            None => {}
        }
    }
}

/// Sums every checksum of `after` anew that was right in `before`; returns the offsets of those that were not, or of which
/// nobody can tell because the packet is cut off.
fn resum(before: &[u8], after: &mut [u8], look: &Look, partial: bool) -> Vec<usize> {
    let mut wrong = Vec::new();
    if look.source.is_ipv4() {
        let header = usize::from(before[0] & 15) * 4;
        if util::checksum(&before[..header], 5).to_be_bytes() == before[10..12] {
            let sum = util::checksum(&after[..header], 5);
            after[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            wrong.push(10);
        }
    }
    let Some(at) = checksum_at(before, look) else { return wrong };
    let stored = u16::from_be_bytes([before[at], before[at + 1]]);
    if partial {
        let (source, destination) = packets::addresses(after);
        let sum = pseudo_header(source, destination, look.protocol, look.end - look.transport);
        let (source, destination) = packets::addresses(before);
        if stored != pseudo_header(source, destination, look.protocol, look.end - look.transport) {
            wrong.push(at);
        } else if look.protocol != 1 {
            after[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    } else if look.protocol == 17 && stored == 0 {
        // No checksum stays no checksum.
    } else if right_sum(before, look) == Some(true) {
        let sum = sum_of(after, look, at);
        after[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    } else {
        wrong.push(at);
    }
    wrong
}

/// Offset of the transport checksum, if the packet has one that covers the addresses or the quote.
fn checksum_at(bytes: &[u8], look: &Look) -> Option<usize> {
    if look.fragment == 2 {
        return None;
    }
    let at = match (look.protocol, look.source.is_ipv4()) {
        (6, _) => 16,
        (17 | 136 | 33, _) => 6,
        (1, true) | (58, false) => 2,
        (135, false) => 4,
        _ => return None,
    };
    (look.transport + at + 2 <= look.end).then_some(look.transport + at).filter(|at| at + 2 <= bytes.len())
}

/// Whether the transport checksum is right; of a fragment or of a quote that is cut off nobody can tell.
fn right_sum(bytes: &[u8], look: &Look) -> Option<bool> {
    let at = checksum_at(bytes, look)?;
    let whole = look.fragment == 0 && is_whole(bytes);
    whole.then(|| sum_of(bytes, look, at).to_be_bytes() == bytes[at..at + 2])
}

/// Whether all the bytes that the IP header promises are there.
fn is_whole(bytes: &[u8]) -> bool {
    let word = |at: usize| usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
    if bytes[0] >> 4 == 4 { word(2) <= bytes.len() } else { 40 + word(4) <= bytes.len() }
}

fn sum_of(bytes: &[u8], look: &Look, at: usize) -> u16 {
    let body = &bytes[look.transport..look.end];
    let skip = (at - look.transport) / 2;
    let next = IpNextHeaderProtocol(look.protocol);
    let sum = match packets::addresses(bytes) {
        _ if look.protocol == 1 => util::checksum(body, skip),
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            util::ipv4_checksum(body, skip, &[], &source, &destination, next)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            util::ipv6_checksum(body, skip, &[], &source, &destination, next)
        }
        _ => unreachable!("one family"),
    };
    if sum == 0 && matches!(look.protocol, 17 | 136) { 0xffff } else { sum }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let next = IpNextHeaderProtocol(protocol);
    let zeros = vec![0; length];
    let sum = match (source, destination) {
        _ if protocol == 1 => 0xffff,
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            util::ipv4_checksum(&zeros, length, &[], &source, &destination, next)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            util::ipv6_checksum(&zeros, length, &[], &source, &destination, next)
        }
        _ => unreachable!("one family"),
    };
    !sum
}
