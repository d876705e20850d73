//! A program's attachment to an interface: made, taken over from a predecessor, or given up.
//!
//! Every attachment at tc outlives this process: what is closed stays closed after `kill -9`. At TCX it has a name in a BPF file
//! system; where none is mounted, it is a filter on `clsact`.

use super::duty::{AttachPoint, Duty, Position, Stance};
use super::pin_directory::{self, PinDirectory};
use super::{Entrance, FastPathError, FastPathSettings, NoXdp};
use super::{attached, clsact};
use crate::config::FastPathHook;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode, loaded_programs};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where a program sits.
pub enum Attachment {
    /// For as long as this process holds it.
    Held {
        /// Takes the program off when it is dropped.
        _link: FdLink,
    },
    /// Until its name is removed.
    Named {
        path: PathBuf,
        index: u32,
        /// What it is there for; `None`: XDP.
        duty: Option<Duty>,
        /// Keeps it there should another program remove the name.
        _link: PinnedLink,
    },
    /// Until the filter is removed.
    Filter {
        index: u32,
        /// What it is there for.
        duty: Duty,
        /// Name of the gateway.
        tun: String,
    },
}

impl Attachment {
    /// Attaches a program at tc: at TCX where that lasts, else as a filter on clsact.
    pub fn at_tc(
        program: &mut SchedClassifier,
        duty: Duty,
        point: AttachPoint<'_>,
        pins: &PinDirectory,
        settings: &FastPathSettings,
    ) -> Result<Self, FastPathError> {
        let AttachPoint { entrance, position } = point;
        let filter = |program| {
            clsact::attach(program, duty, entrance, &settings.tun, position)?;
            Ok(Self::Filter { index: entrance.index, duty, tun: settings.tun.clone() })
        };
        match (settings.hook, pins) {
            (Some(FastPathHook::Clsact), _) | (None, PinDirectory::Private(_)) => filter(program),
            (Some(FastPathHook::Tcx), PinDirectory::Private(_)) => Err(FastPathError::NothingLasts),
            (Some(FastPathHook::Tcx), PinDirectory::Lasting(_)) => Self::at_tcx(program, duty, point, pins),
            (None, PinDirectory::Lasting(_)) => match Self::at_tcx(program, duty, point, pins) {
                // As kernels without TCX answer.
                Err(error) if matches!(errno(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => filter(program),
                other => other,
            },
        }
    }

    fn at_tcx(
        program: &mut SchedClassifier,
        duty: Duty,
        AttachPoint { entrance, position }: AttachPoint<'_>,
        pins: &PinDirectory,
    ) -> Result<Self, FastPathError> {
        if position == Position::InFront
            && let PinDirectory::Lasting(directory) = pins
        {
            // Without its name it still sits there, for as long as this process holds it.
            forget(&named(directory, duty, entrance.index)).map_err(FastPathError::FileSystem)?;
        }
        Self::take(pins, Some(duty), entrance, |left| {
            let id = match left {
                Some(left) => program.attach_to_link(SchedClassifierLink::try_from(left)?)?,
                None => {
                    // The order names the link by its descriptor.
                    // In front of all others, but behind whom it watches; that one comes in front of it next, where both move.
                    let stays = position == Position::AsLeft;
                    let watched = if stays { Self::watched(duty, entrance, pins)? } else { None };
                    let order = watched.as_ref().map_or(Ok(LinkOrder::first()), LinkOrder::after_link)?;
                    program.attach_with_options(&entrance.name, duty.side(), TcAttachOptions::TcxOrder(order))?
                }
            };
            Ok(FdLink::try_from(program.take_link(id)?)?)
        })
    }

    /// The link of the program that this duty watches, if it is there.
    fn watched(
        duty: Duty,
        entrance: &Entrance,
        pins: &PinDirectory,
    ) -> Result<Option<SchedClassifierLink>, FastPathError> {
        let (Duty::Watching, PinDirectory::Lasting(directory)) = (duty, pins) else { return Ok(None) };
        let leaving = named(directory, Duty::Leaving, entrance.index);
        if !attached::is_attached(&leaving, entrance.index) {
            return Ok(None);
        }
        Ok(Some(SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(leaving)?))?))
    }

    /// Attaches the program at XDP, in the driver.
    pub fn at_xdp(program: &mut Xdp, entrance: &Entrance, pins: &PinDirectory) -> Result<Self, NoXdp> {
        let attachment = Self::take(pins, None, entrance, |left| {
            let id = match left {
                Some(left) => program.attach_to_link(XdpLink::try_from(left)?)?,
                None => program.attach_to_if_index(entrance.index, XdpMode::Driver)?,
            };
            Ok(FdLink::try_from(program.take_link(id)?)?)
        });
        attachment.map_err(|error| match errno(&error) {
            Some(Errno::OPNOTSUPP) => NoXdp::NotNative,
            Some(Errno::RANGE) => NoXdp::TooLong,
            Some(Errno::BUSY | Errno::EXIST) => NoXdp::Taken,
            _ => NoXdp::Kernel(error.to_string()),
        })
    }

    /// Whether the program still sits there, and in front of others: another program may have taken it off, or come
    /// before it.
    pub fn stance(&self) -> Stance {
        match self {
            Self::Held { .. } => Stance::First,
            Self::Named { path, index, .. } if !attached::is_attached(path, *index) => Stance::Gone,
            Self::Named { path, index, duty: Some(duty), .. } => stance_at_tcx(path, *index, *duty),
            Self::Named { duty: None, .. } => Stance::First,
            Self::Filter { index, duty, tun } => clsact::stance(*index, *duty, tun).unwrap_or(Stance::First),
        }
    }

