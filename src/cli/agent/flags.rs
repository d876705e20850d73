//! The flags of an agent that runs.

use crate::cli::error::CliError;
use crate::cli::flags::given;
use crate::cli::input;
use crate::cli::role::{RoleFlags, pairs};
use crate::config::{AgentDraft, PublishDraft};
use crate::identity::Invitation;
use clap::Args;
use std::path::PathBuf;

/// What a running agent is told.
#[derive(Args)]
pub struct Run {
    /// The relay to keep a session with; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    relay: Vec<String>,
    /// The invitation, the first time; other users of this machine can see it while this runs, so better:
    #[arg(long, value_name = "TOKEN", conflicts_with = "invite_file")]
    invite: Option<String>,
    /// A file with the invitation; `-` is standard input
    #[arg(long, value_name = "FILE")]
    invite_file: Option<PathBuf>,
    /// A server to publish: its name for clients, and where it is; repeatable
    #[arg(long, value_name = "NAME=HOST:PORT")]
    publish: Vec<String>,
    /// A proxy on the way to the relay, http:// (CONNECT) or socks5://; a password belongs into the configuration file
    #[arg(long, value_name = "URL")]
    pub via: Option<String>,
    #[command(flatten)]
    pub role: RoleFlags,
}

impl Run {
    /// The invitation, from wherever it comes.
    pub fn invitation(&self) -> Result<Option<Invitation>, CliError> {
        let text = match (&self.invite, &self.invite_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) if path.as_os_str() == "-" => {
                return Invitation::read(&mut std::io::stdin())
                    .map(Some)
                    .map_err(|error| CliError::Question(format!("--invite-file -: {error}")));
            }
            (None, Some(path)) => {
                input::read_text(path).map_err(|error| CliError::File { path: path.clone(), error })?
            }
            (None, None) => return Ok(None),
        };
        let parsed = text.trim().parse::<Invitation>();
        parsed.map(Some).map_err(|error| CliError::Question(format!("--invite: {error}")))
    }

    /// What the flags say.
    pub fn draft(&self) -> Result<AgentDraft, CliError> {
        let mut wrong = Vec::new();
        let publish = pairs("--publish", &self.publish, &mut wrong, |name, target| {
            Ok(PublishDraft { name, target: given("--publish", target.to_owned()), proxy_protocol: false })
        });
        Ok(AgentDraft {
            relay: self.relay.iter().map(|relay| given("--relay", relay.clone())).collect(),
            via: self.via.as_ref().map(|via| given("--via", via.clone())),
            publish,
            common: self.role.draft(wrong)?,
            ..AgentDraft::default()
        })
    }
}
