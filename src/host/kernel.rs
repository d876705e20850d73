//! The network of this machine, set up for a gateway, watched, and undone.

use super::claim::{Claim, SetUpLock};
use super::error::KernelError;
use super::members::Members;
use super::messages::Family;
use super::neighbours::Neighbours;
use super::netlink::{Monitor, Netlink};
use super::plan::{InsidePlan, Plan, ProgramsLeft};
use super::sysctl::Sysctls;
use super::undo::UndoFile;
use super::view::{Framing, Host, Outward, Stage};
use super::{access, apply, bridged, look, neighbours, news, opened, roster};
use crate::nat::{InsideNumber, Realm};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// After a change the host is looked at at most this often; and looking takes no more than a part of the time, on a
/// machine with thousands of routes that flap.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const PART: u32 = 20;

/// How long a prefix stays closed to others that is not inside any more: the kernel may still have packets for a terminal
/// there in its hands, and answer for them.
const FADING: Duration = Duration::from_secs(60);

/// Checks the plan against the host and changes nothing. To be called with the [`Claim`] held, before the TUN devices
/// are made; or with those that were handed over.
///
/// # Errors
/// The first thing that would keep the gateway from working, one variant each.
pub fn inspect(plan: &Plan, devices: Devices) -> Result<Host, KernelError> {
    access::may_change()?;
    let stage = match devices {
        Devices::Missing => Stage::Before,
        Devices::HandedOver => Stage::Start,
    };
    look::look(&mut access::open()?, plan, stage)
}

/// Whether the TUN devices are there before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// They will be made.
    Missing,
    /// A gateway before has left them.
    HandedOver,
}

/// The host's network, set up for a gateway. Dropping it undoes everything, but in a panic.
pub struct Kernel {
    /// What was configured, with the interfaces by their names of now.
    plan: Plan,
    members: Members,
    host: Host,
    netlink: Netlink,
    monitor: Monitor,
    sysctls: Sysctls,
    neighbours: Neighbours,
    /// Something has changed since the last look.
    stale: bool,
    /// What is routed outside from within the insides' prefixes may have changed since it was read.
    outward_stale: bool,
    /// An interface of an outside LAN has changed since the last look. If it was down, or its carrier away, the kernel has
    /// taken its proxy neighbours.
    fallen: bool,
    looked: Instant,
    /// When to look next at the earliest.
    look_interval: Duration,
    /// What the log knows of, and what it will if that lasts.
    told: Host,
    to_tell: Option<Host>,
    /// Prefixes that were inside a moment ago, by realm, and until when they stay closed to others.
    faded: Vec<(usize, IpNet, Instant)>,
    /// Remarks that have been logged, so that each is said once.
    said: BTreeSet<String>,
    /// What was said of bridges, each with the settings by which netfilter looks at packets at its ports.
    bridged: BTreeMap<String, Vec<String>>,
    /// See [`Kernel::others`].
    others: BTreeSet<u32>,
    /// A gateway before has left something.
    adopted: bool,
    undone: bool,
}

impl Kernel {
    /// Sets the devices up, which exist, each with all its queues; nothing is forwarded that was not before.
    /// [`Kernel::open`] does the rest.
    ///
    /// # Errors
    /// As [`inspect`], and whatever the kernel refuses; what had been done is undone before this returns.
    pub fn set_up(plan: Plan) -> Result<Self, KernelError> {
        access::may_change()?;
        let _lock = SetUpLock::take()?;
        let monitor = Monitor::open().map_err(|e| KernelError::netlink("watch the network", e.into()))?;
        let mut netlink = access::open()?;
        let host = look::look(&mut netlink, &plan, Stage::Start)?;
        let undo_file = UndoFile::new(&plan.undo_file);
        // One that was killed may have had its control socket elsewhere.
        if let Some(before) = roster::undo_file(&plan.tun) {
            undo_file.take_from(&before, &plan.tun)?;
        }
        let sysctls = Sysctls::take_over(undo_file, &plan.tun);
        let left = apply::present(&mut netlink, &plan.tun)?;
        let adopted = sysctls.inherited() || !left.rules.is_empty();
        if adopted {
            log::info!("taking over what the gateway --tun {} before has left", plan.tun);
        }
        let neighbours = Neighbours::new(&host)?;
        let mut members = Members::new(plan.clone());
        members.update(&look::links(&mut netlink)?).1.log();
        let looked = Instant::now();
        let told = host.clone();
        let mut kernel = Self {
            plan,
            members,
            host,
            netlink,
            monitor,
            sysctls,
            neighbours,
            stale: false,
            outward_stale: false,
            fallen: false,
            looked,
            look_interval: LOOK_INTERVAL,
            told,
            to_tell: None,
            faded: Vec::new(),
            said: BTreeSet::new(),
            bridged: BTreeMap::new(),
            adopted: false,
            others: BTreeSet::new(),
            undone: false,
        };
        kernel.choose_others();
        kernel.remark();
        kernel.remark_bridges();
        kernel.adopted = adopted;
        match kernel.raise_devices() {
            Ok(()) => Ok(kernel),
            Err(error) => Err(kernel.give_up(error)),
        }
    }

