//! `kamei state`.

use super::error::CliError;
use super::progress::Display;
use super::{input, show};
use crate::config::{Config, DEFAULT_STATE_DIR, DEFAULT_TUN};
use crate::gateway::clock;
use crate::nat::{BindingState, StoredBinding};
use crate::store::history::{CarryError, Checked, History, Incoming, Outgoing, note_import};
use crate::store::{self, Found, Progress, Stage, StateFile, StoreError};
use clap::{Args, Subcommand};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Configuration file of the gateway, which says where its state file is
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Directory of the state file, whatever the configuration says
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Base name of the gateway's TUN devices, which is the name of its state file, whatever the configuration says
    #[arg(long, value_name = "NAME", global = true)]
    tun: Option<String>,
}

#[derive(Subcommand)]
enum What {
    /// Write all bindings and the history to standard output: JSON, one a line; the gateway may be running
    Export {
        /// Only the bindings
        #[arg(long)]
        no_history: bool,
    },
    /// Put the bindings of such a file, and its history if it has one, in place of those there are, all or none; the gateway
    /// must be stopped
    Import {
        /// The file
        file: PathBuf,
    },
    /// Check the state file and the history, and with --config name the bindings that do not fit it; the gateway may be running
    Verify,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let config = arguments.config.as_deref().map(read).transpose()?;
    let (state_dir, tun) = match &config {
        Some(config) => (config.state_dir.clone(), config.tun.clone()),
        None => (PathBuf::from(DEFAULT_STATE_DIR), DEFAULT_TUN.to_owned()),
    };
    let directory = arguments.state_dir.as_ref().unwrap_or(&state_dir);
    let tun = arguments.tun.as_ref().unwrap_or(&tun);
    let progress = Progress::default();
    let display = Display::start(&progress);
    match &arguments.what {
        What::Export { no_history } => {
            // First: what happens meanwhile to a binding is no part of it, rather than half.
            let history = (!no_history).then(|| look_at_history(directory, tun)).transpose()?.flatten();
            let Found { bindings, damage } = store::look(directory, tun, &progress)?;
            progress.begin(Stage::WritingLines, bindings.len() as u64);
            let mut out = BufWriter::new(Lines { inner: io::stdout().lock(), progress: &progress });
            store::write_lines(&bindings, &mut out)?;
            out.flush()?;
            // Its entries are not counted before: that would read all of it twice.
            progress.begin(Stage::WritingHistory, 0);
            let written = history.map(|history| history.write(&mut out)).transpose();
            let written = written.map_err(|error| of_history(error, directory, tun))?.unwrap_or_default();
            out.flush()?;
            if written.damaged > 0 {
                show::complain(&format!(
                    "{} entries of the history are not what was written, and left out",
                    written.damaged
                ));
            }
            Ok(damage.map_or(Ok(()), Err)?)
        }
        What::Import { file } => import(directory, tun, file, display, &progress),
        What::Verify => {
            let found = store::look(directory, tun, &progress)?;
            drop(display);
            verify(found, directory, tun, arguments.config.as_deref().zip(config.as_ref()))
        }
    }
}

fn read(file: &Path) -> Result<Config, CliError> {
    input::read_config(file)?.check().map_err(|problems| CliError::Config { file: Some(file.to_owned()), problems })
}

