//! The credentials of the process at the other end of the socket, from the kernel.

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use tokio::net::UnixStream;

/// The most groups that a process can be in (`NGROUPS_MAX`, linux/limits.h).
const MOST_GROUPS: usize = 65_536;
/// Groups that are enough for almost everybody.
const FEW_GROUPS: usize = 64;

/// What a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anything: root, and the gateway's own user.
    All,
    /// To look: members of the group of the configuration.
    Look,
    /// The metrics alone: every caller of their port.
    Metrics,
    /// Nothing. The socket's mode keeps these away already; a mode can be changed and a descriptor handed on.
    Nothing,
}

/// What the caller of this connection may ask, if `readers` may look.
pub fn access(stream: &UnixStream, readers: Option<u32>) -> io::Result<Access> {
    let caller = stream.peer_cred()?;
    if caller.uid() == 0 || caller.uid() == rustix::process::geteuid().as_raw() {
        return Ok(Access::All);
    }
    let Some(readers) = readers else { return Ok(Access::Nothing) };
    let reads = caller.gid() == readers || supplementary_groups(stream)?.contains(&readers);
    Ok(if reads { Access::Look } else { Access::Nothing })
}

/// Whose number stands for a caller that the kernel does not name.
pub const NOBODY: u32 = u32::MAX;

/// The number of the user who made this connection.
pub fn user(stream: &UnixStream) -> u32 {
    stream.peer_cred().map_or(NOBODY, |caller| caller.uid())
}

/// The number of a group, by its name in /etc/group or by itself.
///
/// # Errors
/// One line: what is wrong and what to do.
pub fn group_number(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").map_err(|error| format!("cannot read /etc/group: {error}"))?;
    number_in(&groups, group).ok_or_else(|| {
        format!("there is no group '{group}' in /etc/group; make it with `groupadd --system {group}`, or leave control-group out")
    })
}

/// `name:password:number:members`, one a line.
fn number_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// The groups besides the first that the caller was in when it connected.
fn supplementary_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; FEW_GROUPS];
    match peer_groups(socket, &mut groups) {
        Err(Errno::RANGE) => {
            groups.resize(MOST_GROUPS, 0);
            let number = peer_groups(socket, &mut groups)?;
            groups.truncate(number);
        }
        number => groups.truncate(number?),
    }
    Ok(groups)
}

#[allow(unsafe_code, reason = "no crate wraps SO_PEERGROUPS")]
fn peer_groups(socket: &impl AsFd, groups: &mut [u32]) -> Result<usize, Errno> {
    let size = size_of::<libc::gid_t>();
    let mut length = libc::socklen_t::try_from(size_of_val(groups)).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `length` bytes to `groups`, which has as many (gid_t is u32, and any bytes are
    // one), and the number it has written to `length`. Both live until the call is over, as does the descriptor.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(usize::try_from(length).unwrap_or_default() / size),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_name_or_number() {
        let groups = "root:x:0:\nbroken\nkamei:x:987:alice,bob\nlate:x:notanumber:\n";
        assert_eq!(
            ["root", "kamei", "broken", "late", "alice"].map(|name| number_in(groups, name)),
            [Some(0), Some(987), None, None, None]
        );
        assert_eq!(group_number("4711"), Ok(4711));
        assert!(group_number("no such group").unwrap_err().contains("groupadd"));
    }

    #[test]
    fn the_kernel_says_which_groups_a_caller_is_in() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mine: Vec<u32> = rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        assert_eq!(supplementary_groups(&ours).unwrap(), mine);
    }
}
