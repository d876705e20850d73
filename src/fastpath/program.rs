//! The eBPF program in the kernel: loaded once for each interface, with maps that all of them share.

use super::layout::{CONTROL_PORTS, Door, Exit, Flow4, Flow6, Key4, Key6, LAYOUT, WHYS, realm_number};
use super::place::Place;
use super::seat::Seat;
use super::{Common, Entrance, FastPathError, NoXdp};
use crate::nat::{Carried, Offer, Realm};
use crate::wire::Address;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray};
use aya::programs::{SchedClassifier, Xdp};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader};
use std::collections::BTreeMap;

/// The compiled program.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kamei.bpf.o"));

/// Its maps.
const MAPS: [&str; 5] = ["flows4", "flows6", "exits", "ruled", "slow"];
/// Name of the program that is attached at tc ingress.
const TC: &str = "kamei_tc";
/// Name of the program that is attached to drivers.
const XDP: &str = "kamei_xdp";
/// An interface for a first look of the verifier.
const SAMPLE: Entrance =
    Entrance { name: String::new(), index: 0, realm: Realm::Outside, hardware: [0; 6], is_local: false };
/// Bytes of an Ethernet header.
const ETHERNET: u8 = 14;

/// Loads programs.
pub struct Loader {
    common: Common,
    place: Place,
    /// Whether programs may look into the kernel's structures.
    looks: bool,
}

/// Where translated packets may leave and who leads them there, as the programs have it.
pub struct Exits {
    map: HashMap<MapData, u32, Exit>,
    ruled: Array<MapData, u32>,
    have: BTreeMap<u32, Exit>,
}

/// The flows, as the programs have them.
pub struct Flows {
    v4: HashMap<MapData, Key4, Flow4>,
    v6: HashMap<MapData, Key6, Flow6>,
    slow: PerCpuArray<MapData, u64>,
}

impl Loader {
    /// Makes the maps, and has the kernel check the program.
    pub fn new(common: Common) -> Result<(Self, Flows, Exits), FastPathError> {
        let place = Place::of(&common.tun).map_err(FastPathError::FileSystem)?;
        let mut loader = Self { common, place, looks: true };
        let mut ebpf = loader.sample().or_else(|error| {
            log::info!("every translated packet goes through the kernel's forwarding, which is slower: {error}");
            loader.looks = false;
            loader.sample()
        })?;
        if loader.common.xdp {
            xdp_program(&mut ebpf)?;
        }
        let mut take = |name| ebpf.take_map(name).ok_or(FastPathError::Object(name));
        let flows = Flows {
            v4: HashMap::try_from(take("flows4")?)?,
            v6: HashMap::try_from(take("flows6")?)?,
            slow: PerCpuArray::try_from(take("slow")?)?,
        };
        let (map, ruled) = (HashMap::try_from(take("exits")?)?, Array::try_from(take("ruled")?)?);
        let exits = Exits { map, ruled, have: BTreeMap::new() };
        Ok((loader, flows, exits))
    }

    /// A first look of the verifier.
    fn sample(&self) -> Result<Ebpf, FastPathError> {
        let mut ebpf = self.load(&self.door(&SAMPLE)?)?;
        program(&mut ebpf)?;
        Ok(ebpf)
    }

    /// Other settings for the programs loaded from now on; the maps stay.
    pub fn set_common(&mut self, common: Common) {
        self.common = common;
    }

    /// Puts the program at tc on an interface.
    pub fn at_tc(&self, entrance: &Entrance) -> Result<Seat, FastPathError> {
        Seat::at_tc(program(&mut self.load(&self.door(entrance)?)?)?, entrance, &self.place, &self.common)
    }

    /// Puts the program at XDP on an interface.
    pub fn at_xdp(&self, entrance: &Entrance) -> Result<Seat, NoXdp> {
        let unloaded = |error: FastPathError| NoXdp::Kernel(error.to_string());
        let mut ebpf = self.door(entrance).and_then(|door| self.load(&door)).map_err(unloaded)?;
        Seat::at_xdp(xdp_program(&mut ebpf).map_err(unloaded)?, entrance, &self.place)
    }

