//! Taps: callers watch what becomes of packets. As long as none does, it costs a worker one relaxed load a packet.

use crate::nat::{DropReason, Event, Realm, Verdict};
use crate::time::Time;
use crate::wire::{Address, Headers};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Taps at one time.
const MOST_TAPS: usize = 8;
/// Sightings of one tap that wait to be taken.
const MOST_WAITING: usize = 1024;
/// Bytes of them, roughly.
const MOST_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// All taps of a gateway.
#[derive(Default)]
pub struct Taps {
    /// How many bytes of a packet a watcher wants to see; 0 while nobody watches.
    snap: AtomicUsize,
    /// Whether a watcher wants to see the packets of the fast path too.
    bypass: AtomicBool,
    outlets: RwLock<Vec<Outlet>>,
}

/// What to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapSettings {
    /// Only packets from or to this terminal, by its own address or its virtual IP.
    pub terminal: Option<Address>,
    /// Only packets from or to this peer.
    pub peer: Option<Address>,
    /// Only packets that are dropped.
    pub drops: bool,
    /// Bytes of a packet that are kept.
    pub snap: usize,
    /// Sightings a second at most.
    pub rate: u32,
    /// Have all packets pass the workers while this tap is open.
    pub bypass_fast_path: bool,
}

/// What a worker shows.
pub struct Seen<'a> {
    /// When it was translated.
    pub at: Time,
    /// Where the packet came from.
    pub from: Realm,
    /// As it came.
    pub before: Kept,
    /// The same bytes after the translation.
    pub after: &'a [u8],
    /// What became of it.
    pub verdict: &'a Verdict,
}

/// What a watcher sees of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When, since the Unix epoch, by the clock on the wall.
    pub at: Duration,
    /// Where the packet came from.
    pub from: Realm,
    /// Where it goes; `None`: nowhere.
    pub to: Option<Realm>,
    /// As it came.
    pub before: Kept,
    /// What goes on in its place: nothing, the packet rewritten, or what a helper made of it.
    pub after: Vec<Kept>,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
    /// What it did to a binding.
    pub event: Option<Event>,
}

/// The beginning of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Length of all of it.
    pub length: usize,
    /// Its first bytes.
    pub bytes: Box<[u8]>,
}

/// One who watches. Dropping it ends that.
pub struct Tap {
    taps: Arc<Taps>,
    number: u64,
    sightings: mpsc::Receiver<Sighting>,
    left_out: Arc<AtomicU64>,
}

/// The other end of a [`Tap`].
struct Outlet {
    number: u64,
    settings: TapSettings,
    sender: mpsc::Sender<Sighting>,
    left_out: Arc<AtomicU64>,
    /// The second, and how many were shown in it.
    shown: Mutex<(u32, u32)>,
}

