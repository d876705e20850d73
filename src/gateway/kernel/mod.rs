//! The host's network around the gateway: devices, routes, settings; made, watched, and undone exactly.
//!
//! What is translated goes the way the machine's own tables say; here is what the gateway needs beside that. The module
//! `tables` says which routes there are and why, and which rules where two insides have equal addresses. Everything the
//! gateway makes carries protocol number 75, so it can be told from the operator's; only kernel settings have to be
//! remembered, and they are, in a file that a successor reads after `kill -9`.
//!
//! # Order
//!
//! *Start:* devices (settings, address, up); then, by the caller, the programs that keep the inside closed
//! (`fastpath`); then routes, rules, proxy settings, forwarding at the very end. *Stop:* forwarding first, as far as the
//! gateway has switched it on, then rules, routes, neighbours; the caller then takes the programs off and closes the
//! devices. If the host forwarded before the gateway came, it forwards again when the gateway has gone, untranslated: that
//! is how it was found.
//!
//! *Killed:* the devices and the routes to them vanish with the process; the programs stay, so nothing from the inside
//! leaves untranslated. The next gateway of the same `--tun` name takes all of it over without a gap; [`clean_up`] removes
//! it. A start that fails in the middle undoes what it did; one that fails on top of what a killed gateway left leaves the
//! closed state as it is.
//!
//! # What is decided here
//!
//! - IPv4 forwarding is switched on for the interfaces of the gateway alone (`conf/*/forwarding`), not for the host.
//!   IPv6 knows only one switch, `all`.
//! - Several insides may have the same prefix and even the same address of the host: translation does not mind. What the
//!   host itself says does: its answers go by its own address, so terminals of every inside reach it (ping, DNS) where it
//!   has an address of its own in each. Its errors to terminals name no inside; for addresses that two insides have they are
//!   not sent, so traceroute from there does not show this gateway.
//! - An interface that hands its packets to another before they are routed (a bridge port, a member of a bond) is refused at
//!   the start; where it becomes one later, the other is of its realm from then on.
//! - Exempt destinations are for addresses that one inside alone has; others are translated on the way there as well.
//! - What an interface was it stays when it is renamed, until it is deleted; so does a prefix of an interface that is away
//!   or down.
//! - A family without a pool is closed: its packets from the inside reach other insides and the host, nothing else.
//! - A pool may lie in an outside network, be equal to it or larger. The host's own addresses, its routers and the
//!   network and broadcast addresses in it are reserved and stay reachable. Every other address of the pool belongs to
//!   the gateway: it answers ARP for each that a terminal has, so no other machine of that network may use one. What one
//!   uses all the same is found out, and not given meanwhile.
//! - What main sends by an outside interface more specifically than by an inside one is outside: there, as in the kernel,
//!   the longest prefix decides.

mod apply;
mod bridged;
mod claim;
mod discovery;
mod error;
mod host;
mod members;
mod messages;
mod neighbours;
mod netlink;
mod news;
mod next_hops;
mod occupied;
mod opened;
mod packet_socket;
mod roster;
mod survey;
mod sysctl;
mod tables;
mod undo;

pub use bridged::filtered_at_ports;
pub use claim::{Claim, directory as lock_directory};
pub use error::KernelError;
pub use host::{Framing, Host};
pub use neighbours::Neighbours;
pub use netlink::NetlinkError;
pub use occupied::{OccupiedAddress, Watched};
pub use survey::{Survey, dead};

use self::claim::SetUpLock;
use self::host::{Lan, Outward, Stage};
use self::members::Members;
use self::messages::Family;
use self::netlink::{Monitor, Netlink};
use self::sysctl::Sysctls;
use self::undo::UndoFile;
use crate::wire::AddressRange;
use ipnet::IpNet;
use rustix::thread::CapabilitySet;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// So many inside realms fit into a gateway's range of table numbers.
pub(crate) const INSIDES_MAX: u32 = 126;

