//! What `kamei relay` and `kamei agent` have in common: where their files are unless told otherwise, and how they are asked.

use super::error::CliError;
use crate::config::{Located, Place};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use log::LevelFilter;
use std::io::Write;
use std::path::PathBuf;

/// What every role that runs takes.
#[derive(Args)]
pub struct Common {
    /// Configuration file (TOML); flags override what it says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for what must outlive the process [default: /var/lib/kamei-ROLE, for users below ~/.local/state]
    #[arg(long, value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// What to log; RUST_LOG can say it in more detail
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = levels())]
    pub log_level: LevelFilter,
}

fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|level| level.parse().unwrap_or(LevelFilter::Info))
}

/// Where the role keeps its state, unless told otherwise.
pub fn state_dir(role: &str) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return format!("/var/lib/kamei-{role}").into();
    }
    let below_home = || std::env::home_dir().unwrap_or_else(|| "/var/lib".into()).join(".local/state");
    directory("XDG_STATE_HOME").unwrap_or_else(below_home).join("kamei").join(role)
}

/// Where its control socket is, unless told otherwise.
pub fn control(role: &str) -> PathBuf {
    let users = || directory("XDG_RUNTIME_DIR").map(|directory| directory.join("kamei"));
    let directory = if rustix::process::geteuid().is_root() { None } else { users() };
    directory.unwrap_or_else(|| "/run/kamei".into()).join(format!("{role}.sock"))
}

/// An absolute path of the environment (XDG base directories).
fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// A value of a flag.
pub fn given<T>(flag: &'static str, value: T) -> Located<T> {
    Located { value, place: Place::Flag(flag) }
}

/// A path of a flag, from the root on.
pub fn path(flag: &'static str, path: Option<PathBuf>) -> Result<Option<Located<String>>, CliError> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|error| CliError::File { path, error });
    let path = path.map(absolute).transpose()?;
    Ok(path.map(|path| given(flag, path.to_string_lossy().into_owned())))
}

/// `NAME=VALUE`.
pub fn pair(flag: &'static str, text: &str) -> Result<(Located<String>, String), CliError> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| CliError::Question(format!("{flag} '{text}' is no NAME=VALUE; write {flag} web=…")))?;
    Ok((given(flag, name.to_owned()), value.to_owned()))
}

/// Writes what was answered, as it was.
pub fn copy(text: &[u8]) -> Result<(), CliError> {
    std::io::stdout().lock().write_all(text)?;
    Ok(())
}
