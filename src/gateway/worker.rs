//! One worker: reads its queue of every device, translates, writes.

use super::clock::Clock;
use super::kernel::Neighbours;
use crate::device::tun::{Buffer, Queue};
use crate::nat::{Event, EventKind, Realm, Translator, Verdict};
use crossbeam_channel::Sender;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Packets read from one device before the other gets its turn.
const TURN: usize = 64;
/// How long counted packets may wait before they are noted in their bindings.
const NOTE_AFTER: Duration = Duration::from_secs(1);
/// Tag of the descriptor that wakes a worker to stop.
const STOP: u64 = u64::MAX;

/// What a worker needs.
pub struct Worker {
    /// Its queue of every device: the outside first, then each inside.
    pub queues: Vec<Queue>,
    /// Its translator.
    pub translator: Translator,
    /// The clock of the process.
    pub clock: Clock,
    /// Where events go.
    pub events: Sender<Event>,
    /// Who must know of a new virtual IP before its first packet leaves.
    pub neighbours: Neighbours,
    /// What all workers share.
    pub shared: Arc<Shared>,
}

/// What all workers share.
pub struct Shared {
    /// Readable once the workers shall stop.
    pub stop: OwnedFd,
    /// Set before `stop` is.
    pub stopping: AtomicBool,
    /// Packets the kernel would not take.
    pub write_errors: AtomicU64,
    /// Packets longer than 1,500 bytes that were read: super-packets.
    pub super_packets: AtomicU64,
}

impl Worker {
    /// Works until told to stop.
    pub fn run(mut self) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (number, queue) in self.queues.iter().enumerate() {
            epoll::add(&epoll, queue, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        }
        epoll::add(&epoll, &self.shared.stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        let mut buffer = Buffer::new();
        let mut ready = Vec::with_capacity(self.queues.len() + 1);
        let mut noted = self.clock.now();
        loop {
            // An idle gateway sleeps; only while something is to be noted does a worker wake by itself.
            let timeout = self
                .translator
                .is_dirty()
                .then(|| Timespec { tv_sec: i64::try_from(NOTE_AFTER.as_secs()).unwrap_or(1), tv_nsec: 0 });
            ready.clear();
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &ready {
                match event.data.u64() {
                    STOP => {
                        let now = self.clock.now();
                        self.translator.flush(now);
                        return Ok(());
                    }
                    number => self.take_turn(usize::try_from(number).unwrap_or_default(), &mut buffer)?,
                }
            }
            let now = self.clock.now();
            if now - noted >= NOTE_AFTER {
                self.translator.flush(now);
                noted = now;
            }
        }
    }

    fn take_turn(&mut self, number: usize, buffer: &mut Buffer) -> io::Result<()> {
        let realm = match number.checked_sub(1) {
            None => Realm::Outside,
            Some(inside) => Realm::Inside(u16::try_from(inside).unwrap_or(u16::MAX)),
        };
        let now = self.clock.now();
        let mut super_packets = 0;
        for _ in 0..TURN {
            let Some(queue) = self.queues.get(number) else { break };
            match queue.receive(buffer) {
                Ok(true) => {}
                Ok(false) => break,
                // A device that is down gives EIO (or EBADFD) until it is up again, or until it is gone.
                Err(_) if self.shared.stopping.load(Ordering::Acquire) => break,
                Err(error) => return Err(error),
            }
            let mut packet = buffer.packet();
            super_packets += u64::from(packet.bytes.len() > 1500);
            match self.translator.translate(&mut packet, realm, now) {
                Verdict::Forward { to, event } => {
                    if let Some(event) = event {
                        self.tell(event);
                    }
                    self.write(to, |queue| queue.send(buffer));
                }
                Verdict::Drop(reason) => log::trace!("{realm:?}: dropped, {}", reason.name()),
                Verdict::Refuse(refused) => {
                    self.tell(refused.event);
                    if let Some(answer) = refused.answer {
                        self.write(realm, |queue| queue.send_own(&answer));
                    }
                }
            }
        }
        if super_packets > 0 {
            self.shared.super_packets.fetch_add(super_packets, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A packet enters the kernel by the device of the realm it goes to, on this worker's queue. Routing takes it on
    /// from there, and the kernel's flow table of that device sends the replies to the same queue: one worker serves
    /// both directions of a flow, so nothing is reordered.
    fn write(&self, to: Realm, send: impl FnOnce(&Queue) -> io::Result<()>) {
        let number = match to {
            Realm::Outside => 0,
            Realm::Inside(inside) => usize::from(inside) + 1,
        };
        let Some(queue) = self.queues.get(number) else { return };
        if let Err(error) = send(queue) {
            self.shared.write_errors.fetch_add(1, Ordering::Relaxed);
            log::trace!("{to:?}: the kernel did not take a packet: {error}");
        }
    }

    fn tell(&self, event: Event) {
        match event.kind {
            EventKind::Created | EventKind::Woken => self.neighbours.announce(event.virtual_ip.into()),
            _ => {}
        }
        // A full channel means that housekeeping is behind by thousands of lines: lose a line, not a packet.
        let _ = self.events.try_send(event);
    }
}
