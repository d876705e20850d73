//! Addresses of pools that another host of an outside LAN has. What is heard there can be forged by every host of it, so it
//! is believed within limits: most of a pool stays, whatever is claimed, and what is claimed but once is soon forgotten.

use crate::wire::{Address, AddressRange};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that others have, of all pools.
const MOST: usize = 1024;
/// An address is a host's for as long after he was heard as he had been heard before, within these bounds: a packet
/// that an attacker has forged is soon forgotten, and a host that sleeps a while is not.
const HOLD: [Duration; 2] = [Duration::from_secs(12), Duration::from_secs(30 * 60)];
/// So often he is asked meanwhile.
const ASKED: u8 = 3;
/// A host that answers for more of these, and for more than this share of a pool, answers for whatever is asked: a router
/// with proxy ARP (RFC 1027), the switch of a cloud.
const MOST_ANSWERS: [u128; 2] = [3, 16];
const SHARE_OF_ANSWERS: u128 = 8;
/// Such hosts that are remembered, and how long after their last answer.
const MOST_PROXIES: usize = 16;
const PROXY: Duration = Duration::from_secs(3600);

/// An Ethernet address.
pub(super) type Hardware = [u8; 6];

/// A pool whose addresses terminals are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// All of them.
    pub range: AddressRange,
    /// Those that are not given.
    pub never: BTreeSet<IpAddr>,
}

/// An address of a pool that another host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OccupiedAddress {
    /// Of a pool.
    pub address: IpAddr,
    /// Ethernet address of the host.
    pub hardware: String,
    /// The interface that it is behind.
    pub interface: String,
}

/// A host says that he has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AddressClaim {
    /// The interface it was heard on.
    pub(super) index: u32,
    pub(super) hardware: Hardware,
    pub(super) address: IpAddr,
    /// He was asked, or may have been. Others send from it: no proxy does that.
    pub(super) is_answer: bool,
    /// What he was asked was whether a host has it. Others were told that this machine has it: a router with proxy ARP
    /// contradicts that (`arp_process`, net/ipv4/arp.c), and answers no probe.
    pub(super) is_of_probe: bool,
}

/// What came of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The address is his.
    Occupied,
    /// The host answers for whatever is asked, and has just become known for it.
    NewProxy,
    /// It was known.
    Proxy,
    /// So much of the pool is others' already that this is not believed.
    TooMany,
}

/// Who has which address of the pools, as far as it is believed.
#[derive(Default)]
pub(super) struct Occupied {
    hosts: BTreeMap<IpAddr, Occupant>,
    proxies: BTreeMap<Hardware, Instant>,
    passed_over: u64,
}

/// Who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant {
    pub(super) index: u32,
    pub(super) hardware: Hardware,
    only_answers: bool,
    since: Instant,
    heard: Instant,
    asked: Instant,
    unanswered: u8,
}

impl Occupied {
    /// A host says that he has an address of `pool`.
    pub(super) fn hear(&mut self, claim: &AddressClaim, pool: AddressRange, now: Instant) -> Heard {
        let AddressClaim { index, hardware, address, is_answer, .. } = *claim;
        if is_answer && let Some(last) = self.proxies.get_mut(&hardware) {
            *last = now;
            return Heard::Proxy;
        }
        if let Some(host) = self.hosts.get_mut(&address) {
            let only_answers = host.only_answers && is_answer;
            *host = Occupant { index, hardware, only_answers, heard: now, unanswered: 0, ..*host };
            return Heard::Occupied;
        }
        let [few, many] = MOST_ANSWERS;
        let answers = self.hosts.values().filter(|host| host.only_answers && host.hardware == hardware).count();
        if is_answer && answers as u128 >= (pool.size() / SHARE_OF_ANSWERS).clamp(few, many) {
            self.note_proxy(hardware, now);
            return Heard::NewProxy;
        }
        let in_pool = self.hosts.range(IpAddr::from(pool.first())..=IpAddr::from(pool.last())).count();
        if self.hosts.len() >= MOST || in_pool as u128 >= pool.size() / 2 {
            self.passed_over += 1;
            return Heard::TooMany;
        }
        let host =
            Occupant { index, hardware, only_answers: is_answer, since: now, heard: now, asked: now, unanswered: 0 };
        self.hosts.insert(address, host);
        Heard::Occupied
    }

    /// A host answers for whatever is asked: nothing is believed of its answers any more.
    pub(super) fn note_proxy(&mut self, hardware: Hardware, now: Instant) {
        self.hosts.retain(|_, host| !host.only_answers || host.hardware != hardware);
        if self.proxies.len() >= MOST_PROXIES
            && let Some(oldest) = self.proxies.iter().min_by_key(|(_, last)| **last).map(|(oldest, _)| *oldest)
        {
            self.proxies.remove(&oldest);
        }
        self.proxies.insert(hardware, now);
    }

