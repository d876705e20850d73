//! Packets of control connections through the helpers, and two ends that talk TCP through them.

use super::*;
use crate::wire::checksum;
use crate::wire::pseudo_header;
use etherparse::{PacketBuilder, TcpOptionElement};
use proptest::prelude::*;
use std::net::IpAddr;
use std::ops::Range;

const NOW: Time = Time::from_secs(1_000_000);
const TERMINAL: &str = "10.0.0.5";
const VIRTUAL: &str = "198.18.200.17";
const PEER: &str = "192.0.2.1";

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn helpers() -> Helpers {
    Helpers::new(&[AlgSettings { alg: Alg::Ftp, port: 21 }]).unwrap()
}

/// What a segment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tcp {
    number: u32,
    acknowledgement: Option<u32>,
    syn: bool,
    fin: bool,
    rst: bool,
    blocks: Vec<(u32, u32)>,
    payload: Vec<u8>,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Terminal,
    Peer,
}

fn build(ends: (&str, &str), ports: (u16, u16), tcp: &Tcp) -> Vec<u8> {
    let builder = match (ends.0.parse().unwrap(), ends.1.parse().unwrap()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        _ => panic!("mixed families"),
    };
    let mut builder = builder.tcp(ports.0, ports.1, tcp.number, 1000);
    if let Some(acknowledgement) = tcp.acknowledgement {
        builder = builder.ack(acknowledgement);
    }
    builder = if tcp.syn { builder.syn() } else { builder };
    builder = if tcp.fin { builder.fin() } else { builder };
    builder = if tcp.rst { builder.rst() } else { builder };
    let mut options = vec![TcpOptionElement::Noop, TcpOptionElement::Timestamp(77, 78)];
    if let [first, rest @ ..] = &tcp.blocks[..] {
        let mut more = [None; 3];
        rest.iter().zip(&mut more).for_each(|(block, place)| *place = Some(*block));
        options.push(TcpOptionElement::SelectiveAcknowledgement(*first, more));
    }
    let mut bytes = Vec::new();
    builder.options(&options).unwrap().write(&mut bytes, &tcp.payload).unwrap();
    bytes
}

#[track_caller]
fn read(bytes: &[u8]) -> (Headers, Tcp) {
    let headers = Headers::parse(bytes).unwrap();
    let segment = &bytes[headers.transport..];
    let length = u32::try_from(segment.len()).unwrap();
    let pseudo = pseudo_header(headers.source, headers.destination, 6, length);
    assert_eq!(checksum(pseudo, segment), 0, "checksum of the segment");
    if headers.source.is_v4() {
        assert_eq!(checksum(0, &bytes[..headers.transport]), 0, "checksum of the header");
    }
    assert_eq!(headers.end, bytes.len());
    let tcp = etherparse::TcpSlice::from_slice(segment).unwrap();
    let mut blocks = Vec::new();
    for option in tcp.options_iterator().flatten() {
        if let TcpOptionElement::SelectiveAcknowledgement(first, rest) = option {
            blocks = std::iter::once(first).chain(rest.into_iter().flatten()).collect();
        }
    }
    let tcp = Tcp {
        number: tcp.sequence_number(),
        acknowledgement: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        blocks,
        payload: tcp.payload().to_vec(),
    };
    (headers, tcp)
}

/// A control connection between the terminal (port 4000) and the peer (port 21), or the other way about.
struct Line {
    helpers: Helpers,
    terminal_port: u16,
    peer_port: u16,
    now: Time,
}

impl Line {
    fn to_server() -> Self {
        Self { helpers: helpers(), terminal_port: 4000, peer_port: 21, now: NOW }
    }

    fn to_terminal() -> Self {
        Self { terminal_port: 21, peer_port: 4000, ..Self::to_server() }
    }

    /// What goes on, and what goes back.
    fn send(&self, from: Side, tcp: &Tcp) -> Result<(Vec<Tcp>, Option<Tcp>), DropReason> {
        let (ends, ports, rewrite) = match from {
            Side::Terminal => {
                ((TERMINAL, PEER), (self.terminal_port, self.peer_port), Rewrite::source(address(VIRTUAL)))
            }
            Side::Peer => {
                ((PEER, VIRTUAL), (self.peer_port, self.terminal_port), Rewrite::destination(address(TERMINAL)))
            }
        };
        let mut bytes = build(ends, ports, tcp);
        let headers = Headers::parse(&bytes).unwrap();
        let passed = self.helpers.pass(&mut Packet::new(&mut bytes), &headers, rewrite, self.now)?;
        let check = |bytes: &[u8]| {
            let (got, tcp) = read(bytes);
            assert_eq!((got.source, got.destination), (headers.source, headers.destination));
            tcp
        };
        Ok(match passed {
            Passed::AsIs => (vec![check(&bytes)], None),
            Passed::Instead { packets, answer } => {
                let answer = answer.map(|answer| {
                    let (got, tcp) = read(&answer);
                    assert_eq!((got.source, got.destination), (headers.destination, headers.source));
                    tcp
                });
                (packets.iter().map(|packet| check(packet)).collect(), answer)
            }
        })
    }

