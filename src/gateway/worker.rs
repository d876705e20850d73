//! One worker: reads its queue of every device, translates, has packets go back to where they were taken.

use super::clock::Clock;
use super::parking::{HostPair, Parked, Parking};
use super::workers::{Load, Workers};
use crate::config::Pinning;
use crate::control::Seen;
use crate::device::tap::{Buffer, Origin, Queue, Taken, Way};
use crate::host::Neighbours;
use crate::nat::{Counter, DropReason, Event, EventKind, Realm, Replaced, Translator, Verdict};
use crate::time::Time;
use crate::wire::Address;
use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Packets read from one device before the other gets its turn.
const TURN: u64 = 64;
/// How long counted packets may wait before they are noted in their bindings.
const NOTE_AFTER: Duration = Duration::from_millis(200);
/// How long they may wait for a moment in which a flow that moves to the fast path overtakes nothing.
const NOTE_AT_LAST: Duration = Duration::from_secs(1);
/// Flows noted at once: packets wait meanwhile, and may be overtaken by those of a flow that moves.
const NOTED_AT_ONCE: usize = 256;
/// Tag of the descriptor that wakes a worker.
const WAKE: u64 = u64::MAX;

/// What a worker needs.
pub struct Worker {
    pub number: usize,
    /// For each worker, its queue of every device: the gateway's first, then each inside's, where they have one.
    pub queues: Arc<[Vec<Queue>]>,
    pub translator: Translator,
    /// The clock of the process.
    pub clock: Clock,
    /// Where events go.
    pub events: Sender<Event>,
    /// Who must know of a new virtual IP before its first packet leaves.
    pub neighbours: Neighbours,
    /// Packets of bindings that are not on record yet.
    pub parking: Parking,
    /// All workers, as other threads meet them.
    pub workers: Arc<Workers>,
    /// How long it goes on looking for packets before it sleeps; zero: not at all.
    pub busy_poll: Duration,
    /// Which processors the workers stay on.
    pub pin: Pinning,
}

/// When a worker has noted what it has counted.
struct Notes {
    /// When all was noted.
    last: Time,
    /// When it last would have, had it been quiet.
    tried: Option<Time>,
    /// Whether there is more that should be noted at once.
    is_behind: bool,
}

impl Worker {
    /// Works until told to stop.
    pub fn run(mut self) -> io::Result<()> {
        stay_on_one_cpu(self.number, &self.pin);
        let epoll = self.watch()?;
        let mut buffer = Buffer::new();
        let mut ready = Vec::with_capacity(self.own().len() + 1);
        let nap = Timespec { tv_sec: 0, tv_nsec: NOTE_AFTER.subsec_nanos().into() };
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        // The queues that may have packets: the kernel says so once, and it is true until a read finds none.
        let mut waiting = vec![false; self.own().len()];
        let mut notes = Notes { last: self.clock.now(), tried: None, is_behind: false };
        let mut awake_until: Option<Instant> = None;
        loop {
            // An idle gateway sleeps; only while something is to be noted or answered does a worker wake by itself.
            let awaited = self.translator.is_dirty() || self.translator.next_due().is_some();
            let is_busy = notes.is_behind || waiting.contains(&true);
            let sleeps = !is_busy && awake_until.is_none_or(|until| Instant::now() >= until);
            let timeout = if sleeps { awaited.then_some(nap) } else { Some(none) };
            ready.clear();
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if sleeps {
                self.count(|load| &load.wakeups, 1);
            }
            if !ready.is_empty() && !self.busy_poll.is_zero() {
                awake_until = Some(Instant::now() + self.busy_poll);
            }
            let mut is_asked = false;
            for event in &ready {
                match usize::try_from(event.data.u64()).ok().and_then(|number| waiting.get_mut(number)) {
                    Some(waits) => *waits = true,
                    None => is_asked = true,
                }
            }
            self.set_serving(true);
            for (number, waits) in waiting.iter_mut().enumerate().filter(|(_, waits)| **waits) {
                *waits = self.take_turn(number, &mut buffer)?;
            }
            self.set_serving(false);
            if is_asked {
                self.look_up();
                if self.workers.stopping.load(Ordering::Acquire) {
                    return Ok(());
                }
                self.release();
            }
            self.note(&mut notes, !waiting.contains(&true));
        }
    }