    /// Whether another host has `address`.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.hosts.contains_key(&address)
    }

    /// Whether a host is known to answer for whatever is asked.
    pub(super) fn is_proxy(&self, hardware: Hardware) -> bool {
        self.proxies.contains_key(&hardware)
    }

    /// Every such address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Occupant)> {
        self.hosts.iter().map(|(address, host)| (*address, *host))
    }

    /// How many claims were not believed, for there were too many.
    pub(super) fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Forgets those that do not answer any more, and all but `which`.
    pub(super) fn forget(&mut self, now: Instant, which: impl Fn(IpAddr, u32) -> bool) {
        self.hosts.retain(|address, host| {
            let is_gone = host.unanswered >= ASKED && now.duration_since(host.heard) >= host.hold();
            !is_gone && which(*address, host.index)
        });
        self.proxies.retain(|_, last| now.duration_since(*last) < PROXY);
    }

    /// Those to ask again whether they are there, at most `most`, those first that have waited longest.
    pub(super) fn ask(&mut self, now: Instant, most: usize) -> Vec<IpAddr> {
        let is_due = |host: &Occupant| now.duration_since(host.heard.max(host.asked)) >= host.hold() / 4;
        let mut due: Vec<_> =
            self.hosts.iter().filter(|(_, host)| is_due(host)).map(|(address, host)| (host.asked, *address)).collect();
        due.sort_unstable();
        due.truncate(most);
        for (_, address) in &due {
            if let Some(host) = self.hosts.get_mut(address) {
                (host.asked, host.unanswered) = (now, host.unanswered.saturating_add(1));
            }
        }
        due.into_iter().map(|(_, address)| address).collect()
    }
}

impl Occupant {
    fn hold(&self) -> Duration {
        let [least, most] = HOLD;
        self.heard.duration_since(self.since).clamp(least, most)
    }
}

/// Pools with more addresses are not gone through: few of them are ever given, and which depends on who asks. Some that are
/// drawn at random show who answers for everything.
const GONE_THROUGH: u128 = 65_536;
const DRAWN: u128 = 20;
/// A round begins so long after the one before it, but for the first ones: a host may not hear the first word.
const ROUND: Duration = Duration::from_secs(600);
const FIRST_ROUNDS: u32 = 2;
/// What is asked at one time in the first rounds, and later.
const AT_ONCE: [usize; 2] = [50, 10];

/// Goes through the addresses that may be given, round after round.
#[derive(Default)]
pub(super) struct Rounds {
    ranges: Vec<AddressRange>,
    range: usize,
    offset: u128,
    done: u32,
    begun: Option<Instant>,
}

impl Rounds {
    /// Through these, from the start.
    pub(super) fn new(ranges: Vec<AddressRange>) -> Self {
        Self { ranges, ..Self::default() }
    }

