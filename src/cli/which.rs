//! Which role to ask, where any can be meant.

use super::error::CliError;
use crate::config::DEFAULT_CONTROL;
use crate::control::Client;
use clap::Args;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Every role that stays running.
#[cfg(feature = "relay")]
pub const ROLES: [&str; 3] = ["gateway", "relay", "agent"];
/// Every role that stays running.
#[cfg(not(feature = "relay"))]
pub const ROLES: [&str; 1] = ["gateway"];

/// Which role to ask, where any can be meant.
#[derive(Args)]
pub struct Which {
    /// Control socket [default: that of the role which runs here: /run/kamei/gateway.sock, for example]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Which role to ask, where several run here
    #[arg(long, value_parser = ROLES)]
    pub role: Option<String>,
}

impl Which {
    /// Who is to be asked: the role that answers at the socket that was named, or the only role that runs here.
    pub fn client(&self) -> Result<Client, CliError> {
        let named = ROLES.into_iter().find(|role| self.role.as_deref() == Some(role));
        match (&self.control, named) {
            (Some(path), Some(role)) => Ok(Client::of(role, path)),
            (Some(path), None) => Ok(Client::of_whoever(path)?),
            (None, Some(role)) => Ok(Client::of(role, &control(role))),
            (None, None) => only(&ROLES.map(|role| (role, is_there(role)))),
        }
    }
}

/// Whether a process listens where this role does, also if not to this user.
fn is_there(role: &str) -> bool {
    match UnixStream::connect(control(role)) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::WouldBlock),
    }
}

/// Where nobody is there, the gateway is asked, which says so.
fn only(roles: &[(&'static str, bool)]) -> Result<Client, CliError> {
    let here: Vec<&str> = roles.iter().filter(|(_, is_there)| *is_there).map(|(role, _)| *role).collect();
    let role = match here.as_slice() {
        [] => "gateway",
        [only] => only,
        [some @ .., last] => {
            let (some, all) = (some.join(", "), here.join("|"));
            return Err(CliError::Question(format!("{some} and {last} run here; say which by --role {all}")));
        }
    };
    let known = ROLES.into_iter().find(|known| *known == role).unwrap_or("gateway");
    Ok(Client::of(known, &control(known)))
}

/// Where its control socket is, unless told otherwise.
pub fn control(role: &str) -> PathBuf {
    if role == "gateway" {
        return DEFAULT_CONTROL.into();
    }
    let users = || directory("XDG_RUNTIME_DIR").map(|directory| directory.join("kamei"));
    let directory = if rustix::process::geteuid().is_root() { None } else { users() };
    // Not the gateway's directory: the user of the role's unit is another.
    directory.unwrap_or_else(|| format!("/run/kamei-{role}").into()).join(format!("{role}.sock"))
}

/// An absolute path of the environment (XDG base directories).
pub fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_role_that_runs_is_asked_and_of_several_the_operator_says_which() {
        let asked = |here: [bool; 3]| {
            let roles: Vec<_> = ["gateway", "relay", "agent"].into_iter().zip(here).collect();
            only(&roles).map(|client| client.role()).map_err(|error| error.to_string())
        };
        assert_eq!(asked([false, false, false]), Ok("gateway"));
        assert_eq!(asked([false, true, false]), Ok("relay"));
        assert_eq!(asked([false, false, true]), Ok("agent"));
        let said = "gateway and relay run here; say which by --role gateway|relay".to_owned();
        assert_eq!(asked([true, true, false]), Err(said));
    }
}
