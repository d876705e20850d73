//! A program's seat: where it is attached to an interface, taken over from a predecessor, or given up.
//!
//! Every seat at tc outlives this process: what is closed stays closed after `kill -9`. At TCX it has a name in a BPF file
//! system; where none is mounted, it is a filter on `clsact`.

use super::place::Place;
use super::{Common, Entrance, FastPathError, NoXdp};
use super::{attached, clsact};
use crate::config::FastPathHook;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, Xdp, XdpMode};
use rustix::io::Errno;
use std::path::PathBuf;

/// What a program at tc is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Translates what leaves by an outside interface.
    Leaving,
    /// Drops what [`Role::Leaving`] should have translated.
    Watching,
    /// Translates what arrives at an outside interface.
    Arriving,
    /// Translates what arrives at an inside interface, and sends it out at once.
    Shortcut,
    /// At the gateway's device: takes packets back to where user space got them from.
    Returning,
    /// At the gateway's device: says what the kernel has routed to it.
    Routed,
}

impl Role {
    /// The roles at an outside interface, in the order in which they take their seats: closed before it is open.
    pub const OUTSIDE: [Self; 3] = [Self::Watching, Self::Leaving, Self::Arriving];
    /// The roles at the gateway's device.
    pub const DEVICE: [Self; 2] = [Self::Routed, Self::Returning];

    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Leaving => "kamei_leaving",
            Self::Watching => "kamei_watching",
            Self::Arriving => "kamei_arriving",
            Self::Shortcut => "kamei_shortcut",
            Self::Returning => "kamei_returning",
            Self::Routed => "kamei_routed",
        }
    }

    /// Its number in handles of filters.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::Leaving => 1,
            Self::Watching => 2,
            Self::Arriving => 3,
            Self::Shortcut => 4,
            Self::Returning => 5,
            Self::Routed => 6,
        }
    }
}

/// Where a program sits.
pub enum Seat {
    /// For as long as this process holds it.
    Held {
        /// Takes the program off when it is dropped.
        _link: FdLink,
    },
    /// Until its name is removed.
    Named {
        /// The name.
        path: PathBuf,
        /// Keeps it there should the name be removed by somebody else.
        _link: PinnedLink,
    },
    /// Until the filter is removed.
    Filter {
        /// The interface.
        index: u32,
        /// What it is there for.
        role: Role,
        /// Name of the gateway.
        tun: String,
    },
}

