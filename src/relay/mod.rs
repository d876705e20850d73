//! The relay: agents come in by TLS and publish servers; clients call these, and each connection is joined to a data channel
//! that its agent opens.
//!
//! ```text
//!  client ──► front.rs ──► call.rs ═══════════ splice ═══════════ call's data channel ◄── streams.rs or upgrade.rs ◄── agent
//!                             │                                                                                          ▲
//!                             └─► sessions.rs ──► Call ──► control channel (session.rs) ─────────────────────────────────┘
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `agents_port.rs`, `caller.rs` | TLS for agents: who they are, HTTP/2 or HTTP/1.1 |
//! | `unproved.rs` | how many may be there that have proved nothing |
//! | `respond.rs` | answers of HTTP/2 |
//! | `streams.rs` | the streams of one HTTP/2 connection: enrolment, control channel, data channels |
//! | `upgrade.rs` | a data channel that is a connection of its own |
//! | `plain.rs` | the calls whose data channel comes in the clear |
//! | `session.rs` | one agent's control channel |
//! | `sessions.rs` | all sessions: which server is whose |
//! | `front.rs` | ports that clients call |
//! | `proxy.rs` | ports at which clients ask for a server: SOCKS5, HTTP CONNECT |
//! | `proofs.rs` | names and passwords of clients, judged |
//! | `answer.rs` | what a client hears of how its call went |
//! | `virtual_ips.rs`, `virtual_fronts.rs` | which server has which virtual IP; listening there |
//! | `state.rs` | a relay as one file, to move it to another host |
//! | `shared.rs`, `clock.rs` | what all tasks share, and the time |
//! | `call.rs` | one connection of a client, from the call to the end |
//! | `connections.rs` | all connections, and how many each may have |
//! | `enrol.rs` | invitations become members |
//! | `reload.rs` | another configuration, without dropping a connection |

mod admin;
mod agents_port;
mod answer;
mod call;
mod caller;
mod clock;
mod connections;
mod enrol;
mod error;
mod front;
mod plain;
mod proofs;
mod proxy;
mod reload;
mod respond;
mod session;
mod sessions;
mod shared;
pub mod state;
mod streams;
mod unproved;
mod upgrade;
mod virtual_fronts;
mod virtual_ips;

pub use error::RelayError;

use crate::config::{ConfigSource, Hardening, RelayConfig};
use crate::control::Listener;
use crate::host::confine::{Confinement, Profile};
use crate::host::{self, LockFile};
use crate::identity::{Authority, Register};
use clock::Clock;
use connections::Connections;
use front::Fronts;
use parking_lot::{Mutex, RwLock};
use plain::PlainCalls;
use proofs::Proofs;
use reload::Changer;
use sessions::Sessions;
use shared::Relay;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use unproved::Unproved;
use virtual_ips::VirtualIps;

/// Runs a relay until SIGTERM or SIGINT; at SIGHUP it reads its configuration anew, from `source`, which reads `file`.
///
/// # Errors
/// What keeps it from starting; nothing is left behind.
pub fn run(config: RelayConfig, source: ConfigSource<RelayConfig>, file: Option<&Path>) -> Result<(), RelayError> {
    host::raise_descriptors();
    let authority = Authority::open(&config.state_dir)?;
    let lock = LockFile::take(&config.state_dir.join("lock"));
    let lock = lock.map_err(|error| RelayError::System { what: "cannot lock the state directory", error })?;
    let _lock = lock.ok_or_else(|| RelayError::Locked(config.state_dir.clone()))?;
    let register = Register::open(&config.state_dir.join("relay.db"))?;
    let virtual_ips = VirtualIps::open(&config.state_dir, &config.pools)?;
    let confinement = (config.hardening == Hardening::On).then(|| {
        Confinement::of_role(Profile::RELAY, &config.state_dir, &config.control, config.metrics).reading(file)
    });
    let relay = Arc::new(Relay {
        asking: Unproved::new(config.limits.unproved),
        proofs: Proofs::new()?,
        authority,
        register,
        sessions: Sessions::default(),
        connections: Connections::new(config.limits),
        plain: PlainCalls::default(),
        virtual_ips,
        refused: Mutex::default(),
        carried: AtomicU64::new(0),
        clock: Clock::start(),
        in_force: RwLock::new(Arc::new(config)),
    });
    let control = admin::listen(&relay, confinement.clone())?;
    // Before there are other threads: each hands on what it may.
    confinement.map_or(Ok(()), |confinement| confinement.enter_and_tell())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RelayError::System { what: "cannot start threads", error })?;
    let fronts = Fronts::new(runtime.handle().clone());
    let changer = Arc::new(Changer { relay, fronts, source, alone: Mutex::default() });
    let served = runtime.block_on(serve(&changer, control));
    runtime.shutdown_background();
    served
}

async fn serve(changer: &Arc<Changer>, control: Listener) -> Result<(), RelayError> {
    let Changer { relay, fronts, .. } = &**changer;
    let agents_ports = agents_port::open(relay)?;
    let config = relay.config();
    fronts.change(relay, &config)?;
    let _pools = virtual_fronts::answer_for(&config.pools)?;
    let mut virtual_fronts = JoinSet::new();
    virtual_fronts.spawn(virtual_fronts::serve(Arc::clone(relay)));
    let caught = |error| RelayError::System { what: "cannot catch signals", error };
    let mut terminated = signal(SignalKind::terminate()).map_err(caught)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(caught)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(caught)?;
    let server = admin::serve(control, changer);
    let listening: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    log::info!(
        "ready: agents come in at {}, {} servers have ports; key {}",
        listening.join(", "),
        config.servers.len(),
        relay.authority.fingerprint()
    );
    for address in config.proxy.listen.iter().filter(|address| !address.ip().is_loopback()) {
        log::warn!(
            "clients' passwords travel in the clear to {address}; where others listen, let it be a loopback address"
        );
    }
    let manager = host::systemd::Manager::from_environment();
    manager.ready("serving");
    loop {
        tokio::select! {
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
            _ = hung_up.recv() => {
                let changer = Arc::clone(changer);
                tokio::task::spawn_blocking(move || changer.reload_and_log());
            }
        }
    }
    manager.stopping();
    log::info!("stopping: {} connections end", relay.connections.count());
    drop((agents_ports, virtual_fronts));
    fronts.close();
    relay.sessions.end_all(session::End::RelayStops);
    server.stop();
    Ok(())
}
