//! What the relay's control socket asks.

use super::clock::wall;
use super::connections::{Connection, Stage};
use super::error::RelayError;
use super::reload::Changer;
use super::session::End;
use super::shared::Relay;
use crate::config::HostPort;
use crate::control::{
    Admit, Admitted, AgentView, ClientView, ConnectionView, InvitationView, Invite, Invited, Listener, Refused,
    RelayAdmin, RelayStatus, Reloaded, Server, ServerView, SocketSettings, group_number,
};
use crate::host::confine::Confinement;
use crate::identity::{IdentityError, Invitation, MemberKind, Password, PasswordClient, RegisterError, Revoked};
use crate::session::{ConnectionId, DataChannel, Published};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Makes the control socket.
pub fn listen(relay: &Relay, confinement: Option<Confinement>) -> Result<Listener, RelayError> {
    let config = relay.config();
    let group = config.control_group.as_deref().map(group_number).transpose().map_err(RelayError::Group)?;
    let settings = SocketSettings::at(&config.control).of_relay().readable_by(group).with_metrics(config.metrics);
    Ok(Listener::bind(settings.confined_by(confinement))?)
}

/// Answers from now on.
pub fn serve(listener: Listener, changer: &Arc<Changer>) -> Server {
    listener.serve_relay(Arc::new(Asked(Arc::clone(&changer.relay), Arc::clone(changer))))
}

struct Asked(Arc<Relay>, Arc<Changer>);

impl RelayAdmin for Asked {
    fn status(&self) -> RelayStatus {
        let relay = &self.0;
        let refused = relay.refused.lock().iter().map(|(reason, number)| (reason.name().to_owned(), *number)).collect();
        let live = relay.sessions.list();
        RelayStatus {
            role: "relay".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: relay.clock.uptime().as_secs(),
            listen: relay.config().listen.clone(),
            proxy: relay.config().proxy.listen.clone(),
            fingerprint: relay.authority.fingerprint().to_string(),
            members: relay.register.members().map_or(0, |members| members.len()),
            agents: live.len(),
            servers: live.iter().flat_map(|session| session.published()).collect::<BTreeSet<_>>().len(),
            connections: relay.connections.count(),
            carried: relay.carried.load(Ordering::Relaxed),
            refused,
        }
    }

    fn agents(&self) -> Result<Vec<AgentView>, String> {
        let members = self.0.register.members().map_err(|error| error.to_string())?;
        let agents = members.into_iter().filter(|member| member.kind == MemberKind::Agent);
        Ok(agents
            .map(|member| {
                let session = self.0.sessions.of_key(&member.key);
                AgentView {
                    name: member.name,
                    state: if session.is_some() { "here" } else { "away" }.to_owned(),
                    address: session.as_ref().map(|session| session.address),
                    here_seconds: session.as_ref().map(|session| self.age(session.since)),
                    servers: session.iter().flat_map(|session| session.published()).map(|(server, _)| server).collect(),
                    permitted: member.servers,
                    connections: session.as_ref().map_or(0, |session| session.connections()),
                    round_trip_ms: session.and_then(|session| session.round_trip()).map(milliseconds),
                }
            })
            .collect())
    }

    fn servers(&self) -> Vec<ServerView> {
        let relay = &self.0;
        let mut all: BTreeMap<Published, ServerView> = BTreeMap::new();
        let view = |published: &Published| ServerView {
            server: published.clone(),
            port: None,
            sni: Vec::new(),
            virtual_ips: relay.virtual_ips.look(published),
            own_port: None,
            agents: Vec::new(),
            channel: DataChannel::Shared,
            connections: 0,
        };
        for server in &relay.config().servers {
            let entry = all.entry(server.published.clone()).or_insert_with_key(view);
            (entry.port, entry.channel) = (server.port, server.channel);
            entry.sni = server.sni.iter().map(ToString::to_string).collect();
        }
        for session in relay.sessions.list() {
            for (published, port) in session.published() {
                let entry = all.entry(published).or_insert_with_key(view);
                entry.own_port = Some(port);
                entry.agents.push(session.agent.clone());
            }
        }
        for connection in relay.connections.list() {
            if let Some(entry) = all.get_mut(&connection.server) {
                entry.connections += 1;
            }
        }
        all.into_values().collect()
    }

    fn connections(&self) -> Vec<ConnectionView> {
        let connections = self.0.connections.list();
        let view = |connection: Arc<Connection>| ConnectionView {
            id: connection.id,
            state: match connection.stage() {
                Stage::Held => "held",
                Stage::Called => "called",
                Stage::Joined => "open",
            }
            .to_owned(),
            client: connection.client,
            client_name: connection.origin.name().map(str::to_owned),
            server: connection.server.clone(),
            agent: connection.agent.lock().clone(),
            seconds: self.age(connection.since),
            bytes_in: connection.counts.forth.load(Ordering::Relaxed),
            bytes_out: connection.counts.back.load(Ordering::Relaxed),
        };
        connections.into_iter().map(view).collect()
    }