impl Taps {
    /// A new tap; `None` if there are too many.
    pub fn open(self: &Arc<Self>, settings: TapSettings) -> Option<Tap> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let waiting = (MOST_WAITING_BYTES / settings.snap.max(1)).clamp(16, MOST_WAITING);
        let (sender, sightings) = mpsc::channel(waiting);
        let left_out = Arc::default();
        let mut outlets = self.outlets.write();
        if outlets.len() >= MOST_TAPS {
            return None;
        }
        outlets.push(Outlet { number, settings, sender, left_out: Arc::clone(&left_out), shown: Mutex::default() });
        self.heed(&outlets);
        drop(outlets);
        Some(Tap { taps: Arc::clone(self), number, sightings, left_out })
    }

    /// SeenEnds every tap: the gateway stops.
    pub fn close(&self) {
        let mut outlets = self.outlets.write();
        outlets.clear();
        self.heed(&outlets);
    }

    /// Whether packets are to pass the workers that the fast path could carry.
    pub fn bypass_fast_path(&self) -> bool {
        self.bypass.load(Ordering::Relaxed)
    }

    /// Before a packet is translated: keeps its beginning if a caller watches.
    #[inline]
    pub fn keep(&self, packet: &[u8]) -> Option<Kept> {
        match self.snap.load(Ordering::Relaxed) {
            0 => None,
            snap => Some(Kept::new(packet, snap)),
        }
    }

    /// Afterwards: shows it to those who want to see it. Never waits for them.
    #[cold]
    pub fn show(&self, seen: Seen<'_>) {
        let ends = SeenEnds::of(&seen);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for outlet in self.outlets.read().iter().filter(|outlet| outlet.wants(&seen, &ends)) {
            let sighting = || seen.sighting(outlet.settings.snap, wall);
            let shown = outlet.may_show(seen.at) && outlet.sender.try_send(sighting()).is_ok();
            if !shown {
                outlet.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn heed(&self, outlets: &[Outlet]) {
        let snap = outlets.iter().map(|outlet| outlet.settings.snap.max(1)).max().unwrap_or(0);
        self.snap.store(snap, Ordering::Relaxed);
        let bypass = outlets.iter().any(|outlet| outlet.settings.bypass_fast_path);
        self.bypass.store(bypass, Ordering::Relaxed);
    }
}

impl Tap {
    /// The next packet; `None` when the gateway stops.
    pub async fn next(&mut self) -> Option<Sighting> {
        self.sightings.recv().await
    }

    /// How many there were too many since the last call.
    pub fn left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut outlets = self.taps.outlets.write();
        outlets.retain(|outlet| outlet.number != self.number);
        self.taps.heed(&outlets);
    }
}

/// The addresses of a packet on either side of the gateway, as far as they can be read.
struct SeenEnds {
    terminal: [Option<Address>; 2],
    peer: [Option<Address>; 2],
}

impl SeenEnds {
    fn of(seen: &Seen<'_>) -> Self {
        let read = |bytes| Headers::parse_quoted(bytes).ok().map(|headers| (headers.source, headers.destination));
        let both = [read(&seen.before.bytes), read(seen.after)];
        let source = both.map(|ends| ends.map(|(source, _)| source));
        let destination = both.map(|ends| ends.map(|(_, destination)| destination));
        match seen.from {
            Realm::Outside => Self { terminal: destination, peer: source },
            Realm::Inside(_) => Self { terminal: source, peer: destination },
        }
    }
}

impl Outlet {
    fn wants(&self, seen: &Seen<'_>, ends: &SeenEnds) -> bool {
        let TapSettings { terminal, peer, drops, .. } = self.settings;
        let dropped = matches!(seen.verdict, Verdict::Drop(_) | Verdict::Refuse(_));
        // Between two terminals either is the other's peer.
        let hairpin = matches!((seen.from, seen.to()), (Realm::Inside(_), Some(Realm::Inside(_))));
        let is = |wanted: Option<Address>, one: &[Option<Address>; 2], other: &[Option<Address>; 2]| {
            wanted.is_none() || one.contains(&wanted) || (hairpin && other.contains(&wanted))
        };
        (dropped || !drops) && is(terminal, &ends.terminal, &ends.peer) && is(peer, &ends.peer, &ends.terminal)
    }

    fn may_show(&self, now: Time) -> bool {
        let (second, shown) = &mut *self.shown.lock();
        if *second != now.as_secs() {
            (*second, *shown) = (now.as_secs(), 0);
        }
        *shown = shown.saturating_add(1);
        *shown <= self.settings.rate
    }
}

impl Seen<'_> {
    fn to(&self) -> Option<Realm> {
        match self.verdict {
            Verdict::Forward { to, .. } => Some(*to),
            Verdict::Replace(replaced) => Some(replaced.to),
            Verdict::Drop(_) | Verdict::Refuse(_) => None,
        }
    }

    fn sighting(&self, snap: usize, at: Duration) -> Sighting {
        let (after, reason, event) = match self.verdict {
            Verdict::Forward { event, .. } => (vec![Kept::new(self.after, snap)], None, *event),
            Verdict::Replace(replaced) => {
                let packets = replaced.packets.iter().map(|packet| Kept::new(packet, snap)).collect();
                (packets, None, replaced.event)
            }
            Verdict::Drop(reason) => (Vec::new(), Some(*reason), None),
            Verdict::Refuse(refused) => (Vec::new(), Some(refused.reason), Some(refused.event)),
        };
        let before = Kept { length: self.before.length, ..Kept::new(&self.before.bytes, snap) };
        Sighting { at, from: self.from, to: self.to(), before, after, reason, event }
    }
}

