//! The log of bindings: one record when one is made, one with all of its life when it is released (RFC 6888 REQ-13).
//! Destinations are never in it (REQ-12).

use crate::config::LogTerminals;
use crate::nat::{Event, EventKind, Nat};
use crate::time::Time;
use crate::wire::Address;
use siphasher::sip::SipHasher24;
use std::collections::HashMap;
use std::hash::Hasher;
use std::time::Duration;

/// A terminal that is refused again and again is logged once in this time.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);
/// Refused terminals remembered.
const REFUSED_MOST: usize = 1024;

/// One record an event; refusals, which can come by the packet, once a minute and terminal.
pub struct EventLog {
    names: TerminalNames,
    refused: HashMap<Address, Time>,
    unsaid: u64,
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
        Self { names, refused: HashMap::new(), unsaid: 0 }
    }

    /// Writes the record of an event, unless it says nothing new.
    pub fn write(&mut self, nat: &Nat, event: Event, now: Time) {
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
            EventKind::Unrecorded => {}
            EventKind::Freed => log::debug!("virtual IP free: {virtual_ip} ({pool})"),
            EventKind::Refused(reason) => {
                let known = self.refused.get(&event.terminal).is_some_and(|at| now - *at < REFUSED_AGAIN);
                if known || self.refused.len() >= REFUSED_MOST {
                    self.unsaid += 1;
                    return;
                }
                self.refused.insert(event.terminal, now);
                let why = reason.explain();
                log::warn!(event = "refused", terminal, pool, realm, reason = reason.name(), at = point(now); "binding refused: {said} ({realm}) from {pool}: {why}");
            }
        }
    }

    /// Once a second: says how often nothing was said.
    pub fn beat(&mut self, now: Time) {
        self.refused.retain(|_, at| now - *at < REFUSED_AGAIN);
        if self.unsaid > 0 && self.refused.is_empty() {
            log::warn!("{} more packets were refused a binding in the last minute", self.unsaid);
            self.unsaid = 0;
        }
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