    #[track_caller]
    fn one(&self, from: Side, tcp: &Tcp) -> Tcp {
        let (mut on, back) = self.send(from, tcp).unwrap();
        assert_eq!((on.len(), back), (1, None));
        on.remove(0)
    }
}

fn data(number: u32, acknowledgement: u32, payload: &str) -> Tcp {
    let payload = payload.as_bytes().to_vec();
    Tcp { number, acknowledgement: Some(acknowledgement), payload, ..Tcp::default() }
}

const PORT: &str = "PORT 10,0,0,5,200,21\r\n";
const WRITTEN: &str = "PORT 198,18,200,17,200,21\r\n";

#[test]
fn r10_ftp_numbers_move_with_the_text_in_both_directions() {
    let line = Line::to_server();
    assert_eq!(line.one(Side::Terminal, &Tcp { number: 99, syn: true, ..Tcp::default() }).number, 99);
    let on = line.one(Side::Terminal, &data(100, 500, PORT));
    assert_eq!((on.number, on.payload), (100, WRITTEN.into()));
    assert_eq!(line.one(Side::Terminal, &data(100, 500, PORT)).payload, Vec::from(WRITTEN), "and when it comes again");
    // The text has grown by 5.
    assert_eq!(line.one(Side::Peer, &data(500, 127, "200 OK\r\n")).acknowledgement, Some(122));
    assert_eq!(line.one(Side::Terminal, &data(122, 508, "LIST\r\n")).number, 127);
    assert_eq!(line.one(Side::Peer, &data(508, 133, "")).acknowledgement, Some(128));
    // Several transfers on one connection: another 5.
    assert_eq!(line.one(Side::Terminal, &data(128, 508, PORT)).number, 133);
    let end = line.one(Side::Terminal, &Tcp { fin: true, ..data(150, 508, "") });
    assert_eq!((end.number, end.fin), (160, true));
    assert_eq!(line.one(Side::Peer, &data(508, 161, "")).acknowledgement, Some(151));
    assert_eq!(line.one(Side::Terminal, &Tcp { number: 151, rst: true, ..Tcp::default() }).number, 161);
}

#[test]
fn r10_ftp_selective_acknowledgements_move_too() {
    let line = Line::to_server();
    line.one(Side::Terminal, &data(100, 500, PORT)); // 100..122 is shown as 100..127
    line.one(Side::Terminal, &data(122, 500, "LIST\r\n")); // 122..128 as 127..133
    let sack =
        |blocks: &[(u32, u32)]| line.one(Side::Peer, &Tcp { blocks: blocks.into(), ..data(500, 100, "") }).blocks;
    assert_eq!(sack(&[(127, 133)]), [(122, 128)]);
    assert_eq!(sack(&[(100, 127), (128, 133)]), [(100, 122), (123, 128)]);
    assert_eq!(sack(&[(106, 133)]), [(113, 128)], "part of the address: none of it");
    assert_eq!(sack(&[(106, 109)]), [], "nothing is left of the block");
}

