//! A program's seat: where it is attached to an interface, taken over from a predecessor, or given up.

use super::clsact;
use super::place::Place;
use super::{Common, Entrance, FastPathError, NoXdp};
use crate::config::FastPathHook;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use rustix::io::Errno;
use std::path::PathBuf;

/// Where a program sits.
pub enum Seat {
    /// For as long as this process holds it.
    Held {
        /// Takes the program off when it is dropped.
        _link: FdLink,
    },
    /// Until its name is removed.
    Named(PathBuf),
    /// Until the filter is removed.
    Filter {
        /// The interface.
        index: u32,
        /// Name of the gateway.
        tun: String,
    },
}

impl Seat {
    /// At tc ingress.
    pub fn at_tc(
        program: &mut SchedClassifier,
        entrance: &Entrance,
        place: &Place,
        common: &Common,
    ) -> Result<Self, FastPathError> {
        let filter = |program| {
            clsact::attach(program, entrance, &common.tun)?;
            Ok(Self::Filter { index: entrance.index, tun: common.tun.clone() })
        };
        match common.hook {
            Some(FastPathHook::Tcx) => Self::at_tcx(program, entrance, place),
            Some(FastPathHook::Clsact) => filter(program),
            None => match Self::at_tcx(program, entrance, place) {
                // As kernels without TCX answer.
                Err(error) if matches!(errno(&error), Some(Errno::INVAL | Errno::OPNOTSUPP)) => filter(program),
                other => other,
            },
        }
    }

    /// Behind the programs of others.
    fn at_tcx(program: &mut SchedClassifier, entrance: &Entrance, place: &Place) -> Result<Self, FastPathError> {
        Self::take(place, &format!("link-{}", entrance.index), |left| {
            let id = match left {
                Some(left) => program.attach_to_link(SchedClassifierLink::try_from(left)?)?,
                None => {
                    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                    program.attach_with_options(&entrance.name, TcAttachType::Ingress, order)?
                }
            };
            Ok(FdLink::try_from(program.take_link(id)?)?)
        })
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

    /// Takes the program off.
    pub fn leave(self) {
        match self {
            Self::Held { .. } => {}
            Self::Named(path) => {
                if let Err(error) = std::fs::remove_file(&path) {
                    log::error!("{}: {error}; the fast path stays on an interface", path.display());
                }
            }
            Self::Filter { index, tun } => {
                if let Err(error) = clsact::remove(index, &tun) {
                    log::error!("tc filter of interface {index}: {error}; the fast path stays on it");
                }
            }
        }
    }

    /// Its name in a place that lasts.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Held { .. } | Self::Filter { .. } => None,
            Self::Named(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
        }
    }

    /// The interface on which it is a filter.
    pub fn filter(&self) -> Option<u32> {
        if let Self::Filter { index, .. } = self { Some(*index) } else { None }
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
            if attach(Some(left.into())).is_ok() {
                return Ok(Self::Named(path));
            }
            // Of an interface that has gone.
            std::fs::remove_file(&path).map_err(FastPathError::FileSystem)?;
        }
        attach(None)?.pin(&path)?;
        Ok(Self::Named(path))
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