/// After a change the host is looked at at most this often; and looking takes no more than a part of the time, on a
/// machine with thousands of routes that flap.
const BREATH: Duration = Duration::from_millis(50);
const PART: u32 = 20;

/// How long a prefix stays closed to others that is not inside any more: the kernel may still have packets for a terminal
/// there in its hands, and answer for them.
const FADING: Duration = Duration::from_secs(60);

/// What the gateway wants of the host's network.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The base name of the devices; also the name of the gateway.
    pub tun: String,
    /// The gateway's device: `{tun}-nat`.
    pub device: String,
    /// The inside realms.
    pub insides: Vec<InsidePlan>,
    /// The outside interfaces.
    pub outsides: Vec<String>,
    /// The virtual IPs.
    pub pools: Vec<AddressRange>,
    /// Destinations that are not translated.
    pub exempt: Vec<IpNet>,
    /// Where to remember what to restore; its directory exists and is root's. One file a gateway: put `tun` in its name.
    pub undo_file: PathBuf,
}

/// One inside realm.
#[derive(Clone, Debug)]
pub struct InsidePlan {
    /// Its own device, `{tun}-in0`, `{tun}-in1`…, where there are several insides: they may have the same addresses.
    pub device: Option<String>,
    /// Its interfaces.
    pub interfaces: Vec<String>,
    /// Prefixes the operator says are in it, whatever the routes say.
    pub sources: Vec<IpNet>,
}

impl Plan {
    /// The names of all devices: that of the gateway first, then those of the insides in their order.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.device.as_str()).chain(self.insides.iter().filter_map(|inside| inside.device.as_deref()))
    }
}

