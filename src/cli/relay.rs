//! `kamei relay`.

mod state;

use super::error::CliError;
use super::flags::given;
use super::input;
use super::role::{self, RoleFlags, pairs};
use super::show;
use super::table::Table;
use crate::config::{Located, RelayDraft, ServerDraft};
use crate::control::{
    Admit, AgentView, Client, ClientView, ConnectionView, InvitationView, Invite, RelayStatus, ServerView,
};
use crate::session::{ConnectionId, checked_name};
use clap::{Args, Subcommand};
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

/// Without a subcommand, the relay runs until SIGTERM or SIGINT.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    question: Option<Question>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// Where agents come in; `:443` is every address of this machine; repeatable
    #[arg(long, value_name = "[ADDRESS]:PORT")]
    listen: Vec<String>,
    /// What invitations name as this relay's address [default: --listen, if that is one address]
    #[arg(long, value_name = "HOST:PORT")]
    public: Option<String>,
    /// A port of this relay for a server that an agent publishes; repeatable
    #[arg(long, value_name = "NAME=PORT")]
    server: Vec<String>,
    /// Where clients ask for a server by SOCKS5 or HTTP CONNECT; `kamei relay admit` lets them in; repeatable
    #[arg(long, value_name = "[ADDRESS]:PORT")]
    proxy: Vec<String>,
    /// Virtual IPs: each server that is published gets one, and is called there at its own port (as root); repeatable
    #[arg(long, value_name = "PREFIX")]
    pool: Vec<String>,
    #[command(flatten)]
    role: RoleFlags,
}

