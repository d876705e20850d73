//! What holds for every packet.

use super::*;
use crate::testkit::packets::{Built, Spec, Sum, Transport, addresses, ends, error_about, same_sum, spec};
use proptest::prelude::*;

/// A gateway for both families, through which `terminal` has called `peer`; and the terminal's virtual IP.
fn gateway(ends: (IpAddr, IpAddr), restore_hop: bool) -> (Gateway, IpAddr) {
    let mut settings = settings(vec![pool("198.18.0.0/24", &[]), pool("fd00:2::/64", &[])]);
    settings.insides[0].sources = vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/32".parse().unwrap()];
    settings.own_outside.push("2001:db8::fe".parse().unwrap());
    settings.restore_hop = restore_hop;
    let mut gateway = Gateway::new(settings);
    let virtual_ip = gateway.call(&ends.0.to_string(), &ends.1.to_string()).unwrap();
    (gateway, virtual_ip)
}

impl Gateway {
    /// The packet on the other side.
    fn pass(&mut self, built: &Built, partial: bool, realm: Realm) -> Built {
        let mut built = built.clone();
        let mut packet = Packet { bytes: &mut built.bytes, checksum_start: partial.then_some(built.transport) };
        let verdict = self.translator.translate(&mut packet, realm, self.now);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        built
    }
}

/// The bytes with everything blanked that may change: both addresses, both checksums, the hop limit.
fn unchanging(built: &Built) -> Vec<u8> {
    let mut bytes = built.bytes.clone();
    let v4 = bytes[0] >> 4 == 4;
    let (start, end) = if v4 { (12, 20) } else { (8, 40) };
    bytes[start..end].fill(0);
    if v4 {
        bytes[8] = 0;
        bytes[10..12].fill(0);
    } else {
        bytes[7] = 0;
    }
    if let Some(at) = built.checksum {
        bytes[at..at + 2].fill(0);
    }
    bytes
}

fn hop_limit(built: &Built) -> u8 {
    if built.bytes[0] >> 4 == 4 { built.bytes[8] } else { built.bytes[7] }
}

/// Checks every checksum of `after` against what `spec` said of `before`.
fn check_sums(spec: &Spec, after: &Built) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.header_is_right(), spec.header_error == 0 || after.bytes[0] >> 4 == 6);
    let (Some(found), Some(right)) = (after.sum(), after.right_sum()) else { return Ok(()) };
    let plain_udp = spec.transport == Transport::Udp;
    match spec.sum {
        Sum::None if plain_udp => prop_assert_eq!(found, 0),
        Sum::Right | Sum::None => prop_assert_eq!(found, right),
        Sum::Wrong(by) if plain_udp && found == 0 => prop_assert!(by > 0, "was none before"),
        Sum::Wrong(_) => prop_assert!(!same_sum(found, right), "a wrong checksum became right"),
        Sum::Partial if after.protocol == 1 => prop_assert_eq!(found, 0),
        Sum::Partial => prop_assert!(same_sum(found, after.pseudo_header())),
    }
    Ok(())
}