#[test]
fn r10_ftp_a_command_in_pieces_waits_and_its_sender_is_told_that_it_arrived() {
    let line = Line::to_server();
    line.one(Side::Peer, &data(500, 100, "220 Hello\r\n"));
    let (on, back) = line.send(Side::Terminal, &data(100, 511, "NOOP\r\nPORT 10,")).unwrap();
    assert_eq!((on.len(), on[0].payload.as_slice(), back), (1, &b"NOOP\r\n"[..], None));
    let (_, back) = line.send(Side::Terminal, &data(106, 511, "PORT 10,")).unwrap();
    assert_eq!(back, None, "the line before may be lost still");
    assert_eq!(line.one(Side::Peer, &data(511, 106, "")).acknowledgement, Some(114));
    let (on, back) = line.send(Side::Terminal, &data(114, 511, "0,0")).unwrap();
    let back = back.unwrap();
    assert_eq!((back.number, back.acknowledgement, back.payload.len()), (511, Some(117), 0));
    assert!(on.iter().all(|on| on.payload.is_empty() && on.number == 106));
    assert_eq!(line.one(Side::Peer, &data(511, 106, "")).acknowledgement, Some(117));
    let last = data(117, 511, ",5,200,21\r\n");
    for _ in 0..2 {
        // The terminal sends no more than this again: the rest is for the gateway to deliver.
        let on = line.one(Side::Terminal, &last);
        assert_eq!((on.number, on.payload), (106, WRITTEN.into()));
    }
    assert_eq!(line.one(Side::Peer, &data(511, 133, "")).acknowledgement, Some(128));
    assert_eq!(line.one(Side::Terminal, &data(128, 511, "LIST\r\n")).number, 133);
}

#[test]
fn r10_ftp_what_cannot_be_looked_into_waits_for_its_turn() {
    let line = Line::to_server();
    line.one(Side::Terminal, &Tcp { number: 99, syn: true, ..Tcp::default() });
    assert_eq!(line.send(Side::Terminal, &data(103, 500, PORT)), Err(DropReason::AlgSegment));
    assert_eq!(line.send(Side::Terminal, &data(100, 500, "PORT 192,0,2,9,200,21\r\n")), Err(DropReason::AlgRefused));
    assert_eq!(line.one(Side::Terminal, &data(100, 500, PORT)).payload, Vec::from(WRITTEN));
}

#[test]
fn r10_ftp_a_terminal_that_is_the_server() {
    let line = Line::to_terminal();
    line.one(Side::Peer, &Tcp { number: 99, syn: true, ..Tcp::default() });
    line.one(Side::Peer, &data(100, 500, "PASV\r\n"));
    let on = line.one(Side::Terminal, &data(500, 106, "227 Entering Passive Mode (10,0,0,5,200,21).\r\n"));
    assert_eq!(on.payload, b"227 Entering Passive Mode (198,18,200,17,200,21).\r\n");
    assert_eq!(line.one(Side::Peer, &data(106, 551, "")).acknowledgement, Some(546));
    // A peer may have the terminal connect to the peer itself alone.
    assert_eq!(line.one(Side::Peer, &data(106, 551, "PORT 192,0,2,1,200,21\r\n")).number, 106);
    assert_eq!(line.send(Side::Peer, &data(129, 551, "PORT 10,0,0,6,200,21\r\n")), Err(DropReason::AlgRefused));
}

#[test]
fn r10_ftp_encryption_is_left_alone() {
    let line = Line::to_server();
    line.one(Side::Terminal, &data(100, 500, "AUTH TLS\r\n"));
    line.one(Side::Peer, &data(500, 110, "234 Go\r\n"));
    for piece in ["\u{16}\n", "PO"] {
        assert_eq!(line.one(Side::Terminal, &data(110, 508, piece)).payload, piece.as_bytes());
    }
}

#[test]
fn r10_ftp_a_super_packet_is_cut_into_pieces_that_every_host_takes() {
    let text = [PORT, &"NOOP\r\n".repeat(1000)].concat();
    let mut bytes = build((TERMINAL, PEER), (4000, 21), &data(100, 500, &text));
    let headers = Headers::parse(&bytes).unwrap();
    let mut packet = Packet { bytes: &mut bytes, checksum_start: Some(headers.transport) };
    let passed = helpers().pass(&mut packet, &headers, Rewrite::source(address(VIRTUAL)), NOW).unwrap();
    let Passed::Instead { packets, answer: None } = passed else { panic!("{passed:?}") };
    let (mut number, mut got) = (100, Vec::new());
    for packet in &packets {
        let (_, tcp) = read(packet);
        assert_eq!(tcp.number, number);
        assert!(tcp.payload.len() <= 536);
        number += u32::try_from(tcp.payload.len()).unwrap();
        got.extend(tcp.payload);
    }
    assert_eq!(got, [WRITTEN, &text[PORT.len()..]].concat().into_bytes());
}

