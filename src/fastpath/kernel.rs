//! Translation in the kernel as a whole: programs on interfaces, the guard, flows, and who may touch them when.

use super::abilities::{Abilities, XdpFeatures};
use super::attachment::Attachment;
use super::contest::Contest;
use super::duty::{AttachPoint, Duty, Position, Stance};
use super::flow_book::{FlowBook, KernelFlow};
use super::guard::{self, Guard, GuardError, Ways};
use super::layout::Interface;
use super::program::{Loader, ProgramSurroundings};
use super::{Entrance, FastPathError, FastPathSettings, NoXdp, PrefixKind, Site};
use crate::nat::{Epoch, FlowCarrier, Nat, Offer, Realm, SlotRef};
use crate::time::Time;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every flow is looked at once in so many calls of [`FastPath::look`].
const ROUND: usize = 5;
/// Flows looked at in one hold of the lock.
const SLICE: usize = 1024;

/// The attachments of the programs on one interface.
struct Attachments {
    entrance: Entrance,
    /// What they are there for, but for those that are only faster.
    duties: &'static [Duty],
    /// Those without which it is closed.
    needed: Vec<Attachment>,
    /// Those that are only faster.
    shortcuts: Vec<Attachment>,
    contest: Contest,
}

impl Attachments {
    /// Whether they are right for this interface; its name does not matter.
    fn are_of(&self, entrance: &Entrance, duties: &[Duty]) -> bool {
        let Entrance { index, realm, ethernet, name: _ } = &self.entrance;
        (index, realm, ethernet) == (&entrance.index, &entrance.realm, &entrance.ethernet) && self.duties == duties
    }

    /// How the worst of them sits.
    fn stance(&self) -> Stance {
        let mut worst = Stance::First;
        for attachment in self.all() {
            match attachment.stance() {
                Stance::Gone => return Stance::Gone,
                Stance::Behind { who, is_fixed } if worst == Stance::First => worst = Stance::Behind { who, is_fixed },
                Stance::Behind { .. } | Stance::First => {}
            }
        }
        worst
    }

    fn leave(self) {
        // The one that drops goes last.
        self.shortcuts.into_iter().chain(self.needed.into_iter().rev()).for_each(Attachment::leave);
    }

    fn all(&self) -> impl Iterator<Item = &Attachment> + Clone {
        self.needed.iter().chain(&self.shortcuts)
    }
}

/// Translation in the kernel. Several threads use it at once: each part has a lock of its own.
pub struct FastPath {
    loader: Mutex<Loader>,
    book: Mutex<FlowBook>,
    /// Held by a thread that goes through all flows: their order stays.
    round: Mutex<()>,
    surroundings: Mutex<ProgramSurroundings>,
    guard: Mutex<Guard>,
    /// By index of the interface.
    attachments: Mutex<BTreeMap<u32, Attachments>>,
    /// What drivers can, where XDP is asked for.
    abilities: Mutex<Option<Abilities>>,
    /// The time of the last look (milliseconds): soon enough for a flow that is entered.
    now: AtomicU64,
}

impl FastPath {
    /// Makes the maps and has the kernel check the programs; nothing is attached yet.
    ///
    /// # Errors
    /// What the kernel does not have or refuses.
    pub fn new(settings: FastPathSettings, now: Time) -> Result<Self, FastPathError> {
        let abilities = settings.xdp.then(Abilities::open).transpose().map_err(FastPathError::Abilities)?;
        let tun = settings.tun.clone();
        let (loader, flows, surroundings) = Loader::new(settings)?;
        let guard = Guard::new(&tun, loader.pins())?;
        log::debug!("undeclared ways out are guarded by {}", guard.kind());
        Ok(Self {
            loader: Mutex::new(loader),
            book: Mutex::new(FlowBook::new(flows)),
            round: Mutex::default(),
            surroundings: Mutex::new(surroundings),
            guard: Mutex::new(guard),
            attachments: Mutex::default(),
            abilities: Mutex::new(abilities),
            now: AtomicU64::new(now.as_millis()),
        })
    }

