//! The log of bindings: one record when one is made, one with all of its life when it is released (RFC 6888 REQ-13).
//! Destinations are never in it (REQ-12).

use crate::config::LogTerminals;
use crate::nat::{DropReason, Event, EventKind, Nat};
use crate::time::Time;
use crate::wire::Address;
use siphasher::sip::SipHasher24;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

/// A terminal that is refused again and again is logged once in this time.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Refused terminals remembered.
const REFUSED_MOST: usize = 1024;
/// Records at once after a quiet time: a network that comes up has one for each of its terminals.
const BURST: u32 = 1000;
/// Records a second while more come than that. Who can send packets must not be able to fill a disk.
const PER_SECOND: u32 = 20;

/// One record an event, up to a rate; what is above it is counted, and the counts are said each second. Refusals, which can
/// come by the packet, once a minute and terminal.
pub struct EventLog {
    names: TerminalNames,
    refused: HashMap<Address, Time>,
    /// Refusals of terminals that were named a short time ago, and since when they are counted.
    again: (u64, Time),
    /// Records that may be written now.
    left: u32,
    filled: Time,
    unsaid: Unsaid,
}

/// How many events had no record of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsaid {
    made: u64,
    woken: u64,
    dormant: u64,
    released: u64,
    refused: u64,
    /// Of which nobody even knows what they were: more came at once than could wait.
    lost: u64,
}

/// What the log calls terminals.
#[derive(Clone, Copy)]
pub struct TerminalNames {
    how: LogTerminals,
    hasher: SipHasher24,
}

impl EventLog {
    /// Nothing said yet.
    pub fn new(names: TerminalNames) -> Self {
        let start = Time::from_secs(0);
        Self {
            names,
            refused: HashMap::new(),
            again: (0, start),
            left: BURST,
            filled: start,
            unsaid: Unsaid::default(),
        }
    }

    /// Writes the record of an event, unless it says nothing new.
    pub fn write(&mut self, nat: &Nat, event: Event, now: Time) {
        if !self.has_place_for(&event, now) {
            return;
        }
        let virtual_ip = event.virtual_ip;
        let (pool, realm) = (nat.pool_name(event.pool), nat.inside_name(event.inside));
        let name = self.names.name(event.terminal);
        // Empty fields are left out where records have fields.
        let terminal = name.as_deref().unwrap_or_default();
        let said = name.as_deref().unwrap_or("a terminal");
        macro_rules! record {
            ($level:ident, $event:literal, $($text:tt)+) => {
                log::$level!(event = $event, terminal, virtual_ip:%, pool, realm, made = point(event.made), at = point(now); $($text)+)
            };
        }
        match event.kind {
            EventKind::Created => record!(info, "made", "binding made: {said} ({realm}) is {virtual_ip} ({pool})"),
            EventKind::Pinned => record!(info, "pinned", "binding pinned: {said} ({realm}) is {virtual_ip} ({pool})"),
            EventKind::Woken => record!(info, "woken", "binding woken: {said} ({realm}) is {virtual_ip} ({pool})"),
            EventKind::Dormant => {
                record!(info, "dormant", "binding dormant: {said} ({realm}) was {virtual_ip} ({pool})")
            }
            EventKind::Released => {
                let made = point(event.made);
                record!(info, "released", "binding released: {said} ({realm}) was {virtual_ip} ({pool}) since {made}");
            }
            EventKind::Unrecorded | EventKind::Contacted => {}
            EventKind::Freed => log::debug!("virtual IP free: {virtual_ip} ({pool})"),
            EventKind::Refused(reason) => {
                let why = reason.explain();
                let from = if reason == DropReason::NoPool { String::new() } else { format!(" from {pool}") };
                log::warn!(event = "refused", terminal, pool, realm, reason = reason.name(), at = point(now); "binding refused: {said} ({realm}){from}: {why}");
            }
        }
    }

    /// Once a second: says what had no record of its own, `lost` events among it that did not come as far as here.
    pub fn beat(&mut self, now: Time, lost: u64) {
        self.refused.retain(|_, at| now - *at < REFUSED_AGAIN);
        let unsaid = Unsaid { lost, ..std::mem::take(&mut self.unsaid) };
        if unsaid != Unsaid::default() {
            let Unsaid { made, woken, dormant, released, refused, lost } = unsaid;
            log::warn!(event = "unsaid", made, woken, dormant, released, refused, lost, at = point(now); "{unsaid}");
        }
        let (again, since) = self.again;
        if again > 0 && now - since >= REFUSED_AGAIN {
            log::warn!("{again} more packets of the same terminals were refused a binding in the last minute");
            self.again = (0, now);
        }
    }

