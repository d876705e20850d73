//! The guard as an nf_tables table of its own.
//!
//! The table and its chain stay while rules change: the new rules take the place of the old ones in one instant, and the
//! hook is never unregistered. Rules use sets without names, which nobody can change but with the rule.

use super::batch::{
    Batch, Element, GET_RULE, GET_TABLE, Meta, Sender, Type, Verdict, comment_data, compare, counter, ipsec, meta,
    network_header, question, verdict,
};
use super::ways::{REASONS, Reason, Ways};
use crate::host::netlink_socket::{NetlinkSocket, attributes, value};
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

const CHAIN: &str = "forward";
/// `NF_INET_FORWARD` (linux/netfilter.h).
const FORWARD: u32 = 2;
/// As late as it goes; `INT_MAX` is what the kernel keeps for itself (`NF_IP_PRI_LAST`).
const PRIORITY: i32 = i32::MAX - 1;
/// `NFT_TABLE_F_DORMANT`: registered nowhere.
const DORMANT: u32 = 1;
/// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST` (Linux 6.9): while the process runs nobody else changes the table, not
/// even by `nft flush ruleset`; when it ends the table stays.
const OWNED: u32 = 2 | 4;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
/// Where headers have addresses: offset and length in bytes (RFC 791 §3.1, RFC 8200 §3).
const SOURCE_V4: (u32, u32) = (12, 4);
const DESTINATION_V4: (u32, u32) = (16, 4);
const SOURCE_V6: (u32, u32) = (8, 16);
const DESTINATION_V6: (u32, u32) = (24, 16);
/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const CHANGES: u32 = 7;

/// The table.
pub struct Table {
    name: String,
    sender: Sender,
    queries: NetlinkSocket,
    /// What this kernel can.
    dialect: Dialect,
    /// What is in force, as the kernel numbers it.
    handles: Option<Handles>,
}

#[derive(Clone, Copy, Debug)]
struct Dialect {
    flags: u32,
    /// Kernels without IPsec do not know the question.
    asks_ipsec: bool,
}

/// The handle of the table, and those of its rules in their order. A rule that is changed has another one.
type Handles = (Vec<u8>, Vec<Vec<u8>>);

impl Table {
    /// Makes nothing yet.
    ///
    /// # Errors
    /// No netlink socket, or a kernel that has no nf_tables.
    pub fn new(tun: &str) -> io::Result<Self> {
        let mut queries = NetlinkSocket::open(NETLINK_NETFILTER)?;
        let name = name(tun);
        table(&mut queries, &name)?;
        let dialect = Dialect { flags: OWNED, asks_ipsec: true };
        Ok(Self { name, sender: Sender::open()?, queries, dialect, handles: None })
    }

    /// As on a kernel before 6.9.
    #[cfg(test)]
    pub fn unowned(mut self) -> Self {
        self.dialect.flags = 0;
        self
    }

    /// In force when this returns, in place of what was.
    ///
    /// # Errors
    /// What the kernel answers; what was in force stays then.
    pub fn set(&mut self, ways: &Ways) -> io::Result<()> {
        let Dialect { flags, asks_ipsec } = self.dialect;
        let dialects = [(flags, asks_ipsec), (flags, false), (0, asks_ipsec), (0, false)];
        let mut result = Ok(());
        for (flags, asks_ipsec) in dialects {
            self.dialect = Dialect { flags, asks_ipsec };
            result = self.replace(ways);
            match &result {
                Err(error) if Errno::from_io_error(error) == Some(Errno::OPNOTSUPP) => {}
                _ => break,
            }
        }
        if result.is_err() {
            self.dialect = Dialect { flags, asks_ipsec };
        }
        result?;
        self.handles = self.found()?.map(|(handles, _)| handles);
        Ok(())
    }

    /// Keeps the table that is there; or if that is another's or of another make, makes a new one in the same instant.
    fn replace(&mut self, ways: &Ways) -> io::Result<()> {
        let kept = self.sender.send(self.fill(Batch::new(&self.name, CHAIN), ways));
        kept.or_else(|error| {
            let mut batch = Batch::new(&self.name, CHAIN);
            batch.table(None);
            batch.delete_table();
            self.sender.send(self.fill(batch, ways)).map_err(|_| error)
        })
    }

