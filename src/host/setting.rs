//! One kernel setting of an interface: its name, and how it is read and written.

use super::error::KernelError;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

/// One setting of one interface (or of `all`, `default`); only those the gateway ever touches can be named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// `net/ipv4/conf` and so on: one of [`PLACES`].
    pub(super) place: &'static str,
    pub(super) interface: String,
    pub(super) name: &'static str,
}

/// Where settings live, and which of them the gateway touches there.
const PLACES: [(&str, &[&str]); 4] = [
    // An earlier version set proxy_arp; what it has noted is put back.
    ("net/ipv4/conf", &["forwarding", "arp_announce", "proxy_arp", "rp_filter", "accept_local", "send_redirects"]),
    ("net/ipv6/conf", &["forwarding", "proxy_ndp", "accept_ra", "addr_gen_mode", "disable_ipv6"]),
    ("net/ipv4/neigh", &["proxy_delay"]),
    ("net/ipv6/neigh", &["proxy_delay"]),
];

impl Key {
    pub(super) fn new(place: &'static str, interface: &str, name: &'static str) -> Self {
        Self { place, interface: interface.to_owned(), name }
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from("/proc/sys").join(self.to_string())
    }

    pub(super) fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.path())?.trim().to_owned())
    }

    pub(super) fn get(&self) -> Result<String, KernelError> {
        self.read().map_err(|source| KernelError::Sysctl { action: "read", key: self.to_string(), source })
    }

    /// Whether packets are lost without it.
    pub(super) fn is_vital(&self) -> bool {
        matches!(self.name, "forwarding" | "proxy_ndp" | "rp_filter" | "accept_local" | "disable_ipv6")
    }

    /// Whether `now` does what `wanted` would.
    pub(super) fn is_served_by(&self, now: &str, wanted: &str) -> bool {
        match self.name {
            "forwarding" | "proxy_ndp" | "accept_local" => (now == "0") == (wanted == "0"),
            // 0 is no check at all, 2 a loose one: neither keeps a translated packet back.
            "rp_filter" => now == wanted || (wanted == "0" && now == "2"),
            _ => now == wanted,
        }
    }

    /// Whether there is a value that does not do what `wanted` would.
    pub(super) fn is_refused(&self, wanted: &str) -> bool {
        self.read().is_ok_and(|now| !self.is_served_by(&now, wanted))
    }

    /// Writes the value unless one is there that does the same: a read-only /proc/sys that is right as it is will do.
    pub(super) fn make(&self, value: &str) -> Result<(), KernelError> {
        if self.is_served_by(&self.get()?, value) { Ok(()) } else { self.set(value) }
    }

    pub(super) fn set(&self, value: &str) -> Result<(), KernelError> {
        log::debug!("{self} = {value}");
        fs::write(self.path(), value).map_err(|source| KernelError::Sysctl {
            action: "set",
            key: self.to_string(),
            source,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.place, self.interface, self.name)
    }
}

impl FromStr for Key {
    type Err = ();

    /// Takes only what [`Key`] can write: a file from elsewhere names no other setting.
    fn from_str(text: &str) -> Result<Self, ()> {
        for (place, names) in PLACES {
            let Some(rest) = text.strip_prefix(place).and_then(|rest| rest.strip_prefix('/')) else { continue };
            let (interface, name) = rest.split_once('/').ok_or(())?;
            let name = names.iter().find(|have| **have == name).ok_or(())?;
            // IFNAMSIZ is 16 with the final zero (linux/if.h).
            let plain = !interface.is_empty() && interface.len() < 16 && !matches!(interface, "." | "..");
            return if plain { Ok(Self::new(place, interface, name)) } else { Err(()) };
        }
        Err(())
    }
}
