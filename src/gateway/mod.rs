//! The running gateway: threads, kernel set-up, shutdown.
//!
//! ```text
//!  terminal ──► inside interface ──► the kernel's forwarding ──► outside interface ──► peer
//!                                                                 │ leaving    ▲
//!                                                                 ▼            │
//!                                                  {tun}-nat ──read──► Translator::translate ──write──┐
//!                                                                 ▲       (one worker a queue)        │
//!                                                                 │ arriving                          ▼
//!  terminal ◄── inside interface ◄── the kernel's forwarding ◄── outside interface ◄────── as if it had come so
//! ```
//!
//! Packets of flows that the kernel does not translate itself (see `fastpath`) are taken where they leave or arrive, and go
//! back there: routing, TTL, MTU and the operator's firewall see one packet, from the inside to the outside interface.

mod admin;
pub mod clock;
mod error;
mod event_log;
mod fast;
mod handover;
mod housekeeping;
pub mod huge_pages;
mod live;
mod parking;
mod progress;
mod reload;
mod restart;
mod settings;
mod surroundings;
mod threads;
mod worker;
mod workers;

use crate::config::{Config, ConfigSource, FastPathMode, Hardening, OnStop};
use crate::control::{self, Listener, SocketSettings};
use crate::device::tap;
use crate::fastpath::{self, FastPath};
use crate::host::confine::{Confinement, Profile};
use crate::host::systemd::Manager;
use crate::host::{self, Claim, Kernel, Plan, Watched};
use crate::nat::{Misfit, Nat, Restored};
use crate::store::{Opened, Progress, StateFile, Store, StoreSettings, Writer};
use admin::GatewayAdmin;
use clock::Clock;
pub use error::GatewayError;
use event_log::{EventLog, TerminalNames};
use live::Live;
use parking_lot::{Mutex, RwLock};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use surroundings::{announce, tell_surroundings};
use threads::{HousekeepingParts, Running, Work};

/// Bindings that do not fit the configuration and get a line each.
const MISFITS_NAMED: usize = 10;

