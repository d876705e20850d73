//! Another configuration for a running gateway: checked whole, then in force at once, or not at all.
//!
//! Housekeeping does it, so it happens between two of its beats. The workers rest meanwhile; what arrives waits in the
//! queues of the devices. There is never a second allocator over a pool: the state before allocates nothing any more
//! once the workers rest, and they wake with the state after.

use super::error::GatewayError;
use super::housekeeping::Housekeeping;
use super::live::ReloadRequest;
use super::surroundings::tell_surroundings;
use super::{restart, settings};
use crate::config::Config;
use crate::control::Reloaded;
use crate::fastpath;
use crate::host::quota::Quota;
use crate::host::{KernelError, Plan};
use crate::nat::{BindingState, BindingView, Event, Nat, Settings, SettingsError, StoredBinding};
use crate::store::StoreError;
use crate::store::history::By;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses of other hosts of which something is said one by one; more are counted.
pub const SAID_ONE_BY_ONE: Quota = Quota::new(16, Duration::from_secs(60));

/// Why a reload was refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error("{0}")]
    Config(String),
    #[error("{} can only be changed by a restart; nothing was changed", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error("{0}; nothing was changed")]
    Store(#[from] StoreError),
    #[error("the workers are too busy to change over; nothing was changed. Try again")]
    Busy,
}

/// What is to be in force.
struct Change {
    config: Config,
    plan: Plan,
    settings: Settings,
    /// Bindings that were kept aside, and may fit now.
    aside: Vec<StoredBinding>,
    by: By,
}

impl Housekeeping {
    /// Carries a request out.
    pub fn serve(&mut self, request: &ReloadRequest) {
        let done = self.reload(request.dry_run).map_err(|error| error.to_string());
        match &done {
            Ok(reloaded) if reloaded.applied => {
                log::info!("reloaded: {}; {} bindings released", reloaded.changes.join(", "), reloaded.released.len());
            }
            Ok(reloaded) if reloaded.changes.is_empty() && reloaded.restart.is_none() => {
                log::info!("reloaded: nothing has changed");
            }
            Ok(_) => {}
            Err(_) if request.dry_run => {} // it is an answer to the caller
            Err(error) => error.lines().for_each(|line| log::error!("not reloaded: {line}")),
        }
        if let Some(reply) = &request.reply {
            let _ = reply.send(done); // the caller may have gone
        }
    }

    fn reload(&mut self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let config = (self.source)().map_err(ReloadError::Config)?;
        if !dry_run {
            self.kernel.contest_anew();
        }
        let difference = self.config.difference(&config);
        if !difference.restart.is_empty() && dry_run {
            let mut restart = restart::cost(&self.nat, &self.config, &config, &difference.restart, self.clock.now());
            if let Err(error) = self.kernel.would_start(&Plan::of(&config, fastpath::has_left)) {
                restart.notes.push(format!("the gateway would not start: {error}"));
            }
            return Ok(Reloaded { changes: difference.changes, restart: Some(restart), ..Reloaded::default() });
        }
        if !difference.restart.is_empty() {
            return Err(ReloadError::NeedsRestart(difference.restart));
        }
        let mut reloaded = Reloaded { changes: difference.changes, ..Reloaded::default() };
        if reloaded.changes.is_empty() {
            return Ok(reloaded);
        }
        let plan = Plan::of(&config, fastpath::has_left);
        let settings = settings::settings(&config, &self.kernel.look_ahead(&plan)?)?;
        let now = self.clock.now();
        if dry_run {
            let prepared = self.nat.prepare_reload(settings, now)?;
            (reloaded.released, reloaded.moved) = (prepared.misfits(now), prepared.moved());
            return Ok(reloaded);
        }
        let aside = if config.pools == self.config.pools { Vec::new() } else { self.store.kept_aside()? };
        self.change_over(Change { config, plan, settings, aside, by: By::Reload }, &mut reloaded)?;
        reloaded.applied = true;
        Ok(reloaded)
    }

    /// This machine has come to an address of a pool, or left one, or a router of an outside network has: the address is not
    /// given meanwhile, and who had it gets another. To be called when the host may have changed; tries again if the workers
    /// are too busy.
    pub fn update_reserved(&mut self) {
        let reserved = settings::reserved_in_pools(&self.config, self.kernel.host());
        if reserved == self.reserved {
            return;
        }
        let before = self.reserved.clone();
        match self.change_reserved() {
            Ok(ended) => {
                for address in reserved.difference(&before) {
                    let lost = if ended.contains(address) { "; who had it gets another" } else { "" };
                    log::warn!(
                        "{address} of a pool is an address of this machine, of a router or of a network, now: it is not given{lost}"
                    );
                }
                for address in before.difference(&reserved) {
                    log::info!("{address} of a pool is nobody else's any more; it can be given");
                }
                self.not_reserved = None;
            }
            Err(ReloadError::Busy) => {}
            Err(error) => {
                let line =
                    format!("addresses of pools that this machine has come to may be given all the same: {error}");
                if self.not_reserved.as_ref() != Some(&line) {
                    log::error!("{line}");
                    self.not_reserved = Some(line);
                }
            }
        }
    }

