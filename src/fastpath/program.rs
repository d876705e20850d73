//! The eBPF programs in the kernel: loaded once for each interface, with maps that all of them share.

use super::attachment::Attachment;
use super::duty::{AttachPoint, Duty};
use super::layout::{
    CONTROL_PORTS, Constants, Flow4, Flow6, Interface, Key4, Key6, LAYOUT, NOTED, PrefixValue, SLOW_REASONS,
    SharedValue,
};
use super::pin_directory::PinDirectory;
use super::{Entrance, FastPathError, FastPathSettings, NoXdp, PrefixKind};
use crate::nat::{Carried, Offer, Realm};
use crate::wire::Address;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, MapInfo, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, Xdp, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kamei.bpf.o"));

/// Their maps.
const MAPS: [&str; 13] = [
    "flows4",
    "flows6",
    "interfaces",
    "low_interfaces",
    "places4",
    "places6",
    "exempt4",
    "exempt6",
    "counters",
    "ways",
    "numbers",
    "shared",
    "ruled",
];
/// Name of the program that is attached to drivers.
const XDP: &str = "kamei_xdp";
/// How often a program is loaded at most.
const ATTEMPTS: u32 = 20;
/// Bytes of an Ethernet header.
const ETHERNET: u8 = 14;

/// Loads programs.
pub struct Loader {
    settings: FastPathSettings,
    pins: PinDirectory,
    token: [u32; 2],
    /// All maps, should another program take their names away.
    maps: Vec<(&'static str, MapData)>,
}

/// What the programs know of the host.
pub struct ProgramSurroundings {
    interfaces: HashMap<MapData, u32, Interface>,
    low_interfaces: Array<MapData, Interface>,
    prefixes: Trie,
    exempt: Trie,
    ruled: Array<MapData, u32>,
}

/// Prefixes of both families.
struct Trie {
    v4: LpmTrie<MapData, [u8; 4], PrefixValue>,
    v6: LpmTrie<MapData, [u8; 16], PrefixValue>,
    /// What is in it.
    have: BTreeMap<IpNet, PrefixValue>,
}

/// The maps of flows, which the programs read, and the counters.
pub struct FlowMaps {
    v4: HashMap<MapData, Key4, Flow4>,
    v6: HashMap<MapData, Key6, Flow6>,
    counters: PerCpuArray<MapData, u64>,
}

impl Loader {
    /// Makes the maps, and has the kernel check the programs.
    pub fn new(settings: FastPathSettings) -> Result<(Self, FlowMaps, ProgramSurroundings), FastPathError> {
        let pins = PinDirectory::of(&settings.tun).map_err(FastPathError::FileSystem)?;
        if let PinDirectory::Private(_) = &pins
            && let Err(error) = take_over(&settings.tun, &pins)
        {
            log::warn!("what an earlier gateway knew of flows is not taken over: {error}");
        }
        let mut loader = Self { settings, pins, token: [0; 2], maps: Vec::new() };
        let mut ebpf = loader.load(&loader.constants(Realm::Outside, None, 0)?)?;
        for duty in Duty::OUTSIDE.into_iter().chain(Duty::PORT) {
            program(&mut ebpf, duty)?;
        }
        if loader.settings.xdp {
            xdp_program(&mut ebpf)?;
        }
        let mut take = |name| ebpf.take_map(name).ok_or(FastPathError::Object(name));
        let flows = FlowMaps {
            v4: HashMap::try_from(take("flows4")?)?,
            v6: HashMap::try_from(take("flows6")?)?,
            counters: PerCpuArray::try_from(take("counters")?)?,
        };
        let surroundings = ProgramSurroundings {
            interfaces: HashMap::try_from(take("interfaces")?)?,
            low_interfaces: Array::try_from(take("low_interfaces")?)?,
            prefixes: Trie::new(LpmTrie::try_from(take("places4")?)?, LpmTrie::try_from(take("places6")?)?),
            exempt: Trie::new(LpmTrie::try_from(take("exempt4")?)?, LpmTrie::try_from(take("exempt6")?)?),
            ruled: Array::try_from(take("ruled")?)?,
        };
        loader.token = token(Array::try_from(take("shared")?)?)?;
        for name in MAPS {
            loader.maps.push((name, MapData::from_pin(loader.map_path(name))?));
        }
        Ok((loader, flows, surroundings))
    }

    /// Other settings for the programs loaded from now on; the maps stay.
    pub fn set_settings(&mut self, settings: FastPathSettings) {
        self.settings = settings;
    }

    /// The settings of programs that are loaded now.
    pub fn settings(&self) -> &FastPathSettings {
        &self.settings
    }

