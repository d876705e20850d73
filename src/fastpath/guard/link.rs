//! The guard as a program of netfilter, by links that are pinned and so outlive the process.
//!
//! Nothing is changed in place: other ways take other maps, another program and other links, which are attached before the
//! links that have been there are given up. Meanwhile both drop what they know.

use super::bpf;
use super::ways::{REASONS, Ways};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya_obj::btf::{Btf, BtfError, BtfKind, BtfRelocationError};
use aya_obj::relocation::EbpfRelocationError;
use aya_obj::{Object, ParseError};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The compiled program.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
/// Its name.
const PROGRAM: &str = "kamei_guard";
/// By which the program calls the kernel's `bpf_rdonly_cast`: aya knows no functions of the kernel.
const READ_AS: i32 = 1_000_000;
/// Name in the pin directory, and `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(super) const FAMILIES: [(&str, u32); 2] = [("guard-4", 2), ("guard-6", 10)];
/// Behind a name while it is not yet in force.
const NEW: &str = "-new";
/// The kernel has no two links of one priority. `INT_MAX` is its own, the one before that a table's of nf_tables.
const PRIORITIES: std::ops::Range<i32> = i32::MAX - 18..i32::MAX - 1;

/// What of the other maps is not empty, as the program is told with each inside.
const HAS_OWN_V6: u32 = 1;
const HAS_EXEMPT_V4: u32 = 2;
const HAS_EXEMPT_V6: u32 = 4;
/// Places in which the program looks for an interface.
const STEPS: u32 = 8;
/// A million places: 16 MiB.
const MOST_BITS: u32 = 20;

