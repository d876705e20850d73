//! The threads of a running gateway: their start, and their end in order.

use super::clock::Clock;
use super::error::GatewayError;
use super::event_log::EventLog;
use super::fast::NotedLog;
use super::housekeeping::{Housekeeping, Watchdog};
use super::live::{Live, ReloadRequest};
use super::parking::Parking;
use super::reload::SAID_ONE_BY_ONE;
use super::worker::Worker;
use super::workers::Workers;
use crate::config::{Config, ConfigSource, Hardening, OnStop};
use crate::device::tap;
use crate::fastpath::{FastPath, RulesetMonitor};
use crate::host::Kernel;
use crate::host::confine;
use crate::host::systemd::Manager;
use crate::nat::{Event, Nat};
use crate::store::Store;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;
use rustix::event::epoll;
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Events on their way to housekeeping; more wait only while it writes thousands of lines.
const EVENTS: usize = 65_536;

/// What housekeeping alone is given: what it needs for reloads.
pub struct HousekeepingParts {
    /// What the control interface looks at.
    pub live: Live,
    /// The configuration in force.
    pub config: Config,
    /// Where to read it anew.
    pub source: ConfigSource<Config>,
    /// Who asks for that.
    pub asked: Receiver<ReloadRequest>,
    /// The log of bindings.
    pub log: Arc<Mutex<EventLog>>,
    /// Translation in the kernel.
    pub fast: Arc<FastPath>,
    /// Addresses of pools that are not given, for this machine or a router has them.
    pub reserved: BTreeSet<IpAddr>,
}

/// What the threads work with.
pub struct Work {
    /// What all workers share.
    pub nat: Arc<Nat>,
    /// The host's network.
    pub kernel: Kernel,
    /// The devices, each with a queue for each worker.
    pub devices: Vec<Vec<tap::Queue>>,
    /// How many workers there are.
    pub worker_count: usize,
    pub clock: Clock,
    /// systemd.
    pub manager: Arc<Manager>,
    /// Where bindings are recorded.
    pub store: Arc<Store>,
}

/// A gateway whose threads run.
pub struct Running {
    /// The workers, as other threads meet them.
    pub workers: Arc<Workers>,
    /// The way to housekeeping.
    pub events: Sender<Event>,
    /// The insides, for the log.
    pub inside_names: String,
    stop: Sender<()>,
    handles: Vec<JoinHandle<Option<()>>>,
    housekeeping: JoinHandle<Option<Kernel>>,
    ended: Receiver<String>,
}

impl Running {
    /// Starts them.
    pub fn start(work: Work, parts: HousekeepingParts) -> Result<Self, GatewayError> {
        let Work { nat, kernel, devices, worker_count, clock, manager, store } = work;
        let system = |what| move |error| GatewayError::System { what, error };
        let workers = Arc::new(Workers::new(worker_count).map_err(system("cannot make event descriptors"))?);
        let insides = parts.config.insides.iter().map(|inside| inside.name.as_str());
        let inside_names = insides.collect::<Vec<_>>().join(", ");
        let (events, received) = crossbeam_channel::bounded(EVENTS);
        let (say_ended, ended) = crossbeam_channel::bounded(worker_count + 1);
        let neighbours = kernel.neighbours();
        let mut queues: Vec<Vec<tap::Queue>> = (0..worker_count).map(|_| Vec::new()).collect();
        for device in devices {
            for (worker, queue) in queues.iter_mut().zip(device) {
                worker.push(queue);
            }
        }
        let mut handles = Vec::new();
        let queues: Arc<[_]> = queues.into();
        for number in 0..worker_count {
            let worker = Worker {
                number,
                queues: Arc::clone(&queues),
                translator: nat.translator(),
                clock,
                events: events.clone(),
                neighbours: neighbours.clone(),
                parking: Parking::new(Arc::clone(&store)),
                workers: Arc::clone(&workers),
                busy_poll: parts.config.busy_poll,
                pin: parts.config.pin.clone(),
            };
            let hardened = parts.config.hardening == Hardening::On;
            let work = move || {
                if hardened {
                    confine::narrow_to_worker().map_err(io::Error::other)?;
                }
                worker.run()
            };
            let handle = spawn_watched(format!("worker-{number}"), work, say_ended.clone())
                .map_err(system("cannot start a worker"))?;
            handles.push(handle);
        }
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let changes = watch_host(&kernel).map_err(system("cannot watch this machine's network"))?;
        let housekeeping = Housekeeping {
            nat,
            live: parts.live,
            config: parts.config,
            source: parts.source,
            requests: parts.asked,
            changes,
            workers: Arc::clone(&workers),
            kernel,
            noted: NotedLog::new(&parts.fast),
            fast: parts.fast,
            clock,
            reserved: parts.reserved,
            not_reserved: None,
            occupied: BTreeMap::new(),
            said_one_by_one: SAID_ONE_BY_ONE,
            events: received,
            neighbours,
            store,
            log: parts.log,
            stop: stopped,
            watchdog: Watchdog::new(manager, clock.now()),
        };
        let housekeeping = spawn_watched("housekeeping".to_owned(), move || Ok(housekeeping.run()), say_ended.clone())
            .map_err(system("cannot start the housekeeping thread"))?;
        Ok(Self { workers, events, stop, handles, housekeeping, ended, inside_names })
    }