#[derive(Args)]
struct Socket {
    /// Control socket of the relay [default: /run/kamei-relay/relay.sock, for users below XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

#[derive(Args)]
struct Listing {
    #[command(flatten)]
    socket: Socket,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Question {
    /// Print the line that makes a machine inside an agent of this relay
    Invite(InviteArguments),
    /// List invitations that were not used
    Invitations(Listing),
    /// Let a client in by a password, to ask for servers where `proxy` listens; prints NAME:PASSWORD
    Admit(AdmitArguments),
    /// List the clients that were let in by a password
    Clients(Listing),
    /// End an agent or a client: its key or password, its session and its connections
    Revoke {
        /// Its name
        name: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// List the agents that have joined, and who of them is here
    Agents(Listing),
    /// List the servers: their ports and virtual IPs, and who publishes them
    Servers(Listing),
    /// List the connections of clients
    Connections(Listing),
    /// End a connection
    Close {
        /// Its ID, as `kamei relay connections` and the logs have it
        id: String,
        #[command(flatten)]
        socket: Socket,
    },
    /// Say how the relay is
    Status(Listing),
    /// Move the relay to another host
    State(state::Arguments),
}

#[derive(Args)]
struct InviteArguments {
    /// What the agent is called here
    name: String,
    /// The servers that it may publish, by name
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', required = true)]
    publish: Vec<String>,
    /// How long the invitation is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    #[command(flatten)]
    socket: Socket,
}

#[derive(Args)]
struct AdmitArguments {
    /// What the client is called here; of one that is there, password and rights are these from now on
    name: String,
    /// The servers that it may call, by name [default: every server]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    call: Vec<String>,
    /// A file with the password in its first line, - for standard input [default: one is drawn]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    socket: Socket,
}

impl Socket {
    fn client(&self) -> Client {
        Client::of("relay", &self.control.clone().unwrap_or_else(|| role::control("relay")))
    }
}

/// Runs the relay, or asks it.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    match arguments.question {
        None => serve(arguments.run),
        Some(Question::Invite(arguments)) => invite(arguments),
        Some(Question::Admit(arguments)) => admit(arguments),
        Some(Question::Clients(listing)) => listing.show("/v1/clients", clients),
        Some(Question::Revoke { name, socket }) => {
            let name = checked_name(&name).map_err(|error| CliError::Question(error.to_string()))?;
            let revoked = socket.client().revoke(name)?;
            writeln!(stdout(), "revoked: {name}; {} ended", show::number_of(revoked.connections as u64, "connection"))?;
            Ok(())
        }
        Some(Question::Close { id, socket }) => {
            let wrong = |_| {
                CliError::Question(format!("'{id}' is no ID of a connection; `kamei relay connections` lists them"))
            };
            socket.client().close(id.parse::<ConnectionId>().map_err(wrong)?)?;
            writeln!(stdout(), "ended: {id}")?;
            Ok(())
        }
        Some(Question::Invitations(listing)) => listing.show("/v1/invitations", invitations),
        Some(Question::Agents(listing)) => listing.show("/v1/agents", agents),
        Some(Question::Servers(listing)) => listing.show("/v1/servers", servers),
        Some(Question::Connections(listing)) => listing.show("/v1/connections", connections),
        Some(Question::Status(listing)) => listing.show("/v1/status", status),
        Some(Question::State(arguments)) => state::run(&arguments),
    }
}

fn serve(arguments: Run) -> Result<(), CliError> {
    let flags = arguments.draft()?;
    let (config, source) = role::begin("relay", &arguments.role, flags)?;
    Ok(crate::relay::run(config, source, arguments.role.config.as_deref())?)
}

impl Run {
    fn draft(&self) -> Result<RelayDraft, CliError> {
        let all = |flag, values: &[String]| values.iter().map(|value| given(flag, value.clone())).collect();
        let mut wrong = Vec::new();
        let servers = pairs("--server", &self.server, &mut wrong, |name, port| {
            let no_port = |_| format!("'{port}' is no port; write --server web=8000");
            let port = Located { value: port.parse().map_err(no_port)?, place: name.place };
            Ok(ServerDraft {
                name,
                port: Some(port),
                sni: Vec::new(),
                addresses: Vec::new(),
                clients: Vec::new(),
                channel: None,
            })
        });
        Ok(RelayDraft {
            listen: all("--listen", &self.listen),
            public: self.public.as_ref().map(|public| given("--public", public.clone())),
            pool: all("--pool", &self.pool),
            proxy_listen: all("--proxy", &self.proxy),
            servers,
            common: self.role.draft(wrong)?,
            ..RelayDraft::default()
        })
    }
}

fn invite(arguments: InviteArguments) -> Result<(), CliError> {
    let InviteArguments { name, publish, expires, socket } = arguments;
    let invite = Invite::new(name, publish, expires.as_secs());
    let invited = socket.client().invite(invite.clone())?;
    let servers: Vec<String> = invite.servers.iter().map(|server| format!("--publish {server}=HOST:PORT")).collect();
    writeln!(stdout(), "kamei agent --relay {} --invite {} {}", invited.relay, invited.token, servers.join(" "))?;
    Ok(())
}

fn admit(arguments: AdmitArguments) -> Result<(), CliError> {
    let AdmitArguments { name, call, password_file, socket } = arguments;
    let password = password_file.as_deref().map(input::first_line).transpose()?;
    let admitted = socket.client().admit(Admit { name: name.clone(), servers: call, password })?;
    writeln!(stdout(), "{name}:{}", admitted.password)?;
    Ok(())
}

impl Listing {
    fn show<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        print: fn(T, &mut dyn Write) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let client = self.socket.client();
        if self.json {
            return role::copy(&client.look(path)?);
        }
        print(client.read(path)?, &mut stdout().lock())
    }
}

pub fn status(status: RelayStatus, out: &mut dyn Write) -> Result<(), CliError> {
    let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let up = show::span(Duration::from_secs(status.uptime_seconds));
    writeln!(out, "{} {}, relay, up {up}", show::bold("kamei"), status.version)?;
    writeln!(out, "agents at    {}", listen.join(", "))?;
    if !status.proxy.is_empty() {
        let proxy: Vec<String> = status.proxy.iter().map(ToString::to_string).collect();
        writeln!(out, "clients ask  {}", proxy.join(", "))?;
    }
    writeln!(out, "key          {}", status.fingerprint)?;
    writeln!(out, "agents       {} here of {}", status.agents, status.members)?;
    writeln!(out, "servers      {}", status.servers)?;
    writeln!(out, "connections  {} now, {} carried", status.connections, show::count(status.carried))?;
    for (reason, number) in &status.refused {
        writeln!(out, "refused      {} {reason}", show::count(*number))?;
    }
    Ok(())
}

