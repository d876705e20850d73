//! Virtual IPs that clients call.

use super::error::RelayError;
use super::front::{self, Called, Front};
use super::shared::Relay;
use crate::config::ServerConfig;
use crate::host::AnyIp;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Time until a port that cannot be had is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The pools are this machine's until this is dropped.
pub fn answer_for(pools: &[IpNet]) -> Result<Vec<AnyIp>, RelayError> {
    let add = |pool: &IpNet| AnyIp::add(*pool).map_err(|error| RelayError::Pool { pool: *pool, error });
    pools.iter().map(add).collect()
}

/// Listens at the virtual IPs of all servers that an agent has published, until it is aborted. Also of one whose agent is away:
/// another program of this machine that listens at all addresses would answer in its place.
pub async fn serve(relay: Arc<Relay>) {
    let mut changed = relay.sessions.watch();
    let mut open: BTreeMap<SocketAddr, Front> = BTreeMap::new();
    loop {
        for session in relay.sessions.list() {
            session.published().iter().for_each(|(published, port)| relay.virtual_ips.give(published, *port));
        }
        let wanted = relay.virtual_ips.all();
        open.retain(|at, _| wanted.contains_key(at));
        let mut has_failed = false;
        for (at, published) in wanted {
            let (port, addresses) = (Some(at.port()), vec![at.ip()]);
            // Who may call, and how: as at the server's port of the relay.
            let server = ServerConfig { port, addresses, sni: Vec::new(), ..relay.server(&published) };
            let called = Called::Server(Arc::new(server));
            if let Some(front) = open.get_mut(&at) {
                front.serve(&relay, called);
                continue;
            }
            match front::listen_at(at) {
                Ok(listener) => {
                    log::info!("server {published} is called at {at}");
                    open.insert(at, Front::start(&relay, called, Arc::new(listener)));
                }
                Err(error) => {
                    has_failed = true;
                    log::error!("{published} is not reached by its virtual IP: {error}");
                }
            }
        }
        let again = if has_failed { TRY_AGAIN } else { Duration::from_secs(3600) };
        let _ = tokio::time::timeout(again, changed.changed()).await;
    }
}
