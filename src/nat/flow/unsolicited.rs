//! Calls that reach nobody: what the peer hears, and when (RFC 5382 REQ-4).

use super::observer::ForReal;
use crate::nat::settings::Unsolicited;
use crate::nat::state::Nat;
use crate::time::Time;
use crate::wire::{self, Address, Headers, Refusal};
use std::collections::VecDeque;
use std::time::Duration;

/// No answer sooner than this: the terminal may be about to call the peer itself (simultaneous open).
const WAIT: Duration = Duration::from_secs(6);
/// Calls that wait for their answer at one time; more get none.
const MOST: usize = 256;
/// As much of a call as an answer needs.
const KEPT: usize = 128;

/// The calls of one worker that wait for their answer, the oldest first.
#[derive(Default)]
pub struct Waiting(VecDeque<Call>);

struct Call {
    due: Time,
    packet: Box<[u8]>,
}

impl Waiting {
    /// Remembers the call `packet`, if peers are to hear anything.
    pub fn remember(&mut self, answer: Unsolicited, packet: &[u8], headers: &Headers, now: Time) {
        if answer == Unsolicited::Silent || self.0.len() >= MOST {
            return;
        }
        let kept = packet.get(..headers.end.min(KEPT)).unwrap_or_default();
        self.0.push_back(Call { due: now + WAIT, packet: kept.into() });
    }

    /// When the next answer is due.
    pub fn next(&self) -> Option<Time> {
        self.0.front().map(|call| call.due)
    }

    /// An answer that is due, as a packet to the outside; none for a call that could be put through by now.
    pub fn take(&mut self, nat: &Nat, now: Time) -> Option<Box<[u8]>> {
        while self.0.front().is_some_and(|call| call.due <= now) {
            let call = self.0.pop_front()?;
            let Ok(headers) = Headers::parse_quoted(&call.packet) else { continue };
            let through = nat
                .find_receiver(headers.destination, &mut ForReal)
                .is_ok_and(|receiver| nat.admit_peer(&receiver, headers.source, true, now, &mut ForReal).is_ok());
            if through {
                continue;
            }
            let answer = match nat.policy.unsolicited {
                Unsolicited::Silent => None,
                Unsolicited::Unreachable => {
                    wire::unreachable(&call.packet, &headers, shown(nat, &headers), Refusal::Port)
                }
                Unsolicited::Reset => wire::reset(&call.packet, &headers),
            };
            if answer.is_some() {
                return answer;
            }
        }
        None
    }
}

/// The gateway's own address; where it has none, the virtual IP that was called.
fn shown(nat: &Nat, headers: &Headers) -> Address {
    nat.surroundings().own_outside(headers.source).unwrap_or(headers.destination)
}