    /// The next ones, so many as are to be asked at one time. `draw` hands random bits out.
    pub(super) fn next(&mut self, now: Instant, mut draw: impl FnMut() -> u128) -> Vec<IpAddr> {
        let [first, later] = AT_ONCE;
        let most = if self.done < FIRST_ROUNDS { first } else { later };
        let mut all = Vec::new();
        while all.len() < most {
            if self.range == 0 && self.offset == 0 {
                let is_early = |begun| self.done >= FIRST_ROUNDS && now.duration_since(begun) < ROUND;
                if self.ranges.is_empty() || self.begun.is_some_and(is_early) {
                    break;
                }
                self.begun = Some(now);
            }
            let Some(range) = self.ranges.get(self.range) else { break };
            let is_drawn = range.size() > GONE_THROUGH;
            let offset = if is_drawn { draw() % range.size() } else { self.offset };
            all.push(Address::from_bits(range.first().bits() + offset).into());
            self.offset += 1;
            if self.offset >= if is_drawn { DRAWN } else { range.size() } {
                (self.range, self.offset) = ((self.range + 1) % self.ranges.len(), 0);
                if self.range == 0 {
                    self.done = self.done.saturating_add(1);
                    break;
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "203.0.113.0/24";

    fn pool(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    fn claim(host: u8, last: u8, is_answer: bool) -> AddressClaim {
        let (hardware, address) = ([2, 0, 0, 0, 0, host], IpAddr::from([203, 0, 113, last]));
        AddressClaim { index: 7, hardware, address, is_answer, is_of_probe: is_answer }
    }

    fn all(occupied: &Occupied) -> Vec<String> {
        occupied.iter().map(|(address, _)| address.to_string()).collect()
    }

    /// Seconds pass; the host with `answers` answers when it is asked.
    fn pass(occupied: &mut Occupied, from: Instant, seconds: u64, answers: Option<&AddressClaim>) -> Instant {
        for second in 1..=seconds {
            let now = from + Duration::from_secs(second);
            for address in occupied.ask(now, 20) {
                if let Some(claim) = answers.filter(|claim| claim.address == address) {
                    assert_eq!(occupied.hear(claim, pool(POOL), now), Heard::Occupied);
                }
            }
            occupied.forget(now, |_, _| true);
        }
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_said_once_is_soon_forgotten_and_who_was_long_there_is_not() {
        let (mut occupied, now) = (Occupied::default(), Instant::now());
        let (forged, host) = (claim(1, 20, false), claim(2, 21, true));
        assert_eq!(occupied.hear(&forged, pool(POOL), now), Heard::Occupied);
        assert_eq!(occupied.hear(&host, pool(POOL), now), Heard::Occupied);
        let now = pass(&mut occupied, now, 11, Some(&host));
        assert_eq!(all(&occupied), ["203.0.113.20", "203.0.113.21"]);
        let now = pass(&mut occupied, now, 1000, Some(&host));
        assert_eq!(all(&occupied), ["203.0.113.21"]);
        let now = pass(&mut occupied, now, 500, None);
        assert_eq!(all(&occupied), ["203.0.113.21"], "it may be asleep");
        let now = pass(&mut occupied, now, 1000, None);
        assert!(all(&occupied).is_empty());
        occupied.hear(&host, pool(POOL), now);
        occupied.forget(now, |_, index| index != 7);
        assert!(all(&occupied).is_empty(), "its LAN has gone");
    }

    /// However few may be asked in a second.
    #[test]
    fn nobody_is_forgotten_who_was_not_asked() {
        let (mut occupied, start) = (Occupied::default(), Instant::now());
        for last in 0..100 {
            occupied.hear(&claim(last, last, true), pool(POOL), start);
        }
        let later = start + HOLD[1];
        occupied.forget(later, |_, _| true);
        assert_eq!(all(&occupied).len(), 100);
        assert_eq!(occupied.ask(later, 20).len(), 20);
    }

    #[test]
    fn who_claims_everything_gets_half_of_a_pool_at_most() {
        let (mut occupied, now) = (Occupied::default(), Instant::now());
        let said: Vec<Heard> =
            (0..=255).map(|last| occupied.hear(&claim(last % 64, last, false), pool(POOL), now)).collect();
        assert_eq!(said.iter().filter(|said| **said == Heard::Occupied).count(), 128);
        assert_eq!((all(&occupied).len(), occupied.passed_over()), (128, 128));
        let larger = pool("10.0.0.0/8");
        for n in 0..3000_u32 {
            let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            occupied.hear(&AddressClaim { address, ..claim(0, 0, false) }, larger, now);
        }
        assert_eq!(all(&occupied).len(), MOST);
    }

    #[test]
    fn who_answers_for_everything_has_nothing_of_it_but_what_he_sends_from() {
        let (mut occupied, now) = (Occupied::default(), Instant::now());
        assert_eq!(occupied.hear(&claim(9, 1, false), pool(POOL), now), Heard::Occupied);
        assert_eq!(occupied.hear(&claim(5, 2, true), pool(POOL), now), Heard::Occupied);
        let said: Vec<Heard> = (10..40).map(|last| occupied.hear(&claim(9, last, true), pool(POOL), now)).collect();
        assert_eq!(said[15..18], [Heard::Occupied, Heard::NewProxy, Heard::Proxy]);
        assert_eq!(all(&occupied), ["203.0.113.1", "203.0.113.2"]);
        assert_eq!(occupied.hear(&claim(9, 3, false), pool(POOL), now), Heard::Occupied);
        for host in 100..200 {
            for last in 10..60 {
                occupied.hear(&claim(host, last, true), pool(POOL), now);
            }
        }
        assert!(occupied.proxies.len() <= MOST_PROXIES);
    }

    #[test]
    fn a_small_pool_is_gone_through_whole_and_of_a_large_one_a_few_are_drawn() {
        let now = Instant::now();
        let mut rounds = Rounds::new(vec![pool("203.0.113.0/26"), pool("2001:db8::/64")]);
        let mut asked = Vec::new();
        for second in 0..4 {
            asked.extend(rounds.next(now + Duration::from_secs(second), || 0x7777));
        }
        assert_eq!(asked.len(), 2 * (64 + 20));
        assert_eq!(asked.iter().filter(|address| address.to_string() == "2001:db8::7777").count(), 40);
        let small: BTreeSet<_> = asked.iter().filter(|address| address.is_ipv4()).collect();
        assert_eq!(small.len(), 64);
        assert!(rounds.next(now + ROUND / 2, || 0).is_empty());
        assert_eq!(rounds.next(now + 2 * ROUND, || 0).len(), 10);
        assert!(Rounds::new(Vec::new()).next(now, || 0).is_empty());
    }
}
