//! The path of a packet.

use super::decide::{Decision, untranslatable};
use super::observer::ForReal;
use super::remembered::{Hit, RememberedFlows, Tally, When};
use super::strangers::Strangers;
use super::unsolicited::Waiting;
use crate::nat::alg::Passed;
use crate::nat::binding::Realm;
use crate::nat::counters::Counters;
use crate::nat::drops::DropBook;
use crate::nat::event::{Event, EventKind};
use crate::nat::numbers::PoolNumber;
use crate::nat::reason::DropReason;
use crate::nat::settings::{Exhausted, Multipath};
use crate::nat::state::Nat;
use crate::nat::verdict::{Refused, Replaced, Verdict};
use crate::time::Time;
use crate::wire::{self, Address, Headers, Kind, Packet, Refusal};
use std::sync::Arc;

/// ICMP answers of the gateway's own that a worker may send in a second (RFC 4443 §2.4 f, RFC 1812 §4.3.2.8).
const ANSWERS_A_SECOND: u32 = 100;

/// The translator of one worker.
///
/// ```
/// use kamei::nat::{InsideSettings, Nat, Policy, PoolKind, PoolSettings, Realm, Settings, Verdict};
/// use kamei::time::Time;
/// use kamei::wire::{Headers, Packet};
///
/// let nat = Nat::new(Settings {
///     insides: vec![InsideSettings { name: "inside".into(), sources: vec!["10.0.0.0/24".parse().unwrap()] }],
///     pools: vec![PoolSettings {
///         name: "pool".into(),
///         range: "198.18.0.5".parse().unwrap(),
///         reserved: Vec::new(),
///         destinations: Vec::new(),
///         callback: None,
///         draining: false,
///         kind: PoolKind::Bindings,
///     }],
///     policy: Policy::default(),
///     own_outside: vec!["203.0.113.1".parse().unwrap()],
///     hash_key: [7; 16], // a secret, the same after a restart
///     restore_hop: false,
/// })
/// .unwrap();
/// let mut worker = nat.translator();
///
/// // A terminal calls: a UDP datagram from 10.0.0.11 to 192.0.2.1.
/// let mut call = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 11, 192, 0, 2, 1, 0, 9, 0, 9, 0, 8, 0, 0];
/// let verdict = worker.translate(&mut Packet::new(&mut call), Realm::inside(0), Time::from_secs(1));
/// assert!(matches!(verdict, Verdict::Forward { to: Realm::Outside, event: Some(_) }));
/// assert_eq!(Headers::parse(&call).unwrap().source, std::net::IpAddr::from([198, 18, 0, 5]).into());
/// ```
pub struct Translator {
    nat: Arc<Nat>,
    counters: Arc<Counters>,
    flows: RememberedFlows,
    waiting: Waiting,
    strangers: Strangers,
    answers: (u32, u32),
}

impl Nat {
    /// A translator for one more worker.
    pub fn translator(self: &Arc<Self>) -> Translator {
        let mut all = self.counters.lock();
        let flows = RememberedFlows::new(&self.hash_key, all.len() as u64 + 1);
        let counters = Arc::new(Counters::with_book(DropBook::new(&self.hash_key, all.len() as u64)));
        all.push(Arc::clone(&counters));
        Translator::new(Arc::clone(self), counters, flows)
    }
}

impl Translator {
    pub(in crate::nat) fn new(nat: Arc<Nat>, counters: Arc<Counters>, flows: RememberedFlows) -> Self {
        Self { nat, counters, flows, waiting: Waiting::default(), strangers: Strangers::default(), answers: (0, 0) }
    }

    /// Decides what becomes of `packet`, which came from `realm` at `now`, and rewrites it in place.
    ///
    /// Never panics, whatever the bytes. A packet that is dropped may be left half rewritten.
    #[inline]
    pub fn translate(&mut self, packet: &mut Packet<'_>, realm: Realm, now: Time) -> Verdict {
        match self.translate_known(packet, realm, now) {
            Some(to) => Verdict::Forward { to, event: None },
            None => self.translate_any(packet, realm, now),
        }
    }

    /// The short path of nearly every packet: TCP or UDP, nothing unusual, of a flow that this worker knows. Tells where it
    /// goes, or leaves it as it came.
    fn translate_known(&mut self, packet: &mut Packet<'_>, realm: Realm, now: Time) -> Option<Realm> {
        let headers = Headers::parse_plain(packet.bytes)?;
        if self.nat.helpers.is_some() {
            return None;
        }
        let opens = headers.kind == Kind::TcpSyn;
        let when = When { epoch: self.nat.epoch.now(), now };
        let hit = self.flows.hit(realm, &headers, when, opens, packet.bytes.len())?;
        if realm == Realm::Outside && opens {
            self.counters.callbacks.add(1);
        }
        self.rewrite(packet, &headers, realm, hit);
        self.count_passed(realm, packet.bytes.len());
        Some(hit.to)
    }