    /// Sets up routes, rules and forwarding. To be called once nothing can leave that is not translated.
    ///
    /// # Errors
    /// Whatever the kernel refuses; what had been done is undone before this returns.
    pub fn open(&mut self) -> Result<(), KernelError> {
        let _lock = SetUpLock::take()?;
        match self.bring_up() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// Undoes what has been done of a start that fails; but what a killed gateway has left stays closed.
    fn give_up(&mut self, error: KernelError) -> KernelError {
        self.undone = true;
        if self.adopted {
            log::warn!("the network stays closed as the killed gateway left it; start again, or: kamei cleanup");
        } else if let Err(also) = self.take_down() {
            log::warn!("and while undoing: {also}");
        }
        error
    }

    /// What the host has, as last seen.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The interfaces that exist now and can be served, with their index and the realm behind them.
    pub fn interfaces(&self) -> Vec<(String, u32, Realm, Framing)> {
        let insides = (0..=u16::MAX).map(Realm::inside).zip(&self.plan.insides);
        let insides = insides.flat_map(|(realm, inside)| inside.interfaces.iter().map(move |name| (name, realm)));
        let all = insides.chain(self.plan.outsides.iter().map(|name| (name, Realm::Outside)));
        let with_index = all.filter_map(|(name, realm)| Some((name, self.host.index(name)?, realm)));
        let with_index = with_index.filter(|(_, index, _)| !self.host.unserved.contains(index));
        with_index.map(|(name, index, realm)| (name.clone(), index, realm, self.framing(index))).collect()
    }

    /// The ports of those of them that are bridges, with the realm behind the bridge.
    pub fn ports(&self) -> Vec<(String, u32, Realm, Framing)> {
        let bridges = self.interfaces();
        let of_ours = |(name, index): &(String, u32)| {
            let bridge = self.host.ports.get(index)?;
            let (_, _, realm, _) = bridges.iter().find(|(_, found, ..)| found == bridge)?;
            Some((name.clone(), *index, *realm, self.framing(*index)))
        };
        self.host.links.iter().filter_map(of_ours).collect()
    }

    fn framing(&self, index: u32) -> Framing {
        self.host.framing.get(&index).copied().unwrap_or(Framing::Unknown)
    }

    /// The gateway's devices that exist now, as [`Plan::devices`] has them.
    pub fn devices(&self) -> Vec<(String, u32)> {
        self.plan.devices().filter_map(|name| Some((name.to_owned(), self.host.index(name)?))).collect()
    }

    /// Interfaces of others that can have no packet of an inside. While an inside interface is away none is added: it may
    /// be made again under another name.
    pub fn others(&self) -> Vec<u32> {
        self.others.iter().copied().collect()
    }

    fn choose_others(&mut self) {
        let ours = self.plan.insides.iter().flat_map(|inside| &inside.interfaces).chain(&self.plan.outsides);
        let ours: BTreeSet<u32> = ours
            .filter_map(|name| self.host.index(name))
            .chain(self.devices().into_iter().map(|(_, index)| index))
            .collect();
        let is_away = (0..self.plan.insides.len()).any(|inside| self.members.is_incomplete(inside));
        let before = std::mem::take(&mut self.others);
        let fits = |index: &u32| !ours.contains(index) && (!is_away || before.contains(index));
        self.others = self.host.plain.iter().copied().filter(fits).collect();
    }

    /// What is configured now.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The prefixes of each inside that are closed to others, and whether another inside has addresses of them too.
    pub fn hidden(&self) -> Vec<(InsideNumber, IpNet, bool)> {
        let realms = 0..self.host.insides.len();
        let all = realms.flat_map(|realm| [Family::V4, Family::V6].map(|family| (realm, family)));
        let now = Instant::now();
        let faded = self.faded.iter().filter(|(_, _, until)| *until > now).map(|(realm, net, _)| (*realm, *net));
        all.flat_map(|(realm, family)| self.host.closable(realm, family).map(move |net| (realm, net)))
            .chain(faded)
            .map(|(realm, net)| (InsideNumber::of_place(realm), net, self.host.is_ambiguous(realm, &net)))
            .collect()
    }

    /// Hears what has changed (links, addresses, routes, rules) and follows it; never waits. `true` if [`Kernel::host`]
    /// has news for the translator. To be called a few times a second, or when [`Kernel::as_fd`] is readable and once
    /// more a moment later: a burst of changes is looked at once it has passed.
    ///
    /// # Errors
    /// What the kernel refuses; what was set up before stays, and the next call tries again.
    pub fn poll(&mut self) -> Result<bool, KernelError> {
        let (plan, host) = (&self.plan, &self.host);
        let (mut stale, mut outward_stale, mut fallen) = (self.stale, self.outward_stale, self.fallen);
        let heard = self.monitor.drain(|message| {
            stale = stale || news::matter(plan, host, &message);
            outward_stale = outward_stale || news::change_outward(plan, host, &message);
            fallen = fallen || news::are_of_a_lan(host, &message);
        });
        let heard = heard.map_err(|e| KernelError::netlink("watch the network", e.into()))?;
        self.stale = stale | heard.lost;
        self.outward_stale = outward_stale | heard.lost;
        self.fallen = fallen | heard.lost;
        if heard.settings {
            self.watch_settings()?;
        }
        if !self.stale || self.looked.elapsed() < self.look_interval {
            return Ok(false);
        }
        let begun = Instant::now();
        let news = self.look_again();
        self.look_interval = LOOK_INTERVAL.max(begun.elapsed() * PART);
        news
    }

    /// Sets again what others have changed of the settings without which packets are lost. To be called about once a second
    /// too: of some settings the kernel tells nobody.
    ///
    /// # Errors
    /// What the kernel refuses; the next call tries again.
    pub fn watch_settings(&mut self) -> Result<(), KernelError> {
        self.sysctls.watch(&self.plan, &self.host)
    }

    /// How long until [`Kernel::poll`] looks at what it has heard of; `None` if there is nothing.
    pub fn pause(&self) -> Option<Duration> {
        self.stale.then(|| self.look_interval.saturating_sub(self.looked.elapsed()).max(Duration::from_millis(1)))
    }

    /// What the host would look like for another plan of the same interfaces; changes nothing.
    ///
    /// # Errors
    /// As [`inspect`].
    pub fn look_ahead(&mut self, plan: &Plan) -> Result<Host, KernelError> {
        let plan = Plan { insides: self.with_names_of_now(plan), outsides: self.plan.outsides.clone(), ..plan.clone() };
        look::look(&mut self.netlink, &plan, Stage::Start)
    }

    /// Whether a gateway of this plan would start on the host as it is; the gateway's own devices do not matter.
    ///
    /// # Errors
    /// What the start would say.
    pub fn would_start(&mut self, plan: &Plan) -> Result<(), KernelError> {
        match look::look(&mut self.netlink, plan, Stage::Start) {
            Ok(_) | Err(KernelError::DeviceMissing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Follows another plan of the same interfaces: other pools, exemptions, prefixes.
    ///
    /// # Errors
    /// What the kernel refuses; then the plan before stands again.
    pub fn replan(&mut self, plan: &Plan) -> Result<(), KernelError> {
        let before = self.members.change(plan);
        self.outward_stale = true;
        let done = self.look_again().and_then(|_| Sysctls::prepare_devices(&self.plan, &self.host));
        if done.is_err() {
            self.members.change(&before);
            if let Err(error) = self.look_again() {
                log::error!("and while going back: {error}");
            }
        }
        done
    }

    /// The operator has said what is to be: settings that others change again and again are set again at once, too.
    pub fn contest_anew(&mut self) {
        self.sysctls.contest_anew();
    }

    fn with_names_of_now(&self, plan: &Plan) -> Vec<InsidePlan> {
        let insides = plan.insides.iter().zip(&self.plan.insides);
        insides.map(|(new, now)| InsidePlan { interfaces: now.interfaces.clone(), ..new.clone() }).collect()
    }

    fn look_again(&mut self) -> Result<bool, KernelError> {
        self.looked = Instant::now();
        let (plan, changes) = self.members.update(&look::links(&mut self.netlink)?);
        changes.log();
        self.sysctls.rename(&plan.tun, &changes.renamed)?;
        self.plan = plan;
        let mut host = self.look_around()?;
        for (number, inside) in host.insides.iter_mut().enumerate() {
            // What an interface that is away or down led to stays inside until it is back and says otherwise: with it go
            // its routes, and its IPv6 addresses.
            let interfaces = self.plan.insides.get(number).map_or(&[][..], |inside| &inside.interfaces);
            let is_down = interfaces.iter().any(|name| host.down.contains(name));
            if (is_down || self.members.is_incomplete(number))
                && let Some(before) = self.host.insides.get(number)
            {
                inside.keep(&before.sources);
            }
        }
        self.fade(&host);
        let news = host.tells_news(&self.host);
        self.host = host;
        self.choose_others();
        self.remark();
        if self.host.device_impaired {
            log::warn!("a device of the gateway was set down or has lost its address; it is set up again");
            apply::raise_devices(&mut self.netlink, &self.plan, &self.host)?;
        }
        apply::apply(&mut self.netlink, &self.plan, &self.host)?;
        self.sysctls.apply(&self.plan, &self.host)?;
        self.neighbours.update(&self.host, std::mem::take(&mut self.fallen));
        self.stale = false;
        self.outward_stale = false;
        Ok(news)
    }

    /// Looks at the host; at the routes of outside interfaces, which may be a full table of the internet, only if need be.
    fn look_around(&mut self) -> Result<Host, KernelError> {
        let (plan, before) = (&self.plan, &self.host);
        if !self.outward_stale {
            let known = Outward { before: &before.outward, is_read: false };
            let host = look::look_knowing(&mut self.netlink, plan, Stage::Running, known)?;
            if host.has_prefixes_of(before) {
                return Ok(host);
            }
        }
        let known = Outward { before: &before.outward, is_read: true };
        look::look_knowing(&mut self.netlink, plan, Stage::Running, known)
    }

    /// Logs what has changed, once it was the same in two calls. To be called about once a second: what lasts a moment is
    /// not worth a line.
    pub fn tell(&mut self) {
        self.remark_bridges();
        if self.told == self.host {
            return;
        }
        if self.to_tell.as_ref() == Some(&self.host) {
            self.host.log_changes(&self.told);
            self.told = self.host.clone();
            self.to_tell = None;
        } else {
            self.to_tell = Some(self.host.clone());
        }
    }

    /// Says of outside bridges when netfilter begins, or ceases, to look at packets at their ports: of a setting of all
    /// bridges the kernel tells nobody.
    fn remark_bridges(&mut self) {
        let found = bridged::look(&self.host.bridges);
        for (name, settings) in &found {
            if self.bridged.get(name) != Some(settings) {
                log::warn!("{}", bridged::sentence(name, settings));
            }
        }
        for name in self.bridged.keys().filter(|name| !found.contains_key(*name)) {
            log::info!("netfilter looks at packets at the ports of '{name}' no more");
        }
        self.bridged = found;
    }

    /// What is not inside any more stays closed for a while.
    fn fade(&mut self, host: &Host) {
        let now = Instant::now();
        let is_inside = |realm: usize, net: &IpNet| {
            host.insides.get(realm).is_some_and(|inside| inside.sources.iter().any(|source| source.contains(net)))
        };
        self.faded.retain(|(realm, net, until)| *until > now && !is_inside(*realm, net));
        let families = [Family::V4, Family::V6];
        let all = (0..self.host.insides.len()).flat_map(|realm| families.map(|family| (realm, family)));
        let before = all.flat_map(|(realm, family)| self.host.closable(realm, family).map(move |net| (realm, net)));
        let gone = before.filter(|(realm, net)| !is_inside(*realm, net));
        self.faded.extend(gone.map(|(realm, net)| (realm, net, now + FADING)));
    }

    /// The means to make virtual IPs answer on an outside LAN.
    pub fn neighbours(&self) -> Neighbours {
        self.neighbours.clone()
    }

    /// Undoes exactly what was done. The caller closes the TUN devices afterwards.
    ///
    /// # Errors
    /// The first failure; everything else is undone all the same.
    pub fn undo(mut self) -> Result<(), KernelError> {
        self.undone = true;
        let _lock = SetUpLock::take();
        let undone = self.take_down();
        opened::warn(&self.plan);
        undone
    }

    /// Leaves everything as it is, for a successor. Until one comes, inside packets wait or are dropped, as after a kill.
    pub fn leave(mut self) {
        self.undone = true;
    }

    fn raise_devices(&mut self) -> Result<(), KernelError> {
        Sysctls::prepare_devices(&self.plan, &self.host)?;
        apply::raise_devices(&mut self.netlink, &self.plan, &self.host)
    }

    fn bring_up(&mut self) -> Result<(), KernelError> {
        roster::enter(&self.plan)?;
        apply::apply(&mut self.netlink, &self.plan, &self.host)?;
        neighbours::clear_left(&mut self.netlink, &self.plan.tun, self.plan.programs_left)?;
        self.sysctls.apply(&self.plan, &self.host)
    }

    /// The caller holds the lock if it could get it: it spares others a half-way view, it must not keep this from ending.
    fn take_down(&mut self) -> Result<(), KernelError> {
        let settings = self.sysctls.undo().map(|_| ());
        let tables = apply::remove(&mut self.netlink, &self.plan.tun).map(|_| ());
        self.neighbours.clear();
        roster::leave(&self.plan.tun);
        settings.and(tables)
    }

    /// Logs remarks, each once.
    fn remark(&mut self) {
        for remark in &self.host.remarks {
            if !self.said.contains(remark) {
                log::warn!("{remark}");
            }
        }
        self.said = self.host.remarks.iter().cloned().collect();
    }
}

impl AsFd for Kernel {
    /// Readable when [`Kernel::poll`] has something to hear.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // In a panic the network stays closed, as after `kill -9`: nobody serves the inside any more.
        if std::mem::replace(&mut self.undone, true) || std::thread::panicking() {
            return;
        }
        let _lock = SetUpLock::take();
        if let Err(error) = self.take_down() {
            log::error!("the network could not be put back as it was: {error}");
        }
    }
}

/// What [`clean_up`] has removed and put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Policy rules removed.
    pub rules: usize,
    /// Routes removed.
    pub routes: usize,
    /// Proxy neighbour entries removed.
    pub neighbours: usize,
    /// Kernel settings put back.
    pub settings: usize,
}

/// Removes all that a killed gateway of this name has left. What a clean stop would have put back is in the file that it had
/// noted that in; in `undo_file` if that is not known. From then on inside packets go where they went before it.
///
/// # Errors
/// [`KernelError::Running`] if it lives; otherwise what the kernel refuses.
pub fn clean_up(tun: &str, undo_file: &Path, programs_left: ProgramsLeft) -> Result<Cleaned, KernelError> {
    access::may_change()?;
    let _claim = Claim::take(tun)?;
    let _lock = SetUpLock::take()?;
    let mut netlink = access::open()?;
    let undo_file = roster::undo_file(tun).unwrap_or_else(|| undo_file.to_owned());
    let mut sysctls = Sysctls::take_over(UndoFile::new(&undo_file), tun);
    let settings = sysctls.undo()?;
    let (rules, routes) = apply::remove(&mut netlink, tun)?;
    let neighbours = neighbours::clear_left(&mut netlink, tun, programs_left)?;
    roster::leave(tun);
    Ok(Cleaned { rules, routes, neighbours, settings })
}
