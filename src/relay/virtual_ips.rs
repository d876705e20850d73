//! Virtual IPs of published servers: each is called at its own address and port.

use super::error::RelayError;
use crate::identity::files;
use crate::session::Published;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The file in the state directory.
pub const NAME: &str = "virtual-ips.json";

/// Which server has which virtual IPs, one of each family that has a pool; kept over restarts.
#[derive(Debug)]
pub struct VirtualIps {
    path: PathBuf,
    pools: Vec<IpNet>,
    given: Mutex<Given>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Given(BTreeMap<String, Entry>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    server: Published,
    /// The port that the server really has.
    port: u16,
    addresses: BTreeSet<IpAddr>,
}

impl VirtualIps {
    /// Reads what was given before.
    pub fn open(directory: &Path, pools: &[IpNet]) -> Result<Self, RelayError> {
        let path = directory.join(NAME);
        let unreadable = |error: serde_json::Error| {
            let what = format!("it cannot be read ({error}); remove it, and servers get other virtual IPs");
            RelayError::File { path: path.clone(), error: io::Error::other(what) }
        };
        let given = match files::read_private(&path)? {
            Some(text) => serde_json::from_str(&text).map_err(unreadable)?,
            None => Given::default(),
        };
        Ok(Self { path, pools: pools.to_vec(), given: Mutex::new(given) })
    }

    /// Gives a server its virtual IPs: those it had, or others that none has. A pool that is full gives none.
    pub fn give(&self, published: &Published, port: u16) {
        let mut given = self.given.lock();
        let name = published.to_string();
        let before = given.0.get(&name).cloned();
        let mut addresses = before.as_ref().map(|entry| entry.addresses.clone()).unwrap_or_default();
        addresses.retain(|address| self.is_in_pool(address));
        let taken: BTreeSet<IpAddr> = given.0.values().flat_map(|entry| &entry.addresses).copied().collect();
        for is_v4 in [true, false] {
            if addresses.iter().all(|address| address.is_ipv4() != is_v4) {
                let pools = self.pools.iter().filter(|pool| pool.addr().is_ipv4() == is_v4);
                addresses
                    .extend(pools.flat_map(|pool| candidates(*pool, &name)).find(|address| !taken.contains(address)));
            }
        }
        let entry = Entry { server: published.clone(), port, addresses };
        if before.as_ref() == Some(&entry) {
            return;
        }
        given.0.insert(name, entry);
        let text = serde_json::to_string_pretty(&*given).unwrap_or_default();
        if let Err(error) = files::replace(&self.path, &text) {
            log::error!("{error}; after a restart, {published} may have another virtual IP");
        }
    }

    /// Every virtual IP that was given, with the port and the server that is called there.
    pub fn all(&self) -> BTreeMap<SocketAddr, Published> {
        let given = self.given.lock();
        let mut all = BTreeMap::new();
        for Entry { server, port, addresses } in given.0.values() {
            for address in addresses.iter().filter(|address| self.is_in_pool(address)) {
                all.insert(SocketAddr::new(*address, *port), server.clone());
            }
        }
        all
    }

    fn is_in_pool(&self, address: &IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.contains(address))
    }

    /// What is given, for people.
    pub fn look(&self, published: &Published) -> BTreeSet<IpAddr> {
        self.given.lock().0.get(&published.to_string()).map(|entry| entry.addresses.clone()).unwrap_or_default()
    }
}

/// The addresses of a pool that a host may have, each once, from a place that the name says: a server tends to get the same
/// one even without memory.
fn candidates(pool: IpNet, name: &str) -> impl Iterator<Item = IpAddr> {
    let mut hasher = SipHasher13::new();
    name.hash(&mut hasher);
    let bits = u32::from(pool.max_prefix_len() - pool.prefix_len()).min(32);
    let size = 1_u64 << bits;
    // Its ends are the network's and the broadcast address, but where there are no others (RFC 3021, RFC 6164).
    let (first, many) = if bits <= 1 { (0, size) } else { (1, size - 2) };
    let start = hasher.finish() % many;
    (0..many).map(move |step| {
        let at = first + (start + step) % many;
        match pool.network() {
            IpAddr::V4(network) => IpAddr::V4((network.to_bits() | u32::try_from(at).unwrap_or(0)).into()),
            IpAddr::V6(network) => IpAddr::V6((network.to_bits() | u128::from(at)).into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Transport;

    fn published(name: &str) -> Published {
        Published { name: name.parse().unwrap(), transport: Transport::Tcp }
    }

    #[test]
    fn a_server_keeps_its_virtual_ips_and_a_full_pool_gives_none() {
        let directory = tempfile::tempdir().unwrap();
        let pools: Vec<IpNet> = ["198.18.7.0/30", "2001:db8:7::/64"].map(|pool| pool.parse().unwrap()).to_vec();
        let open = || VirtualIps::open(directory.path(), &pools).unwrap();
        let ips = open();
        let of = |ips: &VirtualIps, name: &str| {
            ips.give(&published(name), 80);
            ips.look(&published(name))
        };
        let (a, b, c) = (of(&ips, "a"), of(&ips, "b"), of(&ips, "c"));
        assert_eq!((a.len(), b.len(), c.len()), (2, 2, 1), "{a:?} {b:?} {c:?}");
        assert!(a.is_disjoint(&b) && a.iter().chain(&b).all(|ip| pools.iter().any(|pool| pool.contains(ip))));
        let again = open();
        assert_eq!((of(&again, "b"), of(&again, "a")), (b, a.clone()));
        assert_eq!(again.all().len(), 5);
        // Where the pool is another, the address goes with it.
        let other = VirtualIps::open(directory.path(), &["198.18.8.0/24".parse().unwrap()]).unwrap();
        assert!(of(&other, "a").is_disjoint(&a));
    }
}