    /// Removes the maps' names.
    pub fn remove(&self) {
        if let Place::Lasting(path) = &self.place
            && let Err(error) = super::place::remove(&self.common.tun)
        {
            log::error!("{}: {error}; remove it by hand", path.display());
        }
    }

    /// Removes what is left of seats that are not among these, and of other layouts.
    pub fn tidy<'a>(&self, seats: impl Iterator<Item = &'a Seat> + Clone) {
        let filters: Vec<u32> = seats.clone().filter_map(Seat::filter).collect();
        if let Err(error) = super::clsact::remove_elsewhere(&filters, &self.common.tun) {
            log::warn!("tc filters: {error}; something of an earlier fast path may stay");
        }
        let Place::Lasting(path) = &self.place else { return };
        let mut names: Vec<String> = MAPS.into_iter().map(map_name).collect();
        names.extend(seats.filter_map(Seat::name));
        if let Err(error) = super::place::empty(path, |name| !names.iter().any(|have| have == name)) {
            log::warn!("{}: {error}; something of an earlier fast path stays", path.display());
        }
    }

    fn door(&self, entrance: &Entrance) -> Result<Door, FastPathError> {
        if self.common.control_ports.len() > CONTROL_PORTS {
            return Err(FastPathError::TooManyPorts { most: CONTROL_PORTS });
        }
        let mut control_ports = [0; CONTROL_PORTS];
        for (place, port) in control_ports.iter_mut().zip(&self.common.control_ports) {
            *place = port.to_be();
        }
        Ok(Door {
            realm: realm_number(entrance.realm),
            mark: self.common.mark,
            control_ports,
            hardware: entrance.hardware,
            link_header: ETHERNET,
            clamps: u8::from(self.common.clamps),
            redirects: u8::from(self.common.redirects),
            looks: u8::from(self.looks),
            unused: [0; 2],
        })
    }

    fn load(&self, door: &Door) -> Result<Ebpf, FastPathError> {
        // Without it the program would read the kernel's structures in the wrong places.
        let btf = if self.looks { Some(Btf::from_sys_fs().map_err(EbpfError::from)?) } else { None };
        let mut loader = EbpfLoader::new();
        loader.btf(btf.as_ref());
        loader.override_global("door", door, true);
        for name in MAPS {
            loader.map_pin_path(name, self.place.path().join(map_name(name)));
        }
        loader.map_max_entries("flows4", self.common.flows).map_max_entries("flows6", self.common.flows);
        Ok(loader.load(OBJECT)?)
    }
}

fn map_name(map: &str) -> String {
    format!("{map}-{LAYOUT}")
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, FastPathError> {
    let program = ebpf.program_mut(TC).ok_or(FastPathError::Object(TC))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program)
}

fn xdp_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, FastPathError> {
    let program = ebpf.program_mut(XDP).ok_or(FastPathError::Object(XDP))?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    Ok(program)
}

impl Exits {
    /// Exactly these from now on.
    pub fn set(&mut self, exits: BTreeMap<u32, Exit>) -> Result<(), MapError> {
        if exits == self.have {
            return Ok(());
        }
        self.have = exits;
        let there: Vec<u32> = self.map.keys().flatten().collect();
        for index in there.into_iter().filter(|index| !self.have.contains_key(index)) {
            self.map.remove(&index)?;
        }
        self.have.iter().try_for_each(|(index, exit)| self.map.insert(index, exit, 0))
    }

    /// Whether routing rules of others say where packets go.
    pub fn set_ruled(&mut self, v4: bool, v6: bool) -> Result<(), MapError> {
        self.ruled.set(0, u32::from(v4) | u32::from(v6) << 1, 0)
    }

    /// Whether an interface takes frames from XDP, as was told last; `None` if it is none of them.
    pub fn takes_frames(&self, index: u32) -> Option<bool> {
        self.have.get(&index).map(|exit| exit.takes_frames != 0)
    }
}

impl Flows {
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

    /// How many packets went the slow way, by reason.
    pub fn slow(&self) -> impl Iterator<Item = (&'static str, u64)> {
        (0u32..).zip(WHYS).map(|(number, name)| (name, self.slow.get(&number, 0).map_or(0, |each| each.iter().sum())))
    }
}

#[cfg(test)]
mod tests;
