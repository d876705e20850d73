//! The housekeeping thread: ages bindings, follows the host's network, writes the log.

use super::clock::Clock;
use super::event_log::EventLog;
use super::huge_pages;
use super::kernel::{Kernel, Neighbours};
use super::notify::Manager;
use super::reload::{Live, Request, Source};
use super::worker::Shared;
use crate::config::Config;
use crate::fastpath::FastPath;
use crate::journal::Journal;
use crate::nat::{Event, EventKind, Nat};
use crate::time::Time;
use crossbeam_channel::{Receiver, select};
use std::sync::Arc;
use std::time::Duration;

/// How often bindings are aged and the host's network is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// What housekeeping needs.
pub struct Housekeeping {
    /// The translator's shared state.
    pub nat: Arc<Nat>,
    /// The same for the control interface.
    pub live: Live,
    /// The configuration in force.
    pub config: Config,
    /// Where to read it anew.
    pub source: Source,
    /// Reloads that are asked for.
    pub requests: Receiver<Request>,
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// What was set up in the kernel.
    pub kernel: Kernel,
    /// The fast path, if there is one.
    pub fast: Option<Arc<FastPath>>,
    /// The clock of the process.
    pub clock: Clock,
    /// Events from the workers.
    pub events: Receiver<Event>,
    /// Who must know of a virtual IP that is in use no more.
    pub neighbours: Neighbours,
    /// Where bindings are recorded.
    pub journal: Arc<Journal>,
    /// Writes the log.
    pub log: EventLog,
    /// Closed when it is time to stop.
    pub stop: Receiver<()>,
    /// What systemd hears.
    pub watchdog: Watchdog,
}

impl Housekeeping {
    /// Works until told to stop; hands back what was set up in the kernel.
    pub fn run(mut self) -> Kernel {
        let mut next = self.clock.now() + BEAT;
        loop {
            select! {
                recv(self.events) -> event => match event {
                    Ok(event) => self.heard(event),
                    Err(_) => std::thread::sleep(next - self.clock.now()),
                },
                recv(self.stop) -> _ => break,
                recv(self.requests) -> request => match request {
                    Ok(request) => self.serve(&request),
                    Err(_) => std::thread::sleep(next - self.clock.now()),
                },
                default(next - self.clock.now()) => {}
            }
            let now = self.clock.now();
            if now >= next {
                next = now + BEAT;
                self.beat(now);
            }
        }
        for event in self.events.try_iter() {
            self.log.write(&self.nat, event, self.clock.now());
        }
        self.kernel
    }

    /// A worker did something to a binding; one that is new it has recorded itself.
    fn heard(&mut self, event: Event) {
        if event.kind == EventKind::Woken {
            self.journal.mark(event.virtual_ip.into());
        }
        self.log.write(&self.nat, event, self.clock.now());
    }

    fn beat(&mut self, now: Time) {
        let log = &mut self.log;
        self.nat.tick(now, &mut |event| {
            if event.kind == EventKind::Released {
                self.neighbours.withdraw(event.virtual_ip.into());
            }
            self.journal.mark(event.virtual_ip.into());
            log.write(&self.nat, event, now);
        });
        log.beat(now);
        huge_pages::lay_out(&self.nat);
        self.watchdog.beat(&self.shared, now);
        match self.kernel.poll() {
            Ok(true) => super::tell_surroundings(&self.nat, self.kernel.host()),
            Ok(false) => {}
            Err(error) => log::error!("{error}"),
        }
        if let Some(fast) = &self.fast {
            super::fast::follow(fast, &self.kernel);
            fast.bypass(self.shared.taps.bypass_fast_path(), &self.nat, now);
            fast.look(&self.nat, now);
        }
    }
}

/// Tells systemd that all is well, if it wants to know, for as long as every worker looks up when asked.
pub struct Watchdog {
    manager: Arc<Manager>,
    every: Option<Duration>,
    next: Time,
    asked: u64,
}

impl Watchdog {
    /// One that starts now.
    pub fn new(manager: Arc<Manager>, now: Time) -> Self {
        Self { every: manager.wants_to_hear(), manager, next: now, asked: 0 }
    }

    /// A worker has until the next time to look up: far longer than any turn of it takes.
    fn beat(&mut self, shared: &Shared, now: Time) {
        let Some(every) = self.every.filter(|_| now >= self.next) else { return };
        if shared.has_settled(self.asked) {
            self.manager.alive();
            self.asked = shared.ask();
        }
        self.next = now + every;
    }
}