    /// Goes by this from now on: whose addresses are whose, which interfaces there are. What another program has taken
    /// off is put back. Closed before it is open: nothing leaves by an interface that is not there yet, or where a
    /// program cannot be attached; these are returned, once each. What cannot be had but is only faster is among them.
    pub fn update_site(&self, site: &Site) -> Vec<FastPathError> {
        let mut wrong: Vec<FastPathError> = self.loader.lock().restore().err().into_iter().collect();
        let features = self.features();
        let took_frames = self.take_frames(site);
        let mut interfaces = self.interfaces(site, &features);
        let told = self.tell(site, &interfaces);
        wrong.extend(told.err().map(FastPathError::from));
        let mut attachments = self.attachments.lock();
        leave_others(&mut attachments, site);
        for entrance in with_programs(site) {
            self.keep_attached(&mut attachments, entrance, site, &features, &mut wrong);
        }
        // Some drivers take frames from XDP only while a program sits on them.
        let after = self.features();
        if after != features {
            interfaces = self.interfaces(site, &after);
            wrong.extend(self.tell(site, &interfaces).err().map(FastPathError::from));
        }
        self.say_what_is_slower(site, &took_frames);
        let ways =
            ways(site, |index| attachments.get(&index).is_some_and(|attachments| !attachments.contest.is_lost()));
        drop(attachments);
        wrong.extend(self.guard_all_but(&ways).err().map(FastPathError::from));
        let kept = self.surroundings.lock().keep_interfaces(&interfaces);
        wrong.extend(kept.err().map(FastPathError::from));
        wrong
    }

    /// Sees that the programs of an entrance sit there and come first; attaches them where they do not.
    fn keep_attached(
        &self,
        attachments: &mut BTreeMap<u32, Attachments>,
        entrance: &Entrance,
        site: &Site,
        features: &BTreeMap<u32, XdpFeatures>,
        wrong: &mut Vec<FastPathError>,
    ) {
        let Some(device) = site.devices.first() else { return };
        let name = &entrance.name;
        let mut position = Position::AsLeft;
        let mut contest = Contest::default();
        let mut was_taken_off = false;
        let mut overtaken = None;
        if let Some(attachments) = attachments.get_mut(&entrance.index) {
            match attachments.stance() {
                Stance::First => return attachments.contest.win(),
                Stance::Behind { who, is_fixed } => {
                    if !attachments.contest.goes_in_front(name, &who, is_fixed) {
                        return;
                    }
                    position = Position::InFront;
                    overtaken = Some(who);
                }
                Stance::Gone => was_taken_off = true,
            }
            contest = attachments.contest.clone();
            contest.win();
        }
        match self.attach(AttachPoint { entrance, position }, site, device.index, features, wrong) {
            // What was left of the attachments before goes only now.
            Ok(taken) => {
                drop(attachments.insert(entrance.index, Attachments { contest: contest.clone(), ..taken }));
                if let Some(who) = overtaken {
                    contest.say_overtaken(name, &who);
                }
                if was_taken_off {
                    log::error!("somebody has taken a program of the gateway off '{name}'; it is put back");
                }
            }
            Err(why) => {
                if let Some(who) = overtaken {
                    log::error!("{who} comes before the gateway's programs on '{name}' and is not overtaken:");
                }
                wrong.push(FastPathError::Tc { name: name.clone(), why: Box::new(why) });
            }
        }
    }

    /// Closes all ways but these, and puts back what another program has taken away of the guard.
    fn guard_all_but(&self, ways: &Ways) -> Result<(), GuardError> {
        let mut guard = self.guard.lock();
        guard.set(ways)?;
        if guard.is_whole() {
            return Ok(());
        }
        log::error!("somebody has taken away what keeps the inside closed to other interfaces; it is put back");
        guard.renew()
    }

    /// What programs know of interfaces and addresses: what is new is added, what is old stays for now.
    fn tell(&self, site: &Site, interfaces: &BTreeMap<u32, Interface>) -> Result<(), aya::maps::MapError> {
        let mut surroundings = self.surroundings.lock();
        surroundings.set_ruled(site.ruled_v4, site.ruled_v6)?;
        surroundings.set_prefixes(&site.prefixes)?;
        surroundings.set_exempt(&site.exempt)?;
        surroundings.add_interfaces(interfaces)
    }

    fn features(&self) -> BTreeMap<u32, XdpFeatures> {
        self.abilities.lock().as_mut().and_then(|abilities| abilities.xdp().ok()).unwrap_or_default()
    }