/// Why the program is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Types of the kernel.
    #[error("the kernel does not say what its structures are like: {0}")]
    Btf(#[from] BtfError),
    /// The file.
    #[error("the eBPF program of the guard cannot be read: {0}; build kamei again")]
    Object(#[from] ParseError),
    /// The file.
    #[error("the eBPF program of the guard has no '{0}'; build kamei again")]
    Lacks(&'static str),
    /// Structures that are not as the program knows them.
    #[error("the eBPF program of the guard does not suit this kernel: {0}")]
    Structures(#[from] BtfRelocationError),
    /// The program and its maps.
    #[error("the eBPF program of the guard cannot be put together: {0}")]
    Relocation(#[from] EbpfRelocationError),
    /// Its maps.
    #[error("the kernel does not take the maps of the guard: {}", crate::fastpath::whole(.0))]
    Map(#[from] MapError),
    /// The verifier, or a kernel that knows no such programs.
    #[error("the kernel does not take the eBPF program of the guard ({0}); Linux 6.4 and later do")]
    Load(io::Error),
    /// Interfaces whose indices are too much alike.
    #[error(
        "the guard finds no places for these {0} interfaces; make some of them anew, so that they get other indices"
    )]
    Interfaces(usize),
    /// Netfilter.
    #[error("the guard cannot be attached to netfilter: {0}")]
    Attach(io::Error),
    /// The BPF file system.
    #[error("the guard cannot be made to last at '{}': {why}", .path.display())]
    Pin {
        path: PathBuf,
        /// What the kernel answers.
        why: io::Error,
    },
}

/// The links in a directory of a BPF file system.
pub struct Links {
    directory: PathBuf,
    /// Suits this kernel; lacks its maps.
    object: Object,
    standing: Option<Standing>,
}

/// A program in force.
struct Standing {
    program: OwnedFd,
    links: [Link; FAMILIES.len()],
    dropped: PerCpuArray<MapData, u64>,
}

struct Link {
    link: OwnedFd,
    priority: i32,
}

impl Links {
    /// Attaches nothing that stays.
    ///
    /// # Errors
    /// A kernel that does not take the program or the links.
    pub fn new(directory: &Path) -> Result<Self, LinkError> {
        let mut object = Object::parse(OBJECT)?;
        let types = Btf::from_sys_fs()?;
        object.relocate_btf(&types)?;
        let read_as = types.id_by_type_name_kind("bpf_rdonly_cast", BtfKind::Func)?;
        for instruction in object.functions.values_mut().flat_map(|function| &mut function.instructions) {
            bpf::call_kernel(instruction, READ_AS, read_as);
        }
        let links = Self { directory: directory.to_owned(), object, standing: None };
        // It has no inside, so it drops nothing.
        links.stand(&Ways::default())?;
        Ok(links)
    }

    /// In force when this returns, in place of what was.
    ///
    /// # Errors
    /// What the kernel answers; what was in force stays then.
    pub fn set(&mut self, ways: &Ways) -> Result<(), LinkError> {
        let standing = self.stand(ways)?;
        let failed = |path: PathBuf| move |why| LinkError::Pin { path, why };
        for ((name, _), Link { link, .. }) in FAMILIES.iter().zip(&standing.links) {
            let path = self.directory.join(format!("{name}{NEW}"));
            // Of a process that has died meanwhile.
            let _ = std::fs::remove_file(&path);
            bpf::pin(link.as_fd(), &path).map_err(failed(path))?;
        }
        let mut former: Vec<OwnedFd> = Vec::new();
        for (name, _) in FAMILIES {
            let path = self.directory.join(name);
            former.extend(bpf::pinned(&path).ok());
            std::fs::rename(self.directory.join(format!("{name}{NEW}")), &path).map_err(failed(path))?;
        }
        former.extend(self.standing.replace(standing).into_iter().flat_map(|old| old.links).map(|old| old.link));
        // The kernel itself would, some milliseconds after their names are gone.
        former.iter().for_each(bpf::detach);
        Ok(())
    }

    /// Whether the links are attached and have their names.
    pub fn is_whole(&self) -> bool {
        let Some(standing) = &self.standing else { return true };
        FAMILIES.iter().zip(&standing.links).all(|((name, family), Link { link, priority })| {
            // A link does not tell that it was detached, but its priority is free then.
            let is_attached = bpf::attach(standing.program.as_fd(), *family, *priority)
                .is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy);
            let pinned = bpf::pinned(&self.directory.join(name)).and_then(bpf::id);
            is_attached && pinned.is_ok_and(|pinned| bpf::id(link).is_ok_and(|id| id == pinned))
        })
    }

    /// Packets dropped since the program was set, by reason.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn dropped(&self) -> Result<[u64; REASONS], LinkError> {
        let mut dropped = [0; REASONS];
        let Some(standing) = &self.standing else { return Ok(dropped) };
        for (reason, number) in (0..).zip(&mut dropped) {
            *number = standing.dropped.get(&reason, 0)?.iter().sum();
        }
        Ok(dropped)
    }

    /// Detaches the program and removes its names.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn remove(&mut self) -> io::Result<bool> {
        self.standing = None;
        remove(&self.directory)
    }

    #[cfg(test)]
    pub fn detach(&self, number: usize) {
        bpf::detach(&self.standing.as_ref().unwrap().links[number].link);
    }

    /// Loads and attaches a program, until what this returns is dropped.
    fn stand(&self, ways: &Ways) -> Result<Standing, LinkError> {
        let mut object = self.object.clone();
        let mut maps = BTreeMap::new();
        let interfaces = interfaces(ways)?;
        for (name, map) in &self.object.maps {
            let entries = entries(name, &interfaces, ways).unwrap_or(map.max_entries());
            // Without the types of key and value, which only listings are for.
            let map = aya_obj::Map::new_from_params(
                map.map_type(),
                map.key_size(),
                map.value_size(),
                entries,
                map.map_flags(),
            );
            maps.insert(name.as_str(), MapData::create(map, name, None)?);
        }
        let made = self.object.maps.iter().filter_map(|(name, map)| {
            let descriptor = maps.get(name.as_str())?.fd().as_fd().as_raw_fd();
            Some((name.as_str(), descriptor, map))
        });
        // No function is shared, so none is in a section of its own.
        let text = HashSet::new();
        object.relocate_maps(made, &text)?;
        object.relocate_calls(&text)?;
        let program = object.programs.get(PROGRAM).ok_or(LinkError::Lacks(PROGRAM))?;
        let function = object.functions.get(&program.function_key()).ok_or(LinkError::Lacks(PROGRAM))?;
        let program = bpf::load(PROGRAM, &function.instructions, &object.license).map_err(LinkError::Load)?;
        let dropped = fill(maps, &interfaces, ways)?;
        let links = [attach(&program, FAMILIES[0].1)?, attach(&program, FAMILIES[1].1)?];
        Ok(Standing { program, links, dropped })
    }
}

