//! A TCP segment in its packet: numbers to read and to write, and new packets with other bytes.

use super::stream::before;
use crate::wire::{Delta, Headers, Packet, Stored, checksum, protocol, pseudo_header};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
const PUSH: u8 = 8;
pub const ACK: u8 = 16;
const URGENT: u8 = 32;

/// Length of the TCP header without options.
const FIXED: usize = 20;
/// The largest payload that every host takes in one segment (RFC 9293 §3.7.1), IPv4 and IPv6.
const SAFE_PAYLOAD: (usize, usize) = (536, 1220);
/// Options: no operation, selective acknowledgement (RFC 2018 §3), timestamps (RFC 7323 §3.2).
const NOP: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// What the header of a segment says.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Ports, of the sender and of the receiver.
    pub ports: (u16, u16),
    /// Number of the first byte, or of SYN.
    pub number: u32,
    /// What the sender waits for.
    pub acknowledgement: u32,
    pub flags: u8,
    /// As it stands there, not scaled.
    pub window: u16,
    /// The sender's clock.
    pub timestamp: Option<u32>,
    /// Offset of the header in the packet.
    at: usize,
    /// Offset of the payload in the packet.
    payload: usize,
    end: usize,
}

impl Segment {
    /// Reads the header; `None` if its length is nonsense.
    pub fn read(bytes: &[u8], headers: &Headers) -> Option<Self> {
        let at = headers.transport;
        let segment = bytes.get(at..headers.end)?;
        let header = segment.first_chunk::<FIXED>()?;
        let [s0, s1, d0, d1, n0, n1, n2, n3, a0, a1, a2, a3, offset, flags, w0, w1, ..] = *header;
        let length = usize::from(offset >> 4) * 4;
        let options = segment.get(FIXED..length)?;
        let timestamp = find(options, TIMESTAMPS).and_then(|at| four(options, at + 2));
        Some(Self {
            ports: (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])),
            number: u32::from_be_bytes([n0, n1, n2, n3]),
            acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
            flags,
            window: u16::from_be_bytes([w0, w1]),
            timestamp,
            at,
            payload: at + length,
            end: headers.end,
        })
    }

    /// The bytes it carries.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.payload..self.end).unwrap_or_default()
    }

    /// Whether this flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes other numbers into the header, in place, and mends the checksum. `block` says where the edges of a
    /// selective acknowledgement are.
    pub fn renumber(
        &self,
        packet: &mut Packet<'_>,
        headers: &Headers,
        number: u32,
        acknowledgement: u32,
        block: impl Fn(u32, u32) -> (u32, u32),
    ) {
        let stored = headers.stored(packet.checksum_start);
        let Some(header) = packet.bytes.get_mut(self.at..self.payload) else { return };
        let old = !checksum(0, header);
        put(header, 4, number);
        if self.has(ACK) {
            put(header, 8, acknowledgement);
        }
        if let Some(options) = header.get_mut(FIXED..) {
            renumber_blocks(options, block);
        }
        let new = !checksum(0, header);
        if old != new && stored != Stored::PseudoHeader {
            crate::wire::mend(packet.bytes, self.at + 16, Delta::of_word(old, new), stored);
        }
    }

    /// The packets that carry `payload` from `number` on instead, with complete checksums. More than one if it would be
    /// larger than what came, or came as a super-packet, whose segments have a size that is not known here: then they
    /// are as small as every host takes them.
    pub fn instead(&self, packet: &Packet<'_>, headers: &Headers, number: u32, payload: &[u8]) -> Vec<Box<[u8]>> {
        let safe = if headers.source.is_v4() { SAFE_PAYLOAD.0 } else { SAFE_PAYLOAD.1 };
        let came = self.end - self.payload;
        let most = if packet.checksum_start.is_some() { safe } else { came.max(safe) };
        let Some(header) = packet.bytes.get(..self.payload) else { return Vec::new() };
        let mut parts: Vec<&[u8]> = payload.chunks(most).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let (mut packets, mut at, count) = (Vec::with_capacity(parts.len()), number, parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let mut bytes = [header, part].concat();
            let tcp = bytes.get_mut(self.at..).unwrap_or_default();
            put(tcp, 4, at);
            if let Some(flags) = tcp.get_mut(13).filter(|_| index + 1 < count) {
                *flags &= !(FIN | PUSH);
            }
            // Seen from another byte, urgent data ends elsewhere; FTP marks an ABOR so, and no server looks.
            if let Some([flags, _, _, _, _, high, low]) = tcp.get_mut(13..20).filter(|_| self.has(URGENT)) {
                *flags &= !URGENT;
                (*high, *low) = (0, 0);
            }
            at = at.wrapping_add(u32::try_from(part.len()).unwrap_or(u32::MAX));
            finish(&mut bytes, headers);
            packets.push(bytes.into_boxed_slice());
        }
        packets
    }

    /// A packet to the sender of the segment, as if the receiver had everything before `arrived`. `window` and `clock`
    /// are what the receiver said last.
    pub fn arrived(&self, headers: &Headers, arrived: u32, window: u16, clock: Option<u32>) -> Box<[u8]> {
        let options = match (clock, self.timestamp) {
            (Some(clock), Some(echo)) => {
                let mut options = vec![NOP, NOP, TIMESTAMPS, 10];
                options.extend_from_slice(&clock.to_be_bytes());
                options.extend_from_slice(&echo.to_be_bytes());
                options
            }
            _ => Vec::new(),
        };
        let (from, to) = (headers.destination, headers.source);
        let mut bytes = Vec::with_capacity(72);
        if from.is_v4() {
            bytes.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol::TCP, 0, 0]);
            bytes.extend_from_slice(&from.v4_octets());
            bytes.extend_from_slice(&to.v4_octets());
        } else {
            bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, protocol::TCP, 64]);
            bytes.extend_from_slice(&from.v6_octets());
            bytes.extend_from_slice(&to.v6_octets());
        }
        let transport = bytes.len();
        bytes.extend_from_slice(&self.ports.1.to_be_bytes());
        bytes.extend_from_slice(&self.ports.0.to_be_bytes());
        bytes.extend_from_slice(&self.acknowledgement.to_be_bytes());
        bytes.extend_from_slice(&arrived.to_be_bytes());
        let offset = if options.is_empty() { 5 } else { 8 };
        bytes.extend_from_slice(&[offset << 4, ACK]);
        bytes.extend_from_slice(&window.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&options);
        finish(&mut bytes, &Headers { source: from, destination: to, transport, ..*headers });
        bytes.into_boxed_slice()
    }
}