    fn fill(&self, mut batch: Batch, ways: &Ways) -> Batch {
        batch.table(Some(self.dialect.flags));
        batch.filter_chain(FORWARD, PRIORITY);
        batch.flush();
        if ways.insides.iter().any(|realm| !realm.is_empty()) {
            rules(&mut batch, ways, self.dialect.asks_ipsec);
        }
        batch
    }

    /// Whether table and rules are those that were set.
    pub fn is_whole(&mut self) -> bool {
        self.handles.is_none() || self.found().is_ok_and(|found| found.map(|(handles, _)| handles) == self.handles)
    }

    /// Packets dropped since the rules were set, by reason.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn dropped(&mut self) -> io::Result<[u64; REASONS]> {
        Ok(self.found()?.map(|(_, dropped)| dropped).unwrap_or_default())
    }

    /// Deletes the table.
    ///
    /// # Errors
    /// What the kernel answers; not that there is none.
    pub fn remove(&mut self) -> io::Result<bool> {
        self.handles = None;
        let mut batch = Batch::new(&self.name, CHAIN);
        batch.delete_table();
        match self.sender.send(batch) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is there and registered: handles, and counters by reason.
    fn found(&mut self) -> io::Result<Option<(Handles, [u64; REASONS])>> {
        let Some((handle, flags)) = table(&mut self.queries, &self.name)? else { return Ok(None) };
        if flags & DORMANT != 0 {
            return Ok(None);
        }
        let rules = self.queries.ask(GET_RULE, netlink_packet_core::NLM_F_DUMP, &question(&self.name))?;
        let (mut handles, mut dropped) = (Vec::new(), [0; REASONS]);
        for rule in rules.iter().filter_map(|rule| rule.get(4..)) {
            handles.extend(value(rule, 3).map(<[u8]>::to_vec));
            let Some(reason) = Reason::ALL.iter().find(|reason| value(rule, 7) == Some(&comment_data(reason.name())))
            else {
                continue;
            };
            dropped[*reason as usize] += value(rule, 4).and_then(packets).unwrap_or_default();
        }
        Ok(Some(((handle, handles), dropped)))
    }
}

/// Deletes the table of a gateway that is dead; says whether there was one.
///
/// # Errors
/// What the kernel answers.
pub fn remove(tun: &str) -> io::Result<bool> {
    // Asked first: a kernel without nf_tables has nothing of ours, and a batch would load the module.
    if !has(tun) {
        return Ok(false);
    }
    Table::new(tun)?.remove()
}

/// Whether there is such a table.
fn has(tun: &str) -> bool {
    NetlinkSocket::open(NETLINK_NETFILTER)
        .and_then(|mut queries| table(&mut queries, &name(tun)))
        .is_ok_and(|it| it.is_some())
}

fn name(tun: &str) -> String {
    format!("kamei-guard-{tun}")
}

/// Handle and flags of a table, if it is there.
fn table(queries: &mut NetlinkSocket, name: &str) -> io::Result<Option<(Vec<u8>, u32)>> {
    let answer = match queries.ask(GET_TABLE, 0, &question(name)) {
        Err(error) if error.is(Errno::NOENT) => return Ok(None),
        answer => answer?,
    };
    let attributes = answer.first().and_then(|table| table.get(4..)).unwrap_or_default();
    let flags = value(attributes, 2).and_then(|flags| flags.first_chunk()).copied().map(u32::from_be_bytes);
    Ok(Some((value(attributes, 4).unwrap_or_default().to_vec(), flags.unwrap_or_default())))
}

/// What the counter among these expressions has counted.
fn packets(expressions: &[u8]) -> Option<u64> {
    let counter = attributes(expressions).find(|(_, expression)| value(expression, 1) == Some(b"counter\0"))?.1;
    value(value(counter, 2)?, 2)?.first_chunk().copied().map(u64::from_be_bytes)
}