    /// The full path of any packet.
    #[inline(never)]
    fn translate_any(&mut self, packet: &mut Packet<'_>, realm: Realm, now: Time) -> Verdict {
        let (verdict, ends) = match Headers::parse(packet.bytes) {
            Ok(headers) => (self.walk(packet, &headers, realm, now), Some((headers.source, headers.destination))),
            Err(unreadable) => (Verdict::Drop(unreadable.into()), None),
        };
        self.count(&verdict, realm, packet.bytes.len());
        match &verdict {
            Verdict::Drop(reason) => self.write_down(*reason, packet.bytes, ends, realm, now),
            Verdict::Refuse(refused) => self.write_down(refused.reason, packet.bytes, ends, realm, now),
            Verdict::Forward { .. } | Verdict::Replace(_) => {}
        }
        verdict
    }

    /// Adds what was counted since the last call to the bindings, and offers flows in use to the carrier (the
    /// kernel). Call it before looking at bindings, best when no packet is known to wait: once a flow is taken up, its
    /// next packet overtakes those that still do.
    pub fn flush(&mut self, now: Time) {
        self.flush_some(usize::MAX, now);
    }

    /// The same for at most `most` flows, so that packets need not wait. Call it now and then.
    pub fn flush_some(&mut self, most: usize, now: Time) {
        let nat = &self.nat;
        self.flows.drain(most, |tally, offer| {
            nat.note(tally, now);
            if tally.is_in_use()
                && let Some((carrier, offer)) = nat.carrier().zip(offer)
                && nat.is_told_apart(&offer)
            {
                carrier.offer(&nat.epoch, &offer);
            }
        });
    }

    /// Goes on with the state that took over from the one it had ([`crate::nat::PreparedReload::commit`]).
    pub fn switch_to(&mut self, nat: Arc<Nat>) {
        self.nat = nat;
    }

    /// Counts packets that were lost as they left, after they had been translated.
    pub fn lost(&self, reason: DropReason, packets: u64) {
        self.counters.drops(reason).add(packets);
        self.counters.write_down_lost(reason, packets);
    }

    /// Whether [`Translator::flush`] has anything to do.
    pub fn is_dirty(&self) -> bool {
        self.flows.is_dirty()
    }

    /// Whether [`Translator::flush`] may move flows elsewhere.
    pub fn has_carrier(&self) -> bool {
        self.nat.carrier().is_some()
    }

    /// A packet of the gateway's own that is due to go outside: the answer to a call that reached nobody.
    pub fn overdue(&mut self, now: Time) -> Option<Box<[u8]>> {
        self.waiting.take(&self.nat, now).filter(|_| self.may_answer(now))
    }

    /// Whether a terminal's address is of several insides, which only the gateway's devices can tell apart.
    pub fn is_unclear(&self, terminal: Address) -> bool {
        self.nat.is_unclear(terminal)
    }

    /// When [`Translator::overdue`] may have something.
    pub fn next_due(&self) -> Option<Time> {
        self.waiting.next()
    }

    fn walk(&mut self, packet: &mut Packet<'_>, headers: &Headers, realm: Realm, now: Time) -> Verdict {
        let when = When { epoch: self.nat.epoch.now(), now };
        match headers.kind {
            Kind::IcmpError => return self.error(packet, headers, realm, now),
            kind => {
                if let Some(reason) = untranslatable(kind) {
                    return Verdict::Drop(reason);
                }
            }
        }
        let opens = headers.kind == Kind::TcpSyn;
        let bytes = packet.bytes.len();
        let (hit, event) = match self.flows.hit(realm, headers, when, opens, bytes) {
            Some(hit) => (hit, None),
            None => match self.decide(headers, bytes, realm, when) {
                Ok(decided) => decided,
                Err(reason) => return self.refuse(packet, headers, realm, reason, now),
            },
        };
        if realm == Realm::Outside && opens {
            self.counters.callbacks.add(1);
        }
        if let Some(helpers) = &self.nat.helpers {
            match helpers.pass(packet, headers, hit.patch.rewrite(headers), now) {
                Ok(Passed::AsIs) => {}
                Ok(Passed::Instead { packets, answer }) => {
                    let packets =
                        packets.into_iter().filter_map(|packet| self.rewrite_new(packet, realm, hit)).collect();
                    return Verdict::Replace(Box::new(Replaced { to: hit.to, event, packets, answer }));
                }
                // It has made or woken a binding all the same.
                Err(reason) => {
                    return match event {
                        Some(event) => Verdict::Refuse(Box::new(Refused { reason, event, answer: None })),
                        None => Verdict::Drop(reason),
                    };
                }
            }
        }
        self.rewrite(packet, headers, realm, hit);
        Verdict::Forward { to: hit.to, event }
    }