    /// The interfaces that take frames from XDP, as the programs know it.
    fn take_frames(&self, site: &Site) -> BTreeSet<u32> {
        let surroundings = self.surroundings.lock();
        let indices = site.entrances.iter().map(|entrance| entrance.index);
        indices.filter(|index| surroundings.takes_frames(*index) == Some(true)).collect()
    }

    fn say_what_is_slower(&self, site: &Site, before: &BTreeSet<u32>) {
        let now = self.take_frames(site);
        if !self.loader.lock().settings().xdp {
            return;
        }
        for Entrance { name, index, .. } in &site.entrances {
            if before.contains(index) && !now.contains(index) {
                log::warn!(
                    "'{name}' takes no frames from XDP any more, what leaves by it goes the longer way: a veth takes them while \
                     its other end has gro on (`ethtool -K`), another card while an XDP program sits on it"
                );
            }
        }
    }

    fn interfaces(&self, site: &Site, features: &BTreeMap<u32, XdpFeatures>) -> BTreeMap<u32, Interface> {
        let takes_frames = |index| features.get(&index).is_some_and(|found| found.takes_frames());
        let interface = |Entrance { index, realm, .. }: &Entrance| {
            (*index, Interface { realm: realm.number(), takes_frames: takes_frames(*index).into() })
        };
        // What comes in by a port, and goes on without having been the bridge's, is of the same inside.
        let ports = site.ports.iter().filter(|port| port.realm != Realm::Outside);
        let ports = ports.map(|port| (port.index, Interface { realm: port.realm.number(), takes_frames: 0 }));
        ports.chain(site.entrances.iter().map(interface)).collect()
    }

    fn attach(
        &self,
        point: AttachPoint<'_>,
        site: &Site,
        device: u32,
        features: &BTreeMap<u32, XdpFeatures>,
        wrong: &mut Vec<FastPathError>,
    ) -> Result<Attachments, FastPathError> {
        let (loader, entrance) = (self.loader.lock(), point.entrance);
        let duties = duties(site, entrance);
        let needed = if duties.is_empty() { Vec::new() } else { loader.at_tc(duties, point, device)? };
        let contest = Contest::default();
        let mut attachments =
            Attachments { entrance: entrance.clone(), duties, needed, shortcuts: Vec::new(), contest };
        if !site.entrances.contains(entrance) || entrance.ethernet.is_none() {
            return Ok(attachments);
        }
        if loader.settings().redirects && entrance.realm != Realm::Outside {
            match loader.at_tc(&[Duty::Shortcut], point, device) {
                Ok(taken) => attachments.shortcuts.extend(taken),
                Err(why) => wrong.push(FastPathError::Tc { name: entrance.name.clone(), why: Box::new(why) }),
            }
        }
        if let Some(abilities) = &mut *self.abilities.lock() {
            let features = features.get(&entrance.index).copied().unwrap_or_default();
            match suits(entrance, features, abilities).and_then(|()| loader.at_xdp(entrance)) {
                Ok(attachment) => attachments.shortcuts.push(attachment),
                Err(why) => wrong.push(FastPathError::Xdp { name: entrance.name.clone(), why }),
            }
        }
        Ok(attachments)
    }

    /// Takes over the flows that a predecessor has left, as far as the translator would decide the same, and drops the
    /// others. To be called once the programs are attached.
    pub fn take_over(&self, nat: &Nat, now: Time) {
        let attachments = self.attachments.lock();
        self.loader.lock().tidy(attachments.values().flat_map(Attachments::all), &guard::names());
        drop(attachments);
        let (kept, dropped) = self.book.lock().take_over(nat, now);
        if kept + dropped > 0 {
            log::info!("fast path: {kept} flows taken over, {dropped} dropped");
        }
    }

    /// Takes everything off and leaves nothing.
    pub fn remove(&self) {
        std::mem::take(&mut *self.attachments.lock()).into_values().for_each(Attachments::leave);
        if let Err(error) = self.guard.lock().remove() {
            log::error!("the guard in the forward hook stays: {error}; remove it with kamei cleanup");
        }
        self.loader.lock().remove();
    }

