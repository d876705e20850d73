//! The eBPF program in the kernel: loaded once for each interface, with maps that all of them share.

use super::layout::{CONTROL_PORTS, Door, Flow4, Flow6, Key4, Key6, LAYOUT, WHYS, realm_number};
use super::place::Place;
use super::{Common, Entrance, FastPathError};
use crate::nat::{Carried, Offer, Realm};
use crate::wire::Address;
use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use std::path::PathBuf;

/// The compiled program.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kamei.bpf.o"));

/// Its maps.
const MAPS: [&str; 4] = ["flows4", "flows6", "exits", "slow"];
/// Name of the program that is attached at tc ingress.
const TC: &str = "kamei_tc";
/// Bytes of an Ethernet header.
const ETHERNET: u8 = 14;

/// Loads programs.
pub struct Loader {
    common: Common,
    place: Place,
}

/// Where translated packets may leave, as the programs have it.
pub struct Exits {
    map: HashMap<MapData, u32, u32>,
}

/// The flows, as the programs have them.
pub struct Flows {
    v4: HashMap<MapData, Key4, Flow4>,
    v6: HashMap<MapData, Key6, Flow6>,
    slow: PerCpuArray<MapData, u64>,
}

/// A program on an interface. Dropping it takes it off, unless it is in a place that lasts.
pub struct Attached {
    _link: Option<SchedClassifierLink>,
    name: Option<PathBuf>,
}

impl Attached {
    /// Takes it off.
    pub fn remove(self) {
        if let Some(name) = &self.name
            && let Err(error) = std::fs::remove_file(name)
        {
            log::error!("{}: {error}; the fast path stays on an interface", name.display());
        }
    }
}

impl Loader {
    /// Makes the maps, and has the kernel check the program.
    pub fn new(common: Common) -> Result<(Self, Flows, Exits), FastPathError> {
        let place = Place::of(&common.tun).map_err(FastPathError::FileSystem)?;
        let loader = Self { common, place };
        let mut ebpf = loader.load(Realm::Outside)?;
        program(&mut ebpf)?;
        let mut take = |name| ebpf.take_map(name).ok_or(FastPathError::Object(name));
        let flows = Flows {
            v4: HashMap::try_from(take("flows4")?)?,
            v6: HashMap::try_from(take("flows6")?)?,
            slow: PerCpuArray::try_from(take("slow")?)?,
        };
        let exits = Exits { map: HashMap::try_from(take("exits")?)? };
        Ok((loader, flows, exits))
    }

    /// Other settings for the programs loaded from now on; the maps stay.
    pub fn set_common(&mut self, common: Common) {
        self.common = common;
    }

    /// Puts the program on an interface, behind those of others; in the place of one that a predecessor has left there,
    /// without a gap.
    pub fn attach(&self, interface: &str, index: u32, realm: Realm) -> Result<Attached, FastPathError> {
        let mut ebpf = self.load(realm)?;
        let program = program(&mut ebpf)?;
        let name = self.place.path().join(link_name(index));
        let Place::Lasting(_) = self.place else {
            let link = Self::attach_anew(program, interface)?;
            return Ok(Attached { _link: Some(link), name: None });
        };
        if let Ok(left) = PinnedLink::from_pin(&name) {
            let link = SchedClassifierLink::try_from(FdLink::from(left))?;
            if let Ok(id) = program.attach_to_link(link) {
                return Ok(Attached { _link: Some(program.take_link(id)?), name: Some(name) });
            }
            // Of an interface that has gone.
            std::fs::remove_file(&name).map_err(FastPathError::FileSystem)?;
        }
        let link = FdLink::try_from(Self::attach_anew(program, interface)?)?;
        link.pin(&name)?;
        Ok(Attached { _link: None, name: Some(name) })
    }

    fn attach_anew(program: &mut SchedClassifier, interface: &str) -> Result<SchedClassifierLink, FastPathError> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(interface, TcAttachType::Ingress, order)?;
        Ok(program.take_link(id)?)
    }

    /// Removes the maps' names.
    pub fn remove(&self) {
        if let Place::Lasting(path) = &self.place
            && let Err(error) = super::place::remove(&self.common.tun)
        {
            log::error!("{}: {error}; remove it by hand", path.display());
        }
    }

    /// Removes what is left of interfaces that are not among these, and of other layouts.
    pub fn tidy(&self, indices: &[u32]) {
        let Place::Lasting(path) = &self.place else { return };
        let known: Vec<String> = indices.iter().map(|index| link_name(*index)).collect();
        let is_map = |name: &str| MAPS.iter().any(|map| name == map_name(map));
        if let Err(error) = super::place::empty(path, |name| !is_map(name) && !known.iter().any(|have| have == name)) {
            log::warn!("{}: {error}; something of an earlier fast path stays", path.display());
        }
    }

    fn load(&self, realm: Realm) -> Result<Ebpf, FastPathError> {
        if self.common.control_ports.len() > CONTROL_PORTS {
            return Err(FastPathError::TooManyPorts { most: CONTROL_PORTS });
        }
        let mut control_ports = [0; CONTROL_PORTS];
        for (place, port) in control_ports.iter_mut().zip(&self.common.control_ports) {
            *place = port.to_be();
        }
        let door = Door {
            realm: realm_number(realm),
            mark: self.common.mark,
            control_ports,
            link_header: ETHERNET,
            clamps: u8::from(self.common.clamps),
            redirects: u8::from(self.common.redirects),
            unused: 0,
        };
        let mut loader = EbpfLoader::new();
        loader.override_global("door", &door, true);
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

fn link_name(index: u32) -> String {
    format!("link-{index}")
}

fn program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, FastPathError> {
    let program = ebpf.program_mut(TC).ok_or(FastPathError::Object(TC))?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program)
}

impl Exits {
    /// Exactly these from now on.
    pub fn set(&mut self, entrances: &[Entrance]) -> Result<(), MapError> {
        let there: Vec<u32> = self.map.keys().flatten().collect();
        for index in there.into_iter().filter(|index| entrances.iter().all(|entrance| entrance.index != *index)) {
            self.map.remove(&index)?;
        }
        entrances.iter().try_for_each(|entrance| self.map.insert(entrance.index, realm_number(entrance.realm), 0))
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