fn agents(agents: Vec<AgentView>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut table =
        Table::new(["AGENT", "STATE", "FROM", ">HERE FOR", ">ROUND TRIP", ">CONNECTIONS", "SERVERS", "MAY PUBLISH"]);
    for agent in agents {
        let servers: Vec<String> = agent.servers.iter().map(ToString::to_string).collect();
        table.row([
            agent.name.into(),
            agent.state.into(),
            agent.address.map(|address| address.to_string()).unwrap_or_default().into(),
            agent.here_seconds.map(|here| show::span(Duration::from_secs(here))).unwrap_or_default().into(),
            agent.round_trip_ms.map(|time| format!("{time} ms")).unwrap_or_default().into(),
            agent.connections.to_string().into(),
            servers.join(",").into(),
            agent.permitted.join(",").into(),
        ]);
    }
    table.fit(show::width(), &["ROUND TRIP", "MAY PUBLISH", "FROM"]);
    Ok(table.write(show::colours(), out)?)
}

pub fn servers(servers: Vec<ServerView>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut table =
        Table::new(["SERVER", "PORT, NAMES", "VIRTUAL IP", ">AT PORT", "AGENTS", "CHANNEL", ">CONNECTIONS"]);
    for server in servers {
        let ips: Vec<String> = server.virtual_ips.iter().map(ToString::to_string).collect();
        let channel = serde_json::to_value(server.channel).ok().and_then(|word| word.as_str().map(str::to_owned));
        table.row([
            server.server.to_string().into(),
            server.port.map(|port| port.to_string()).into_iter().chain(server.sni).collect::<Vec<_>>().join(",").into(),
            ips.join(",").into(),
            server.own_port.map(|port| port.to_string()).unwrap_or_default().into(),
            if server.agents.is_empty() { "none here".to_owned() } else { server.agents.join(",") }.into(),
            channel.unwrap_or_default().into(),
            server.connections.to_string().into(),
        ]);
    }
    table.fit(show::width(), &["CHANNEL", "AT PORT"]);
    Ok(table.write(show::colours(), out)?)
}

pub fn connections(connections: Vec<ConnectionView>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut table = Table::new(["ID", "STATE", "CLIENT", "SERVER", "AGENT", ">AGE", ">BYTES IN", ">BYTES OUT"]);
    for connection in connections {
        table.row([
            connection.id.to_string().into(),
            connection.state.into(),
            match connection.client_name {
                Some(name) => format!("{name} at {}", connection.client).into(),
                None => connection.client.to_string().into(),
            },
            connection.server.to_string().into(),
            connection.agent.unwrap_or_default().into(),
            show::span(Duration::from_secs(connection.seconds)).into(),
            show::bytes(connection.bytes_in).into(),
            show::bytes(connection.bytes_out).into(),
        ]);
    }
    table.fit(show::width(), &["AGENT", "AGE"]);
    Ok(table.write(show::colours(), out)?)
}

fn clients(clients: Vec<ClientView>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut table = Table::new(["CLIENT", ">CONNECTIONS", "MAY CALL"]);
    for client in clients {
        let servers = if client.servers.is_empty() { "every server".to_owned() } else { client.servers.join(",") };
        table.row([client.name.into(), client.connections.to_string().into(), servers.into()]);
    }
    Ok(table.write(show::colours(), out)?)
}

fn invitations(invitations: Vec<InvitationView>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut table = Table::new(["AGENT", ">VALID FOR", "MAY PUBLISH"]);
    for invitation in invitations {
        let left = show::span(Duration::from_secs(invitation.left_seconds));
        table.row([invitation.name.into(), left.into(), invitation.servers.join(",").into()]);
    }
    Ok(table.write(show::colours(), out)?)
}
