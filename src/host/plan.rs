//! What a gateway wants of the network of its host.

use crate::config::Config;
use crate::wire::AddressRange;
use ipnet::IpNet;
use std::io;
use std::path::{Path, PathBuf};

/// So many inside realms fit into a gateway's range of table numbers.
pub const INSIDES_MAX: u32 = 126;

/// Whether a gateway of this name has left programs in the kernel, dead or alive: they keep its inside closed.
pub type ProgramsLeft = fn(&str) -> io::Result<bool>;

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
    /// How to find out whether a gateway has left programs.
    pub programs_left: ProgramsLeft,
}

/// One inside realm.
#[derive(Clone, Debug)]
pub struct InsidePlan {
    /// Its own device, `{tun}-in0`, `{tun}-in1`…, where there are several insides: they may have the same addresses.
    pub device: Option<String>,
    /// Names, as in the configuration.
    pub interfaces: Vec<String>,
    /// Prefixes the operator says are in it, whatever the routes say.
    pub sources: Vec<IpNet>,
}

impl Plan {
    /// What this configuration wants.
    pub fn of(config: &Config, programs_left: ProgramsLeft) -> Self {
        Plan {
            tun: config.tun.clone(),
            insides: config
                .insides
                .iter()
                .enumerate()
                .map(|(number, inside)| InsidePlan {
                    device: (config.insides.len() > 1).then(|| format!("{}-in{number}", config.tun)),
                    interfaces: inside.interfaces.clone(),
                    sources: inside.prefixes.clone(),
                })
                .collect(),
            device: format!("{}-nat", config.tun),
            outsides: config.outsides.clone(),
            pools: config.pools.iter().map(|pool| pool.range).collect(),
            exempt: config.exempt.clone(),
            undo_file: undo_file(&config.control, &config.tun),
            programs_left,
        }
    }

    /// The names of all devices: that of the gateway first, then those of the insides in their order.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.device.as_str()).chain(self.insides.iter().filter_map(|inside| inside.device.as_deref()))
    }
}

/// Where it is noted what to restore, for a successor after `kill -9`: beside the control socket.
pub fn undo_file(control: &Path, tun: &str) -> PathBuf {
    control.with_file_name(format!("{tun}.undo"))
}
