//! The way of a packet.

use super::admin::BindingState;
use super::callback::Owner;
use super::counters::Counters;
use super::event::{Event, EventKind};
use super::flows::{Flow, Flows, Tally};
use super::settings::Exhausted;
use super::table::{Found, Table};
use super::verdict::{DropReason, Realm, Refused, Verdict};
use super::{Nat, owner};
use crate::time::Time;
use crate::wire::{self, Address, Field, Headers, Kind, Packet, Refusal};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// ICMP answers of the gateway's own that a worker may send in a second (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8).
const ANSWERS_A_SECOND: u32 = 100;

/// The translator of one worker.
pub struct Translator {
    nat: Arc<Nat>,
    counters: Arc<Counters>,
    flows: Flows,
    answers: (u32, u32),
}

/// What the walk decided, before it is written into the packet.
pub(super) struct Decision {
    pub flow: Flow,
    pub event: Option<Event>,
}

impl Translator {
    pub(super) fn new(nat: Arc<Nat>, counters: Arc<Counters>) -> Self {
        Self { nat, counters, flows: Flows::new(), answers: (0, 0) }
    }

    /// Decides what becomes of `packet`, which came from `realm` at `now`, and rewrites it in place.
    ///
    /// Never panics, whatever the bytes. A packet that is dropped may be left half rewritten.
    pub fn translate(&mut self, packet: &mut Packet<'_>, realm: Realm, now: Time) -> Verdict {
        let verdict = match Headers::parse(packet.bytes) {
            Ok(headers) => self.walk(packet, &headers, realm, now),
            Err(unreadable) => Verdict::Drop(unreadable.into()),
        };
        self.count(&verdict, realm, packet.bytes.len());
        verdict
    }

    /// Adds what was counted since the last call to the bindings. Call it before looking at them, and now and then.
    pub fn flush(&mut self, now: Time) {
        let nat = &self.nat;
        self.flows.drain(|tally| nat.note(tally, now));
    }

    /// Whether [`Translator::flush`] has anything to do.
    pub fn is_dirty(&self) -> bool {
        self.flows.is_dirty()
    }

    fn walk(&mut self, packet: &mut Packet<'_>, headers: &Headers, realm: Realm, now: Time) -> Verdict {
        let epoch = self.nat.epoch.load(Ordering::Acquire);
        match headers.kind {
            Kind::IcmpError => return self.error(packet, headers, realm, now),
            Kind::Authentication => return Verdict::Drop(DropReason::AuthenticationHeader),
            Kind::IcmpRedirect => return Verdict::Drop(DropReason::NotUnicast),
            _ => {}
        }
        let (source, destination) = (headers.source, headers.destination);
        let opens = headers.kind == Kind::TcpSyn;
        let (flow, event) = match self.flows.hit(realm, source, destination, epoch, now, opens) {
            Some(flow) => (flow, None),
            None => {
                let decided = match realm {
                    Realm::Inside(inside) => self.nat.outbound(headers, inside, now),
                    Realm::Outside => self.nat.inbound(headers, now),
                };
                match decided {
                    Ok(Decision { flow, event }) => {
                        let left = self.flows.learn(realm, source, destination, flow, epoch, now, opens);
                        if let Some(tally) = left {
                            self.nat.note(tally, now);
                        }
                        (flow, event)
                    }
                    Err(reason) => return self.refuse(packet, headers, realm, reason, now),
                }
            }
        };
        if realm == Realm::Outside && opens {
            self.counters.callbacks.add(1);
        }
        let stored = headers.stored(packet.checksum_start);
        wire::set_address(packet.bytes, 0, headers, stored, flow.field, flow.address);
        if self.nat.restore_hop {
            wire::give_back_hop(packet.bytes);
        }
        Verdict::Forward { to: flow.to, event }
    }

    fn error(&mut self, packet: &mut Packet<'_>, headers: &Headers, realm: Realm, now: Time) -> Verdict {
        match self.nat.error(packet, headers, realm, now) {
            Ok(to) => {
                if self.nat.restore_hop {
                    wire::give_back_hop(packet.bytes);
                }
                Verdict::Forward { to, event: None }
            }
            Err(reason) => Verdict::Drop(reason),
        }
    }