/// What most packets meet comes first: they leave by a declared way, and no address is read but the IPv6 source.
fn rules(batch: &mut Batch, ways: &Ways, asks_ipsec: bool) {
    let insides: Vec<u32> = ways.insides.concat();
    let declared: Vec<u32> = ways.outsides.iter().chain(&ways.devices).copied().collect();
    if !ways.others.is_empty() {
        let is_of_others = batch.is_among(Type::INTERFACE, &interfaces(&ways.others));
        batch.rule(&[meta(Meta::In), is_of_others, verdict(Verdict::Accept)], None);
    }
    let known: Vec<u32> = insides.iter().chain(&declared).copied().collect();
    let (comes, leaves) = (
        batch.is_not_among(Type::INTERFACE, &interfaces(&insides)),
        batch.is_among(Type::INTERFACE, &interfaces(&known)),
    );
    batch.rule(&[meta(Meta::In), comes, meta(Meta::Out), leaves, verdict(Verdict::Accept)], None);
    transit(batch, ways, &insides);
    let comes = batch.is_not_among(Type::INTERFACE, &interfaces(&insides));
    batch.rule(&[meta(Meta::In), comes, verdict(Verdict::Accept)], None);
    if !ways.own_v6.is_empty() {
        let own: Vec<Element> = ways.own_v6.iter().map(|address| (address.octets().to_vec(), false)).collect();
        let is_own = batch.is_among(Type::ADDRESS_V6, &unique(own));
        drops(batch, Reason::OwnSource, [&reads(FAMILY_V6, SOURCE_V6)[..], &[is_own]].concat());
    }
    if !declared.is_empty() {
        let mut expressions = if asks_ipsec { vec![ipsec(), compare(&[0], false)] } else { Vec::new() };
        expressions.push(meta(Meta::Out));
        expressions.push(batch.is_among(Type::INTERFACE, &interfaces(&declared)));
        expressions.push(verdict(Verdict::Accept));
        batch.rule(&expressions, None);
    }
    let families = [(FAMILY_V4, DESTINATION_V4, Type::RANGES_V4), (FAMILY_V6, DESTINATION_V6, Type::RANGES_V6)];
    for (family, destination, of) in families {
        let ranges = ranges(&ways.exempt, family == FAMILY_V4);
        if !ranges.is_empty() {
            let is_exempt = batch.is_among(of, &ranges);
            batch.rule(&[&reads(family, destination)[..], &[is_exempt, verdict(Verdict::Accept)]].concat(), None);
        }
    }
    if asks_ipsec {
        drops(batch, Reason::Ipsec, vec![ipsec(), compare(&[1], false)]);
    }
    for realm in ways.insides.iter().filter(|realm| !realm.is_empty()) {
        let (came, leaves) =
            (batch.is_among(Type::INTERFACE, &interfaces(realm)), batch.is_among(Type::INTERFACE, &interfaces(realm)));
        batch.rule(&[meta(Meta::In), came, meta(Meta::Out), leaves, verdict(Verdict::Accept)], None);
    }
    let leaves_inside = batch.is_among(Type::INTERFACE, &interfaces(&insides));
    drops(batch, Reason::OtherRealm, vec![meta(Meta::Out), leaves_inside]);
    drops(batch, Reason::UndeclaredWay, Vec::new());
}

/// Packets of others that leave by interfaces of others: none of them shows an inside address, but to exempt peers.
fn transit(batch: &mut Batch, ways: &Ways, insides: &[u32]) {
    let families = [
        (FAMILY_V4, SOURCE_V4, DESTINATION_V4, Type::RANGES_V4),
        (FAMILY_V6, SOURCE_V6, DESTINATION_V6, Type::RANGES_V6),
    ];
    for (family, source, destination, of) in families {
        let hidden = ranges(&ways.hidden, family == FAMILY_V4);
        let exempt = ranges(&ways.exempt, family == FAMILY_V4);
        if hidden.is_empty() {
            continue;
        }
        let ways = [(source, destination, Reason::ForeignSource), (destination, source, Reason::InsideDestination)];
        for (hides, other, reason) in ways {
            let mut expressions = vec![meta(Meta::In), batch.is_not_among(Type::INTERFACE, &interfaces(insides))];
            expressions.extend(reads(family, hides));
            expressions.push(batch.is_among(of, &hidden));
            if !exempt.is_empty() {
                expressions.push(network_header(other.0, other.1));
                expressions.push(batch.is_not_among(of, &exempt));
            }
            drops(batch, reason, expressions);
        }
    }
}