impl Seat {
    /// At tc, in front of the programs of others.
    pub fn at_tc(
        program: &mut SchedClassifier,
        role: Role,
        entrance: &Entrance,
        place: &Place,
        common: &Common,
    ) -> Result<Self, FastPathError> {
        let filter = |program| {
            clsact::attach(program, role, entrance, &common.tun)?;
            Ok(Self::Filter { index: entrance.index, role, tun: common.tun.clone() })
        };
        match (common.hook, place) {
            (Some(FastPathHook::Clsact), _) | (None, Place::Private(_)) => filter(program),
            (Some(FastPathHook::Tcx), Place::Private(_)) => Err(FastPathError::NothingLasts),
            (Some(FastPathHook::Tcx), Place::Lasting(_)) => Self::at_tcx(program, role, entrance, place),
            (None, Place::Lasting(_)) => match Self::at_tcx(program, role, entrance, place) {
                // As kernels without TCX answer.
                Err(error) if matches!(errno(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => filter(program),
                other => other,
            },
        }
    }

    fn at_tcx(
        program: &mut SchedClassifier,
        role: Role,
        entrance: &Entrance,
        place: &Place,
    ) -> Result<Self, FastPathError> {
        Self::take(place, &format!("{}-{}", role.program(), entrance.index), |left| {
            let id = match left {
                Some(left) => program.attach_to_link(SchedClassifierLink::try_from(left)?)?,
                None => {
                    // The order names the link by its descriptor.
                    let watched = Self::watched(role, entrance, place)?;
                    // In front of all others, but behind whom it watches.
                    let order = watched.as_ref().map_or(Ok(LinkOrder::first()), LinkOrder::after_link)?;
                    program.attach_with_options(&entrance.name, role.side(), TcAttachOptions::TcxOrder(order))?
                }
            };
            Ok(FdLink::try_from(program.take_link(id)?)?)
        })
    }

    /// Whom it watches, if that one is there.
    fn watched(role: Role, entrance: &Entrance, place: &Place) -> Result<Option<SchedClassifierLink>, FastPathError> {
        let (Role::Watching, Place::Lasting(directory)) = (role, place) else { return Ok(None) };
        let leaving = directory.join(format!("{}-{}", Role::Leaving.program(), entrance.index));
        if !attached::is_attached(&leaving) {
            return Ok(None);
        }
        Ok(Some(SchedClassifierLink::try_from(FdLink::from(PinnedLink::from_pin(leaving)?))?))
    }

    /// In the driver.
    pub fn at_xdp(program: &mut Xdp, entrance: &Entrance, place: &Place) -> Result<Self, NoXdp> {
        let seat = Self::take(place, &format!("xdp-{}", entrance.index), |left| {
            let id = match left {
                Some(left) => program.attach_to_link(XdpLink::try_from(left)?)?,
                None => program.attach_to_if_index(entrance.index, XdpMode::Driver)?,
            };
            Ok(FdLink::try_from(program.take_link(id)?)?)
        });
        seat.map_err(|error| match errno(&error) {
            Some(Errno::OPNOTSUPP) => NoXdp::NotNative,
            Some(Errno::RANGE) => NoXdp::TooLong,
            Some(Errno::BUSY | Errno::EXIST) => NoXdp::Taken,
            _ => NoXdp::Kernel(error.to_string()),
        })
    }

    /// Whether the program still sits there: somebody may have taken it off.
    pub fn is_taken(&self) -> bool {
        match self {
            Self::Held { .. } => true,
            Self::Named { path, .. } => attached::is_attached(path),
            Self::Filter { index, role, tun } => clsact::is_there(*index, *role, tun).unwrap_or(true),
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
            Self::Filter { index, role, tun } => match clsact::remove(index, role, &tun) {
                Err(error) if error.raw_os_error() != Some(Errno::NODEV.raw_os_error()) => {
                    log::error!("tc filter of interface {index}: {error}; a program of the gateway stays on it");
                }
                _ => {}
            },
        }
    }

    /// Its name in a place that lasts.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Held { .. } | Self::Filter { .. } => None,
            Self::Named { path, .. } => path.file_name().map(|name| name.to_string_lossy().into_owned()),
        }
    }

    /// The interface on which it is a filter, and what for.
    pub fn filter(&self) -> Option<(u32, Role)> {
        if let Self::Filter { index, role, .. } = self { Some((*index, *role)) } else { None }
    }

    /// `attach` takes the seat that a predecessor has left, without a gap, or a new one.
    fn take(
        place: &Place,
        name: &str,
        mut attach: impl FnMut(Option<FdLink>) -> Result<FdLink, FastPathError>,
    ) -> Result<Self, FastPathError> {
        let Place::Lasting(directory) = place else { return Ok(Self::Held { _link: attach(None)? }) };
        let path = directory.join(name);
        if let Ok(left) = PinnedLink::from_pin(&path) {
            // One that was taken off cannot be used again.
            if attached::is_attached(&path) && attach(Some(left.into())).is_ok() {
                let link = PinnedLink::from_pin(&path)?;
                return Ok(Self::Named { path, _link: link });
            }
            // Of an interface that has gone.
            std::fs::remove_file(&path).map_err(FastPathError::FileSystem)?;
        }
        let link = attach(None)?.pin(&path)?;
        Ok(Self::Named { path, _link: link })
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
