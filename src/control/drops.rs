//! What a caller wants to know of dropped packets: whose they were.

use super::explain::ExplainRequest;
use super::parameters::pairs;
use super::refusal::{Refusal, bad};
use super::{Admin, GatewayStatus};
use crate::nat::{DropRow, End, Nat, Realm};
use crate::time::Time;
use crate::wire::Address;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Rows of either list, unless more are asked for.
const LIMIT: usize = 20;

/// Which drops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DropsRequest {
    /// Those of this peer, terminal or virtual IP.
    pub address: Option<IpAddr>,
    /// All since the start; else those of the last ten minutes or a little more.
    pub since_start: bool,
    /// So many rows of either list.
    pub limit: Option<usize>,
}

/// Answer to `GET /v1/drops`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// When the first of them can have been dropped (milliseconds since the Unix epoch).
    pub since: Time,
    /// The time now.
    pub now: Time,
    /// By reason, of all addresses.
    pub reasons: BTreeMap<String, u64>,
    /// What the kernel dropped before kamei saw it or after, by reason, since its programs were loaded: the kernel does
    /// not say whose.
    pub kernel: BTreeMap<String, u64>,
    /// By peer, those with most packets first.
    pub peers: Vec<DropLine>,
    /// By terminal or virtual IP.
    pub terminals: Vec<DropLine>,
    /// Rows that were left out.
    pub left_out: usize,
}

/// Packets dropped for one reason, of one peer, or of one terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropLine {
    /// How many; never too many.
    pub packets: u64,
    /// Whether there may have been more, before this address was seen often.
    pub may_be_more: bool,
    /// Why, as counters name it.
    pub reason: String,
    /// The realm they came from.
    pub from: String,
    /// The peer; missing if there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The terminal, if it is one and known; missing if there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal: Option<IpAddr>,
    /// The virtual IP, likewise; for a packet from outside whatever its destination was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_ip: Option<IpAddr>,
    /// When the last was dropped, to the second (milliseconds since the Unix epoch).
    pub last: Time,
}

impl DropsRequest {
    /// As a query string, with its question mark.
    pub fn to_query(&self) -> String {
        let address = self.address.map(|address| format!("&address={address}")).unwrap_or_default();
        let limit = self.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        format!("?since-start={}{address}{limit}", self.since_start)
    }

    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut request = Self::default();
        for pair in pairs(query) {
            let (key, value) = pair?;
            let wrong = |what: &str| bad(format!("{key} takes {what}, not '{value}'"));
            match key {
                "address" => request.address = Some(value.parse().map_err(|_| wrong("an address"))?),
                "since-start" => request.since_start = value.parse().map_err(|_| wrong("true or false"))?,
                "limit" => request.limit = Some(value.parse().map_err(|_| wrong("a number"))?),
                _ => return Err(bad(format!("no parameter '{key}'; there are address, since-start and limit"))),
            }
        }
        Ok(request)
    }

    pub(super) fn answer(&self, admin: &dyn Admin) -> Drops {
        let (now, ahead) = (admin.now(), admin.moment().seconds_ahead().saturating_mul(1000));
        let GatewayStatus { fast_path, devices, uptime_seconds, .. } = admin.status();
        let start = started(now, uptime_seconds);
        let nat = admin.nat();
        let dropped = nat.dropped(self.since_start, now);
        // A terminal is asked for by either of its addresses.
        let mut wanted: Vec<IpAddr> = self.address.into_iter().collect();
        for binding in self.address.map(|address| nat.find(address, now)).unwrap_or_default() {
            wanted.extend([binding.terminal, binding.virtual_ip]);
        }
        let is_wanted = |row: &DropRow| {
            let other = row.other.map(IpAddr::from);
            wanted.is_empty()
                || wanted.contains(&row.address.into())
                || other.is_some_and(|other| wanted.contains(&other))
        };
        let limit = self.limit.unwrap_or(LIMIT);
        let mut left_out = 0;
        let mut list = |end: End| {
            let all = || dropped.rows.iter().filter(|row| row.end == end && is_wanted(row));
            left_out += all().count().saturating_sub(limit);
            all().take(limit).map(|row| DropLine::new(row, &nat, now, ahead)).collect()
        };
        let (peers, terminals) = (list(End::Peer), list(End::Own));
        let queue_full: u64 = devices.iter().map(|device| device.queue_full).sum();
        let mut kernel = fast_path.noted;
        // Counted there, but not dropped.
        kernel.remove("masqueraded");
        kernel.insert("queue_full".to_owned(), queue_full);
        kernel.retain(|_, packets| *packets > 0);
        Drops {
            since: if self.since_start { start } else { dropped.since.max(start) }.shifted(ahead),
            now: now.shifted(ahead),
            reasons: dropped.reasons.iter().map(|(reason, packets)| (reason.name().to_owned(), *packets)).collect(),
            kernel,
            peers,
            terminals,
            left_out,
        }
    }
}