/// Checks the plan against the host and changes nothing. To be called with the [`Claim`] held, before the TUN devices
/// are made; or with those that were handed over.
///
/// # Errors
/// The first thing that would keep the gateway from working, one variant each.
pub fn inspect(plan: &Plan, devices: Devices) -> Result<Host, KernelError> {
    may_change_the_network()?;
    let stage = match devices {
        Devices::Missing => Stage::Before,
        Devices::HandedOver => Stage::Start,
    };
    host::look(&mut open()?, plan, stage)
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
    breath: Duration,
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
        may_change_the_network()?;
        let _lock = SetUpLock::take()?;
        let monitor = Monitor::open().map_err(|e| KernelError::netlink("watch the network", e.into()))?;
        let mut netlink = open()?;
        let host = host::look(&mut netlink, &plan, Stage::Start)?;
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
        members.follow(&host::links(&mut netlink)?).1.log();
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
            breath: BREATH,
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

    /// The interfaces that exist now and can be served, with their index and the inside realm behind them (`None`: the outside).
    pub fn interfaces(&self) -> Vec<(String, u32, Option<usize>, Framing)> {
        let insides = self.plan.insides.iter().enumerate();
        let insides = insides.flat_map(|(realm, inside)| inside.interfaces.iter().map(move |name| (name, Some(realm))));
        let all = insides.chain(self.plan.outsides.iter().map(|name| (name, None)));
        let with_index = all.filter_map(|(name, realm)| Some((name, self.host.index(name)?, realm)));
        let with_index = with_index.filter(|(_, index, _)| !self.host.unserved.contains(index));
        with_index.map(|(name, index, realm)| (name.clone(), index, realm, self.framing(index))).collect()
    }

    /// The ports of those of them that are bridges, with the realm behind the bridge.
    pub fn ports(&self) -> Vec<(String, u32, Option<usize>, Framing)> {
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
    pub fn hidden(&self) -> Vec<(usize, IpNet, bool)> {
        let realms = 0..self.host.insides.len();
        let all = realms.flat_map(|realm| [Family::V4, Family::V6].map(|family| (realm, family)));
        let now = Instant::now();
        let faded = self.faded.iter().filter(|(_, _, until)| *until > now).map(|(realm, net, _)| (*realm, *net));
        all.flat_map(|(realm, family)| self.host.closable(realm, family).map(move |net| (realm, net)))
            .chain(faded)
            .map(|(realm, net)| (realm, net, self.host.is_ambiguous(realm, &net)))
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
        if !self.stale || self.looked.elapsed() < self.breath {
            return Ok(false);
        }
        let begun = Instant::now();
        let news = self.look_again();
        self.breath = BREATH.max(begun.elapsed() * PART);
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
        self.stale.then(|| self.breath.saturating_sub(self.looked.elapsed()).max(Duration::from_millis(1)))
    }

    /// What the host would look like for another plan of the same interfaces; changes nothing.
    ///
    /// # Errors
    /// As [`inspect`].
    pub fn look_ahead(&mut self, plan: &Plan) -> Result<Host, KernelError> {
        let plan = Plan { insides: self.with_names_of_now(plan), outsides: self.plan.outsides.clone(), ..plan.clone() };
        host::look(&mut self.netlink, &plan, Stage::Start)
    }

    /// Whether a gateway of this plan would start on the host as it is; the gateway's own devices do not matter.
    ///
    /// # Errors
    /// What the start would say.
    pub fn would_start(&mut self, plan: &Plan) -> Result<(), KernelError> {
        match host::look(&mut self.netlink, plan, Stage::Start) {
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

    /// The operator has said what is to be: settings that somebody else changes again and again are set again at once, too.
    pub fn contest_anew(&mut self) {
        self.sysctls.contest_anew();
    }

    fn with_names_of_now(&self, plan: &Plan) -> Vec<InsidePlan> {
        let insides = plan.insides.iter().zip(&self.plan.insides);
        insides.map(|(new, now)| InsidePlan { interfaces: now.interfaces.clone(), ..new.clone() }).collect()
    }

    fn look_again(&mut self) -> Result<bool, KernelError> {
        self.looked = Instant::now();
        let (plan, changes) = self.members.follow(&host::links(&mut self.netlink)?);
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
        self.neighbours.follow(&self.host, std::mem::take(&mut self.fallen));
        self.stale = false;
        self.outward_stale = false;
        Ok(news)
    }

    /// Looks at the host; at the routes of outside interfaces, which may be a full table of the internet, only if need be.
    fn look_around(&mut self) -> Result<Host, KernelError> {
        let (plan, before) = (&self.plan, &self.host);
        if !self.outward_stale {
            let known = Outward { before: &before.outward, is_read: false };
            let host = host::look_knowing(&mut self.netlink, plan, Stage::Running, known)?;
            if host.has_prefixes_of(before) {
                return Ok(host);
            }
        }
        let known = Outward { before: &before.outward, is_read: true };
        host::look_knowing(&mut self.netlink, plan, Stage::Running, known)
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
        neighbours::clear_left(&mut self.netlink, &self.plan.tun)?;
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
pub fn clean_up(tun: &str, undo_file: &Path) -> Result<Cleaned, KernelError> {
    may_change_the_network()?;
    let _claim = Claim::take(tun)?;
    let _lock = SetUpLock::take()?;
    let mut netlink = open()?;
    let undo_file = roster::undo_file(tun).unwrap_or_else(|| undo_file.to_owned());
    let mut sysctls = Sysctls::take_over(UndoFile::new(&undo_file), tun);
    let settings = sysctls.undo()?;
    let (rules, routes) = apply::remove(&mut netlink, tun)?;
    let neighbours = neighbours::clear_left(&mut netlink, tun)?;
    roster::leave(tun);
    Ok(Cleaned { rules, routes, neighbours, settings })
}

fn may_change_the_network() -> Result<(), KernelError> {
    let have = rustix::thread::capabilities(None)
        .map_err(|e| KernelError::System { what: "read this process's capabilities", source: e.into() })?;
    if have.effective.contains(CapabilitySet::NET_ADMIN) { Ok(()) } else { Err(KernelError::NotPermitted) }
}

fn open() -> Result<Netlink, KernelError> {
    Netlink::open().map_err(|e| KernelError::netlink("open a netlink socket", e.into()))
}