/// The names of the links in a pin directory.
pub fn names() -> Vec<String> {
    FAMILIES.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("{name}{NEW}")]).collect()
}

/// Removes the names that a gateway has left in a directory, and so the links; says whether there were any.
///
/// # Errors
/// What the file system refuses.
pub fn remove(directory: &Path) -> io::Result<bool> {
    let mut any = false;
    for name in names() {
        let path = directory.join(name);
        let _ = bpf::pinned(&path).map(|link| bpf::detach(&link));
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => {
                removed?;
                any = true;
            }
        }
    }
    Ok(any)
}

/// Attaches a program as late as there is room.
fn attach(program: &OwnedFd, family: u32) -> Result<Link, LinkError> {
    let mut result = Err(LinkError::Attach(io::ErrorKind::ResourceBusy.into()));
    for priority in PRIORITIES.rev() {
        match bpf::attach(program.as_fd(), family, priority) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => result = Err(LinkError::Attach(error)),
            other => return other.map(|link| Link { link, priority }).map_err(LinkError::Attach),
        }
    }
    result
}

/// Room that a map needs; `None` if it is always the same.
fn entries(map: &str, interfaces: &[Interface], ways: &Ways) -> Option<u32> {
    let number = |all: &[IpNet], v4| all.iter().filter(|prefix| prefix.addr().is_ipv4() == v4).count();
    let entries = match map {
        "interfaces" => interfaces.len(),
        "own_v6" => ways.own_v6.len(),
        "exempt_v4" => number(&ways.exempt, true),
        "exempt_v6" => number(&ways.exempt, false),
        "hidden_v4" => number(&ways.hidden, true),
        "hidden_v6" => number(&ways.hidden, false),
        _ => return None,
    };
    Some(u32::try_from(entries.max(1)).unwrap_or(u32::MAX))
}

/// Index, realm, what is asked, whether it is of others; `struct interface` of `guard.bpf.c`.
type Interface = [u32; 4];

/// The interfaces in the places where the program looks for them.
fn interfaces(ways: &Ways) -> Result<Vec<Interface>, LinkError> {
    let exempt = |v4| ways.exempt.iter().any(|prefix| prefix.addr().is_ipv4() == v4);
    let asks = [(!ways.own_v6.is_empty(), HAS_OWN_V6), (exempt(true), HAS_EXEMPT_V4), (exempt(false), HAS_EXEMPT_V6)];
    let asks = asks.iter().filter(|(has, _)| *has).map(|(_, bit)| bit).sum();
    let for_all = ways.outsides.iter().chain(&ways.devices).map(|index| [*index, 0, 0, 0]);
    let realms = (1..).zip(&ways.insides);
    let insides = realms.flat_map(|(realm, indices)| indices.iter().map(move |index| [*index, realm, asks, 0]));
    let all: Vec<Interface> = for_all.chain(insides).collect();
    let others = ways.others.iter().map(|index| [*index, 0, 0, 1]);
    let with_others: Vec<Interface> = all.iter().copied().chain(others).collect();
    // Those of others are there for speed.
    let placed = [&with_others, &all].into_iter().find_map(|all| (1..=MOST_BITS).find_map(|bits| placed(all, bits)));
    placed.ok_or(LinkError::Interfaces(all.len()))
}

/// `None` if there is no room for one of them where it belongs.
fn placed(interfaces: &[Interface], bits: u32) -> Option<Vec<Interface>> {
    let mask = (1_u32 << bits) - 1;
    let mut places = vec![[0; 4]; 1 << bits];
    for interface in interfaces {
        let free = (0..STEPS).find_map(|step| {
            let place = usize::try_from(interface[0].wrapping_add(step) & mask).ok()?;
            places.get(place).is_some_and(|[index, ..]| *index == 0).then_some(place)
        })?;
        *places.get_mut(free)? = *interface;
    }
    Some(places)
}