    /// Goes on with other settings, with the programs that are loaded when [`FastPath::update_site`] is called next. To be
    /// called while nobody offers flows.
    pub fn renew(&self, settings: FastPathSettings) {
        self.loader.lock().set_settings(settings);
        self.attachments.lock().clear();
    }

    /// Looks at a part of the flows: all of them in five calls. Call it once a second.
    pub fn look(&self, nat: &Nat, now: Time) {
        let all = self.book.lock().len();
        self.look_at(nat, all.div_ceil(ROUND), now);
    }

    /// Looks at all flows, so that bindings and [`FastPath::view`] say what is true now.
    pub fn sync_counts(&self, nat: &Nat, now: Time) {
        let all = self.book.lock().len();
        self.look_at(nat, all, now);
    }

    /// While it is bypassed it carries nothing: when this returns every flow is out, and none is entered.
    pub fn bypass(&self, on: bool, nat: &Nat, now: Time) {
        if self.book.lock().close(on) || !on {
            return;
        }
        self.sync_counts(nat, now);
        self.book.lock().revoke_all();
    }

    /// How many flows there are, and what programs and guard have counted.
    pub fn view(&self) -> View {
        let dropped = self.guard.lock().dropped();
        let book = self.book.lock();
        let named = |(why, number): (&str, u64)| (why.to_owned(), number);
        let mut noted: BTreeMap<String, u64> = book.noted().map(named).collect();
        for (why, number) in dropped {
            *noted.entry(why.to_owned()).or_default() += number;
        }
        View { flows: book.len() as u64, hits: book.hits(), slow: book.slow().map(named).collect(), noted }
    }

    /// Every flow, as it was when it was last looked at. Workers that enter one meanwhile wait for no more than a slice.
    pub fn for_each_flow(&self, each: &mut dyn FnMut(KernelFlow)) {
        let _round = self.round.lock();
        let mut first = 0;
        while self.book.lock().part(first, SLICE, each) > first + SLICE {
            first += SLICE;
        }
    }

    fn look_at(&self, nat: &Nat, mut most: usize, now: Time) {
        self.now.store(now.as_millis(), Ordering::Relaxed);
        let _round = self.round.lock();
        while most > 0 {
            let slice = most.min(SLICE);
            self.book.lock().look(nat, slice, now);
            most -= slice;
        }
    }
}

impl FlowCarrier for FastPath {
    fn offer(&self, epoch: &Epoch, offer: &Offer) {
        let mut book = self.book.lock();
        if epoch.is_current(offer) {
            book.enter(offer, Time::from_millis(self.now.load(Ordering::Relaxed)));
        }
    }

    fn revoke(&self, binding: Option<SlotRef>) {
        let mut book = self.book.lock();
        match binding {
            Some(binding) => book.revoke(binding),
            None => book.revoke_all(),
        }
    }
}

/// The kernel's part in numbers.
pub struct View {
    /// Flows that it knows.
    pub flows: u64,
    /// Packets that it has translated.
    pub hits: u64,
    /// Packets that went to user space, by reason.
    pub slow: BTreeMap<String, u64>,
    /// Packets that it has dropped, or let pass as they were, by reason.
    pub noted: BTreeMap<String, u64>,
}

/// Where programs sit: at devices, entrances and the ports of outside bridges.
fn with_programs(site: &Site) -> impl Iterator<Item = &Entrance> {
    let ports = site.ports.iter().filter(|port| port.realm == Realm::Outside);
    site.devices.iter().chain(&site.entrances).chain(ports)
}

/// Takes off what is of no entrance any more, or of one that has changed.
fn leave_others(attachments: &mut BTreeMap<u32, Attachments>, site: &Site) {
    let is_right = |attachments: &Attachments| {
        with_programs(site).any(|entrance| attachments.are_of(entrance, duties(site, entrance)))
    };
    for (index, left) in attachments.extract_if(.., |_, attachments| !is_right(attachments)) {
        // Of an interface that is still there but has changed, another program takes the attachment.
        if with_programs(site).all(|entrance| entrance.index != index || duties(site, entrance) != left.duties) {
            left.leave();
        }
    }
}