    /// Takes the program off.
    pub fn leave(self) {
        match self {
            Self::Held { .. } => {}
            Self::Named { path, .. } => {
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    log::error!("{}: {error}; a program of the gateway stays on an interface", path.display());
                }
            }
            Self::Filter { index, duty, tun } => match clsact::remove(index, duty, &tun) {
                Err(error) if error.raw_os_error() != Some(Errno::NODEV.raw_os_error()) => {
                    log::error!("tc filter of interface {index}: {error}; a program of the gateway stays on it");
                }
                _ => {}
            },
        }
    }

    /// Its name in a pin directory that lasts.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Held { .. } | Self::Filter { .. } => None,
            Self::Named { path, .. } => path.file_name().map(|name| name.to_string_lossy().into_owned()),
        }
    }

    /// The interface on which it is a filter, and what for.
    pub fn filter(&self) -> Option<(u32, Duty)> {
        if let Self::Filter { index, duty, .. } = self { Some((*index, *duty)) } else { None }
    }

    /// `attach` takes the attachment that a predecessor has left, without a gap, or a new one.
    fn take(
        pins: &PinDirectory,
        duty: Option<Duty>,
        entrance: &Entrance,
        mut attach: impl FnMut(Option<FdLink>) -> Result<FdLink, FastPathError>,
    ) -> Result<Self, FastPathError> {
        let PinDirectory::Lasting(directory) = pins else { return Ok(Self::Held { _link: attach(None)? }) };
        let index = entrance.index;
        let path = duty.map_or_else(|| directory.join(format!("xdp-{index}")), |duty| named(directory, duty, index));
        if let Ok(left) = PinnedLink::from_pin(&path) {
            // One that was taken off cannot be used again.
            if attached::is_attached(&path, index) && attach(Some(left.into())).is_ok() {
                let link = PinnedLink::from_pin(&path)?;
                return Ok(Self::Named { path, index, duty, _link: link });
            }
            // Of an interface that has gone.
            forget(&path).map_err(FastPathError::FileSystem)?;
        }
        let link = attach(None)?.pin(&path)?;
        // Attaching goes by the name of an interface, which may have got another since.
        if !attached::is_attached(&path, index) {
            forget(&path).map_err(FastPathError::FileSystem)?;
            return Err(FastPathError::Renamed(entrance.name.clone()));
        }
        Ok(Self::Named { path, index, duty, _link: link })
    }
}

/// Programs of others that come before those of the gateway `tun` at an outside interface, in words; also while it does not
/// run and has left its own.
pub fn overtaking(tun: &str, index: u32) -> BTreeSet<String> {
    let stance = |duty: Duty| {
        let path = named(&pin_directory::lasting(tun).ok()?, duty, index);
        let is_link = attached::is_attached(&path, index);
        Some(if is_link { stance_at_tcx(&path, index, duty) } else { clsact::stance(index, duty, tun).ok()? })
    };
    let behind = |duty| match stance(duty) {
        Some(Stance::Behind { who, .. }) => Some(who),
        _ => None,
    };
    Duty::OUTSIDE.into_iter().filter_map(behind).collect()
}

fn stance_at_tcx(path: &Path, index: u32, duty: Duty) -> Stance {
    let own = attached::program(path);
    let mut before = attached::order(index, duty.side()).unwrap_or_default();
    before.truncate(before.iter().position(|program| Some(*program) == own).unwrap_or(0));
    // A program that watches another sits behind that one.
    let leaving = path.parent().and_then(|directory| attached::program(&named(directory, Duty::Leaving, index)));
    before.retain(|program| Some(*program) != leaving);
    if !before.is_empty() {
        let gateways = programs_of_gateways(path, index);
        before.retain(|program| !gateways.contains(program));
    }
    let Some(other) = before.first() else { return Stance::First };
    // Names are for those who may look at everything.
    let other_program = loaded_programs().flatten().find(|program| program.id() == *other);
    let name = other_program.and_then(|program| program.name_as_str().map(|name| format!(" ({name})")));
    Stance::Behind { who: format!("program {other}{} at TCX", name.unwrap_or_default()), is_fixed: false }
}

/// The name of the link of a program at TCX.
pub fn named(directory: &Path, duty: Duty, index: u32) -> PathBuf {
    directory.join(format!("{}-{index}", duty.program()))
}

/// The numbers of the programs at TCX on an interface that are of this gateway, which has a name at `path`, or of others in
/// this network namespace.
fn programs_of_gateways(path: &Path, index: u32) -> Vec<u32> {
    let ending = format!("-{index}");
    let directories = path.parent().map(pin_directory::all_beside).unwrap_or_default();
    let files = directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten();
    let paths = files.map(|file| file.path());
    paths.filter(|path| path.to_string_lossy().ends_with(&ending)).filter_map(|path| attached::program(&path)).collect()
}

/// Removes a name, if it is there.
fn forget(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the kernel answered to an attempt to attach.
fn errno(error: &FastPathError) -> Option<Errno> {
    let FastPathError::Program(error) = error else { return None };
    let number = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    number.map(Errno::from_raw_os_error)
}