    /// Waits for a signal, then stops everything; or for the end of a worker, which is an error. SIGHUP asks for a reload.
    pub fn wait(
        self,
        mut signals: signal_hook::iterator::Signals,
        requests: Sender<ReloadRequest>,
        manager: &Manager,
        on_stop: OnStop,
    ) -> Result<(), GatewayError> {
        let (say_signal, signal) = crossbeam_channel::bounded(1);
        let handle = signals.handle();
        let waiter = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    if signal == SIGHUP {
                        // A full channel: a reload is asked for already.
                        let _ = requests.try_send(ReloadRequest { dry_run: false, reply: None });
                        continue;
                    }
                    let _ = say_signal.send(signal);
                    break;
                }
            })
            .map_err(|error| GatewayError::System { what: "cannot start a thread for signals", error })?;
        let why = crossbeam_channel::select! {
            recv(signal) -> signal => {
                let name = if signal == Ok(SIGINT) { "SIGINT" } else { "SIGTERM" };
                log::info!("{name}: stopping");
                None
            }
            recv(self.ended) -> why => Some(why.unwrap_or_else(|_| "all workers ended".to_owned())),
        };
        manager.stopping();
        handle.close();
        let _ = waiter.join();
        if let Some(why) = why {
            // Fail closed: the rules and blackholes stay, as after `kill -9`. Undoing them would let inside packets
            // out untranslated while nobody serves them.
            log::error!("{why}");
            std::mem::forget(self.housekeeping);
            return Err(GatewayError::WorkerEnded(why));
        }
        drop(self.stop);
        let ended = || GatewayError::WorkerEnded("housekeeping ended".to_owned());
        let kernel = self.housekeeping.join().ok().flatten().ok_or_else(ended)?;
        // The rules go first, while the devices still take packets; then the workers, and with them the devices.
        let undone = match on_stop {
            OnStop::Undo => kernel.undo(),
            OnStop::Leave => {
                kernel.leave();
                Ok(())
            }
        };
        self.workers.stop();
        for handle in self.handles {
            let _ = handle.join();
        }
        log::info!("stopped");
        Ok(undone?)
    }
}

/// The event of [`watch_host`] that is about a LAN.
const LAN: u64 = 2;

/// Starts a thread that hears what hosts of outside LANs say of virtual IPs, and that tells whenever something of the host's
/// network or of its firewall changes. It ends with the process.
fn watch_host(kernel: &Kernel) -> io::Result<Receiver<()>> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let once = epoll::EventFlags::IN | epoll::EventFlags::ET;
    let network = kernel.as_fd().try_clone_to_owned()?;
    epoll::add(&epoll, &network, epoll::EventData::new_u64(0), once)?;
    // A kernel without nf_tables has no rules that change.
    let mut ruleset = RulesetMonitor::new().ok();
    if let Some(ruleset) = &ruleset {
        epoll::add(&epoll, ruleset, epoll::EventData::new_u64(1), once)?;
    }
    let neighbours = kernel.neighbours();
    let lan = neighbours.descriptors();
    for lan in &lan {
        epoll::add(&epoll, lan, epoll::EventData::new_u64(LAN), epoll::EventFlags::IN)?;
    }
    let (tell, changes) = crossbeam_channel::bounded(1);
    std::thread::Builder::new().name("watcher".to_owned()).spawn(move || {
        let _open = (network, lan);
        let is_of_lan = |event: &epoll::Event| { event.data }.u64() == LAN;
        let mut ready = Vec::with_capacity(4);
        loop {
            ready.clear();
            let waited = epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), None);
            if !matches!(waited, Ok(_) | Err(Errno::INTR)) {
                return;
            }
            if ready.iter().any(is_of_lan) {
                neighbours.hear();
            }
            if ready.iter().all(is_of_lan) {
                continue;
            }
            let _ = ruleset.as_mut().map(RulesetMonitor::drain); // whatever it says, something has changed
            if let Err(TrySendError::Disconnected(())) = tell.try_send(()) {
                return;
            }
        }
    })?;
    Ok(changes)
}

/// Starts a thread that must not end by itself. A panic is a bug; the process ends fail-closed rather than go on with a
/// thread less.
fn spawn_watched<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
    say_ended: Sender<String>,
) -> io::Result<JoinHandle<Option<T>>> {
    std::thread::Builder::new().name(name.clone()).spawn(move || {
        let why = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(result)) => return Some(result),
            Ok(Err(error)) => format!("{name} cannot go on: {error}"),
            Err(_) => format!("{name} panicked"),
        };
        let _ = say_ended.send(why);
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_or_fails_is_reported_and_one_that_ends_in_peace_is_not() {
        let (say_ended, ended) = crossbeam_channel::unbounded();
        let start = |name: &str, work: fn() -> io::Result<u8>| {
            spawn_watched(name.to_owned(), work, say_ended.clone()).unwrap().join().unwrap()
        };
        assert_eq!(start("worker-0", || Ok(7)), Some(7));
        assert_eq!(start("worker-1", || Err(io::Error::other("no device"))), None);
        assert_eq!(start("worker-2", || panic!("a bug, as this test wants it")), None);
        let said: Vec<String> = ended.try_iter().collect();
        assert_eq!(said, ["worker-1 cannot go on: no device", "worker-2 panicked"]);
    }
}
