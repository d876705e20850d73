//! Watching packets over the control socket: what is asked for, and how it is written, line by line or as pcapng.

use super::limits::{CHUNK, CHUNKS};
use super::parameters::pairs;
use super::refusal::{Refusal, bad};
use super::tap::{Kept, Sighting, Tap, TapSettings};
use super::{Admin, pcapng};
use crate::nat::{EventKind, Nat};
use crate::time::Time;
use crate::wire::{Fragment, Headers, Kind, protocol};
use hyper::StatusCode;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How often what was seen is passed on.
const BEAT: Duration = Duration::from_millis(100);
/// Lines a second; more no eye can follow.
const LINES_A_SECOND: u32 = 1000;
/// Packets a second in a capture.
const PACKETS_A_SECOND: u32 = 20_000;
/// Bytes of a packet that a line needs.
const LINE_SNAP: usize = 128;
/// Bytes of a packet that are captured unless told otherwise: all of it, but of a super-packet the beginning.
const CAPTURE_SNAP: usize = 2048;
/// The largest packet.
const MOST_SNAP: usize = 65_535;

/// What a caller asks to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Packets of this terminal, by its own address or its virtual IP.
    pub terminal: Option<IpAddr>,
    /// Packets of this peer.
    pub peer: Option<IpAddr>,
    /// Only those that are dropped.
    pub drops: bool,
    /// So many, then end.
    pub count: Option<u64>,
    /// Bytes of each that are captured.
    pub snap: Option<usize>,
    /// See also what the fast path would carry.
    pub bypass_fast_path: bool,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One [`Line`] a line.
    Lines,
    /// A capture file.
    Pcapng,
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A packet.
    Packet(Box<PacketLine>),
    /// There were more than could be told.
    LeftOut {
        /// How many.
        left_out: u64,
    },
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketLine {
    /// When (milliseconds since the Unix epoch).
    pub at: Time,
    /// The same in microseconds; 0 from a gateway that does not tell them.
    #[serde(default)]
    pub at_micros: u64,
    /// The realm it came from.
    pub from: String,
    /// The realm it goes to; missing if it goes nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Protocol, and what kind of packet.
    pub protocol: String,
    /// Length in bytes, IP header included.
    pub length: usize,
    /// As it came; missing if it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Ends>,
    /// What goes on: the packet rewritten, or what a helper made of it.
    pub after: Vec<Ends>,
    /// Why it was dropped, as counters name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it did to a binding: `created`, `woken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// From where to where, with ports where there are any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
    pub source: String,
    /// Likewise.
    pub destination: String,
}

impl Watch {
    /// As a query string, with its question mark; empty if it asks for everything.
    pub fn to_query(&self) -> String {
        let one = |key: &str, value: Option<String>| value.map(|value| format!("{key}={value}"));
        let flag = |set: bool| set.then(|| true.to_string());
        let all = [
            one("terminal", self.terminal.map(|address| address.to_string())),
            one("peer", self.peer.map(|address| address.to_string())),
            one("drops", flag(self.drops)),
            one("count", self.count.map(|count| count.to_string())),
            one("snap", self.snap.map(|snap| snap.to_string())),
            one("bypass", flag(self.bypass_fast_path)),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
    }

    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        fn take<T: FromStr>(key: &str, value: &str, what: &str) -> Result<T, Refusal> {
            value.parse().map_err(|_| bad(format!("{key} takes {what}, not '{value}'")))
        }
        let mut watch = Self::default();
        for pair in pairs(query) {
            let (key, value) = pair?;
            match key {
                "terminal" => watch.terminal = Some(take(key, &value, "an address")?),
                "peer" => watch.peer = Some(take(key, &value, "an address")?),
                "drops" => watch.drops = take(key, &value, "true or false")?,
                "count" => watch.count = Some(take(key, &value, "a number")?),
                "snap" => watch.snap = Some(take(key, &value, "a number of bytes")?),
                "bypass" => watch.bypass_fast_path = take(key, &value, "true or false")?,
                _ => {
                    let keys = "terminal, peer, drops, count, snap and bypass";
                    return Err(bad(format!("no parameter '{key}'; there are {keys}")));
                }
            }
        }
        Ok(watch)
    }