/// A rule that drops what the expressions say.
fn drops(batch: &mut Batch, reason: Reason, mut expressions: Vec<Vec<u8>>) {
    expressions.extend([counter(), verdict(Verdict::Drop)]);
    batch.rule(&expressions, Some(reason.name()));
}

/// Loads an address of a packet of this family.
fn reads(family: u8, (offset, length): (u32, u32)) -> Vec<Vec<u8>> {
    vec![meta(Meta::Family), compare(&[family], false), network_header(offset, length)]
}

fn interfaces(indices: &[u32]) -> Vec<Element> {
    unique(indices.iter().map(|index| (index.to_ne_bytes().to_vec(), false)).collect())
}

/// The kernel refuses an element that comes twice.
fn unique(mut elements: Vec<Element>) -> Vec<Element> {
    elements.sort();
    elements.dedup();
    elements
}

/// The prefixes of one family as the bounds of ranges that neither meet nor touch; the kernel takes no others.
fn ranges(prefixes: &[IpNet], v4: bool) -> Vec<Element> {
    let bits = if v4 { 32 } else { 128 };
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let of_family = prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == v4);
    let mut ranges: Vec<_> = of_family.map(|prefix| (number(prefix.network()), number(prefix.broadcast()))).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let touches = range.1.checked_add(1).is_none_or(|end| next.0 <= end);
        if touches {
            range.1 = range.1.max(next.1);
        }
        touches
    });
    let bytes = |number: u128| number.to_be_bytes()[16 - bits / 8..].to_vec();
    // As `nft` does it: what is before the first range ends at zero.
    let mut elements = match ranges.first() {
        Some((start, _)) if *start > 0 => vec![(bytes(0), true)],
        _ => Vec::new(),
    };
    for (start, last) in ranges {
        elements.push((bytes(start), false));
        let end = last.checked_add(1).filter(|end| bits == 128 || *end < 1 << bits);
        elements.extend(end.map(|end| (bytes(end), true)));
    }
    elements
}

/// Tells when anybody changes the nf_tables rules of a network namespace.
pub struct RulesetMonitor(Socket);

impl RulesetMonitor {
    /// Of this thread's network namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(CHANGES)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes the news out, so that the socket is readable again only after the next change.
    ///
    /// # Errors
    /// What the kernel answers; not that there were more news than the socket holds.
    pub fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.0, &mut buffer, rustix::net::RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for RulesetMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(prefixes: &[&str]) -> String {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        let show = |(bytes, is_end): Element| {
            let address = match <[u8; 16]>::try_from(bytes.clone()) {
                Ok(bytes) => IpAddr::from(bytes),
                Err(_) => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
            };
            format!("{address}{}", if is_end { "]" } else { "" })
        };
        ranges(&prefixes, prefixes[0].addr().is_ipv4()).into_iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ranges_neither_meet_nor_touch() {
        assert_eq!(shown(&["10.0.0.0/8"]), "0.0.0.0] 10.0.0.0 11.0.0.0]");
        assert_eq!(shown(&["10.0.1.0/24", "10.0.2.0/23", "10.0.1.128/25"]), "0.0.0.0] 10.0.1.0 10.0.4.0]");
        assert_eq!(shown(&["10.0.0.0/24", "10.0.2.0/24"]), "0.0.0.0] 10.0.0.0 10.0.1.0] 10.0.2.0 10.0.3.0]");
        assert_eq!(shown(&["0.0.0.0/0", "10.0.0.0/8"]), "0.0.0.0");
        assert_eq!(shown(&["::/0"]), "::");
        assert_eq!(shown(&["255.0.0.0/8", "254.0.0.0/8"]), "0.0.0.0] 254.0.0.0");
        assert_eq!(shown(&["ffff::/16", "::/16"]), ":: 1::] ffff::");
    }
}