/// Whether the bytes are the same but for checksums that mean the same.
fn same_packet(one: &Built, other: &Built) -> bool {
    let word = |built: &Built, at: usize| u16::from_be_bytes([built.bytes[at], built.bytes[at + 1]]);
    let mut copy = one.clone();
    for at in [(one.bytes[0] >> 4 == 4).then_some(10), one.checksum].into_iter().flatten() {
        if !same_sum(word(one, at), word(other, at)) {
            return false;
        }
        copy.bytes[at..at + 2].copy_from_slice(&other.bytes[at..at + 2]);
    }
    copy.bytes == other.bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn out_and_back_is_the_identity_and_checksums_stay_what_they_were(spec in spec(), ends in ends()) {
        let (mut gateway, virtual_ip) = gateway(ends, true);
        let partial = spec.sum == Sum::Partial;
        let sent = spec.build(ends.0, ends.1);
        let outside = gateway.pass(&sent, partial, INSIDE);
        prop_assert_eq!(outside.addresses(), (virtual_ip, ends.1));
        prop_assert_eq!(unchanging(&outside), unchanging(&sent));
        check_sums(&spec, &outside)?;
        prop_assert_eq!(hop_limit(&outside), hop_limit(&sent));

        let answer = outside.clone().reversed();
        let inside = gateway.pass(&answer, partial, Realm::Outside);
        prop_assert_eq!(inside.addresses(), (ends.1, ends.0));
        prop_assert_eq!(unchanging(&inside), unchanging(&sent));
        check_sums(&spec, &inside)?;
        prop_assert_eq!(hop_limit(&inside), hop_limit(&outside));
        prop_assert!(same_packet(&inside.clone().reversed(), &sent));
        // A UDP checksum neither appears nor disappears.
        if spec.transport == Transport::Udp && !partial {
            prop_assert_eq!(sent.sum() == Some(0), inside.sum() == Some(0));
        }
    }

    #[test]
    fn s_fragments_are_translated_one_by_one_and_fit_together_again(spec in spec(), ends in ends().prop_filter("IPv4", |ends| ends.0.is_ipv4()), more in 0usize..2000) {
        let mut spec = Spec { sum: Sum::Right, header_error: 0, ..spec };
        spec.payload.extend(std::iter::repeat_n(0x5a, more));
        let whole = spec.build(ends.0, ends.1);
        let Some(fragments) = whole.in_fragments() else { return Ok(()) };
        let (mut gateway, virtual_ip) = gateway(ends, false);
        let mut together = Vec::new();
        for (n, fragment) in fragments.into_iter().enumerate().rev() { // the later one first
            let mut bytes = fragment.clone();
            let verdict = gateway.send(&mut bytes, INSIDE);
            prop_assert!(matches!(verdict, Verdict::Forward { .. }), "{:?}", verdict);
            prop_assert_eq!(addresses(&bytes), (virtual_ip, ends.1));
            let body = bytes.split_off(whole.transport);
            if n == 1 {
                prop_assert_eq!(&body, &fragment[whole.transport..], "nothing of a later fragment changes");
            }
            together.splice(0..0, body);
        }
        let mut outside = whole.clone();
        let length = usize::from(whole.bytes[0] & 0xf) * 4;
        let translated = spec.build(virtual_ip, ends.1);
        outside.bytes = [&translated.bytes[..length], &together].concat();
        check_sums(&spec, &outside)?;
        prop_assert!(same_packet(&outside, &translated));
    }

    #[test]
    fn i4_an_error_from_outside_quotes_exactly_what_the_terminal_sent(spec in spec(), ends in ends(), cut in 0usize..2000, padding in prop::collection::vec(any::<u8>(), 0..40)) {
        let spec = Spec { sum: if spec.sum == Sum::Partial { Sum::Right } else { spec.sum }, ..spec };
        let (mut gateway, virtual_ip) = gateway(ends, false);
        let sent = spec.build(ends.0, ends.1);
        let outside = gateway.pass(&sent, false, INSIDE);
        let router = if ends.0.is_ipv4() { "192.0.2.254" } else { "2001:db8::fe" }.parse().unwrap();
        check_error(&mut gateway, Quoted { outside: &outside, inside: &sent, cut, padding: &padding },
            Error { sender: router, receiver: virtual_ip, shown: router, restored: ends.0, realm: Realm::Outside })?;
    }

    #[test]
    fn i5_an_error_from_inside_quotes_exactly_what_the_peer_sent(spec in spec(), ends in ends(), cut in 0usize..2000, padding in prop::collection::vec(any::<u8>(), 0..40), by_router: bool) {
        let spec = Spec { sum: if spec.sum == Sum::Partial { Sum::Right } else { spec.sum }, ..spec };
        let (mut gateway, virtual_ip) = gateway(ends, false);
        let sent = spec.build(ends.1, virtual_ip);
        let inside = gateway.pass(&sent, false, Realm::Outside);
        let (sender, shown) = match (by_router, ends.0.is_ipv4()) {
            (false, _) => (ends.0, virtual_ip),
            (true, true) => ("172.16.0.254".parse().unwrap(), "203.0.113.1".parse().unwrap()),
            (true, false) => ("fd00:9::fe".parse().unwrap(), "2001:db8::fe".parse().unwrap()),
        };
        check_error(&mut gateway, Quoted { outside: &inside, inside: &sent, cut, padding: &padding },
            Error { sender, receiver: ends.1, shown, restored: ends.1, realm: INSIDE })?;
    }

    #[test]
    fn n8_whatever_the_bytes_nothing_panics_and_nothing_untranslated_passes(spec in spec(), ends in ends(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in prop::option::of(any::<prop::sample::Index>()), quoted: bool, way in 0usize..3) {
        let (mut gateway, virtual_ip) = gateway(ends, true);
        let built = match way {
            0 => spec.build(ends.0, ends.1),
            1 => spec.build(ends.1, virtual_ip),
            _ => spec.build(ends.1, ends.0),
        };
        let mut bytes = built.bytes;
        if quoted {
            let (source, destination) = addresses(&bytes);
            bytes = error_about(&bytes, destination, source, &[]);
        }
        for (at, value) in flips {
            *at.get_mut(&mut bytes) = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        for realm in [INSIDE, Realm::Outside] {
            for checksum_start in [None, Some(built.transport), Some(usize::MAX)] {
                let mut bytes = bytes.clone();
                let mut packet = Packet { bytes: &mut bytes, checksum_start };
                let verdict = gateway.translator.translate(&mut packet, realm, gateway.now);
                check_passage(&gateway, &bytes, realm, &verdict)?;
            }
        }
    }

    #[test]
    fn n8_arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..3, ends in ends()) {
        if let (Some(first), 1..) = (bytes.first_mut(), version) {
            *first = if version == 1 { 0x40 | *first & 0xf } else { 0x60 };
        }
        let (mut gateway, _) = gateway(ends, true);
        for realm in [INSIDE, Realm::Outside, Realm::inside(u16::MAX)] {
            let mut bytes = bytes.clone();
            let verdict = gateway.send(&mut bytes, realm);
            check_passage(&gateway, &bytes, realm, &verdict)?;
        }
    }
}

/// What is quoted in an error: `cut` bytes of the packet as it is where the error is made; `inside` is how it was
/// where the error goes.
struct Quoted<'a> {
    outside: &'a Built,
    inside: &'a Built,
    cut: usize,
    padding: &'a [u8],
}