    /// Where what outlives this process has its names.
    pub fn pins(&self) -> &PinDirectory {
        &self.pins
    }

    /// Puts the programs of these duties on an interface, in their order; `device` is the index of the gateway's own.
    pub fn at_tc(
        &self,
        duties: &[Duty],
        point: AttachPoint<'_>,
        device: u32,
    ) -> Result<Vec<Attachment>, FastPathError> {
        let entrance = point.entrance;
        let hardware = entrance.ethernet.map(|ethernet| ethernet.hardware);
        let mut ebpf = self.load(&self.constants(entrance.realm, hardware, device)?)?;
        let mut attachments = Vec::new();
        for duty in duties {
            let program = program(&mut ebpf, *duty)?;
            attachments.push(Attachment::at_tc(program, *duty, point, &self.pins, &self.settings)?);
        }
        Ok(attachments)
    }

    /// Puts the program at XDP on an interface.
    pub fn at_xdp(&self, entrance: &Entrance) -> Result<Attachment, NoXdp> {
        let unloaded = |error: FastPathError| NoXdp::Kernel(error.to_string());
        let hardware = entrance.ethernet.map(|ethernet| ethernet.hardware);
        let constants = self.constants(entrance.realm, hardware, 0);
        let mut ebpf = constants.and_then(|constants| self.load(&constants)).map_err(unloaded)?;
        Attachment::at_xdp(xdp_program(&mut ebpf).map_err(unloaded)?, entrance, &self.pins)
    }

    /// Gives the maps their names again, where another program has removed them: programs loaded next share these maps
    /// too.
    pub fn restore(&self) -> Result<(), FastPathError> {
        self.pins.restore().map_err(FastPathError::FileSystem)?;
        for (name, map) in &self.maps {
            let path = self.map_path(name);
            if !path.exists() {
                map.pin(path).map_err(|error| FastPathError::FileSystem(io::Error::other(error)))?;
            }
        }
        Ok(())
    }

    /// Removes the maps' names.
    pub fn remove(&self) {
        if let PinDirectory::Lasting(path) = &self.pins
            && let Err(error) = super::pin_directory::remove(&self.settings.tun)
        {
            log::error!("{}: {error}; remove it by hand", path.display());
        }
    }

    /// Removes what is left of attachments that are not among these, and of other layouts; `names` are others that stay.
    pub fn tidy<'a>(&self, attachments: impl Iterator<Item = &'a Attachment> + Clone, names: &[String]) {
        let filters: Vec<_> = attachments.clone().filter_map(Attachment::filter).collect();
        if let Err(error) = super::clsact::remove_but(&filters, &self.settings.tun) {
            log::warn!("tc filters: {error}; something of an earlier gateway may stay");
        }
        let PinDirectory::Lasting(path) = &self.pins else { return };
        let mut names = names.to_vec();
        names.extend(MAPS.into_iter().map(map_name));
        names.extend(attachments.filter_map(Attachment::name));
        if let Err(error) = super::pin_directory::empty(path, |name| !names.iter().any(|have| have == name)) {
            log::warn!("{}: {error}; something of an earlier gateway stays", path.display());
        }
    }

    fn constants(&self, realm: Realm, hardware: Option<[u8; 6]>, device: u32) -> Result<Constants, FastPathError> {
        if self.settings.control_ports.len() > CONTROL_PORTS {
            return Err(FastPathError::TooManyPorts { most: CONTROL_PORTS });
        }
        let mut control_ports = [0; CONTROL_PORTS];
        for (entry, port) in control_ports.iter_mut().zip(&self.settings.control_ports) {
            *entry = port.to_be();
        }
        Ok(Constants {
            realm: realm.number(),
            device,
            token: self.token,
            control_ports,
            link_header: if hardware.is_some() { ETHERNET } else { 0 },
            hardware: hardware.unwrap_or_default(),
            clamps: u8::from(self.settings.clamps),
            carries: u8::from(self.settings.carries),
            redirects: u8::from(self.settings.redirects),
            strips: u8::from(self.settings.strips),
            unused: 0,
        })
    }

    fn load(&self, constants: &Constants) -> Result<Ebpf, FastPathError> {
        let mut loader = EbpfLoader::new();
        loader.override_global("constants", constants, true);
        for name in MAPS {
            loader.map_pin_path(name, self.map_path(name));
        }
        loader.map_max_entries("flows4", self.settings.flows).map_max_entries("flows6", self.settings.flows);
        Ok(loader.load(OBJECT)?)
    }

    fn map_path(&self, map: &str) -> PathBuf {
        self.pins.path().join(map_name(map))
    }
}