    fn invitations(&self) -> Result<Vec<InvitationView>, String> {
        let now = wall();
        let open = self.0.register.invitations(now).map_err(|error| error.to_string())?;
        let view = |open: crate::identity::OpenInvitation| InvitationView {
            name: open.name,
            servers: open.servers,
            left_seconds: open.expires.duration_since(now).unwrap_or_default().as_secs(),
        };
        Ok(open.into_iter().map(view).collect())
    }

    fn clients(&self) -> Result<Vec<ClientView>, String> {
        let clients = self.0.register.clients().map_err(|error| error.to_string())?;
        let view = |client: PasswordClient| ClientView {
            connections: self.of_client(&client.name).count(),
            name: client.name,
            servers: client.servers,
        };
        Ok(clients.into_iter().map(view).collect())
    }

    fn admit(&self, admit: Admit) -> Result<Admitted, Refused> {
        let relay = &self.0;
        let failed = |error: IdentityError| Refused::Failed(error.to_string());
        let password = match admit.password {
            Some(chosen) => Password::chosen(chosen).map_err(|error| Refused::Wrong(error.to_string()))?,
            None => Password::random().map_err(failed)?,
        };
        let hash = password.hash().map_err(failed)?;
        relay.register.admit(&admit.name, &admit.servers, &hash, wall()).map_err(refused)?;
        let servers = if admit.servers.is_empty() { "every server".to_owned() } else { admit.servers.join(", ") };
        log::info!("client {} is let in, to call {servers}", admit.name);
        relay.proofs.forget(&admit.name);
        relay.end_what_may_not_stay();
        Ok(Admitted { password: password.show().to_owned() })
    }

    fn invite(&self, invite: &Invite) -> Result<Invited, Refused> {
        if invite.servers.is_empty() {
            return Err(Refused::Wrong("an agent that may publish nothing is of no use; name its servers".to_owned()));
        }
        let relay = &self.0;
        let public = public(relay)?;
        let valid = Duration::from_secs(invite.seconds);
        let made = relay.register.invite(&invite.name, MemberKind::Agent, &invite.servers, valid, wall());
        let secret = made.map_err(refused)?;
        let token = Invitation { relay: relay.authority.fingerprint(), secret }.to_string();
        log::info!("{} is invited, to publish {}", invite.name, invite.servers.join(", "));
        Ok(Invited { relay: public, token })
    }

    fn revoke(&self, name: &str) -> Result<Option<usize>, String> {
        let relay = &self.0;
        let revoked = relay.register.revoke(name).map_err(|error: RegisterError| error.to_string())?;
        Ok(revoked.map(|revoked| {
            let ended = match revoked {
                Revoked::Member(member) => {
                    let session = relay.sessions.of_key(&member.key);
                    let ended = session.as_ref().map_or(0, |session| session.connections());
                    if let Some(session) = session {
                        session.end(End::Revoked);
                    }
                    ended
                }
                Revoked::Client(client) => {
                    relay.proofs.forget(&client.name);
                    self.of_client(&client.name).inspect(|connection| connection.close.notify_one()).count()
                }
            };
            log::warn!("{name} is revoked; {ended} of its connections end");
            ended
        }))
    }

    fn close(&self, connection: ConnectionId) -> bool {
        let found = self.0.connections.find(connection);
        if let Some(connection) = &found {
            connection.close.notify_one();
        }
        found.is_some()
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        self.1.reload(dry_run)
    }
}

impl Asked {
    /// The connections for which this client has asked.
    fn of_client(&self, name: &str) -> impl Iterator<Item = Arc<Connection>> {
        self.0.connections.list().into_iter().filter(move |connection| connection.origin.name() == Some(name))
    }

    fn age(&self, since: Time) -> u64 {
        (self.0.now() - since).as_secs()
    }
}

fn refused(error: RegisterError) -> Refused {
    match error {
        RegisterError::File(error) => Refused::Failed(error.to_string()),
        error => Refused::Wrong(error.to_string()),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What invitations name as the relay's address: what the operator says, or where it listens, if that is one address.
fn public(relay: &Relay) -> Result<String, Refused> {
    let config = relay.config();
    let told = config.public.as_ref().map(HostPort::to_string);
    let single = config.listen.iter().find(|address| !address.ip().is_unspecified()).map(ToString::to_string);
    told.or(single).ok_or_else(|| {
        let what = "this relay listens at every address: tell by --public HOST:PORT, or the key `public`, which of them \
                    agents are to call";
        Refused::Wrong(what.to_owned())
    })
}
