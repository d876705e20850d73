//! Connections of those who have not proved who they are: bounded in all, and for each address, so that no stranger keeps
//! agents out.

use super::connections::network;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of one IPv4 address, or one /64.
const OF_ADDRESS: usize = 32;

/// All of them.
#[derive(Clone)]
pub struct Unproved {
    places: Arc<Semaphore>,
    of_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The place of one, until it has proved who it is or is gone.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    network: IpAddr,
    of_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Unproved {
    /// So many places.
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), of_address: Arc::default() }
    }

    /// Waits until there is a place: more connections wait in the kernel's queue.
    pub async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Gives the place to this address; `None` if it has as many as one may have. An agent that is here may have more: each
    /// call can take a connection of its own.
    pub fn enter(&self, permit: OwnedSemaphorePermit, address: IpAddr, has_agent: bool) -> Option<Place> {
        let network = network(address);
        let mut of_address = self.of_address.lock();
        let same = of_address.entry(network).or_default();
        if *same >= OF_ADDRESS && !has_agent {
            return None;
        }
        *same += 1;
        Some(Place { _permit: permit, network, of_address: Arc::clone(&self.of_address) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_address = self.of_address.lock();
        if let Some(same) = of_address.get_mut(&self.network) {
            *same -= 1;
            if *same == 0 {
                of_address.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_does_not_take_all_places() {
        let unproved = Unproved::new(100);
        let enter = async |address: &str| unproved.enter(unproved.wait().await?, address.parse().unwrap(), false);
        let mut places = Vec::new();
        for _ in 0..OF_ADDRESS {
            places.push(enter("192.0.2.1").await.unwrap());
        }
        assert!(enter("192.0.2.1").await.is_none() && enter("192.0.2.2").await.is_some());
        let permit = unproved.wait().await.unwrap();
        assert!(unproved.enter(permit, "192.0.2.1".parse().unwrap(), true).is_some());
        drop(places);
        assert!(enter("192.0.2.1").await.is_some() && unproved.of_address.lock().is_empty());
    }
}
