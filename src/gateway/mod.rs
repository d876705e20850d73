//! The running gateway: threads, kernel set-up, shutdown.
//!
//! ```text
//!              inside interfaces                              outside interfaces
//!                     │  policy rule: iif                            │  policy rule: to a pool
//!                     ▼                                              ▼
//!               {tun}-in0 ──read──►  Translator::translate  ──write──► {tun}-out ──► main table ──► peer
//!  terminal ◄── main table ◄── {tun}-in0 ◄──write──   (one worker a queue)   ◄──read── {tun}-out
//! ```
//!
//! One TUN device a realm says without guessing where a packet came from. It leaves by the device of the realm it goes
//! to, so that routing, TTL, MTU and the operator's firewall see it as coming from there.

pub mod clock;
mod confine;
mod doctor;
mod event_log;
mod fast;
mod handover;
mod housekeeping;
pub mod kernel;
mod notify;
mod parking;
mod reload;
mod settings;
mod worker;

use crate::config::{Config, FastPathMode, Hardening, OnStop};
use crate::control::{self, Admin, ControlError, DeviceStatus, Door, GatewayStatus, Listener, Reloaded, Taps};
use crate::device::tun::{self, TunError};
use crate::fastpath::{FastPath, FastPathError};
use crate::journal::{Journal, JournalError, JournalSettings, Keeper, StateFile};
use crate::nat::{BindingState, Event, Misfit, Nat, SettingsError};
use crate::time::Time;
use clock::Clock;
use confine::{ConfineError, Confinement, Role};
use crossbeam_channel::Sender;
pub use doctor::{Finding, Grade, examine};
use event_log::{EventLog, TerminalNames};
use housekeeping::{Housekeeping, Watchdog};
use kernel::{Claim, Host, InsidePlan, Kernel, KernelError, Plan};
use notify::Manager;
use parking::Parking;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
pub use reload::Source;
use reload::{Live, Request};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use worker::{Load, Shared, Worker};

/// Events on their way to housekeeping; more wait only while it writes thousands of lines.
const EVENTS: usize = 65_536;

/// Bindings that do not fit the configuration and get a line each.
const MISFITS_NAMED: usize = 10;