    /// Its own queues.
    fn own(&self) -> &[Queue] {
        self.queues.get(self.number).map_or(&[], Vec::as_slice)
    }

    /// What tells when a packet comes to an empty queue, or another thread wants the worker to look up.
    fn watch(&self) -> io::Result<OwnedFd> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
        for (number, queue) in self.own().iter().enumerate() {
            epoll::add(&epoll, queue, epoll::EventData::new_u64(number as u64), once)?;
        }
        if let Some(waker) = self.workers.wakers.get(self.number) {
            epoll::add(&epoll, waker, epoll::EventData::new_u64(WAKE), once)?;
        }
        Ok(epoll)
    }

    /// Notes what was counted, and answers what is due, if it is time. `drained`: this worker's queues were empty a moment
    /// ago.
    fn note(&mut self, notes: &mut Notes, drained: bool) {
        let now = self.clock.now();
        let since = now - notes.last;
        if since < NOTE_AFTER {
            return;
        }
        if since < NOTE_AT_LAST && self.translator.has_carrier() {
            // Looked for once a millisecond: it takes a system call.
            if !drained || notes.tried == Some(now) || !self.is_all_quiet() {
                (notes.tried, notes.is_behind) = (Some(now), false);
                return;
            }
        }
        self.translator.flush_some(NOTED_AT_ONCE, now);
        notes.is_behind = self.translator.is_dirty();
        if !notes.is_behind {
            notes.last = now;
        }
        while let Some(answer) = self.translator.overdue(now) {
            self.write_own(Realm::Outside, &answer);
        }
    }

    /// Whether no packet waits for any worker or is in its hands: packets between two hosts may come by all queues, and
    /// move to the fast path together.
    fn is_all_quiet(&self) -> bool {
        let all = self.queues.iter().flatten();
        let mut queues: Vec<_> = all.map(|queue| PollFd::new(queue, PollFlags::IN)).collect();
        // The queues first: what has left one by now is in a worker's hands.
        rustix::event::poll(&mut queues, Some(&Timespec::default())) == Ok(0)
            && !self.workers.loads.iter().any(|load| load.is_serving.load(Ordering::Acquire))
    }

    fn set_serving(&self, is_serving: bool) {
        if let Some(load) = self.workers.loads.get(self.number) {
            load.is_serving.store(is_serving, Ordering::Release);
        }
    }

    /// Notes what was counted, because another thread asked.
    fn look_up(&mut self) {
        if let Some(waker) = self.workers.wakers.get(self.number) {
            let _ = rustix::io::read(waker, &mut [0; 8]);
        }
        let asked = self.workers.asked.load(Ordering::Acquire);
        self.translator.flush(self.clock.now());
        if let Some(synced) = self.workers.synced.get(self.number) {
            synced.store(asked, Ordering::Release);
        }
        if let Some(nat) = self.workers.gate.pass() {
            self.translator.switch_to(nat);
        }
    }

    /// Serves one queue until it is empty or another has its turn. Says whether there may be more.
    fn take_turn(&mut self, number: usize, buffer: &mut Buffer) -> io::Result<bool> {
        let now = self.clock.now();
        let (mut super_packets, mut reads) = (0, 0);
        let mut more = true;
        while more && reads < TURN {
            let Some(queue) = self.own().get(number) else { break };
            match queue.receive(buffer) {
                Ok(true) => {
                    reads += 1;
                    super_packets += u64::from(buffer.is_super_packet());
                    self.serve(buffer, now);
                }
                Ok(false) => more = false,
                // A device that is down gives EIO (or EBADFD) until it is up again, or until it is gone.
                Err(_) if self.workers.stopping.load(Ordering::Acquire) => break,
                Err(error) => return Err(error),
            }
        }
        let (packets, lost) = self.parking.record();
        self.leave(packets);
        self.translator.lost(DropReason::CannotRecord, lost);
        self.count(|load| &load.reads, reads);
        if reads == TURN {
            self.count(|load| &load.full_turns, 1);
        }
        if super_packets > 0 {
            self.workers.super_packets.fetch_add(super_packets, Ordering::Relaxed);
        }
        Ok(more)
    }

    /// Translates the packet in `buffer` and does what the verdict says.
    fn serve(&mut self, buffer: &mut Buffer, now: Time) {
        let Some(origin) = buffer.origin() else { return };
        let Some(realm) = Realm::of_number(origin.realm.into()) else { return };
        let mut packet = buffer.packet();
        let kept = self.workers.taps.keep(packet.bytes);
        let verdict = self.translator.translate(&mut packet, realm, now);
        if let Some(before) = kept {
            self.workers.taps.show(Seen { at: now, from: realm, before, after: packet.bytes, verdict: &verdict });
        }
        match verdict {
            Verdict::Forward { to, event } => {
                let device = self.address(buffer, origin, to);
                let owed = event.filter(|event| self.tell(*event));
                if owed.is_none() && self.parking.is_empty() {
                    self.write(device, buffer.as_read());
                } else {
                    let ends = ends(buffer.packet().bytes);
                    self.send(owed, ends, device, std::iter::once(buffer.as_read().into()));
                }
            }
            Verdict::Replace(replaced) => {
                let device = self.address(buffer, origin, replaced.to);
                self.write_instead(*replaced, device, buffer.way(), realm);
            }
            Verdict::Drop(reason) => log::trace!("{realm:?}: dropped, {}", reason.name()),
            Verdict::Refuse(refused) => {
                if self.tell(refused.event) {
                    self.parking.park(refused.event.virtual_ip.into(), std::iter::empty());
                }
                if let Some(answer) = refused.answer {
                    self.write_own(realm, &answer);
                }
            }
        }
    }

    /// Has a packet that was translated go back to where it was taken, if it goes on there; else the kernel routes it.
    /// Says by which device.
    fn address(&self, buffer: &mut Buffer, origin: Origin, to: Realm) -> usize {
        let goes_on = match (origin.taken, to) {
            (Taken::Leaving, Realm::Outside) => true,
            (Taken::Arriving, Realm::Inside(_)) => !self.is_for_one_of_two(buffer),
            _ => false,
        };
        if goes_on {
            return 0;
        }
        buffer.forget_way();
        self.device_of(to)
    }

    /// Whether the kernel cannot tell by the destination which inside is meant.
    fn is_for_one_of_two(&self, buffer: &mut Buffer) -> bool {
        self.own().len() > 1
            && ends(buffer.packet().bytes).is_some_and(|[_, terminal]| self.translator.is_unclear(terminal))
    }

    /// The device by which the kernel hears of packets for a realm.
    fn device_of(&self, realm: Realm) -> usize {
        usize::try_from(realm.number()).ok().filter(|number| *number < self.own().len()).unwrap_or(0)
    }

    /// Writes what a helper has made of a packet from `realm`.
    fn write_instead(&mut self, replaced: Replaced, device: usize, way: Option<Way>, realm: Realm) {
        let Replaced { event, packets, answer, .. } = replaced;
        let owed = event.filter(|event| self.tell(*event));
        let ends = packets.first().and_then(|packet| ends(packet));
        let frame = |packet: Box<[u8]>| Some(self.own().get(device)?.frame(&packet, way));
        let frames: Vec<_> = packets.into_iter().filter_map(frame).collect();
        self.send(owed, ends, device, frames.into_iter());
        if let Some(answer) = answer {
            self.write_own(realm, &answer);
        }
    }

    /// Has the kernel route a packet made here into a realm.
    fn write_own(&self, to: Realm, packet: &[u8]) {
        let device = self.device_of(to);
        if let Some(queue) = self.own().get(device) {
            self.write(device, &queue.frame(packet, None));
        }
    }

    /// A frame enters the kernel on this worker's queue. The kernel's flow table of that device sends the replies to the
    /// same queue: one worker serves both directions of a flow, so nothing is reordered.
    fn write(&self, device: usize, frame: &[u8]) {
        let Some(queue) = self.own().get(device) else { return };
        self.count(|load| &load.writes, 1);
        if let Err(error) = queue.send(frame) {
            self.workers.write_errors.fetch_add(1, Ordering::Relaxed);
            log::trace!("the kernel did not take a packet: {error}");
        }
    }

    fn count(&self, what: fn(&Load) -> &Counter, more: u64) {
        if let Some(load) = self.workers.loads.get(self.number) {
            what(load).add(more);
        }
    }

    /// Tells others of an event. Whether the packet that comes with it must wait for the store.
    fn tell(&self, event: Event) -> bool {
        match event.kind {
            EventKind::Created | EventKind::Woken => self.neighbours.give(event.virtual_ip.into()),
            _ => {}
        }
        let is_said = !matches!(event.kind, EventKind::Unrecorded | EventKind::Contacted);
        // A full channel means that housekeeping is behind by thousands of lines: lose a line, not a packet.
        if is_said && self.events.try_send(event).is_err() {
            self.workers.events_lost.fetch_add(1, Ordering::Relaxed);
        }
        event.kind.is_unrecorded()
    }

    /// Has frames between two hosts wait for the store if it is owed an event, or behind those that wait; else writes
    /// them.
    fn send(
        &mut self,
        owed: Option<Event>,
        ends: Option<HostPair>,
        device: usize,
        frames: impl Iterator<Item = Box<[u8]>>,
    ) {
        let is_of_a_new_binding = owed.is_some_and(|event| event.kind.is_of_a_new_binding());
        let packets = frames.map(|frame| Parked { is_of_a_new_binding, ends, device, frame });
        let refused = match owed {
            Some(event) => self.parking.park(event.virtual_ip.into(), packets),
            None if self.parking.holds(ends) => self.parking.queue(packets),
            None => {
                packets.for_each(|packet| self.write(device, &packet.frame));
                0
            }
        };
        self.translator.lost(DropReason::CannotRecord, refused);
    }

    /// Writes the packets whose bindings have reached the disk meanwhile.
    fn release(&mut self) {
        let packets = self.parking.release();
        self.leave(packets);
    }

    fn leave(&self, packets: Vec<Parked>) {
        for Parked { device, frame, .. } in packets {
            self.write(device, &frame);
        }
    }
}