impl Kept {
    fn new(packet: &[u8], snap: usize) -> Self {
        Self { length: packet.len(), bytes: packet.get(..snap).unwrap_or(packet).into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: TapSettings =
        TapSettings { terminal: None, peer: None, drops: false, snap: 24, rate: 1000, bypass_fast_path: false };

    fn address(last: u8) -> Address {
        Address::from_v4([192, 0, 2, last])
    }

    fn packet(source: u8, destination: u8) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, source, 192, 0, 2, destination];
        bytes.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        bytes
    }

    /// A terminal (1, seen as 100) sends to a peer.
    fn send(taps: &Taps, peer: u8, verdict: &Verdict) {
        let Some(before) = taps.keep(&packet(1, peer)) else { return };
        let (at, from) = (Time::from_secs(50), Realm::inside(0));
        taps.show(Seen { at, from, before, after: &packet(100, peer), verdict });
    }

    const FORWARD: Verdict = Verdict::Forward { to: Realm::Outside, event: None };

    fn taken(tap: &mut Tap) -> Vec<Sighting> {
        std::iter::from_fn(|| tap.sightings.try_recv().ok()).collect()
    }

    #[test]
    fn nothing_is_kept_unless_somebody_watches() {
        let taps = Arc::new(Taps::default());
        assert_eq!(taps.keep(&[1]), None);
        let (one, two) = (taps.open(ALL), taps.open(TapSettings { snap: 3, bypass_fast_path: true, ..ALL }));
        assert_eq!(taps.keep(&[1; 99]).map(|kept| (kept.length, kept.bytes.len())), Some((99, 24)));
        assert!(taps.bypass_fast_path());
        drop(one);
        assert_eq!(taps.keep(&[1; 99]).map(|kept| kept.bytes.len()), Some(3));
        drop(two);
        assert_eq!((taps.keep(&[1]), taps.bypass_fast_path()), (None, false));
    }

    #[test]
    fn each_tap_sees_what_it_asked_for() {
        let taps = Arc::new(Taps::default());
        let mut all = taps.open(ALL).unwrap();
        let mut drops = taps.open(TapSettings { drops: true, ..ALL }).unwrap();
        let by_virtual_ip = TapSettings { terminal: Some(address(100)), peer: Some(address(8)), ..ALL };
        let mut one = taps.open(by_virtual_ip).unwrap();
        let mut other = taps.open(TapSettings { terminal: Some(address(8)), ..ALL }).unwrap();
        send(&taps, 7, &FORWARD);
        send(&taps, 8, &FORWARD);
        send(&taps, 9, &Verdict::Drop(DropReason::NoPool));
        assert_eq!(taken(&mut all).len(), 3);
        let [dropped] = &taken(&mut drops)[..] else { panic!("one was dropped") };
        assert_eq!((dropped.reason, dropped.after.len(), dropped.to), (Some(DropReason::NoPool), 0, None));
        let [seen] = &taken(&mut one)[..] else { panic!("one went to this peer") };
        assert_eq!((&*seen.before.bytes, &*seen.after[0].bytes), (&packet(1, 8)[..24], &packet(100, 8)[..24]));
        assert_eq!(taken(&mut other), []);
    }

    #[test]
    fn too_many_are_left_out_and_counted() {
        let taps = Arc::new(Taps::default());
        let mut slow = taps.open(TapSettings { rate: 3, ..ALL }).unwrap();
        let mut quick = taps.open(ALL).unwrap();
        for _ in 0..10 {
            send(&taps, 7, &FORWARD);
        }
        assert_eq!((taken(&mut slow).len(), slow.left_out(), slow.left_out()), (3, 7, 0));
        assert_eq!((taken(&mut quick).len(), quick.left_out()), (10, 0));
        // One that never takes anything loses what does not fit.
        let idle = taps.open(TapSettings { snap: 65_535, ..ALL }).unwrap();
        for _ in 0..100 {
            send(&taps, 7, &FORWARD);
        }
        assert_eq!(idle.left_out(), 100 - (MOST_WAITING_BYTES / 65_535) as u64);
        taps.close();
        assert_eq!((quick.sightings.len(), taps.keep(&[1])), (100, None));
    }

    #[test]
    fn taps_are_few() {
        let taps = Arc::new(Taps::default());
        let open: Vec<Tap> = (0..MOST_TAPS).filter_map(|_| taps.open(ALL)).collect();
        assert!(open.len() == MOST_TAPS && taps.open(ALL).is_none());
        drop(open);
        assert!(taps.open(ALL).is_some());
    }
}