/// The token of the gateway before, or a new one.
fn token(mut map: Array<MapData, SharedValue>) -> Result<[u32; 2], MapError> {
    let shared = map.get(&0, 0)?;
    if shared.token != [0; 2] {
        return Ok(shared.token);
    }
    let token = [random(), random()];
    map.set(0, SharedValue { token, ..shared }, 0)?;
    Ok(token)
}

/// Gives the maps of programs that an earlier gateway has left on interfaces their names in a directory where nothing has one
/// yet: packets on their way to user space and back, and known flows, go on.
fn take_over(tun: &str, pins: &PinDirectory) -> io::Result<()> {
    let left = super::clsact::programs(tun)?;
    if left.is_empty() {
        return Ok(());
    }
    let object = Object::parse(OBJECT).map_err(io::Error::other)?;
    let programs = loaded_programs().flatten().filter(|program| left.contains(&program.id()));
    let numbers: BTreeSet<u32> = programs.filter_map(|program| program.map_ids().ok()?).flatten().collect();
    for number in numbers {
        let info = MapInfo::from_id(number).map_err(io::Error::other)?;
        let Some(name) = info.name_as_str().filter(|name| MAPS.contains(name)) else { continue };
        // A map of another version has other sizes.
        let is_same = object
            .maps
            .get(name)
            .is_some_and(|map| (map.key_size(), map.value_size()) == (info.key_size(), info.value_size()));
        if is_same {
            let map = MapData::from_id(number).map_err(io::Error::other)?;
            map.pin(pins.path().join(map_name(name))).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

fn random() -> u32 {
    // Without random numbers of the system there is no TLS, no hash key, no machine to speak of.
    getrandom::u32().unwrap_or_else(|_| std::process::id())
}

fn map_name(map: &str) -> String {
    format!("{map}-{LAYOUT}")
}

fn program(ebpf: &mut Ebpf, duty: Duty) -> Result<&mut SchedClassifier, FastPathError> {
    let program = ebpf.program_mut(duty.program()).ok_or(FastPathError::Object(duty.program()))?;
    let program: &mut SchedClassifier = program.try_into()?;
    patiently(|| program.load())?;
    Ok(program)
}

fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, FastPathError> {
    let program = ebpf.program_mut(XDP).ok_or(FastPathError::Object(XDP))?;
    let program: &mut Xdp = program.try_into()?;
    patiently(|| program.load())?;
    Ok(program)
}

/// The verifier gives up when a signal comes.
fn patiently(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut loaded = load();
    for _ in 1..ATTEMPTS {
        match &loaded {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {
                loaded = load();
            }
            _ => break,
        }
    }
    loaded
}

impl ProgramSurroundings {
    /// Adds interfaces, or what is known of them anew; the others stay.
    pub fn add_interfaces(&mut self, interfaces: &BTreeMap<u32, Interface>) -> Result<(), MapError> {
        interfaces.iter().try_for_each(|(index, interface)| {
            if self.interfaces.get(index, 0).is_ok_and(|have| have == *interface) {
                return Ok(());
            }
            self.set_low(*index, interface)?;
            self.interfaces.insert(index, interface, 0)
        })
    }

    /// Forgets all interfaces but these.
    pub fn keep_interfaces(&mut self, interfaces: &BTreeMap<u32, Interface>) -> Result<(), MapError> {
        let there: Vec<u32> = self.interfaces.keys().flatten().collect();
        let gone = there.into_iter().filter(|index| !interfaces.contains_key(index));
        gone.into_iter().try_for_each(|index| {
            self.set_low(index, &Interface::NONE)?;
            self.interfaces.remove(&index)
        })
    }

    fn set_low(&mut self, index: u32, interface: &Interface) -> Result<(), MapError> {
        if index < self.low_interfaces.len() { self.low_interfaces.set(index, interface, 0) } else { Ok(()) }
    }

    /// Whether an interface takes frames from XDP, as was told last; `None` if it is none of them.
    pub fn takes_frames(&self, index: u32) -> Option<bool> {
        self.interfaces.get(&index, 0).ok().map(|interface| interface.takes_frames != 0)
    }

    /// These prefixes and no others have a kind from now on.
    pub fn set_prefixes(&mut self, prefixes: &BTreeMap<IpNet, PrefixKind>) -> Result<(), MapError> {
        self.prefixes.set(prefixes.iter().map(|(prefix, kind)| (*prefix, (*kind).into())).collect())
    }

    /// Peers of these prefixes, and no others, see terminals as they are from now on.
    pub fn set_exempt(&mut self, prefixes: &[IpNet]) -> Result<(), MapError> {
        self.exempt.set(prefixes.iter().map(|prefix| (*prefix, PrefixKind::Exempt.into())).collect())
    }

    /// Whether routing rules of others say where packets go.
    pub fn set_ruled(&mut self, v4: bool, v6: bool) -> Result<(), MapError> {
        self.ruled.set(0, u32::from(v4) | u32::from(v6) << 1, 0)
    }
}

impl Trie {
    /// With what a predecessor has left in it.
    fn new(v4: LpmTrie<MapData, [u8; 4], PrefixValue>, v6: LpmTrie<MapData, [u8; 16], PrefixValue>) -> Self {
        let of_v4 = v4.iter().flatten().filter_map(|(key, value)| Some((prefix(key.data(), key.prefix_len())?, value)));
        let of_v6 = v6.iter().flatten().filter_map(|(key, value)| Some((prefix(key.data(), key.prefix_len())?, value)));
        let have = of_v4.chain(of_v6).collect();
        Self { v4, v6, have }
    }

    /// Exactly these from now on: what is new or other first.
    fn set(&mut self, wanted: BTreeMap<IpNet, PrefixValue>) -> Result<(), MapError> {
        for (prefix, value) in wanted.iter().filter(|(prefix, value)| self.have.get(prefix) != Some(value)) {
            let length = prefix.prefix_len().into();
            match prefix {
                IpNet::V4(net) => self.v4.insert(&Key::new(length, net.network().octets()), value, 0)?,
                IpNet::V6(net) => self.v6.insert(&Key::new(length, net.network().octets()), value, 0)?,
            }
        }
        for prefix in self.have.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            let length = prefix.prefix_len().into();
            match prefix {
                IpNet::V4(net) => self.v4.remove(&Key::new(length, net.network().octets()))?,
                IpNet::V6(net) => self.v6.remove(&Key::new(length, net.network().octets()))?,
            }
        }
        self.have = wanted;
        Ok(())
    }
}

fn prefix<A: Into<std::net::IpAddr>>(address: A, length: u32) -> Option<IpNet> {
    IpNet::new(address.into(), u8::try_from(length).ok()?).ok()
}

impl FlowMaps {
    /// Adds a flow. An error mostly means that there is no room.
    pub fn insert(&mut self, offer: &Offer) -> Result<(), MapError> {
        let Offer { from, source, destination, .. } = *offer;
        if source.is_v4() {
            self.v4.insert(Key4::new(from, source, destination), Flow4::new(offer), 0)
        } else {
            self.v6.insert(Key6::new(from, source, destination), Flow6::new(offer), 0)
        }
    }

    /// Takes a flow out; when this returns no packet that arrives later is carried by it.
    pub fn remove(&mut self, from: Realm, source: Address, destination: Address) -> Result<(), MapError> {
        let removed = if source.is_v4() {
            self.v4.remove(&Key4::new(from, source, destination))
        } else {
            self.v6.remove(&Key6::new(from, source, destination))
        };
        match removed {
            Err(MapError::KeyNotFound) => Ok(()),
            other => other,
        }
    }

    /// Every flow: what comes from where, the address to write, and what was carried.
    pub fn all(&self) -> Vec<(Realm, Address, Address, Address, Carried)> {
        let v4 = self.v4.iter().flatten().filter_map(|(key, flow)| {
            let (from, source, destination) = key.parts()?;
            Some((from, source, destination, flow.address(), flow.counts.into()))
        });
        let v6 = self.v6.iter().flatten().filter_map(|(key, flow)| {
            let (from, source, destination) = key.parts()?;
            Some((from, source, destination, flow.address(), flow.counts.into()))
        });
        v4.chain(v6).collect()
    }

    /// What was carried of a flow in all; `None` if there is no such flow.
    pub fn carried(&self, from: Realm, source: Address, destination: Address) -> Option<Carried> {
        let counts = if source.is_v4() {
            self.v4.get(&Key4::new(from, source, destination), 0).map(|flow| flow.counts)
        } else {
            self.v6.get(&Key6::new(from, source, destination), 0).map(|flow| flow.counts)
        };
        counts.ok().map(Carried::from)
    }

    /// How many packets went to user space, by reason.
    pub fn slow(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0u32..).zip(SLOW_REASONS).map(|(number, name)| (name, self.counter(number)))
    }

    /// How many packets the programs have dropped, or let pass as they were, by reason.
    pub fn noted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0u32..).skip(SLOW_REASONS.len()).zip(NOTED).map(|(number, name)| (name, self.counter(number)))
    }

    fn counter(&self, number: u32) -> u64 {
        self.counters.get(&number, 0).map_or(0, |each| each.iter().sum())
    }
}

#[cfg(test)]
mod tests;