    /// Another host of an outside LAN has an address of a pool, or has it no more: the address is not given meanwhile, and
    /// who had it gets another. To be called every second.
    pub fn update_occupied(&mut self) {
        let now = self.clock.now();
        let hosts: BTreeMap<IpAddr, String> = self
            .neighbours
            .occupied()
            .into_iter()
            .map(|host| (host.address, format!("{} on '{}'", host.hardware, host.interface)))
            .collect();
        if hosts.is_empty() && self.occupied.is_empty() {
            return;
        }
        let live = Arc::clone(&self.live);
        let live = live.read();
        let addresses: Vec<IpAddr> = hosts.keys().copied().collect();
        let ended = self.nat.set_occupied(&addresses, now);
        drop(live);
        let lost: BTreeSet<IpAddr> = ended.iter().map(|event| event.virtual_ip.into()).collect();
        self.have_ended(ended, now, By::Occupied);
        let new = hosts.iter().filter(|(address, _)| !self.occupied.contains_key(address) || lost.contains(address));
        say_each(&mut self.said_one_by_one, log::Level::Warn, new, |(address, host)| {
            let lost = if lost.contains(address) { "; who had it gets another" } else { "" };
            format!("{address} of a pool is in use by {host}: it is not given{lost}")
        });
        let gone = self.occupied.keys().filter(|address| !hosts.contains_key(address));
        say_each(&mut self.said_one_by_one, log::Level::Info, gone, |address| {
            format!("{address} of a pool is nobody else's any more; it can be given")
        });
        self.occupied = hosts;
    }

    /// Bindings have ended outside the common run of things.
    fn have_ended(&self, ended: Vec<Event>, now: Time, by: By) {
        for event in ended {
            self.neighbours.withdraw(event.virtual_ip.into());
            self.store.mark(event.virtual_ip.into(), by);
            self.log.lock().write(&self.nat, event, now);
        }
    }

    /// The virtual IPs that ended by it.
    fn change_reserved(&mut self) -> Result<BTreeSet<IpAddr>, ReloadError> {
        let (config, plan) = (self.config.clone(), Plan::of(&self.config, fastpath::has_left));
        let settings = settings::settings(&config, self.kernel.host())?;
        let aside = self.store.kept_aside()?;
        let mut reloaded = Reloaded::default();
        self.change_over(Change { config, plan, settings, aside, by: By::Occupied }, &mut reloaded)?;
        Ok(reloaded.released.iter().map(|binding| binding.virtual_ip).collect())
    }

    fn change_over(&mut self, change: Change, reloaded: &mut Reloaded) -> Result<(), ReloadError> {
        let Change { config, plan, settings, aside, by } = change;
        let now = self.clock.now();
        let live = Arc::clone(&self.live);
        let mut live = live.write();
        let rest = self.workers.rest().ok_or(ReloadError::Busy)?;
        let given = settings::given(&settings);
        let prepared = self.nat.prepare_reload(settings, now)?;
        self.kernel.replan(&plan)?;
        (reloaded.released, reloaded.moved) = (prepared.misfits(now), prepared.moved());
        let before = Arc::clone(&self.nat);
        let (after, ended) = prepared.commit();
        let occupied: Vec<IpAddr> = self.occupied.keys().copied().collect();
        let moved = after.set_occupied(&occupied, now);
        tell_surroundings(&after, self.kernel.host());
        let (said, back) = self.put_back(aside, &after);
        reloaded.changes.extend(said);
        // What fitted nowhere stays in the state file, for the day its pool comes back.
        self.store.switch_to(Arc::clone(&after));
        self.store.note_aside(reloaded.released.iter().map(BindingView::to_store), by);
        self.store.note(&back, by);
        self.fast.renew(super::fast::settings(&config));
        super::fast::update(&self.fast, &self.kernel);
        rest.end_with(&after);
        *live = Arc::clone(&after);
        self.nat = after;
        for event in ended {
            self.neighbours.withdraw(event.virtual_ip.into());
            self.log.lock().write(&before, event, now);
        }
        self.have_ended(moved, now, By::Occupied);
        self.neighbours.watch(given);
        self.config = config;
        self.reserved = settings::reserved_in_pools(&self.config, self.kernel.host());
        Ok(())
    }

    /// Bindings that were kept aside are in force again if `nat` has a pool for them. Says how many, and which are.
    fn put_back(&self, aside: Vec<StoredBinding>, nat: &Nat) -> (Option<String>, Vec<IpAddr>) {
        let back: Vec<StoredBinding> =
            aside.into_iter().filter(|binding| nat.is_in_a_pool(binding.virtual_ip)).collect();
        let virtual_ips: Vec<IpAddr> = back.iter().map(|binding| binding.virtual_ip).collect();
        let restored = nat.restore(back, self.clock.now());
        restored.changed.into_iter().for_each(|virtual_ip| self.store.mark(virtual_ip, By::Reload));
        let is_active = |ip: &&IpAddr| nat.stored(**ip).is_some_and(|(there, _)| there.state == BindingState::Active);
        for virtual_ip in virtual_ips.iter().filter(is_active) {
            self.neighbours.announce(*virtual_ip);
        }
        let said = (restored.kept > 0).then(|| format!("{} bindings that were kept aside are back", restored.kept));
        (said, virtual_ips)
    }
}

/// A line for each, and one for those that are too many.
fn say_each<T>(quota: &mut Quota, level: log::Level, all: impl Iterator<Item = T>, line: impl Fn(T) -> String) {
    let now = Instant::now();
    let (mut more, mut last) = (0, None);
    for one in all {
        if quota.take(now) {
            log::log!(level, "{}", line(one));
        } else {
            more += 1;
            last = Some(one);
        }
    }
    match last.map(line) {
        Some(line) if more == 1 => log::log!(level, "{line}"),
        Some(line) => log::log!(level, "{line}; so it is with {} more (`kamei status`)", more - 1),
        None => {}
    }
}