    /// What becomes of a packet of a flow that is not known, or not any more.
    #[inline(never)]
    fn decide(
        &mut self,
        headers: &Headers,
        bytes: usize,
        realm: Realm,
        when: When,
    ) -> Result<(Hit, Option<Event>), DropReason> {
        let now = when.now;
        let Decision { flow, event, is_once } = match realm {
            Realm::Inside(inside) => self.nat.decide_outbound(headers, inside, now, &mut ForReal)?,
            Realm::Outside => self.nat.decide_inbound(headers, now, &mut ForReal)?,
        };
        let opens = headers.kind == Kind::TcpSyn;
        // A flow whose binding is not on record yet is decided packet by packet: each must wait.
        if is_once || (event.is_some_and(|event| event.kind.is_unrecorded()) && self.nat.is_recording()) {
            self.nat.note(Tally::of_one(headers.source, &flow, opens, bytes), now);
            return Ok((Hit::new(headers, &flow), event));
        }
        let (hit, left) = self.flows.learn(realm, headers, &flow, when, bytes);
        if let Some(tally) = left {
            self.nat.note(tally, now);
        }
        Ok((hit, event))
    }

    #[inline(always)] // into the short path, where most of what it asks is known
    fn rewrite(&self, packet: &mut Packet<'_>, headers: &Headers, from: Realm, hit: Hit) {
        let stored = headers.stored(packet.checksum_start);
        hit.patch.apply(packet.bytes, headers, stored, self.nat.restore_hop && turns_back(from, hit.to));
        if !matches!(headers.kind, Kind::TcpSyn | Kind::Tcp) {
            return;
        }
        if !packet.bytes.get(headers.transport..).is_some_and(wire::is_syn) {
            return; // options that matter here are in SYNs alone
        }
        let segment = headers.transport..headers.end;
        if let Some(most) = self.nat.policy.mss {
            wire::clamp_mss(packet.bytes, segment.clone(), stored, most);
        }
        if self.nat.policy.mptcp == Multipath::Strip {
            wire::strip_multipath(packet.bytes, segment, stored);
        }
    }

    /// The same for a packet made by a helper.
    #[cold]
    fn rewrite_new(&self, mut bytes: Box<[u8]>, from: Realm, hit: Hit) -> Option<Box<[u8]>> {
        let headers = Headers::parse(&bytes).ok()?;
        self.rewrite(&mut Packet::new(&mut bytes), &headers, from, hit);
        Some(bytes)
    }

    fn error(&mut self, packet: &mut Packet<'_>, headers: &Headers, realm: Realm, now: Time) -> Verdict {
        match self.nat.error(packet, headers, realm, &mut self.strangers, now) {
            Ok(to) => {
                if self.nat.restore_hop && turns_back(realm, to) {
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
        let Realm::Inside(inside) = realm else {
            if headers.kind == Kind::TcpSyn && is_vain(reason) {
                self.waiting.remember(self.nat.policy.unsolicited, packet.bytes, headers, now);
            }
            return Verdict::Drop(reason);
        };
        if !matches!(
            reason,
            DropReason::PoolExhausted
                | DropReason::CreationRate
                | DropReason::Quota
                | DropReason::Unanswered
                | DropReason::NoPool
        ) {
            return Verdict::Drop(reason);
        }
        let pool = self.nat.selection.for_peer(headers.destination).and_then(|table| self.nat.table(table).ok());
        let event = Event {
            kind: EventKind::Refused(reason),
            inside,
            made: now,
            pool: pool
                .and_then(|table| table.pools().iter().next())
                .map_or_else(PoolNumber::default, |part| part.pool()),
            terminal: headers.source,
            virtual_ip: Address::from_bits(0),
        };
        let refusal = match self.nat.policy.exhausted {
            Exhausted::Prohibited => Some(Refusal::Prohibited),
            Exhausted::Unreachable => Some(Refusal::Host),
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
                self.count_passed(realm, bytes);
                self.count_created(*event);
            }
            Verdict::Replace(replaced) => {
                self.count_passed(realm, bytes);
                self.count_created(replaced.event);
            }
            Verdict::Drop(reason) => self.counters.drops(*reason).add(1),
            Verdict::Refuse(refused) => {
                self.counters.drops(refused.reason).add(1);
                self.count_created(Some(refused.event));
            }
        }
    }

    /// A packet that cannot be read may say all the same whose it is.
    #[inline(never)]
    fn write_down(&self, reason: DropReason, bytes: &[u8], ends: Option<(Address, Address)>, from: Realm, now: Time) {
        let quoted = || Headers::parse_quoted(bytes).ok().map(|headers| (headers.source, headers.destination));
        self.counters.write_down(reason, from, ends.or_else(quoted), now);
    }

    #[inline]
    fn count_passed(&self, realm: Realm, bytes: usize) {
        match realm {
            Realm::Inside(_) => self.counters.out.add(bytes),
            Realm::Outside => self.counters.inward.add(bytes),
        }
    }

    fn count_created(&self, event: Option<Event>) {
        if event.is_some_and(|event| event.kind == EventKind::Created) {
            self.counters.created.add(1);
        }
    }
}

/// Whether a call reached nobody for this reason, and its peer may hear so.
fn is_vain(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::NoBinding | DropReason::NotContacted | DropReason::ContactForgotten | DropReason::NotAnswered
    )
}

/// Whether a packet comes from inside and goes back inside (hairpin).
#[inline]
fn turns_back(from: Realm, to: Realm) -> bool {
    matches!((from, to), (Realm::Inside(_), Realm::Inside(_)))
}