/// Puts the ways into the maps; gives back the counters.
fn fill(
    mut maps: BTreeMap<&str, MapData>,
    interfaces: &[Interface],
    ways: &Ways,
) -> Result<PerCpuArray<MapData, u64>, LinkError> {
    let mut take = |name| maps.remove(name).ok_or(LinkError::Lacks(name));
    let mut table = Array::<_, Interface>::try_from(Map::Array(take("interfaces")?))?;
    let mut mask = Array::<_, u32>::try_from(Map::Array(take(".bss")?))?;
    let mut own_v6 = HashMap::<_, [u8; 16], u8>::try_from(Map::HashMap(take("own_v6")?))?;
    let mut exempt_v4 = LpmTrie::<_, [u8; 4], u8>::try_from(Map::LpmTrie(take("exempt_v4")?))?;
    let mut exempt_v6 = LpmTrie::<_, [u8; 16], u8>::try_from(Map::LpmTrie(take("exempt_v6")?))?;
    for address in &ways.own_v6 {
        own_v6.insert(address.octets(), 1, 0)?;
    }
    for prefix in &ways.exempt {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(prefix) => exempt_v4.insert(&Key::new(length, prefix.network().octets()), 1, 0)?,
            IpNet::V6(prefix) => exempt_v6.insert(&Key::new(length, prefix.network().octets()), 1, 0)?,
        }
    }
    let mut hidden_v4 = LpmTrie::<_, [u8; 4], u8>::try_from(Map::LpmTrie(take("hidden_v4")?))?;
    let mut hidden_v6 = LpmTrie::<_, [u8; 16], u8>::try_from(Map::LpmTrie(take("hidden_v6")?))?;
    for prefix in &ways.hidden {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(prefix) => hidden_v4.insert(&Key::new(length, prefix.network().octets()), 1, 0)?,
            IpNet::V6(prefix) => hidden_v6.insert(&Key::new(length, prefix.network().octets()), 1, 0)?,
        }
    }
    for (place, interface) in (0..).zip(interfaces).filter(|(_, [index, ..])| *index != 0) {
        table.set(place, interface, 0)?;
    }
    mask.set(0, u32::try_from(interfaces.len() - 1).unwrap_or(u32::MAX), 0)?;
    Ok(PerCpuArray::try_from(Map::PerCpuArray(take("dropped")?))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the program does it.
    fn is_found(places: &[Interface], index: u32) -> bool {
        let mask = u32::try_from(places.len() - 1).unwrap();
        let steps = (0..STEPS).map(|step| places[(index.wrapping_add(step) & mask) as usize][0]);
        steps.take_while(|found| *found != 0).any(|found| found == index)
    }

    #[test]
    fn every_map_of_the_program_is_filled() {
        let object = Object::parse(OBJECT).unwrap();
        let names: std::collections::BTreeSet<&str> = object.maps.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [".bss", "dropped", "exempt_v4", "exempt_v6", "hidden_v4", "hidden_v6", "interfaces", "own_v6"].into()
        );
    }

    #[test]
    fn every_interface_is_found_in_its_place() {
        let lists: [Vec<u32>; 5] = [
            vec![],
            vec![3],
            (2..6000).collect(),
            (1..100).chain(65_000..65_100).chain([u32::MAX, u32::MAX - 1]).collect(),
            (0..40).map(|number| number * 4096 + 7).collect(),
        ];
        for outsides in lists {
            let places = interfaces(&Ways { outsides: outsides.clone(), ..Ways::default() }).unwrap();
            assert!(outsides.iter().all(|index| is_found(&places, *index)), "{outsides:?}");
            assert!(!is_found(&places, 6001), "{outsides:?}");
        }
        let outsides = (0..40).map(|number| number << 26).collect();
        assert!(matches!(interfaces(&Ways { outsides, ..Ways::default() }), Err(LinkError::Interfaces(40))));
    }
}