/// Source and destination of a packet that was translated.
fn ends(packet: &[u8]) -> Option<HostPair> {
    let v4 = |at: usize| packet.get(at..)?.first_chunk().copied().map(Address::from_v4);
    let v6 = |at: usize| packet.get(at..)?.first_chunk().copied().map(Address::from_v6);
    match packet.first()? >> 4 {
        4 => Some([v4(12)?, v4(16)?]),
        _ => Some([v6(8)?, v6(24)?]),
    }
}

/// Keeps this thread on one of the processors it may use, or of those named, the workers spread over all of them. What it
/// writes waits in a queue of the processor it runs on (`netif_rx`): were it moved between two packets of a flow, the
/// second could overtake the first.
fn stay_on_one_cpu(number: usize, pin: &Pinning) {
    let allowed = || {
        let allowed = sched_getaffinity(None)?;
        Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
    };
    let cpus: Result<Vec<usize>, Errno> = match pin {
        Pinning::No => return,
        Pinning::Each => allowed(),
        Pinning::To(cpus) => Ok(cpus.clone()),
    };
    let pinned = cpus.and_then(|cpus| {
        let mut one = CpuSet::new();
        if let Some(cpu) = cpus.get(number % cpus.len().max(1)) {
            one.set(*cpu);
            sched_setaffinity(None, &one)?;
        }
        Ok(())
    });
    if let Err(error) = pinned {
        log::warn!("worker {number} may be moved between processors, and packets reordered: {error}");
    }
}
