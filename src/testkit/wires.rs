//! Wires in memory: packets on their way in virtual time, lost, doubled and reordered as a seed says.
//!
//! A [`Wire`] goes one way; a [`Gateway`] has one on each side of it, both ways. Nothing here reads a clock: the test
//! that drives the wires says what time it is, so that a run with the same seed is the same run.

use crate::nat::{Realm, Refused, Translator, Verdict};
use crate::time::Time;
use crate::wire::Packet;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a wire does to packets.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Packets of a thousand that get lost.
    pub lost: u16,
    /// Packets of a thousand that arrive twice.
    pub doubled: u16,
    /// Packets of a thousand that arrive late, behind later ones.
    pub late: u16,
    /// How long a packet is on its way.
    pub delay: Duration,
    /// How much later a late one is, at most.
    pub lateness: Duration,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Wire {
    faults: Faults,
    dice: u64,
    /// By the time of arrival, then in the order they were sent.
    under_way: BTreeMap<(Time, u64), Vec<u8>>,
    sent: u64,
    tap: Option<Vec<Vec<u8>>>,
}

/// A translator of one inside realm between four wires.
pub struct Gateway<'a> {
    /// The translator.
    pub translator: &'a mut Translator,
    /// From and to the inside.
    pub inside: (&'a mut Wire, &'a mut Wire),
    /// From and to the outside.
    pub outside: (&'a mut Wire, &'a mut Wire),
}

impl Faults {
    /// Everything arrives, once and in order, after a millisecond.
    pub const NONE: Faults =
        Faults { lost: 0, doubled: 0, late: 0, delay: Duration::from_millis(1), lateness: Duration::ZERO };
    /// A bad radio link: two in a hundred lost, two doubled, a tenth late.
    pub const BAD: Faults = Faults {
        lost: 20,
        doubled: 20,
        late: 100,
        delay: Duration::from_millis(2),
        lateness: Duration::from_millis(15),
    };
}

impl Wire {
    /// An empty wire. The same seed gives the same faults.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, dice: seed, under_way: BTreeMap::new(), sent: 0, tap: None }
    }

    /// The same wire, which keeps what passes from now on.
    pub fn tapped(self) -> Self {
        Self { tap: Some(Vec::new()), ..self }
    }

    /// What the tap has heard: every packet sent, also those that were lost.
    pub fn heard(&self) -> &[Vec<u8>] {
        self.tap.as_deref().unwrap_or_default()
    }

    /// Puts a packet on the wire.
    pub fn send(&mut self, packet: &[u8], now: Time) {
        if let Some(tap) = &mut self.tap {
            tap.push(packet.to_vec());
        }
        if self.happens(self.faults.lost) {
            return;
        }
        for _ in 0..1 + usize::from(self.happens(self.faults.doubled)) {
            let mut arrival = now + self.faults.delay;
            if self.happens(self.faults.late) {
                let most = u64::try_from(self.faults.lateness.as_millis()).unwrap_or(u64::MAX);
                arrival = arrival + Duration::from_millis(self.roll() % most.saturating_add(1).max(1));
            }
            self.sent += 1;
            self.under_way.insert((arrival, self.sent), packet.to_vec());
        }
    }

    /// The next packet that has arrived.
    pub fn receive(&mut self, now: Time) -> Option<Vec<u8>> {
        let first = self.under_way.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Time> {
        self.under_way.first_key_value().map(|((arrival, _), _)| *arrival)
    }

    fn happens(&mut self, of_a_thousand: u16) -> bool {
        of_a_thousand > 0 && self.roll() % 1000 < u64::from(of_a_thousand)
    }

    /// SplitMix64: enough for dice, and no crate.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Gateway<'_> {
    /// Takes everything that has arrived on either side, and sends on what the translator lets pass.
    pub fn work(&mut self, now: Time) {
        while let Some(packet) = self.inside.0.receive(now) {
            self.pass(packet, Realm::inside(0), now);
        }
        while let Some(packet) = self.outside.0.receive(now) {
            self.pass(packet, Realm::Outside, now);
        }
    }

    fn pass(&mut self, mut bytes: Vec<u8>, from: Realm, now: Time) {
        let verdict = self.translator.translate(&mut Packet::new(&mut bytes), from, now);
        let mut put = |packet: &[u8], to| match to {
            Realm::Outside => self.outside.1.send(packet, now),
            Realm::Inside(_) => self.inside.1.send(packet, now),
        };
        let (packet, to) = match verdict {
            Verdict::Replace(replaced) => {
                replaced.packets.iter().for_each(|packet| put(packet, replaced.to));
                return replaced.answer.iter().for_each(|answer| put(answer, from));
            }
            Verdict::Forward { to, .. } => (&bytes[..], to),
            Verdict::Refuse(ref refused) => match &**refused {
                Refused { answer: Some(answer), .. } => (&answer[..], from),
                _ => return,
            },
            Verdict::Drop(_) => return,
        };
        put(packet, to);
    }
}

#[cfg(test)]
mod tests;