    /// A drop; where a terminal asked for a binding in vain, with a line for the log and perhaps an answer.
    fn refuse(
        &mut self,
        packet: &Packet<'_>,
        headers: &Headers,
        realm: Realm,
        reason: DropReason,
        now: Time,
    ) -> Verdict {
        let Realm::Inside(inside) = realm else { return Verdict::Drop(reason) };
        if !matches!(reason, DropReason::PoolExhausted | DropReason::CreationRate) {
            return Verdict::Drop(reason);
        }
        let pool = self.nat.selection.for_peer(headers.destination).and_then(|table| self.nat.table(table).ok());
        let event = Event {
            kind: EventKind::Refused(reason),
            inside,
            pool: pool.and_then(|table| table.parts().iter().next()).map_or(0, |part| part.pool),
            terminal: headers.source,
            virtual_ip: Address::from_bits(0),
        };
        let refusal = match self.nat.exhausted {
            Exhausted::Prohibited => Some(Refusal::Prohibited),
            Exhausted::Unreachable => Some(Refusal::HostUnreachable),
            Exhausted::Silent => None,
        };
        let answer = refusal.filter(|_| self.may_answer(now)).and_then(|refusal| {
            let own = self.nat.surroundings().own_inside(headers.source)?;
            wire::unreachable(packet.bytes, headers, own, refusal)
        });
        Verdict::Refuse(Box::new(Refused { reason, event, answer }))
    }

    fn may_answer(&mut self, now: Time) -> bool {
        let (second, sent) = &mut self.answers;
        if *second != now.as_secs() {
            (*second, *sent) = (now.as_secs(), 0);
        }
        *sent += 1;
        *sent <= ANSWERS_A_SECOND
    }

    fn count(&self, verdict: &Verdict, realm: Realm, bytes: usize) {
        match verdict {
            Verdict::Forward { event, .. } => {
                match realm {
                    Realm::Inside(_) => self.counters.out.add(bytes),
                    Realm::Outside => self.counters.inward.add(bytes),
                }
                if event.is_some_and(|event| event.kind == EventKind::Created) {
                    self.counters.created.add(1);
                }
            }
            Verdict::Drop(reason) => self.counters.drops(*reason).add(1),
            Verdict::Refuse(refused) => self.counters.drops(refused.reason).add(1),
        }
    }
}

impl Nat {
    /// From a terminal to a peer: its binding, made now if this is a first packet (N2, N3).
    fn outbound(&self, headers: &Headers, inside: u16, now: Time) -> Result<Decision, DropReason> {
        let (terminal, peer) = (headers.source, headers.destination);
        if !is_unicast(peer) {
            return Err(DropReason::NotUnicast);
        }
        if self.selection.of_virtual_ip(peer).is_some() {
            return Err(DropReason::Hairpin);
        }
        let number = self.selection.for_peer(peer).ok_or(DropReason::NoPool)?;
        let table = self.table(number)?;
        let (found, event) = match table.of_terminal(inside, terminal) {
            Some(found) => {
                // Not left to the worker's next note: until then housekeeping could put the binding to sleep.
                table.touch(found.index, now);
                self.wake(number, table, found, now)
            }
            None => self.create(number, table, headers, inside, now)?,
        };
        self.contacts.note(owner(number.into(), &found), peer, now.as_secs());
        let flow = Flow {
            field: Field::Source,
            address: found.slot.virtual_ip,
            to: Realm::Outside,
            table: number,
            index: found.index,
        };
        Ok(Decision { flow, event })
    }

    /// From a peer to a virtual IP: to the terminal that has it, if the peer may call (N5).
    fn inbound(&self, headers: &Headers, now: Time) -> Result<Decision, DropReason> {
        let (peer, virtual_ip) = (headers.source, headers.destination);
        let (number, found) = self.callee(virtual_ip)?;
        if !is_unicast(peer) || self.selection.of_virtual_ip(peer).is_some() {
            return Err(DropReason::SpoofedSource);
        }
        self.may_call(number, &found, peer, now)?;
        let flow = Flow {
            field: Field::Destination,
            address: found.slot.terminal,
            to: Realm::Inside(found.slot.inside),
            table: number,
            index: found.index,
        };
        Ok(Decision { flow, event: None })
    }