fn import(directory: &Path, tun: &str, file: &Path, display: Display, progress: &Progress) -> Result<(), CliError> {
    let open = input::open(file).map_err(|error| CliError::File { path: file.to_owned(), error })?;
    let state = StateFile::take(directory, tun)?;
    let path = state.path().to_owned();
    let mut incoming = Incoming::new(&path);
    // Of a pipe nobody knows.
    progress.begin(Stage::ReadingLines, open.metadata().map_or(0, |about| about.len()));
    let mut input = BufReader::new(Bytes { inner: open, progress });
    let bindings = store::read_lines_with(&mut input, &mut |line| incoming.line(line))
        .map_err(|error| CliError::Import { file: file.to_owned(), error })?;
    // What can be read of it: it is about to be replaced.
    let before = store::look_at(&path, progress).unwrap_or_default();
    let _taken = state.watched(progress).replace(&bindings)?;
    drop(display);
    let entries =
        incoming.finish().map_err(|error| CliError::NoHistory(format!("the bindings are imported, but {error}")))?;
    // Another history knows nothing of what was here before.
    let before = if entries.is_some() { &[] } else { before.as_slice() };
    let user = rustix::process::getuid().as_raw();
    if let Err(error) = note_import(&path, before, &bindings, clock::reading(), user) {
        log::warn!("the history does not know of it: {error}");
    }
    println!("{} binding{} imported", bindings.len(), if bindings.len() == 1 { "" } else { "s" });
    if let Some(entries) = entries {
        let former = History::path_in(directory, tun).with_extension("history.before-import");
        let before = former.exists().then(|| format!("; the history before is {}", former.display()));
        println!("{} of the history imported{}", entries_of(entries), before.unwrap_or_default());
    }
    Ok(())
}

fn entries_of(number: u64) -> String {
    if number == 1 { "1 entry".to_owned() } else { format!("{number} entries") }
}

fn look_at_history(directory: &Path, tun: &str) -> Result<Option<Outgoing>, CliError> {
    Outgoing::look(&StateFile::path_in(directory, tun)).map_err(|error| of_history(error, directory, tun))
}

fn of_history(error: CarryError, directory: &Path, tun: &str) -> CliError {
    match error {
        CarryError::Io(error) => error.into(),
        CarryError::Sqlite(error) => CliError::NoHistory(format!(
            "{}: {error}; --no-history leaves it out",
            History::path_in(directory, tun).display()
        )),
    }
}

fn verify(found: Found, directory: &Path, tun: &str, config: Option<(&Path, &Config)>) -> Result<(), CliError> {
    let Found { bindings, damage } = found;
    let count = |state| bindings.iter().filter(|binding| binding.state == state).count();
    let contacts: usize = bindings.iter().map(|binding| binding.contacts.len()).sum();
    println!(
        "{}: {}; {} active, {} dormant, {} quarantined, {contacts} contacts",
        StateFile::path_in(directory, tun).display(),
        if damage.is_some() { "damaged" } else { "sound" },
        count(BindingState::Active),
        count(BindingState::Dormant),
        count(BindingState::Quarantined)
    );
    let history = look_at_history(directory, tun)?.map(|history| history.check()).transpose();
    if let Some(Checked { entries, damaged }) = history.map_err(|error| of_history(error, directory, tun))? {
        let state = if damaged > 0 { format!("{damaged} entries are damaged") } else { "sound".to_owned() };
        println!("{}: {state}; {}", History::path_in(directory, tun).display(), entries_of(entries));
    }
    if let Some((file, config)) = config {
        list_misfits(&bindings, file, config)?;
    }
    Ok(damage.map_or(Ok(()), Err)?)
}

fn list_misfits(bindings: &[StoredBinding], file: &Path, config: &Config) -> Result<(), CliError> {
    let why = |binding: &StoredBinding| config.misfit(&binding.inside, binding.virtual_ip);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut misfits = 0_u64;
    for (binding, why) in bindings.iter().filter_map(|binding| Some((binding, why(binding)?))) {
        misfits += 1;
        writeln!(out, "kept aside: {} ({}) was {}: {why}", binding.terminal, binding.inside, binding.virtual_ip)?;
    }
    let do_not = if misfits == 1 { "does not" } else { "do not" };
    writeln!(out, "{} {do_not} fit {}", show::number_of(misfits, "binding"), file.display())?;
    Ok(out.flush()?)
}

/// Counts the bytes that are read.
struct Bytes<'a, R> {
    inner: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Bytes<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

/// Counts the lines that are written.
struct Lines<'a, W> {
    inner: W,
    progress: &'a Progress,
}

impl<W: Write> Write for Lines<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        let lines = buffer.iter().take(written).filter(|byte| **byte == b'\n').count();
        self.progress.add(lines as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        CliError::Gateway(error.into())
    }
}