/// Runs the gateway until SIGTERM or SIGINT. On the way out, and on an error on the way in, the host's network is put
/// back as it was.
///
/// `source` reads the configuration anew for a reload, asked for by SIGHUP or on the control socket; `file` is where it
/// comes from, if not from flags alone.
pub fn run(config: Config, source: ConfigSource<Config>, file: Option<&Path>) -> Result<(), GatewayError> {
    let manager = Arc::new(Manager::from_environment());
    let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| GatewayError::System { what: "cannot catch signals", error })?;
    let (prepared, plan, opened) = prepare(&config, file, &manager)?;
    let Open { kernel, fast, store } = open(&config, &prepared, plan, opened)?;
    let Prepared { listener, nat, workers, names, devices, offload, clock, terminals, given, reserved, .. } = prepared;

    let neighbours = kernel.neighbours();
    neighbours.watch(given);
    let live: Live = Arc::new(RwLock::new(Arc::clone(&nat)));
    let (requests, asked) = crossbeam_channel::bounded(1);
    let log = Arc::new(Mutex::new(EventLog::new(terminals)));
    let parts = HousekeepingParts {
        live: Arc::clone(&live),
        config: config.clone(),
        source,
        asked,
        log: Arc::clone(&log),
        fast: Arc::clone(&fast),
        reserved,
    };
    let (threads_manager, threads_store) = (Arc::clone(&manager), Arc::clone(&store));
    let work =
        Work { nat, kernel, devices, worker_count: workers, clock, manager: threads_manager, store: threads_store };
    let running = Running::start(work, parts)?;
    let sleepers = Arc::clone(&running.workers);
    let contact = config.policy.lifetimes.contact;
    let writer = Writer::start(Arc::clone(&store), contact, move || clock.moment(), move || sleepers.wake())?;
    let admin = Arc::new(GatewayAdmin {
        live,
        requests: requests.clone(),
        clock,
        log,
        store,
        fast: Arc::clone(&fast),
        dropped_before: admin::dropped_on_arrival(&config.outsides),
        outsides: config.outsides.clone(),
        fast_path: config.fast_path.mode,
        workers: Arc::clone(&running.workers),
        fixed: admin::fixed(&config, workers, offload.to_string()),
        devices: names,
        events: running.events.clone(),
        neighbours,
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
    if ended.is_ok() && config.on_stop == OnStop::Undo {
        fast.remove();
    }
    server.stop();
    writer.stop();
    ended
}

/// What is known and made before anything of the host's network changes.
struct Prepared {
    /// The name is this process's until it ends.
    _claim: Claim,
    confinement: Option<Confinement>,
    listener: Listener,
    workers: usize,
    /// The names of the devices, and the devices.
    names: Vec<String>,
    devices: Vec<Vec<tap::Queue>>,
    offload: tap::Offload,
    nat: Arc<Nat>,
    clock: Clock,
    terminals: TerminalNames,
    /// Addresses of pools that are not given.
    reserved: BTreeSet<IpAddr>,
    /// Virtual IPs that are answered for.
    given: Vec<Watched>,
    /// No gateway of this name has left anything in the kernel.
    is_first: bool,
}

/// First stage: what can be refused is refused here, with the host as it was.
fn prepare(config: &Config, file: Option<&Path>, manager: &Manager) -> Result<(Prepared, Plan, Opened), GatewayError> {
    let handed = handover::inherited();
    let plan = Plan::of(config, fastpath::has_left);
    let claim = Claim::take(&config.tun)?;
    let progress = Progress::default();
    let state = StateFile::take(&config.state_dir, &config.tun)?.watched(&progress);
    let confinement = confinement(config, file)?;
    let listener = Listener::bind(socket_settings(config, confinement.clone())?)?;
    let workers = config.workers.unwrap_or_else(one_a_core).get();
    let names: Vec<String> = plan.devices().map(str::to_owned).collect();
    let adopted = handover::take_over(&names, workers, config.offload, handed, manager);
    let there = if adopted.is_some() { host::Devices::HandedOver } else { host::Devices::Missing };
    let host = host::inspect(&plan, there)?;
    let told = settings::settings(config, &host)?;
    let reserved = settings::reserved_in_pools(config, &host);
    let given = settings::given(&told);
    let terminals = TerminalNames::new(config.log_terminals, &told.hash_key);
    let nat = Nat::new(told)?;
    let (devices, offload) = match adopted {
        Some(devices) => devices,
        None => make_devices(config, &names, workers, manager)?,
    };
    let is_first = !fastpath::has_left(&config.tun).unwrap_or(true);
    let logged = progress::Logged::start(&progress);
    let opened = state.open(jiff::Timestamp::now(), &mut |what| log::error!("{what}"))?;
    drop(logged);
    let clock = Clock::resume(&opened);
    let prepared = Prepared {
        _claim: claim,
        confinement,
        listener,
        workers,
        names,
        devices,
        offload,
        nat,
        clock,
        terminals,
        reserved,
        given,
        is_first,
    };
    Ok((prepared, plan, opened))
}

/// The host's network leads here, and the bindings are back.
struct Open {
    kernel: Kernel,
    fast: Arc<FastPath>,
    store: Arc<Store>,
}

/// Second stage: changes the host's network, puts the bindings back, and gives up what the process no longer needs.
fn open(config: &Config, prepared: &Prepared, plan: Plan, opened: Opened) -> Result<Open, GatewayError> {
    let Prepared { nat, clock, is_first, confinement, terminals, .. } = prepared;
    let fast = fast::start(config, clock.now()).inspect_err(|_| {
        if *is_first {
            let _ = fastpath::remove(&config.tun); // the maps that it had made
        }
    })?;
    let kernel = set_up(plan, &fast, *is_first)?;
    tell_surroundings(nat, kernel.host());
    let settings = StoreSettings {
        durability: config.durability,
        when_disk_fails: config.when_disk_fails,
        sync_interval: config.sync_interval,
        history: config.history,
    };
    let clock = *clock;
    let (store, restored) = Store::start(opened, Arc::clone(nat), settings, move || clock.moment());
    announce(nat, &kernel.neighbours(), clock.now());
    tell_restored(&restored, &clock, terminals);
    if config.fast_path.mode != FastPathMode::Off {
        nat.set_carrier(Arc::clone(&fast) as _);
    }
    fast.take_over(nat, clock.now());
    if let Some(confinement) = confinement {
        confinement.enter_and_tell()?;
    }
    Ok(Open { kernel, fast, store })
}

/// Sets the host's network up: nothing is forwarded before it is certain to be translated. What this start has made goes
/// again where it fails.
fn set_up(plan: Plan, fast: &FastPath, is_first: bool) -> Result<Kernel, GatewayError> {
    let done = Kernel::set_up(plan).map_err(GatewayError::from).and_then(|mut kernel| {
        fast::attach(fast, &kernel)?;
        kernel.open()?;
        Ok(kernel)
    });
    if done.is_err() && is_first {
        fast.remove();
    }
    done
}

/// The TUN devices, kept by systemd for a successor if the configuration says so.
fn make_devices(
    config: &Config,
    names: &[String],
    workers: usize,
    manager: &Manager,
) -> Result<tap::Devices, GatewayError> {
    let made = tap::create(names, workers, config.offload)?;
    if config.on_stop == OnStop::Leave {
        handover::store(names, &made, manager);
    }
    Ok(made)
}

/// Says what became of the bindings of the last run.
fn tell_restored(restored: &Restored, clock: &Clock, terminals: &TerminalNames) {
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
}

/// What the process may still touch when it is set up; `None` if it is not to be hardened.
fn confinement(config: &Config, file: Option<&Path>) -> Result<Option<Confinement>, GatewayError> {
    if config.hardening == Hardening::Off {
        return Ok(None);
    }
    let parent = |path: &Path| path.parent().map(Path::to_owned);
    let written = [Some(config.state_dir.clone()), parent(&config.control), Some(host::lock_directory().to_owned())];
    let written = written.into_iter().flatten().collect();
    Ok(Some(Confinement::new(Profile::GATEWAY, written).reading(file)))
}

/// The control socket's thread starts before `main` is confined.
fn socket_settings(config: &Config, confinement: Option<Confinement>) -> Result<SocketSettings, GatewayError> {
    let group = config.control_group.as_deref().map(control::group_number).transpose().map_err(GatewayError::Group)?;
    let settings = SocketSettings::at(&config.control).readable_by(group).with_metrics(config.metrics);
    Ok(settings.confined_by(confinement))
}

fn one_a_core() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