    /// Whether an event gets a record of its own; counts it if not.
    fn has_place_for(&mut self, event: &Event, now: Time) -> bool {
        if matches!(event.kind, EventKind::Refused(_)) && self.refused.contains_key(&event.terminal) {
            self.again = if self.again.0 == 0 { (1, now) } else { (self.again.0 + 1, self.again.1) };
            return false;
        }
        let seconds = u32::try_from((now - self.filled).as_secs()).unwrap_or(u32::MAX);
        if seconds > 0 {
            self.left = self.left.saturating_add(seconds.saturating_mul(PER_SECOND)).min(BURST);
            self.filled = now;
        }
        let mut has_place = self.left > 0;
        let unsaid = match event.kind {
            EventKind::Created => &mut self.unsaid.made,
            EventKind::Woken => &mut self.unsaid.woken,
            EventKind::Dormant => &mut self.unsaid.dormant,
            EventKind::Released => &mut self.unsaid.released,
            EventKind::Refused(_) => {
                has_place &= self.refused.len() < REFUSED_MOST;
                &mut self.unsaid.refused
            }
            // By hand, or for who debugs.
            EventKind::Pinned | EventKind::Unrecorded | EventKind::Contacted | EventKind::Freed => return true,
        };
        if !has_place {
            *unsaid += 1;
            return false;
        }
        self.left -= 1;
        if let EventKind::Refused(_) = event.kind {
            self.refused.insert(event.terminal, now);
        }
        true
    }
}

impl fmt::Display for Unsaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.made, "bindings made"),
            (self.woken, "woken"),
            (self.dormant, "gone dormant"),
            (self.released, "released"),
            (self.refused, "refused"),
            (self.lost, "more events that nobody had time for"),
        ];
        f.write_str("and, too many for a line each, in the last second:")?;
        let some = all.iter().filter(|(count, _)| *count > 0);
        some.enumerate().try_for_each(|(n, (count, what))| write!(f, "{} {count} {what}", if n > 0 { "," } else { "" }))
    }
}

impl TerminalNames {
    /// With the key of the installation: who has the log alone cannot try all addresses.
    pub fn new(how: LogTerminals, key: &[u8; 16]) -> Self {
        Self { how, hasher: SipHasher24::new_with_key(key) }
    }

    /// What to call a terminal; `None`: nothing.
    pub fn name(&self, terminal: Address) -> Option<String> {
        match self.how {
            LogTerminals::Plain => Some(terminal.to_string()),
            LogTerminals::Hash => {
                let mut hasher = self.hasher;
                hasher.write(b"terminal in the log");
                hasher.write_u128(terminal.bits());
                Some(format!("terminal-{:016x}", hasher.finish()))
            }
            LogTerminals::None => None,
        }
    }
}

/// A point in time (RFC 3339), in UTC.
fn point(time: Time) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| "?".to_owned(), |at| at.strftime("%FT%T.%3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_bounded_number_of_records_and_its_sum_each_second() {
        let mut log = EventLog::new(TerminalNames::new(LogTerminals::Plain, &[1; 16]));
        let event = |kind, n: u32| Event {
            kind,
            inside: Default::default(),
            pool: Default::default(),
            made: Time::from_secs(1),
            terminal: Address::from_v4(n.to_be_bytes()),
            virtual_ip: Address::from_bits(0),
        };
        let refused = EventKind::Refused(DropReason::Quota);
        for second in 0..5_u64 {
            let now = Time::from_secs(1_000 + second);
            let mut records = (0..10_000).filter(|n| log.has_place_for(&event(EventKind::Created, *n), now)).count();
            records += (0..5_000).filter(|n| log.has_place_for(&event(refused, 1 << 20 | *n), now)).count();
            let most = if second == 0 { BURST } else { PER_SECOND };
            assert!(records <= usize::try_from(most).unwrap(), "{records} in second {second}");
            assert_eq!(log.unsaid.made + log.unsaid.refused + records as u64, 15_000);
            assert!(log.refused.len() <= REFUSED_MOST);
            log.beat(now, 3);
            assert_eq!(log.unsaid, Unsaid::default());
        }
        let said = Unsaid { made: 4_812, refused: 311, ..Unsaid::default() }.to_string();
        assert_eq!(said, "and, too many for a line each, in the last second: 4812 bindings made, 311 refused");
    }

    #[test]
    fn a_terminal_has_the_same_hash_under_the_same_key_only() {
        let name = |how, key, last| TerminalNames::new(how, &[key; 16]).name(Address::from_v4([10, 0, 0, last]));
        let first = name(LogTerminals::Hash, 1, 1);
        assert_eq!(first, name(LogTerminals::Hash, 1, 1));
        for other in [(2, 1), (1, 2)] {
            assert_ne!(first, name(LogTerminals::Hash, other.0, other.1));
        }
        assert_eq!(name(LogTerminals::Plain, 1, 1).as_deref(), Some("10.0.0.1"));
        assert_eq!(name(LogTerminals::None, 1, 1), None);
        assert_eq!(point(Time::from_millis(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
    }
}