#[test]
fn c5_connections_are_bounded_and_those_that_matter_stay() {
    let helpers = helpers();
    let send = |port: u16, host: u16, payload: &str| {
        let peer = format!("192.0.{}.{}", host >> 8, host & 255);
        let mut bytes = build((TERMINAL, &peer), (port, 21), &data(100, 500, payload));
        let headers = Headers::parse(&bytes).unwrap();
        helpers.pass(&mut Packet::new(&mut bytes), &headers, Rewrite::source(address(VIRTUAL)), NOW).map(|_| bytes)
    };
    assert!(send(1, 7, PORT).is_ok());
    for number in 0..40_000 {
        assert!(send(number, 7, "NOOP\r\n").is_ok());
        assert!(send(9, number, "NOOP\r\n").is_ok());
    }
    let kept: usize = helpers.shards.iter().map(|shard| shard.lock().connections.len()).sum();
    assert!(kept <= MOST);
    let mut bytes = build((TERMINAL, "192.0.0.7"), (1, 21), &data(122, 500, ""));
    let headers = Headers::parse(&bytes).unwrap();
    helpers.pass(&mut Packet::new(&mut bytes), &headers, Rewrite::source(address(VIRTUAL)), NOW).unwrap();
    assert_eq!(read(&bytes).1.number, 127, "its numbers are still known");
    let full = (2..2000).find_map(|port| send(port, 7, PORT).err());
    assert_eq!(full, Some(DropReason::AlgFull));
}

#[test]
fn r10_ftp_ipv6() {
    let (terminal, peer, shown) = ("fd5a::1:5", "2001:db8::1", "2001:db8:18::7");
    let mut bytes = build((terminal, peer), (4000, 21), &data(100, 500, "EPRT |2|fd5a::1:5|51221|\r\n"));
    let headers = Headers::parse(&bytes).unwrap();
    let passed = helpers().pass(&mut Packet::new(&mut bytes), &headers, Rewrite::source(address(shown)), NOW).unwrap();
    let Passed::Instead { packets, .. } = passed else { panic!("{passed:?}") };
    assert_eq!(read(&packets[0]).1.payload, b"EPRT |2|2001:db8:18::7|51221|\r\n");
}

/// What a terminal may write, and what its peer shall read.
fn texts() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let one = prop_oneof![
        3 => Just((PORT, WRITTEN)),
        2 => Just(("EPRT |1|10.0.0.5|51221|\r\n", "EPRT |1|198.18.200.17|51221|\r\n")),
        1 => Just(("NOOP\r\n", "NOOP\r\n")),
        1 => Just(("PO\n", "PO\n")),
        1 => Just(("\n", "\n")),
        1 => Just(("RETR PORT 10,0,0,6,200,21 and more\r\n", "RETR PORT 10,0,0,6,200,21 and more\r\n")),
    ];
    prop::collection::vec(one, 1..12).prop_map(|all| {
        let text = |which: fn(&(&'static str, &'static str)) -> &'static str| {
            all.iter().map(which).collect::<String>().into_bytes()
        };
        (text(|pair| pair.0), text(|pair| pair.1))
    })
}

/// The two ends of a stream in one direction, slow and obvious.
struct Talk {
    line: Line,
    text: Vec<u8>,
    start: u32,
    /// Bytes that the terminal believes to have arrived.
    acknowledged: usize,
    /// Bytes that the peer has, in order; and those behind a gap.
    got: Vec<u8>,
    ahead: BTreeMap<usize, u8>,
}

impl Talk {
    fn new(text: Vec<u8>, start: u32) -> Self {
        let line = Line::to_server();
        line.one(Side::Terminal, &Tcp { number: start.wrapping_sub(1), syn: true, ..Tcp::default() });
        Self { line, text, start, acknowledged: 0, got: Vec::new(), ahead: BTreeMap::new() }
    }

    /// The terminal sends a piece; what of it goes on.
    fn send(&mut self, range: Range<usize>) -> Vec<Tcp> {
        let at = self.start.wrapping_add(u32::try_from(range.start).unwrap());
        let fin = range.end == self.text.len();
        let tcp = Tcp { number: at, acknowledgement: Some(7), fin, payload: self.text[range].into(), ..Tcp::default() };
        match self.line.send(Side::Terminal, &tcp) {
            Ok((on, back)) => {
                if let Some(back) = back {
                    self.hear(back.acknowledgement.unwrap());
                }
                on
            }
            Err(reason) => {
                assert_eq!(reason, DropReason::AlgSegment);
                Vec::new()
            }
        }
    }

    fn hear(&mut self, acknowledgement: u32) {
        let had = usize::try_from(acknowledgement.wrapping_sub(self.start).cast_signed()).unwrap();
        assert!(had <= self.text.len() + 1, "acknowledged what was not sent");
        self.acknowledged = self.acknowledged.max(had.min(self.text.len()));
    }