    /// The table and binding of a virtual IP that can be called.
    pub(super) fn callee(&self, virtual_ip: Address) -> Result<(u16, Found), DropReason> {
        let number = self.selection.of_virtual_ip(virtual_ip).ok_or(DropReason::NotVirtual)?;
        let found = self.table(number)?.of_virtual_ip(virtual_ip).ok_or(DropReason::NoBinding)?;
        match found.slot.state {
            BindingState::Active => Ok((number, found)),
            BindingState::Dormant => Err(DropReason::Dormant),
            BindingState::Quarantined => Err(DropReason::NoBinding),
        }
    }

    /// Whether `peer` may open a connection to the binding.
    pub(super) fn may_call(&self, table: u16, found: &Found, peer: Address, now: Time) -> Result<(), DropReason> {
        if self.selection.for_peer(peer) != Some(table) {
            return Err(DropReason::WrongPool);
        }
        let part = self.table(table)?.part(found.index);
        let policy = part.and_then(|part| part.callback.as_ref()).unwrap_or(&self.callback);
        let owner = Owner { table, index: found.index, created: found.slot.created };
        if policy.welcomes(peer) || self.contacts.has(owner, peer, now.as_secs()) {
            Ok(())
        } else {
            Err(DropReason::NotContacted)
        }
    }

    pub(super) fn table(&self, number: u16) -> Result<&Table, DropReason> {
        self.tables.get(usize::from(number)).ok_or(DropReason::NoPool)
    }

    fn wake(&self, number: u16, table: &Table, found: Found, now: Time) -> (Found, Option<Event>) {
        if found.slot.state != BindingState::Dormant {
            return (found, None);
        }
        match table.wake(found, now) {
            Some(found) => (found, Some(self.event(EventKind::Woken, number.into(), &found))),
            None => (found, None), // another worker woke it a moment ago
        }
    }

    fn create(
        &self,
        number: u16,
        table: &Table,
        headers: &Headers,
        inside: u16,
        now: Time,
    ) -> Result<(Found, Option<Event>), DropReason> {
        let terminal = headers.source;
        match headers.kind {
            Kind::TcpSyn | Kind::Datagram | Kind::IcmpQuery | Kind::Other => {}
            _ => return Err(DropReason::NotAFirstPacket),
        }
        if !is_unicast(terminal) || self.selection.of_virtual_ip(terminal).is_some() {
            return Err(DropReason::SpoofedSource);
        }
        if !self.surroundings().is_source(inside, terminal) {
            return Err(DropReason::SourceNotInside);
        }
        if !self.limiter.take(inside, terminal, now) {
            return Err(DropReason::CreationRate);
        }
        let (made, ended) = table.create(inside, terminal, now);
        if let Some(ended) = ended {
            self.contacts.forget(owner(number.into(), &ended));
            self.invalidate();
        }
        let (found, new) = made.ok_or(DropReason::PoolExhausted)?;
        Ok((found, new.then(|| self.event(EventKind::Created, number.into(), &found))))
    }

    fn note(&self, tally: Tally, now: Time) {
        if let Ok(table) = self.table(tally.table) {
            table.used(tally.index, tally.usage, now);
        }
    }
}

/// Whether packets to or from `address` cross routers at all (RFC 1812 §5.3.7, RFC 4291 §2.4, RFC 6890).
pub(super) fn is_unicast(address: Address) -> bool {
    if address.is_v4() {
        let [first, second, ..] = address.v4_octets();
        !(first == 0 || first == 127 || first >= 224 || (first == 169 && second == 254))
    } else {
        let bits = address.bits();
        bits > 1 && bits >> 120 != 0xff && bits >> 118 != 0x3fa
    }
}
