//! Virtual IPs that clients call.

use super::error::RelayError;
use super::front::{self, Front};
use super::shared::Relay;
use crate::config::ServerConfig;
use crate::host::AnyIp;
use crate::session::{DataChannel, Published};
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
            let server = Arc::new(server(&relay, published, at));
            if let Some(front) = open.get_mut(&at) {
                front.serve(&relay, server);
                continue;
            }
            match front::listen_at(at) {
                Ok(listener) => {
                    log::info!("server {} is called at {at}", server.published);
                    open.insert(at, Front::start(&relay, server, Arc::new(listener)));
                }
                Err(error) => {
                    has_failed = true;
                    log::error!("{} is not reached by its virtual IP: {error}", server.published);
                }
            }
        }
        let again = if has_failed { TRY_AGAIN } else { Duration::from_secs(3600) };
        let _ = tokio::time::timeout(again, changed.changed()).await;
    }
}

/// Who may call, and how: as at the server's port of the relay, if it has one.
fn server(relay: &Relay, published: Published, at: SocketAddr) -> ServerConfig {
    let config = relay.config();
    let configured = config.servers.iter().find(|server| server.published == published);
    let (clients, channel) =
        configured.map_or((Vec::new(), DataChannel::Shared), |server| (server.clients.clone(), server.channel));
    ServerConfig { published, port: Some(at.port()), sni: Vec::new(), addresses: vec![at.ip()], clients, channel }
}
