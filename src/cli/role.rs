//! What `kamei relay` and `kamei agent` have in common: where their files are unless told otherwise, and how they are asked.

use super::error::CliError;
use super::flags::{given, levels, no_file, path};
pub use super::which::control;
use super::which::directory;
use super::{input, logging};
use crate::config::{CommonDraft, ConfigSource, Located, LogFormat, Place, Problem, RoleDraft, Wrong};
use clap::Args;
use log::LevelFilter;
use std::io::Write;
use std::path::PathBuf;

/// What every role that runs takes.
#[derive(Args)]
pub struct RoleFlags {
    /// Configuration file (TOML); flags override what it says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for what must outlive the process [default: /var/lib/kamei-ROLE, for users below ~/.local/state]
    #[arg(long, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Control socket [default: /run/kamei-ROLE/ROLE.sock, for users below XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Tell metrics on this loopback address too, as well as on the control socket [default: not]
    #[arg(long, value_name = "127.0.0.1:PORT")]
    pub metrics: Option<String>,
    /// How to log: `text`, `json` (an object a line) or `journald` (with fields) [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What to log; RUST_LOG can say it in more detail
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = levels())]
    pub log_level: LevelFilter,
}

impl RoleFlags {
    /// What the flags say of what every role has, beside what is wrong with the others.
    pub fn draft(&self, wrong: Vec<Problem>) -> Result<CommonDraft, CliError> {
        Ok(CommonDraft {
            state_dir: path("--state-dir", self.state_dir.clone())?,
            control: path("--control", self.control.clone())?,
            metrics: self.metrics.clone().map(|address| given("--metrics", address)),
            log_format: self.log_format,
            wrong,
            ..CommonDraft::default()
        })
    }
}

/// What file and flags say together, checked; the log is written as they say from now on.
pub fn begin<D>(
    role: &'static str,
    flags: &RoleFlags,
    by_flags: D,
) -> Result<(D::Config, ConfigSource<D::Config>), CliError>
where
    D: RoleDraft + Clone + Send + Sync + 'static,
{
    let file = flags.config.clone();
    let is_of_flags = file.is_none();
    let read = move || -> Result<D::Config, CliError> {
        let wrong = |problems| CliError::Config { file: file.clone(), problems };
        let draft = match &file {
            Some(path) => {
                let text = input::read_text(path).map_err(|error| CliError::File { path: path.clone(), error })?;
                D::parse(&text).map_err(wrong)?.overridden_by(by_flags.clone())
            }
            None => by_flags.clone(),
        };
        draft.check(state_dir(role), control(role)).map_err(wrong)
    };
    let config = read()?;
    logging::start(flags.log_level, D::log_format(&config)).map_err(CliError::Log)?;
    let source = move || match is_of_flags {
        true => Err(no_file(role)),
        false => read().map_err(|error| error.to_string()),
    };
    Ok((config, Box::new(source)))
}

/// Where the role keeps its state, unless told otherwise.
pub fn state_dir(role: &str) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return format!("/var/lib/kamei-{role}").into();
    }
    let below_home = || std::env::home_dir().unwrap_or_else(|| "/var/lib".into()).join(".local/state");
    directory("XDG_STATE_HOME").unwrap_or_else(below_home).join("kamei").join(role)
}

/// `NAME=VALUE` of a flag; what is none is noted, so that the others are looked at as well.
pub fn pairs<T>(
    flag: &'static str,
    texts: &[String],
    wrong: &mut Vec<Problem>,
    each: impl Fn(Located<String>, &str) -> Result<T, String>,
) -> Vec<T> {
    let read = |text: &String| {
        let pair = text.split_once('=').ok_or_else(|| format!("'{text}' is no NAME=VALUE; write {flag} web=…"));
        let read = pair.and_then(|(name, value)| each(given(flag, name.to_owned()), value));
        let key = flag.trim_start_matches('-').to_owned();
        let note = |what| Problem { place: Place::Flag(flag), wrong: Wrong::Value { key, what, example: None } };
        read.map_err(|what| wrong.push(note(what))).ok()
    };
    texts.iter().filter_map(read).collect()
}

/// Writes what was answered, as it was.
pub fn copy(text: &[u8]) -> Result<(), CliError> {
    std::io::stdout().lock().write_all(text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_that_is_none_is_told() {
        let mut wrong = Vec::new();
        let texts = ["web=80", "ssh", "db=x", "=5"].map(str::to_owned);
        let read = pairs("--server", &texts, &mut wrong, |name, port| {
            port.parse::<u16>().map(|port| (name.value, port)).map_err(|_| format!("'{port}' is no port"))
        });
        assert_eq!(read, [("web".to_owned(), 80), (String::new(), 5)]);
        let said: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["--server: server: 'ssh' is no NAME=VALUE; write --server web=…", "--server: server: 'x' is no port"]
        );
    }
}