/// Why the gateway did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Setting up the host's network.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The TUN devices.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The fast path that was asked for.
    #[error("{0}. Or leave out --fast-path: then the gateway does without if it must")]
    FastPath(#[from] FastPathError),
    /// What the translator cannot hold.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The state file.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state directory.
    #[error("state directory {path}: {error}; choose another with --state-dir")]
    State {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The group of the control socket.
    #[error("{0}")]
    Group(String),
    /// The system would not take back what the process no longer needs.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Something the system would not give.
    #[error("{what}: {error}; this machine may be out of descriptors, threads or memory")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A worker ended: the process must not go on without it.
    #[error("{0}; inside packets are blocked until the gateway is started again")]
    WorkerEnded(String),
}

/// Runs the gateway until SIGTERM or SIGINT. On the way out, and on an error on the way in, the host's network is put
/// back as it was.
///
/// `source` reads the configuration anew for a reload, asked for by SIGHUP or on the control socket; `file` is where it
/// comes from, if not from flags alone.
pub fn run(config: Config, source: Source, file: Option<&Path>) -> Result<(), GatewayError> {
    let handed = handover::inherited();
    let clock = Clock::start();
    let manager = Arc::new(Manager::from_environment());
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| GatewayError::System { what: "cannot catch signals", error })?;
    let mut plan = plan(&config);
    let _claim = Claim::take(&config.tun)?;
    let state = StateFile::take(&config.state_dir, &config.tun)?;
    let confinement = confinement(&config, file)?;
    let listener = Listener::bind(door(&config, confinement.clone())?)?;
    let workers = config.workers.unwrap_or_else(one_a_core).get();
    let names = device_names(&plan);
    let adopted = handover::adopt(&names, workers, config.offload, handed, &manager);
    let there = if adopted.is_some() { kernel::Devices::HandedOver } else { kernel::Devices::Missing };
    let host = kernel::inspect(&plan, there)?;
    let told = settings::settings(&config, &host)?;
    let terminals = TerminalNames::new(config.log_terminals, &told.hash_key);
    let nat = Nat::new(told)?;
    let (devices, offload) = match adopted {
        Some(devices) => devices,
        None => {
            let made = tun::create(&names, workers, config.offload)?;
            if config.on_stop == OnStop::Leave {
                handover::store(&names, &made, &manager);
            }
            made
        }
    };
    let fast = fast::start(&config, clock.now())?;
    plan.mark = fast.as_ref().map(|_| config.fast_path.mark);
    let kernel = Kernel::set_up(plan)?;
    tell_surroundings(&nat, kernel.host());
    let journal = restore(&config, state, &nat, &kernel, clock, terminals)?;
    if let Some(fast) = &fast {
        nat.set_offload(Arc::clone(fast) as _);
        fast.follow(&fast::entrances(&kernel));
        fast.adopt(&nat, clock.now());
    }
    if let Some(confinement) = &confinement
        && let Some(lacking) = confinement.enter()?
    {
        log::warn!("{lacking}");
    }

    let live: Live = Arc::new(RwLock::new(Arc::clone(&nat)));
    let (requests, asked) = crossbeam_channel::bounded(1);
    let fast_path = fast.clone();
    let reload =
        Reload { live: Arc::clone(&live), config: config.clone(), source, asked, terminals, fast: fast.clone() };
    let running = Running::start(&nat, kernel, devices, workers, clock, reload, &manager, &journal)?;
    let shared = Arc::clone(&running.shared);
    let contact = config.lifetimes.contact;
    let keeper = Keeper::start(Arc::clone(&journal), contact, move || clock.now(), move || shared.wake())?;
    let admin = Arc::new(GatewayAdmin {
        live,
        requests: requests.clone(),
        clock,
        log: Mutex::new(EventLog::new(terminals)),
        journal,
        fast,
        fast_path: config.fast_path.mode,
        shared: Arc::clone(&running.shared),
        fixed: GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: 0,
            ready: true,
            tun: config.tun.clone(),
            insides: config.insides.iter().flat_map(|inside| inside.interfaces.iter().cloned()).collect(),
            outsides: config.outsides.clone(),
            workers,
            offload: offload.to_string(),
            ..GatewayStatus::default()
        },
        devices: names,
        events: running.events.clone(),
    });
    let server = listener.serve(admin);
    log::info!(
        "ready: {} → {}, {} pools, {workers} workers, offloads: {offload}, control {}",
        running.inside_names,
        config.outsides.join(", "),
        config.pools.len(),
        config.control.display()
    );
    manager.ready(&format!("serving {} pools for {}", config.pools.len(), running.inside_names));
    let ended = running.wait(signals, requests, &manager, config.on_stop);
    if let Some(fast) = fast_path.filter(|_| ended.is_ok() && config.on_stop == OnStop::Undo) {
        fast.remove();
    }
    server.stop();
    keeper.stop();
    ended
}

/// Puts the bindings of the last run back, and says what became of them.
fn restore(
    config: &Config,
    state: StateFile,
    nat: &Arc<Nat>,
    kernel: &Kernel,
    clock: Clock,
    terminals: TerminalNames,
) -> Result<Arc<Journal>, GatewayError> {
    let opened = state.open(jiff::Timestamp::now(), &mut |what| log::error!("{what}"))?;
    let settings = JournalSettings {
        durability: config.durability,
        when_disk_fails: config.when_disk_fails,
        sync_interval: config.sync_interval,
    };
    let now = clock.now();
    let (journal, restored) = Journal::start(opened, Arc::clone(nat), settings, now);
    if config.pools.iter().any(|pool| !pool.range.is_v4()) {
        let neighbours = kernel.neighbours();
        nat.for_each_binding(now, &mut |binding| {
            if binding.state == BindingState::Active {
                neighbours.announce(binding.virtual_ip);
            }
            true
        });
    }
    if restored.kept > 0 {
        log::info!("{} bindings restored in {} ms", restored.kept, clock.uptime().as_millis());
    }
    for Misfit { binding, why } in restored.misfits.iter().take(MISFITS_NAMED) {
        let terminal = terminals.name(binding.terminal.into()).unwrap_or_else(|| "a terminal".to_owned());
        log::warn!("binding kept aside: {terminal} ({}) was {}: {why}", binding.inside, binding.virtual_ip);
    }
    if !restored.misfits.is_empty() {
        let count = restored.misfits.len();
        log::warn!(
            "{count} bindings do not fit this configuration and are kept aside; `kamei state verify` lists them"
        );
    }
    Ok(journal)
}