struct Error {
    sender: IpAddr,
    receiver: IpAddr,
    /// What the translated error shows as its sender and receiver.
    shown: IpAddr,
    restored: IpAddr,
    realm: Realm,
}

fn check_error(gateway: &mut Gateway, quoted: Quoted<'_>, error: Error) -> Result<(), TestCaseError> {
    let Quoted { outside, inside, cut, padding } = quoted;
    let v4 = error.sender.is_ipv4();
    let least = if v4 { usize::from(outside.bytes[0] & 0xf) * 4 } else { 40 };
    let cut = cut.min(outside.bytes.len());
    // What follows a cut quote would be read as more of it; only what follows a whole packet is told from it.
    let padding = if cut == outside.bytes.len() { padding } else { &[] };
    let mut bytes = error_about(&outside.bytes[..cut], error.sender, error.receiver, padding);
    let verdict = gateway.send(&mut bytes, error.realm);
    if cut < least {
        prop_assert_eq!(verdict, Verdict::Drop(DropReason::IcmpErrorTruncated));
        return Ok(());
    }
    prop_assert!(matches!(verdict, Verdict::Forward { event: None, .. }), "{:?}", verdict);
    prop_assert_eq!(addresses(&bytes), (error.shown, error.restored));
    let header = if v4 { 20 } else { 40 };
    let outer = Built {
        transport: header,
        protocol: if v4 { 1 } else { 58 },
        checksum: Some(header + 2),
        bytes: bytes.clone(),
    };
    prop_assert!(outer.header_is_right());
    prop_assert!(same_sum(outer.sum().unwrap(), outer.right_sum().unwrap()));
    prop_assert!(bytes.ends_with(padding));
    // The quote, with a checksum that is cut in two taken as it comes.
    let quote = &bytes[header + 8..header + 8 + cut];
    let mut expected = inside.bytes[..cut].to_vec();
    let sums = [v4.then_some(10), inside.checksum];
    for at in sums.into_iter().flatten() {
        if at + 2 <= cut {
            let found = u16::from_be_bytes([quote[at], quote[at + 1]]);
            prop_assert!(same_sum(found, u16::from_be_bytes([expected[at], expected[at + 1]])));
        }
        let end = (at + 2).min(cut);
        if at < end {
            expected[at..end].copy_from_slice(&quote[at..end]);
        }
    }
    prop_assert_eq!(quote, &expected[..]);
    Ok(())
}

/// What passes to the outside shows an outside address; what passes to the inside goes to a terminal with a binding.
fn check_passage(gateway: &Gateway, bytes: &[u8], from: Realm, verdict: &Verdict) -> Result<(), TestCaseError> {
    let Verdict::Forward { to, .. } = verdict else { return Ok(()) };
    let headers = Headers::parse(bytes).expect("what passes can still be read");
    let ranges = ["198.18.0.0/24", "fd00:2::/64"].map(|range| range.parse::<crate::wire::AddressRange>().unwrap());
    let own = ["203.0.113.1", "2001:db8::fe"].map(|own| Address::from(own.parse::<IpAddr>().unwrap()));
    match (from, to) {
        (Realm::Inside(_), Realm::Outside) => {
            let shown = headers.source;
            prop_assert!(ranges.iter().any(|range| range.contains(shown)) || own.contains(&shown), "{shown} passes");
        }
        // An error of the gateway's own kernel.
        (Realm::Outside, Realm::Outside) => {
            let hidden = gateway.nat.surroundings().is_hidden(headers.source);
            prop_assert!(!hidden && headers.kind == crate::wire::Kind::IcmpError);
        }
        (_, Realm::Inside(_)) => {
            prop_assert_eq!(from, Realm::Outside);
            let found = gateway.nat.find(headers.destination.into(), gateway.now);
            prop_assert!(found.iter().any(|view| Address::from(view.terminal) == headers.destination));
        }
    }
    Ok(())
}

#[test]
fn the_judge_knows_right_from_wrong() {
    let ends = ("10.0.0.5".parse().unwrap(), "192.0.2.1".parse().unwrap());
    for transport in [Transport::Udp, Transport::Tcp { flags: 2 }, Transport::Echo { reply: false }, Transport::Dccp] {
        let mut built = Spec::plain(transport, b"payload".to_vec()).build(ends.0, ends.1);
        assert_eq!(built.sum(), built.right_sum());
        let at = built.transport + 1;
        built.bytes[at] ^= 4;
        assert_ne!(built.sum(), built.right_sum());
    }
}