/// Writes lengths and checksums of a packet whose TCP header is where `headers` say.
fn finish(bytes: &mut [u8], headers: &Headers) {
    let total = bytes.len();
    let length = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
    if headers.source.is_v4() {
        if let Some(field) = bytes.get_mut(2..4) {
            field.copy_from_slice(&length(total));
        }
        sum(bytes, 0..headers.transport, 10, 0);
    } else if let Some(field) = bytes.get_mut(4..6) {
        field.copy_from_slice(&length(total - 40));
    }
    let tcp = u32::try_from(total - headers.transport).unwrap_or(u32::MAX);
    let pseudo = pseudo_header(headers.source, headers.destination, protocol::TCP, tcp);
    sum(bytes, headers.transport..total, 16, pseudo);
}

/// Writes the checksum of this part of the packet into it, at `at`.
fn sum(bytes: &mut [u8], part: std::ops::Range<usize>, at: usize, initial: u16) {
    let Some(part) = bytes.get_mut(part) else { return };
    if let Some(field) = part.get_mut(at..at + 2) {
        field.copy_from_slice(&[0, 0]);
    }
    let sum = checksum(initial, part).to_be_bytes();
    if let Some(field) = part.get_mut(at..at + 2) {
        field.copy_from_slice(&sum);
    }
}

/// Moves the blocks of a selective acknowledgement. One that is empty then would be nonsense: the option goes.
fn renumber_blocks(options: &mut [u8], block: impl Fn(u32, u32) -> (u32, u32)) {
    let Some(at) = find(options, SACK) else { return };
    let length = options.get(at + 1).copied().map_or(0, usize::from);
    let Some(option) = options.get_mut(at..at + length) else { return };
    for edges in (2..length.saturating_sub(7)).step_by(8) {
        let (Some(left), Some(right)) = (four(option, edges), four(option, edges + 4)) else { return };
        let (left, right) = block(left, right);
        if !before(left, right) {
            option.fill(NOP);
            return;
        }
        put(option, edges, left);
        put(option, edges + 4, right);
    }
}

/// Offset of the option of this kind.
fn find(options: &[u8], kind: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        match options.get(at..)? {
            [] | [0, ..] => return None,
            [1, ..] => at += 1,
            [this, length, ..] if *length >= 2 => {
                if *this == kind {
                    return Some(at);
                }
                at += usize::from(*length);
            }
            _ => return None,
        }
    }
}

fn four(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().copied().map(u32::from_be_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