/// What the process may still touch when it is set up; `None` if it is not to be hardened.
fn confinement(config: &Config, file: Option<&Path>) -> Result<Option<Confinement>, GatewayError> {
    if config.hardening == Hardening::Off {
        return Ok(None);
    }
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let written = [Some(config.state_dir.clone()), parent(&config.control), Some(kernel::lock_directory().to_owned())];
    // A link to the file, and the file.
    let read = [file.map(Path::to_owned), file.and_then(|file| file.canonicalize().ok())];
    let read = read.into_iter().flatten().filter_map(|file| parent(&std::path::absolute(file).ok()?));
    Ok(Some(Confinement::new(written.into_iter().flatten().collect(), read.collect())))
}

/// The control socket's thread starts before `main` is confined.
fn door(config: &Config, confinement: Option<Confinement>) -> Result<Door, GatewayError> {
    let group = config.control_group.as_deref().map(control::group_number).transpose().map_err(GatewayError::Group)?;
    let enter = move || {
        if let Some(Err(error)) = confinement.map(|confinement| confinement.enter()) {
            log::error!("{error}"); // `main` meets the same, and ends
        }
    };
    Ok(Door::at(&config.control).readable_by(group).with_metrics(config.metrics).prepared_by(enter))
}

/// Without a fast path: whether there is one shows later.
fn plan(config: &Config) -> Plan {
    Plan {
        tun: config.tun.clone(),
        insides: config
            .insides
            .iter()
            .enumerate()
            .map(|(number, inside)| InsidePlan {
                device: format!("{}-in{number}", config.tun),
                interfaces: inside.interfaces.clone(),
                sources: inside.prefixes.clone(),
            })
            .collect(),
        outside_device: format!("{}-out", config.tun),
        outsides: config.outsides.clone(),
        pools: config.pools.iter().map(|pool| pool.range).collect(),
        exempt: config.exempt.clone(),
        mark: None,
        undo_file: undo_file(&config.control, &config.tun),
    }
}

/// Where it is noted what to restore, for a successor after `kill -9`: beside the control socket.
pub fn undo_file(control: &Path, tun: &str) -> PathBuf {
    control.with_file_name(format!("{tun}.undo"))
}

/// The outside first, then the insides in their order: the order in which workers know them.
fn device_names(plan: &Plan) -> Vec<String> {
    let insides = plan.insides.iter().map(|inside| inside.device.clone());
    std::iter::once(plan.outside_device.clone()).chain(insides).collect()
}

fn one_a_core() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Tells the translator what the host's network looks like now.
fn tell_surroundings(nat: &Nat, host: &Host) {
    for (inside, sources) in host.sources().into_iter().enumerate() {
        nat.set_sources(inside, sources);
    }
    nat.set_own_inside(host.own_inside());
    nat.set_own_outside(host.own_outside());
}

/// What housekeeping needs for reloads.
struct Reload {
    live: Live,
    config: Config,
    source: Source,
    asked: crossbeam_channel::Receiver<Request>,
    terminals: TerminalNames,
    fast: Option<Arc<FastPath>>,
}

/// The threads.
struct Running {
    shared: Arc<Shared>,
    events: Sender<Event>,
    stop: Sender<()>,
    workers: Vec<JoinHandle<Option<()>>>,
    housekeeping: JoinHandle<Option<Kernel>>,
    ended: crossbeam_channel::Receiver<String>,
    inside_names: String,
}

