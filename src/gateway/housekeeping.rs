//! The housekeeping thread: ages bindings, follows the host's network, writes the log.

use super::clock::Clock;
use super::event_log::EventLog;
use super::fast::NotedLog;
use super::huge_pages;
use super::live::{Live, ReloadRequest};
use super::surroundings::{announce, tell_surroundings};
use super::workers::Workers;
use crate::config::{Config, ConfigSource};
use crate::fastpath::FastPath;
use crate::host::quota::Quota;
use crate::host::systemd::Manager;
use crate::host::{Kernel, Neighbours};
use crate::nat::{Event, EventKind, Nat};
use crate::store::Store;
use crate::store::history::By;
use crate::time::Time;
use crossbeam_channel::{Receiver, select};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often bindings are aged and the host's network is looked at.
const BEAT: Duration = Duration::from_secs(1);
/// After a look at what has changed the next one is not before this: changes come in bursts.
const PAUSE: Duration = Duration::from_millis(10);

/// What housekeeping needs.
pub struct Housekeeping {
    /// The translator's shared state.
    pub nat: Arc<Nat>,
    /// The same for the control interface.
    pub live: Live,
    /// The configuration in force.
    pub config: Config,
    /// Where to read it anew.
    pub source: ConfigSource<Config>,
    /// Something on this machine has changed.
    pub changes: Receiver<()>,
    /// Reloads that are asked for.
    pub requests: Receiver<ReloadRequest>,
    /// The workers, as other threads meet them.
    pub workers: Arc<Workers>,
    /// What was set up in the kernel.
    pub kernel: Kernel,
    /// Translation in the kernel.
    pub fast: Arc<FastPath>,
    /// Tells the log what the kernel drops.
    pub noted: NotedLog,
    /// Addresses of pools that are not given, for this machine or a router has them.
    pub reserved: BTreeSet<IpAddr>,
    /// What was said when that could not be changed.
    pub not_reserved: Option<String>,
    /// Addresses of pools that are not given, for other hosts of outside LANs have them, and who they are.
    pub occupied: BTreeMap<IpAddr, String>,
    /// How much more is said of them.
    pub said_one_by_one: Quota,
    /// The clock of the process.
    pub clock: Clock,
    /// Events from the workers.
    pub events: Receiver<Event>,
    /// Who must know of a virtual IP that is in use no more.
    pub neighbours: Neighbours,
    /// Where bindings are recorded.
    pub store: Arc<Store>,
    /// Writes the log.
    pub log: Arc<Mutex<EventLog>>,
    /// Closed when it is time to stop.
    pub stop: Receiver<()>,
    /// What systemd hears.
    pub watchdog: Watchdog,
}

impl Housekeeping {
    /// Works until told to stop; hands back what was set up in the kernel.
    pub fn run(mut self) -> Kernel {
        let mut next = self.clock.now() + BEAT;
        // When to look at the host again, if before that.
        let mut soon: Option<Time> = None;
        let mut followed = self.clock.now();
        loop {
            // A channel whose sender has gone is always ready: without the sleep, the loop would spin.
            select! {
                recv(self.events) -> event => match event {
                    Ok(event) => self.log_event(event),
                    Err(_) => std::thread::sleep(next - self.clock.now()),
                },
                recv(self.stop) -> _ => break,
                recv(self.changes) -> change => match change {
                    Ok(()) => soon = Some(soon.unwrap_or(followed + PAUSE)),
                    Err(_) => std::thread::sleep(next - self.clock.now()),
                },
                recv(self.requests) -> request => match request {
                    Ok(request) => self.serve(&request),
                    Err(_) => std::thread::sleep(next - self.clock.now()),
                },
                default(soon.map_or(next, |soon| soon.min(next)) - self.clock.now()) => {}
            }
            let now = self.clock.now();
            if soon.is_some_and(|soon| now >= soon) {
                soon = self.update_host();
                followed = self.clock.now();
            }
            if now >= next {
                next = now + BEAT;
                self.beat(now);
            }
        }
        for event in self.events.try_iter() {
            self.log.lock().write(&self.nat, event, self.clock.now());
        }
        self.kernel
    }

    /// Logs what a worker did to a binding; the worker has recorded it itself.
    fn log_event(&mut self, event: Event) {
        self.log.lock().write(&self.nat, event, self.clock.now());
    }

    /// Follows the host's network, and puts back what other programs have taken away. Says when to look again, if a
    /// burst of changes has not passed yet.
    fn update_host(&mut self) -> Option<Time> {
        match self.kernel.poll() {
            Ok(true) => tell_surroundings(&self.nat, self.kernel.host()),
            Ok(false) => {}
            Err(error) => log::error!("{error}"),
        }
        self.update_reserved();
        if self.neighbours.have_another_lan() {
            announce(&self.nat, &self.neighbours, self.clock.now());
        }
        super::fast::update(&self.fast, &self.kernel);
        self.kernel.pause().map(|pause| self.clock.now() + pause)
    }

    fn beat(&mut self, now: Time) {
        let mut log = self.log.lock();
        self.nat.tick(now, &mut |event| {
            if event.kind == EventKind::Released {
                self.neighbours.withdraw(event.virtual_ip.into());
            }
            self.store.mark(event.virtual_ip.into(), By::Itself);
            log.write(&self.nat, event, now);
        });
        log.beat(now, self.workers.events_lost.swap(0, Ordering::Relaxed));
        drop(log);
        huge_pages::lay_out(&self.nat);
        self.watchdog.beat(&self.workers, now);
        self.update_host();
        if let Err(error) = self.kernel.watch_settings() {
            log::error!("{error}");
        }
        self.neighbours.beat();
        self.update_occupied();
        self.kernel.tell();
        self.fast.bypass(self.workers.taps.bypass_fast_path(), &self.nat, now);
        self.fast.look(&self.nat, now);
        self.noted.look(&self.fast, now);
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
    fn beat(&mut self, workers: &Workers, now: Time) {
        let Some(every) = self.every.filter(|_| now >= self.next) else { return };
        if workers.has_synced(self.asked) {
            self.manager.alive();
            self.asked = workers.ask();
        }
        self.next = now + every;
    }
}
