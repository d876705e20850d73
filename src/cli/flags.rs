//! Values of flags, as a configuration takes them, and what every role that runs says of flags.

use super::error::CliError;
use crate::config::{Located, Place};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use log::LevelFilter;
use std::path::PathBuf;

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

/// The values of `--log-level`.
pub fn levels() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|level| level.parse().unwrap_or(LevelFilter::Info))
}

/// Why a role that was started without a file reads nothing anew.
pub fn no_file(role: &str) -> String {
    format!(
        "this {role} was started by flags alone: there is no file to read anew; start it with --config FILE, and a reload \
         changes what the file does"
    )
}