impl Running {
    #[expect(clippy::too_many_arguments, reason = "one call, each argument another type")]
    fn start(
        nat: &Arc<Nat>,
        kernel: Kernel,
        devices: Vec<Vec<tun::Queue>>,
        workers: usize,
        clock: Clock,
        reload: Reload,
        manager: &Arc<Manager>,
        journal: &Arc<Journal>,
    ) -> Result<Self, GatewayError> {
        let system = |what| move |error| GatewayError::System { what, error };
        let shared = Arc::new(Shared::new(workers).map_err(system("cannot make event descriptors"))?);
        let inside_names = (0..devices.len().saturating_sub(1))
            .filter_map(|inside| u16::try_from(inside).ok())
            .map(|inside| nat.inside_name(inside).to_owned())
            .collect::<Vec<_>>()
            .join(", ");
        let (events, received) = crossbeam_channel::bounded(EVENTS);
        let (say_ended, ended) = crossbeam_channel::bounded(workers + 1);
        let neighbours = kernel.neighbours();
        let mut queues: Vec<Vec<tun::Queue>> = (0..workers).map(|_| Vec::new()).collect();
        for device in devices {
            for (worker, queue) in queues.iter_mut().zip(device) {
                worker.push(queue);
            }
        }
        let mut handles = Vec::new();
        for (number, queues) in queues.into_iter().enumerate() {
            let worker = Worker {
                number,
                queues,
                translator: nat.translator(),
                clock,
                events: events.clone(),
                neighbours: neighbours.clone(),
                parking: Parking::new(Arc::clone(journal)),
                shared: Arc::clone(&shared),
                busy_poll: reload.config.busy_poll,
                pin: reload.config.pin.clone(),
            };
            let hardened = reload.config.hardening == Hardening::On;
            let work = move || {
                if hardened {
                    confine::only(Role::Worker).map_err(io::Error::other)?;
                }
                worker.run()
            };
            let handle = spawn_watched(format!("worker-{number}"), work, say_ended.clone())
                .map_err(system("cannot start a worker"))?;
            handles.push(handle);
        }
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let housekeeping = Housekeeping {
            nat: Arc::clone(nat),
            live: reload.live,
            config: reload.config,
            source: reload.source,
            requests: reload.asked,
            shared: Arc::clone(&shared),
            kernel,
            fast: reload.fast,
            clock,
            events: received,
            neighbours,
            journal: Arc::clone(journal),
            log: EventLog::new(reload.terminals),
            stop: stopped,
            watchdog: Watchdog::new(Arc::clone(manager), clock.now()),
        };
        let housekeeping = spawn_watched("housekeeping".to_owned(), move || Ok(housekeeping.run()), say_ended.clone())
            .map_err(system("cannot start the housekeeping thread"))?;
        Ok(Self { shared, events, stop, workers: handles, housekeeping, ended, inside_names })
    }

    /// Waits for a signal, then stops everything; or for the end of a worker, which is an error. SIGHUP asks for a reload.
    fn wait(
        self,
        mut signals: signal_hook::iterator::Signals,
        requests: Sender<Request>,
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
                        let _ = requests.try_send(Request { dry_run: false, reply: None }); // full: one is asked for
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
        self.shared.stop();
        for worker in self.workers {
            let _ = worker.join();
        }
        log::info!("stopped");
        Ok(undone?)
    }
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

/// What the kernel could not put into the queues of these devices: it counts that as dropped while sending.
fn queue_full(devices: &[String]) -> Vec<DeviceStatus> {
    // Of this network namespace, unlike /sys.
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let dropped = |name: &String| -> Option<u64> {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name.as_str())?.strip_prefix(':'))?;
        line.split_whitespace().nth(11)?.parse().ok()
    };
    devices
        .iter()
        .map(|name| DeviceStatus { name: name.clone(), queue_full: dropped(name).unwrap_or_default() })
        .collect()
}

/// What the control interface asks.
struct GatewayAdmin {
    live: Live,
    requests: Sender<Request>,
    clock: Clock,
    log: Mutex<EventLog>,
    journal: Arc<Journal>,
    fast: Option<Arc<FastPath>>,
    fast_path: FastPathMode,
    shared: Arc<Shared>,
    fixed: GatewayStatus,
    devices: Vec<String>,
    events: Sender<Event>,
}

impl Admin for GatewayAdmin {
    fn nat(&self) -> RwLockReadGuard<'_, Arc<Nat>> {
        self.live.read()
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn settle(&self) {
        self.shared.settle();
        fast::settle(self.fast.as_deref(), self.taps(), &self.nat(), self.clock.now());
    }

    fn taps(&self) -> &Arc<Taps> {
        &self.shared.taps
    }

    fn changed(&self, event: Event) {
        self.log.lock().write(&self.nat(), event, self.clock.now());
    }

    fn record(&self, virtual_ips: &[IpAddr]) -> Result<(), String> {
        self.journal.record_and_sync(virtual_ips)
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let gone = || "the gateway is stopping".to_owned();
        self.requests.send(Request { dry_run, reply: Some(reply) }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    fn status(&self) -> GatewayStatus {
        GatewayStatus {
            uptime_seconds: self.clock.uptime().as_secs(),
            by_worker: self.shared.loads.iter().map(Load::view).collect(),
            devices: queue_full(&self.devices),
            events_waiting: self.events.len(),
            state_file: self.journal.status(),
            super_packets: self.shared.super_packets.load(Ordering::Relaxed),
            fast_path: fast::status(self.fast.as_deref(), self.fast_path),
            write_errors: self.shared.write_errors.load(Ordering::Relaxed),
            ..self.fixed.clone()
        }
    }
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