/// What became of the last packets between the two of a question, in sentences.
pub(super) fn met(request: &ExplainRequest, admin: &dyn Admin) -> Vec<String> {
    let now = admin.now();
    let nat = admin.nat();
    let ends = [Address::from(request.source), Address::from(request.destination)];
    let dropped = nat.dropped(false, now);
    let since = dropped.since.max(started(now, admin.status().uptime_seconds));
    let within = humantime::format_duration(Duration::from_secs((now - since).as_secs()));
    // A row of the peer with another end is of others than these two.
    let is_between = |row: &&DropRow| {
        row.end == End::Peer
            && ends.contains(&row.address)
            && row.other.is_none_or(|other| ends.contains(&other) && other != row.address)
    };
    let sentence = |row: &DropRow| {
        let several = if row.other.is_none() { ", not only of these two" } else { "" };
        let (packets, were) = if row.packets == 1 { ("packet", "was") } else { ("packets", "were") };
        format!(
            "{} {packets} of the peer {}{several} {were} dropped in the last {within}: {}.",
            row.packets,
            row.address,
            row.reason.name()
        )
    };
    dropped.rows.iter().filter(is_between).map(sentence).collect()
}

/// When the gateway did.
fn started(now: Time, uptime_seconds: u64) -> Time {
    now.shifted(-i64::try_from(uptime_seconds.saturating_mul(1000)).unwrap_or(i64::MAX))
}

impl DropLine {
    fn new(row: &DropRow, nat: &Nat, now: Time, ahead: i64) -> Self {
        let (peer, own) = match row.end {
            End::Peer => (Some(row.address), row.other),
            End::Own => (row.other, Some(row.address)),
        };
        let own: Option<IpAddr> = own.map(IpAddr::from);
        let realm = nat.realm_name(row.from);
        let binding =
            own.map(|own| nat.find(own, now)).unwrap_or_default().into_iter().find(|binding| match row.from {
                Realm::Outside => own == Some(binding.virtual_ip),
                Realm::Inside(_) => binding.realm == realm && own == Some(binding.terminal),
            });
        let (terminal, virtual_ip) = match row.from {
            Realm::Outside => (binding.map(|binding| binding.terminal), own),
            Realm::Inside(_) => (own, binding.map(|binding| binding.virtual_ip)),
        };
        Self {
            packets: row.packets,
            may_be_more: row.may_be_more,
            reason: row.reason.name().to_owned(),
            from: realm.to_owned(),
            peer: peer.map(IpAddr::from),
            terminal,
            virtual_ip,
            last: row.last.shifted(ahead),
        }
    }
}

/// What drops of the kernel mean that its programs do not count.
pub const QUEUE_FULL: &str = "The queue to a worker was full; `kamei status` says how busy the workers are.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_the_query() {
        for address in [None, Some(IpAddr::from([192, 0, 2, 1])), "2001:db8::1".parse().ok()] {
            let request = DropsRequest { address, since_start: address.is_some(), limit: address.map(|_| 7) };
            let query = request.to_query();
            assert_eq!(DropsRequest::parse(query.trim_start_matches('?')), Ok(request));
        }
        for wrong in ["address=me", "since-start=perhaps", "limit=-1", "colour=red", "address=%zz"] {
            assert!(DropsRequest::parse(wrong).is_err(), "{wrong}");
        }
    }
}
