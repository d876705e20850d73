//! The wires of `kamei test` (see `detour.bpf.c`): what an interface would send to a host of the test is taken to that host's
//! namespace instead, and what the host sends is brought to where the interface receives.
//!
//! A detour ends with the process that holds it. On kernels without TCX the one at an interface is a filter that `kill -9`
//! leaves; it finds no device any more and drops what is for a host that nobody has. [`clear`] removes it.

#![allow(unsafe_code, reason = "plain bytes for a program, and the number of a program that the kernel has told")]

use super::{FastPathError, attached, clsact};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramId, SchedClassifier, TcAttachType, loaded_programs};
use aya::{Ebpf, EbpfLoader, Pod};
use std::io;
use std::net::IpAddr;

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/detour.bpf.o"));

/// Addresses of each family that a host of the test has at most.
const ADDRESSES: usize = 2;
/// The last of the gateway's programs where packets leave.
const LAST_OF_GATEWAY: &str = "kamei_watching";
/// What the gateway's programs are called.
const OF_GATEWAY: &str = "kamei_";

/// What the programs know.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct DetourSettings {
    to: u32,
    addresses4: [u32; ADDRESSES],
    addresses6: [[u8; 16]; ADDRESSES],
    hardware: [u8; 6],
    link_header: u8,
    unused: u8,
}

// SAFETY: numbers without padding, each valid whatever its bytes.
unsafe impl Pod for DetourSettings {}

/// An interface, as the programs must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As it is now: interfaces can be renamed.
    pub name: String,
    /// Of the kernel, from 1 on.
    pub index: u32,
    /// Its Ethernet address, if its packets have an Ethernet header.
    pub hardware: Option<[u8; 6]>,
}

/// A program that is attached. Dropping it takes it off.
pub struct Detour {
    /// Where it is a filter.
    filter: Option<u32>,
    /// Holds the program's link.
    _ebpf: Ebpf,
}

impl Detour {
    /// What `at` would send to these hosts goes out by `to` instead, addressed to `hardware`.
    pub fn catch(at: &Port, hosts: &[IpAddr], to: &Port, hardware: [u8; 6]) -> Result<Self, FastPathError> {
        let link_header = if at.hardware.is_some() { 14 } else { 0 };
        let settings = DetourSettings { link_header, hardware, ..settings(hosts, to.index) };
        Self::attach("kamei_catch", TcAttachType::Egress, at, settings)
    }

    /// What these hosts send to `at`, the near end of their wire, is received by `to`; all else there is dropped.
    pub fn bring(at: &Port, hosts: &[IpAddr], to: &Port) -> Result<Self, FastPathError> {
        let hardware = to.hardware.unwrap_or_default();
        let settings = DetourSettings { link_header: 14, hardware, ..settings(hosts, to.index) };
        Self::attach("kamei_bring", TcAttachType::Ingress, at, settings)
    }

    fn attach(
        name: &'static str,
        side: TcAttachType,
        at: &Port,
        settings: DetourSettings,
    ) -> Result<Self, FastPathError> {
        let mut ebpf = EbpfLoader::new().override_global("detour", &settings, true).load(OBJECT)?;
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).ok_or(FastPathError::Object(name))?.try_into().map_err(FastPathError::Program)?;
        program.load()?;
        let order = order(at.index, side);
        let filter = order.is_none().then_some(at.index);
        match order {
            Some(order) => {
                program.attach_with_options(&at.name, side, TcAttachOptions::TcxOrder(order))?;
            }
            None => clsact::attach_behind(program, &at.name, at.index, side)?,
        }
        Ok(Self { filter, _ebpf: ebpf })
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        if let Some(index) = self.filter
            && let Err(error) = clear(index)
        {
            log::warn!("tc filters: {error}; one of the test may stay, which the next test removes");
        }
    }
}

/// Removes what a test that was killed has left on an interface.
pub fn clear(index: u32) -> io::Result<()> {
    clsact::remove_behind(index)
}

/// Where at TCX: right behind the gateway, so that nobody after it lets the packet out; `None` if the gateway is not there,
/// but a filter, or if this kernel has no TCX.
fn order(index: u32, side: TcAttachType) -> Option<LinkOrder> {
    let there = attached::order(index, side).ok()?;
    let name = |id: u32| loaded_programs().flatten().find(|program| program.id() == id);
    let named = |id: &u32| name(*id).and_then(|program| program.name_as_str().map(str::to_owned));
    let is_last = |id: &&u32| named(id).as_deref() == Some(LAST_OF_GATEWAY);
    if let Some(watching) = there.iter().rev().find(is_last) {
        // SAFETY: the kernel has just told this number; should the program have gone, the kernel refuses.
        return Some(LinkOrder::after_program_id(unsafe { ProgramId::new(*watching) }));
    }
    (!clsact::has_program_of(index, OF_GATEWAY).unwrap_or(false)).then(LinkOrder::last)
}

fn settings(hosts: &[IpAddr], to: u32) -> DetourSettings {
    let mut settings = DetourSettings { to, ..DetourSettings::default() };
    let v4 = hosts.iter().filter_map(|host| if let IpAddr::V4(host) = host { Some(host) } else { None });
    for (place, host) in settings.addresses4.iter_mut().zip(v4) {
        *place = u32::from_ne_bytes(host.octets());
    }
    let v6 = hosts.iter().filter_map(|host| if let IpAddr::V6(host) = host { Some(host) } else { None });
    for (place, host) in settings.addresses6.iter_mut().zip(v6) {
        *place = host.octets();
    }
    settings
}
