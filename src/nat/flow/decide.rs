//! What becomes of a packet that a worker has not seen the like of: the decision about its flow.

use super::observer::{Fact, Observer, Run};
use super::remembered::{Flow, Tally};
use crate::nat::binding::BindingState;
use crate::nat::binding::Realm;
use crate::nat::bound::Bound;
use crate::nat::callback::CallbackPolicy;
use crate::nat::contacts::CalledPeer;
use crate::nat::event::{Event, EventKind};
use crate::nat::numbers::{InsideNumber, TableNumber};
use crate::nat::reason::DropReason;
use crate::nat::settings::{Hairpin, InboundRefresh};
use crate::nat::state::Nat;
use crate::nat::table::Table;
use crate::time::Time;
use crate::wire::{Address, Headers, Kind, Rewrite};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What was decided, before it is written into the packet.
pub(in crate::nat) struct Decision {
    pub flow: Flow,
    pub event: Option<Event>,
    /// Whether the next packet of the flow is to be decided anew: it may be the answer that this one was not.
    pub is_once: bool,
}

impl Nat {
    /// From a terminal to a peer: its binding, made now if this is a first packet (N2, N3).
    pub(in crate::nat) fn decide_outbound(
        &self,
        headers: &Headers,
        inside: InsideNumber,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<Decision, DropReason> {
        let peer = headers.destination;
        if !is_unicast(peer) {
            return Err(DropReason::NotUnicast);
        }
        if let Some(prefix) = self.prefixes.of_virtual_ip(peer) {
            observer.sees(Fact::ByPrefix);
            if self.policy.hairpin == Hairpin::Off {
                return Err(DropReason::Hairpin);
            }
            let source = self.prefixes.outward(Some(inside), headers.source, peer).ok_or(DropReason::Hairpin)??;
            let rewrite = Rewrite { source: Some(source), destination: Some(prefix.inward(peer)?) };
            let flow = Flow { rewrite, to: Realm::Inside(prefix.inside), sender: None, receiver: None };
            return Ok(Decision::new(flow, None));
        }
        if self.selection.of_virtual_ip(peer).is_some() {
            observer.sees(Fact::Hairpin);
            return self.decide_hairpin(headers, inside, now, observer);
        }
        if let Some(mapped) = self.prefixes.outward(Some(inside), headers.source, peer) {
            observer.sees(Fact::ByPrefix);
            let flow = Flow { rewrite: Rewrite::source(mapped?), to: Realm::Outside, sender: None, receiver: None };
            return Ok(Decision::new(flow, None));
        }
        let (sender, event) = self.bind_sender(headers, inside, now, observer)?;
        let flow = Flow {
            rewrite: Rewrite::source(sender.found.slot.virtual_ip),
            to: Realm::Outside,
            sender: Some(sender.slot()),
            receiver: None,
        };
        Ok(Decision::new(flow, event))
    }

    /// From a peer to a virtual IP: to the terminal that has it, if the peer may call (N5).
    pub(in crate::nat) fn decide_inbound(
        &self,
        headers: &Headers,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<Decision, DropReason> {
        let (peer, virtual_ip) = (headers.source, headers.destination);
        if let Some(prefix) = self.prefixes.of_virtual_ip(virtual_ip) {
            observer.sees(Fact::ByPrefix);
            self.check_peer(peer, prefix.inside)?;
            let flow = Flow {
                rewrite: Rewrite::destination(prefix.inward(virtual_ip)?),
                to: Realm::Inside(prefix.inside),
                sender: None,
                receiver: None,
            };
            return Ok(Decision::new(flow, None));
        }
        let receiver = self.find_receiver(virtual_ip, observer)?;
        let slot = &receiver.found.slot;
        if !self.surroundings.read().is_source(slot.inside, slot.terminal) {
            return Err(DropReason::InsideGone);
        }
        self.check_peer(peer, slot.inside)?;
        let contact = self.admit_peer(&receiver, peer, calls(headers.kind), now, observer)?;
        let is_once = self.note_answer(&receiver, contact, headers.kind, run_of(observer));
        let flow = Flow {
            rewrite: Rewrite::destination(receiver.found.slot.terminal),
            to: Realm::Inside(receiver.found.slot.inside),
            sender: None,
            receiver: Some(receiver.slot()),
        };
        Ok(Decision { flow, event: None, is_once })
    }

    /// From a terminal to the virtual IP of another, or its own: the receiver sees the sender's virtual IP
    /// (RFC 4787 REQ-9).
    fn decide_hairpin(
        &self,
        headers: &Headers,
        inside: InsideNumber,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<Decision, DropReason> {
        if self.policy.hairpin == Hairpin::Off {
            return Err(DropReason::Hairpin);
        }
        let receiver = self.find_receiver(headers.destination, observer)?;
        let (sender, event) = self.bind_sender(headers, inside, now, observer)?;
        let shown = sender.found.slot.virtual_ip;
        // A terminal that calls its own virtual IP needs no contact.
        let is_itself = sender.slot() == receiver.slot();
        let mut is_once = false;
        if !is_itself {
            let contact = match self.policy.hairpin {
                Hairpin::Policy => self.admit_peer(&receiver, shown, calls(headers.kind), now, observer)?,
                _ => self.contacts.live(receiver.owner(), shown, now.as_secs()),
            };
            is_once = self.note_answer(&receiver, contact, headers.kind, run_of(observer));
        }
        let rewrite = Rewrite { source: Some(shown), destination: Some(receiver.found.slot.terminal) };
        let flow = Flow {
            rewrite,
            to: Realm::Inside(receiver.found.slot.inside),
            sender: Some(sender.slot()),
            receiver: Some(receiver.slot()),
        };
        Ok(Decision { flow, event, is_once })
    }

    /// The binding of the terminal that sent the packet, made or woken if need be; its contact with the peer is noted.
    fn bind_sender(
        &self,
        headers: &Headers,
        inside: InsideNumber,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<(Bound, Option<Event>), DropReason> {
        let (terminal, peer) = (headers.source, headers.destination);
        let number = self.selection.for_peer(peer).ok_or(DropReason::NoPool)?;
        let table = self.table(number)?;
        observer.sees(Fact::ForPeer(peer, number));
        let bound = table.of_terminal(inside, terminal).map(|found| Bound { table: number, found });
        observer.sees(Fact::Sender(bound));
        let run = run_of(observer);
        let (bound, event) = match bound {
            Some(bound) if run == Run::Dry => {
                let wakes = bound.found.slot.state == BindingState::Dormant;
                (bound, wakes.then(|| self.event(EventKind::Woken, &bound)))
            }
            Some(bound) => self.use_binding(table, bound, now),
            None => self.create(number, headers, inside, now, run)?,
        };
        if run == Run::Dry {
            return Ok((bound, event));
        }
        let waits = self.is_recording() && !self.cannot_record.load(Ordering::Acquire);
        let is_unrecorded = self.contacts.note(bound.owner(), peer, now.as_secs(), waits);
        let contacted = || is_unrecorded.then(|| self.event(EventKind::Contacted, &bound));
        Ok((bound, event.or_else(contacted)))
    }

    /// The terminal of a binding sends: the binding is in use, and wakes if it was dormant.
    fn use_binding(&self, table: &Table, bound: Bound, now: Time) -> (Bound, Option<Event>) {
        // Not left to the worker's next note: until then housekeeping could put the binding to sleep.
        table.touch(bound.found.index, now);
        let (bound, woken) = self.wake(table, bound, now);
        // Another worker made or woke it and may not have recorded that yet: this packet must not overtake.
        let unrecorded = self.owes(bound.slot()).map(|kind| self.event(kind, &bound));
        let is_new = unrecorded.is_some_and(|unrecorded| unrecorded.kind.is_of_a_new_binding());
        (bound, if is_new { unrecorded } else { woken.or(unrecorded) })
    }

    /// The binding of a virtual IP that can be called.
    pub(in crate::nat) fn find_receiver(
        &self,
        virtual_ip: Address,
        observer: &mut impl Observer,
    ) -> Result<Bound, DropReason> {
        let Some(table) = self.selection.of_virtual_ip(virtual_ip) else {
            observer.sees(Fact::NotVirtual(virtual_ip));
            return Err(DropReason::NotVirtual);
        };
        observer.sees(Fact::VirtualIp(virtual_ip, table));
        let bound = self.table(table)?.of_virtual_ip(virtual_ip).map(|found| Bound { table, found });
        observer.sees(Fact::Receiver(bound));
        let bound = bound.ok_or(DropReason::NoBinding)?;
        match bound.found.slot.state {
            BindingState::Active => Ok(bound),
            BindingState::Dormant => Err(DropReason::Dormant),
            BindingState::Quarantined => Err(DropReason::NoBinding),
        }
    }

    /// Refuses what cannot be a peer of a terminal of realm `inside`: a virtual IP, an inside address.
    pub(in crate::nat) fn check_peer(&self, peer: Address, inside: InsideNumber) -> Result<(), DropReason> {
        let is_virtual = self.selection.of_virtual_ip(peer).is_some() || self.prefixes.of_virtual_ip(peer).is_some();
        if !is_unicast(peer) || is_virtual || self.surroundings.read().is_source(inside, peer) {
            return Err(DropReason::SpoofedSource);
        }
        Ok(())
    }

    /// Lets a packet of `peer`, which `calls` or may be an answer, reach the binding, or says why not. Returns what is known
    /// of the peer if the terminal has called it.
    pub(in crate::nat) fn admit_peer(
        &self,
        receiver: &Bound,
        peer: Address,
        calls: bool,
        now: Time,
        observer: &mut impl Observer,
    ) -> Result<Option<CalledPeer>, DropReason> {
        if self.selection.for_peer(peer) != Some(receiver.table) {
            observer.sees(Fact::OtherPool(peer));
            return Err(DropReason::WrongPool);
        }
        observer.sees(Fact::MayCall(*receiver, peer));
        let owner = receiver.owner();
        let contact = self.contacts.live(owner, peer, now.as_secs());
        let of_pool = || self.policy_of_pool(receiver).unwrap_or(&self.policy.callback).admit(peer, contact, calls);
        match self.policies.admit(owner, peer, contact, calls).unwrap_or_else(of_pool) {
            Ok(()) => Ok(contact),
            Err(DropReason::NotContacted) if contact.is_none() && self.contacts.has_forgotten(owner, peer) => {
                Err(DropReason::ContactForgotten)
            }
            Err(reason) => Err(reason),
        }
    }

    /// Notes that a peer sends to a binding: if the terminal has called it and it has not answered before, this may be the
    /// answer. Returns whether it still has not.
    fn note_answer(&self, receiver: &Bound, contact: Option<CalledPeer>, kind: Kind, run: Run) -> bool {
        let Some(contact) = contact.filter(|contact| !contact.answered) else { return false };
        let is_answer = matches!(kind, Kind::Tcp | Kind::Datagram | Kind::IcmpOther | Kind::Other);
        if is_answer && run == Run::Real {
            self.contacts.mark_answered(receiver.owner(), contact.peer);
            let slot = &receiver.found.slot;
            if !slot.answered && self.table(receiver.table).is_ok_and(|table| table.mark_answered(&receiver.found)) {
                self.limiter.forget_fresh(slot.inside, slot.created);
            }
        }
        !is_answer
    }

    /// The callback policy that the binding's pool has of its own.
    pub(in crate::nat) fn policy_of_pool(&self, receiver: &Bound) -> Option<&CallbackPolicy> {
        let part = self.table(receiver.table).ok()?.part(receiver.found.index)?;
        self.pools.get(part.pool())?.callback.as_ref()
    }

    pub(in crate::nat) fn table(&self, number: TableNumber) -> Result<&Table, DropReason> {
        self.tables.get(number).map(Arc::as_ref).ok_or(DropReason::NoPool)
    }

    /// Notes what a worker has counted. What comes in keeps a binding alive only if so configured (RFC 4787 REQ-6).
    pub(in crate::nat) fn note(&self, tally: Tally, now: Time) {
        if let Some((slot, peer)) = tally.callback()
            && let Some(found) = self.table(slot.table()).ok().and_then(|table| table.at(slot.index()))
        {
            self.contacts.mark_called_back(Bound { table: slot.table(), found }.owner(), peer);
        }
        for (slot, usage) in tally.usages() {
            if let Ok(table) = self.table(slot.table()) {
                table.add_usage(slot.index(), usage);
                if usage.packets_out > 0 || self.policy.inbound_refresh == InboundRefresh::Refreshes {
                    table.touch(slot.index(), now);
                }
            }
        }
    }

    fn wake(&self, table: &Table, bound: Bound, now: Time) -> (Bound, Option<Event>) {
        if bound.found.slot.state != BindingState::Dormant {
            return (bound, None);
        }
        match table.wake(bound.found, now) {
            Some(found) => {
                let bound = Bound { found, ..bound };
                (bound, Some(self.event(EventKind::Woken, &bound)))
            }
            None => (bound, None), // another worker woke it a moment ago
        }
    }

    fn create(
        &self,
        number: TableNumber,
        headers: &Headers,
        inside: InsideNumber,
        now: Time,
        run: Run,
    ) -> Result<(Bound, Option<Event>), DropReason> {
        let (table, terminal) = (self.table(number)?, headers.source);
        match headers.kind {
            Kind::TcpSyn | Kind::Datagram | Kind::IcmpQuery | Kind::Other => {}
            _ => return Err(DropReason::NotAFirstPacket),
        }
        if !is_unicast(terminal) || self.selection.of_virtual_ip(terminal).is_some() {
            return Err(DropReason::SpoofedSource);
        }
        if !self.surroundings.read().is_source(inside, terminal) {
            return Err(DropReason::SourceNotInside);
        }
        if self.cannot_record.load(Ordering::Acquire) {
            return Err(DropReason::CannotRecord);
        }
        let bound = |found| Bound { table: number, found };
        let created = |bound: Bound| (bound, Some(self.event(EventKind::Created, &bound)));
        if run == Run::Dry {
            self.limiter.would_admit(inside, terminal, now, || table.free())?;
            let found = table.preview(inside, terminal, now).ok_or(DropReason::PoolExhausted)?;
            return Ok(created(bound(found)));
        }
        self.limiter.admit(inside, terminal, now, || table.free())?;
        let (made, ended) = table.create(inside, terminal, now);
        if let Some(ended) = ended {
            self.forget_ended(&bound(ended));
        }
        match made {
            Some((found, true)) => Ok(created(bound(found))),
            // Another worker has made it a moment ago, or nothing is left.
            other => {
                self.limiter.leave(inside, terminal);
                self.limiter.forget_fresh(inside, now.as_secs());
                let bound = bound(other.ok_or(DropReason::PoolExhausted)?.0);
                Ok((bound, self.owes(bound.slot()).map(|kind| self.event(kind, &bound))))
            }
        }
    }
}

impl Decision {
    fn new(flow: Flow, event: Option<Event>) -> Self {
        Self { flow, event, is_once: false }
    }
}

/// Whether what `observer` walks beside is carried out.
fn run_of<O: Observer>(_observer: &O) -> Run {
    O::RUN
}

/// Whether a packet asks for something new of its receiver, rather than answering.
pub(in crate::nat) fn calls(kind: Kind) -> bool {
    matches!(kind, Kind::TcpSyn | Kind::IcmpQuery)
}

/// Why no packet of this kind is ever translated.
pub(in crate::nat) fn untranslatable(kind: Kind) -> Option<DropReason> {
    match kind {
        Kind::Authentication => Some(DropReason::AuthenticationHeader),
        Kind::IcmpRedirect => Some(DropReason::NotUnicast),
        _ => None,
    }
}

/// Whether packets to or from `address` cross routers at all (RFC 1812 §5.3.7, RFC 4291 §2.4, RFC 6890). 240.0.0.0/4 is
/// reserved, and Linux and clouds route it all the same; 0.0.0.0/8, which Linux routes too, other systems refuse.
pub(in crate::nat) fn is_unicast(address: Address) -> bool {
    if address.is_v4() {
        let [first, second, ..] = address.v4_octets();
        let is_broadcast = address.v4_octets() == [255; 4];
        !(first == 0 || first == 127 || first & 0xf0 == 224 || is_broadcast || (first == 169 && second == 254))
    } else {
        let bits = address.bits();
        bits > 1 && bits >> 120 != 0xff && bits >> 118 != 0x3fa
    }
}