    fn settings(&self, format: Format) -> TapSettings {
        let (snap, rate) = match format {
            Format::Lines => (LINE_SNAP, LINES_A_SECOND),
            Format::Pcapng => (self.snap.unwrap_or(CAPTURE_SNAP).clamp(1, MOST_SNAP), PACKETS_A_SECOND),
        };
        TapSettings {
            terminal: self.terminal.map(Into::into),
            peer: self.peer.map(Into::into),
            drops: self.drops,
            snap,
            rate,
            bypass_fast_path: self.bypass_fast_path,
        }
    }
}

/// Opens a tap, and has what comes out of it written to the returned channel until the caller hangs up, has seen
/// enough, or the gateway stops.
pub fn start(
    watch: &Watch,
    format: Format,
    admin: &Arc<dyn Admin>,
    progress: &Arc<AtomicU64>,
) -> Result<mpsc::Receiver<Bytes>, Refusal> {
    let settings = watch.settings(format);
    let tap = admin.taps().open(settings);
    let tap = tap.ok_or_else(|| Refusal::new(StatusCode::CONFLICT, "too many are watching; end another trace"))?;
    let (pieces, received) = mpsc::channel(CHUNKS);
    let mut text = Vec::new();
    if format == Format::Pcapng {
        pcapng::begin(&admin.nat(), settings.snap, &mut text);
    }
    let relay = Relay {
        tap,
        format,
        admin: Arc::clone(admin),
        text,
        left: watch.count.unwrap_or(u64::MAX),
        left_out: 0,
        pieces,
        progress: Arc::clone(progress),
    };
    tokio::spawn(relay.run());
    Ok(received)
}

/// Between a tap and the one who watches.
struct Relay {
    tap: Tap,
    format: Format,
    admin: Arc<dyn Admin>,
    text: Vec<u8>,
    /// Packets still to be shown.
    left: u64,
    left_out: u64,
    pieces: mpsc::Sender<Bytes>,
    progress: Arc<AtomicU64>,
}