/// What programs are needed for at an interface.
fn duties(site: &Site, entrance: &Entrance) -> &'static [Duty] {
    match entrance.realm {
        _ if site.devices.contains(entrance) => &Duty::DEVICE,
        _ if site.ports.contains(entrance) => &Duty::PORT,
        Realm::Outside => &Duty::OUTSIDE,
        Realm::Inside(_) => &[],
    }
}

/// By which interfaces inside packets may leave: the outside ones that have their programs.
fn ways(site: &Site, is_attached: impl Fn(u32) -> bool) -> Ways {
    let mut insides: Vec<Vec<u32>> = Vec::new();
    let mut outsides = Vec::new();
    for Entrance { index, realm, .. } in &site.entrances {
        match realm {
            Realm::Inside(inside) => {
                let inside = usize::from(inside.get());
                insides.resize(insides.len().max(inside + 1), Vec::new());
                if let Some(indices) = insides.get_mut(inside) {
                    indices.push(*index);
                }
            }
            Realm::Outside if is_attached(*index) => outsides.push(*index),
            Realm::Outside => {}
        }
    }
    let devices: BTreeSet<u32> = site.devices.iter().map(|device| device.index).collect();
    let devices = devices.into_iter().filter(|index| is_attached(*index)).collect();
    let is_hidden = |kind: &PrefixKind| matches!(kind, PrefixKind::Inside(_) | PrefixKind::Unclear);
    let hidden = site.prefixes.iter().filter(|(_, kind)| is_hidden(kind)).map(|(prefix, _)| *prefix).collect();
    let others = site.others.clone();
    Ways { insides, outsides, devices, others, exempt: site.exempt.clone(), hidden, own_v6: site.own_v6.clone() }
}

/// Whether a gateway `tun` has left anything in this network namespace, dead or alive.
///
/// # Errors
/// What the file system or the kernel refuses.
pub fn has_left(tun: &str) -> io::Result<bool> {
    Ok(super::pin_directory::exists(tun)? || super::clsact::has_left(tun)?)
}

/// Removes what a dead gateway `tun` has left in this network namespace; says whether there was anything.
///
/// # Errors
/// What the file system or the kernel refuses.
pub fn remove(tun: &str) -> io::Result<bool> {
    let filters = super::clsact::remove_but(&[], tun)?;
    let guarded = guard::remove(tun)?;
    Ok(super::pin_directory::remove(tun)? || filters || guarded)
}

/// Those of these interfaces on which XDP cannot sit, as far as it is known before it is tried.
///
/// # Errors
/// Where the kernel does not tell: before Linux 6.3.
pub fn without_xdp(entrances: &[Entrance]) -> io::Result<Vec<(String, NoXdp)>> {
    let mut abilities = Abilities::open()?;
    let features = abilities.xdp()?;
    let with_frames = entrances.iter().filter(|entrance| entrance.ethernet.is_some());
    let refusal = |entrance: &Entrance| {
        let features = features.get(&entrance.index).copied().unwrap_or_default();
        Some((entrance.name.clone(), suits(entrance, features, &mut abilities).err()?))
    };
    Ok(with_frames.filter_map(refusal).collect())
}

/// Whether XDP would see whole packets that come in by an interface.
fn suits(entrance: &Entrance, features: XdpFeatures, abilities: &mut Abilities) -> Result<(), NoXdp> {
    if !features.runs_programs() {
        return Err(NoXdp::NotNative);
    }
    let is_local = entrance.ethernet.is_some_and(|ethernet| ethernet.is_local);
    let mut on = abilities.switched_on(entrance.index).map_err(|error| NoXdp::Kernel(error.to_string()))?;
    // What the sender at the other end of a veth leaves undone cannot be seen from here; that this end leaves nothing
    // undone tells that the operator has thought of it.
    on.retain(|name| {
        if is_local {
            name.starts_with("tx-checksum-ip") || name.starts_with("tx-vlan-") && name.ends_with("-insert")
        } else {
            name.starts_with("rx-vlan-") && name.ends_with("-parse")
        }
    });
    let settings: Vec<String> = on.iter().map(|name| format!("{name} off")).collect();
    let command = format!("ethtool -K {} {}", entrance.name, settings.join(" "));
    match (on.is_empty(), is_local) {
        (true, _) => Ok(()),
        (false, true) => Err(NoXdp::Unfinished { command }),
        (false, false) => Err(NoXdp::HiddenTags { command }),
    }
}