    /// The peer gets a segment.
    fn receive(&mut self, tcp: &Tcp) {
        let hidden = |text: &[u8]| text == b"10,0,0,5" || text == b"10.0.0.5";
        assert!(!tcp.payload.windows(8).any(hidden), "the address got out: {tcp:?}");
        let at = usize::try_from(tcp.number.wrapping_sub(self.start)).unwrap();
        for (at, byte) in (at..).zip(&tcp.payload) {
            match self.got.get(at) {
                Some(had) => assert_eq!(had, byte, "byte {at} came with another value"),
                None => assert_eq!(self.ahead.insert(at, *byte).unwrap_or(*byte), *byte, "byte {at}"),
            }
        }
        while let Some(byte) = self.ahead.remove(&self.got.len()) {
            self.got.push(byte);
        }
    }

    /// The acknowledgement of the peer, as it comes to the terminal; it may get lost.
    fn acknowledge(&mut self, lost: bool) {
        let number = self.start.wrapping_add(u32::try_from(self.got.len()).unwrap());
        let on = self.line.one(Side::Peer, &data(7, number, ""));
        if !lost {
            self.hear(on.acknowledgement.unwrap());
        }
    }
}

proptest! {
    /// However the text is cut, repeated, reordered and lost, the peer reads the terminal's text with the virtual IP in
    /// place of the address.
    #[test]
    fn r10_ftp_the_peer_reads_the_same_text_but_for_the_addresses(
        (text, expected) in texts(),
        start: u32,
        steps in prop::collection::vec((0..60_usize, 1..50_usize, 0..10_u8), 0..120),
        rest in 1..40_usize,
    ) {
        let mut talk = Talk::new(text, start);
        let mut under_way: Vec<Tcp> = Vec::new();
        for (ahead, count, chance) in steps {
            let from = (talk.acknowledged + ahead.saturating_sub(20)).min(talk.text.len());
            let to = (from + count).min(talk.text.len());
            if from < to {
                under_way.extend(talk.send(from..to));
            }
            match chance {
                0..2 => drop(under_way.pop()),
                2..5 if !under_way.is_empty() => {
                    let late = under_way.remove(usize::from(chance) % under_way.len());
                    talk.receive(&late);
                }
                5 => under_way.extend(under_way.first().cloned()),
                _ => std::mem::take(&mut under_way).iter().for_each(|tcp| talk.receive(tcp)),
            }
            if chance % 2 == 0 {
                talk.acknowledge(chance == 4);
            }
        }
        // Whatever went wrong, from here on all goes well, and everything arrives.
        for _ in 0..2000 {
            if talk.got.len() == expected.len() && talk.acknowledged == talk.text.len() {
                break;
            }
            let from = talk.acknowledged.min(talk.text.len() - 1);
            let to = (from + rest).min(talk.text.len());
            talk.send(from..to).iter().for_each(|tcp| talk.receive(tcp));
            talk.acknowledge(false);
        }
        prop_assert_eq!(String::from_utf8(talk.got).unwrap(), String::from_utf8(expected).unwrap());
        prop_assert_eq!(talk.acknowledged, talk.text.len());
    }

    /// A sender that waits for every piece to arrive before it sends the next one is never left waiting (RFC 896).
    #[test]
    fn r10_ftp_pieces_of_any_size_one_at_a_time((text, expected) in texts(), start: u32, cuts in prop::collection::vec(1..9_usize, 1..20)) {
        let mut talk = Talk::new(text, start);
        for cut in cuts.iter().cycle() {
            let from = talk.acknowledged;
            if from == talk.text.len() {
                break;
            }
            talk.send(from..(from + cut).min(talk.text.len())).iter().for_each(|tcp| talk.receive(tcp));
            talk.acknowledge(false);
            prop_assert!(talk.acknowledged > from, "left waiting at {}", from);
        }
        prop_assert_eq!(String::from_utf8(talk.got).unwrap(), String::from_utf8(expected).unwrap());
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 40..120), from_peer: bool) {
        bytes[0] = 0x45;
        bytes[9] = 6;
        let total = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].copy_from_slice(&[0, 0]);
        bytes[if from_peer { 20 } else { 22 }..][..2].copy_from_slice(&[0, 21]);
        if let Ok(headers) = Headers::parse(&bytes) {
            let _ = helpers().pass(&mut Packet::new(&mut bytes), &headers, Rewrite::source(address(VIRTUAL)), NOW);
        }
    }
}