impl Relay {
    async fn run(mut self) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.left > 0 {
            let due = tokio::select! {
                seen = self.tap.next() => match seen {
                    Some(seen) => self.write(seen),
                    None => break,
                },
                _ = beat.tick() => true,
                // A caller that has gone makes room for another at once, also where there is nothing to be seen.
                () = self.pieces.closed() => return,
            };
            if due && self.pass_on().await.is_err() {
                return;
            }
        }
        let _ = self.pass_on().await;
    }

    /// Whether it is time to pass on what has been written.
    fn write(&mut self, seen: Sighting) -> bool {
        self.left -= 1;
        match self.format {
            Format::Lines => {
                let line = PacketLine::new(&self.admin.nat(), &seen);
                self.line(&Line::Packet(Box::new(line)));
            }
            Format::Pcapng => pcapng::write(&self.admin.nat(), &seen, &mut self.text),
        }
        self.text.len() >= CHUNK
    }

    async fn pass_on(&mut self) -> Result<(), mpsc::error::SendError<Bytes>> {
        let left_out = self.tap.left_out();
        self.left_out += left_out;
        match self.format {
            _ if left_out == 0 => {}
            Format::Lines => self.line(&Line::LeftOut { left_out }),
            Format::Pcapng => pcapng::write_left_out(self.left_out, &mut self.text),
        }
        if !self.text.is_empty() {
            self.pieces.send(std::mem::take(&mut self.text).into()).await?;
        }
        // Nothing to take is no sign of a caller that takes nothing.
        if self.pieces.capacity() == CHUNKS {
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn line(&mut self, line: &Line) {
        // Writing plain data into memory does not fail.
        let _ = serde_json::to_writer(&mut self.text, line);
        self.text.push(b'\n');
    }
}

impl PacketLine {
    fn new(nat: &Nat, seen: &Sighting) -> Self {
        let headers = Headers::parse_quoted(&seen.before.bytes).ok();
        let event = seen.event.and_then(|event| match event.kind {
            EventKind::Created => Some("created"),
            EventKind::Woken => Some("woken"),
            _ => None,
        });
        Self {
            at: Time::default() + seen.at,
            at_micros: u64::try_from(seen.at.as_micros()).unwrap_or(u64::MAX),
            from: nat.realm_name(seen.from).to_owned(),
            to: seen.to.map(|to| nat.realm_name(to).to_owned()),
            protocol: headers.map_or_else(|| "unreadable".to_owned(), |headers| protocol_name(&headers)),
            length: seen.before.length,
            before: Ends::read(&seen.before),
            after: seen.after.iter().filter_map(Ends::read).collect(),
            reason: seen.reason.map(|reason| reason.name().to_owned()),
            event: event.map(str::to_owned),
        }
    }
}

impl Ends {
    fn read(packet: &Kept) -> Option<Self> {
        let headers = Headers::parse_quoted(&packet.bytes).ok()?;
        let has_ports = headers.fragment != Fragment::Later
            && matches!(
                headers.protocol,
                protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::DCCP | protocol::SCTP
            );
        let ports = packet.bytes.get(headers.transport..headers.transport + 4).filter(|_| has_ports);
        let end = |address: IpAddr, at: usize| match ports.and_then(|ports| ports.get(at..)?.first_chunk()) {
            Some(port) => SocketAddr::new(address, u16::from_be_bytes(*port)).to_string(),
            None => address.to_string(),
        };
        Some(Self { source: end(headers.source.into(), 0), destination: end(headers.destination.into(), 2) })
    }
}

fn protocol_name(headers: &Headers) -> String {
    let name = match headers.protocol {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::UDP_LITE => "udp-lite",
        protocol::ICMP => "icmp",
        protocol::ICMPV6 => "icmpv6",
        protocol::SCTP => "sctp",
        protocol::DCCP => "dccp",
        protocol::AH => "ah",
        number => return format!("protocol {number}"),
    };
    let kind = match headers.kind {
        Kind::TcpSyn => " syn",
        Kind::IcmpQuery => " query",
        Kind::IcmpError => " error",
        Kind::LaterFragment => " fragment",
        _ => "",
    };
    format!("{name}{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_survives_the_query() {
        let watch = Watch {
            terminal: Some([10, 0, 0, 1].into()),
            peer: "2001:db8::1".parse().ok(),
            drops: true,
            count: Some(7),
            snap: Some(64),
            bypass_fast_path: true,
        };
        let query = watch.to_query();
        assert_eq!(Watch::parse(query.trim_start_matches('?')), Ok(watch));
        assert_eq!(Watch::parse(Watch::default().to_query().as_str()), Ok(Watch::default()));
        for wrong in ["terminal=me", "drops=perhaps", "count=-1", "snap=x", "colour=red", "peer=%zz"] {
            assert!(Watch::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ends_have_ports_where_there_are_any() {
        let mut bytes =
            vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 5, 0, 7, 0, 9, 0, 8, 0, 0];
        let ends = |bytes: &[u8]| Ends::read(&Kept { length: bytes.len(), bytes: bytes.into() });
        let all = ends(&bytes).unwrap();
        assert_eq!((all.source.as_str(), all.destination.as_str()), ("10.0.0.1:7", "192.0.2.5:9"));
        bytes[6] = 1; // a later fragment
        assert_eq!(ends(&bytes).unwrap().source, "10.0.0.1");
        assert_eq!(ends(&bytes[..10]), None);
        let line = Line::LeftOut { left_out: 3 };
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }
}
