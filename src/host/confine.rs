//! What the process may still do once it is set up: a few capabilities, a few directories, the system calls it needs.
//!
//! All three belong to a thread and are handed on to the threads it starts, so each thread that is not started by a
//! confined one confines itself: `main` when the host's network is set up, the control socket's thread before it takes
//! the first caller. Workers then give up what only the others need.
//!
//! A system call in none of the groups below fails with ENOSYS: a C library that tries a newer call than we know falls
//! back to an older one, and a packet that finds a forgotten path costs an error, not the gateway. A call that only
//! somebody who has taken over the process would make (`NEVER`) ends the process: inside packets are blocked then,
//! and systemd starts it anew.

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    Scope,
};
use libc::c_long;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// What is still needed: netlink and interfaces; the maps and programs of the fast path.
const CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::BPF).union(CapabilitySet::PERFMON);

/// Of these, what a worker needs: it announces virtual IPs, and reads and writes maps that are there.
const WORKERS_CAPABILITIES: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::BPF);

/// The newest Landlock whose rights are asked for; an older kernel grants what it knows (5.13 and later).
const LANDLOCK: ABI = ABI::V6;

/// Read and written besides the directories of the configuration.
const WRITTEN: &[&str] = &[
    "/proc/sys/net", // settings of interfaces that come later, and all of them at the stop
    "/dev/net/tun",  // more queues after a reload
    "/sys/fs/bpf",   // what the fast path has pinned
];

/// Read besides the directory of the configuration.
const READ: &[&str] = &[
    "/proc/self",       // counters of the gateway's own devices
    "/proc/sys/kernel", // the boot in which the undo file counts
    "/sys/class/net",   // interfaces, as the fast path looks at them
    "/sys/devices",
    "/sys/kernel/btf",
    "/run/systemd/journal", // the journal's socket
];

/// Why the process could not be confined; it does not go on then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Capabilities.
    #[error("cannot give up capabilities: {0}; hardening = \"off\" goes without")]
    Capabilities(io::Error),
    /// Directories.
    #[error("cannot limit the process to its directories: {0}; hardening = \"off\" goes without")]
    Landlock(#[from] landlock::RulesetError),
    /// System calls.
    #[error("cannot filter system calls: {0}; hardening = \"off\" goes without")]
    Seccomp(String),
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Carries packets: descriptors it has, state it keeps, no new sockets, threads or devices.
    Worker,
    /// Everything else.
    Other,
}

/// How the process is to be confined.
#[derive(Clone, Debug)]
pub struct Confinement {
    written: Vec<PathBuf>,
    read: Vec<PathBuf>,
}

impl Confinement {
    /// Of a gateway that writes below the directories `written` and reads below `read`. They must exist when a thread is
    /// confined: one that does not is closed for good.
    pub fn new(written: Vec<PathBuf>, read: Vec<PathBuf>) -> Self {
        let all = |own: Vec<PathBuf>, fixed: &[&str]| own.into_iter().chain(fixed.iter().map(PathBuf::from)).collect();
        Self { written: all(written, WRITTEN), read: all(read, READ) }
    }

    /// Confines this thread and those it starts from now on. Says what the kernel lacks.
    pub fn enter(&self) -> Result<Option<&'static str>, ConfineError> {
        keep_capabilities().map_err(|error| ConfineError::Capabilities(error.into()))?;
        let lacking = self.close_directories()?;
        filter(all_of(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?;
        only(Role::Other)?;
        Ok(lacking)
    }

    fn close_directories(&self) -> Result<Option<&'static str>, ConfineError> {
        let all = AccessFs::from_all(LANDLOCK);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let mut rules = Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?;
        for (paths, access) in [(&self.written, all & !AccessFs::Execute), (&self.read, read)] {
            for path in paths {
                // What is not there cannot be opened later either; that is as well.
                let Ok(open) = PathFd::new(path) else { continue };
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
                rules = rules.add_rule(PathBeneath::new(open, access))?;
            }
        }
        Ok(match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => None,
            RulesetStatus::PartiallyEnforced => {
                Some("this kernel's Landlock is an old one: it limits files, not all else")
            }
            RulesetStatus::NotEnforced => Some("this kernel has no Landlock: files are protected by their modes alone"),
        })
    }
}

/// Leaves this thread the system calls and capabilities of its role; a role can be narrowed, never widened.
pub fn only(role: Role) -> Result<(), ConfineError> {
    let groups = match role {
        Role::Worker => {
            hold(WORKERS_CAPABILITIES).map_err(|error| ConfineError::Capabilities(error.into()))?;
            WORKER
        }
        Role::Other => OTHER,
    };
    let mut allowed = all_of(groups.iter().copied().flatten());
    if role == Role::Worker {
        allowed.insert(libc::SYS_bpf, MAP_COMMANDS.iter().map(|command| first_is(*command)).collect::<Result<_, _>>()?);
    }
    let unknown = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    filter(allowed, unknown, SeccompAction::Allow)
}

/// These, with whatever arguments.
fn all_of<'a>(calls: impl IntoIterator<Item = &'a c_long>) -> BTreeMap<c_long, Vec<SeccompRule>> {
    calls.into_iter().map(|call| (*call, Vec::new())).collect()
}

/// A call whose first argument is this.
fn first_is(value: u32) -> Result<SeccompRule, ConfineError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| ConfineError::Seccomp(error.to_string()))
}

fn filter(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    then: SeccompAction,
) -> Result<(), ConfineError> {
    let failed = |error: &dyn std::fmt::Display| ConfineError::Seccomp(error.to_string());
    let machine = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    let filter = SeccompFilter::new(rules, otherwise, then, machine).map_err(|error| failed(&error))?;
    let program = seccompiler::BpfProgram::try_from(filter).map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&program).map_err(|error| failed(&error))
}

/// Of those the process has, the ones it needs; no way back to the others, not even by a set-uid program.
fn keep_capabilities() -> Result<(), Errno> {
    let have = rustix::thread::capabilities(None)?;
    if have.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // One that this kernel does not have yet.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    hold(CAPABILITIES)?;
    rustix::thread::set_no_new_privs(true)
}

/// Of those this thread has, these.
fn hold(capabilities: CapabilitySet) -> Result<(), Errno> {
    let kept = rustix::thread::capabilities(None)?.permitted.intersection(capabilities);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// The groups that a worker keeps.
const WORKER: &[&[c_long]] = &[PROCESS, MEMORY, PACKETS, TALK, FILES, FAST_PATH];
/// The groups of everybody else.
const OTHER: &[&[c_long]] = &[PROCESS, MEMORY, PACKETS, TALK, FILES, FAST_PATH, THREADS, SOCKETS, DIRECTORIES, LOOK];

/// Being a thread: clocks, locks, signals, random numbers, an orderly end.
#[rustfmt::skip]
const PROCESS: &[c_long] = &[
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_futex, libc::SYS_rseq, libc::SYS_membarrier, libc::SYS_restart_syscall,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_set_tid_address, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_getcpu, libc::SYS_prctl, libc::SYS_seccomp,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack, libc::SYS_tgkill, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_capget, libc::SYS_getrandom,
    libc::SYS_getrusage, libc::SYS_prlimit64, libc::SYS_sysinfo, libc::SYS_uname,
    libc::SYS_exit, libc::SYS_exit_group,
];

/// Memory: the allocator's.
#[rustfmt::skip]
const MEMORY: &[c_long] = &[
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_msync, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_munlock,
];

/// Reading, writing and waiting on descriptors: packets, events, the log.
#[rustfmt::skip]
const PACKETS: &[c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_close,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
];

/// Talking on sockets that are open: netlink (a worker announces new IPv6 virtual IPs), the journal, systemd.
#[rustfmt::skip]
const TALK: &[c_long] = &[
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt,
];

/// Files where Landlock lets them be, as a store of bindings uses them (a worker commits before a packet leaves).
#[rustfmt::skip]
const FILES: &[c_long] = &[
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_lseek, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv,
    libc::SYS_pwritev, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_ftruncate,
    libc::SYS_fallocate, libc::SYS_flock, libc::SYS_fstat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_fadvise64, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getcwd,
    libc::SYS_newfstatat, libc::SYS_unlinkat, libc::SYS_fchmod, libc::SYS_fchown,
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
];

/// What a worker does with bpf(2): elements of maps, one or many (`enum bpf_cmd`, linux/bpf.h). It loads nothing, attaches
/// nothing, and finds no object by its number or path.
const MAP_COMMANDS: &[u32] = &[1, 2, 3, 4, 21, 24, 25, 26, 27];

/// Maps and programs of the fast path.
const FAST_PATH: &[c_long] = &[libc::SYS_bpf];

/// Starting threads.
#[rustfmt::skip]
const THREADS: &[c_long] = &[
    libc::SYS_clone, libc::SYS_clone3, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler,
    // A reload may give threads another priority or processor.
    libc::SYS_sched_setscheduler, libc::SYS_setpriority, libc::SYS_getpriority,
    // A thread that starts must be able to confine itself further.
    libc::SYS_capset, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
];

/// New sockets, and devices: the control socket's callers, netlink after a loss, queues after a reload.
#[rustfmt::skip]
const SOCKETS: &[c_long] = &[
    libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4,
    libc::SYS_connect, libc::SYS_shutdown, libc::SYS_setsockopt, libc::SYS_ioctl,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_signalfd4,
];

/// Changing directories: sockets, pins and drafts come and go.
#[rustfmt::skip]
const DIRECTORIES: &[c_long] = &[
    libc::SYS_mkdirat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat, libc::SYS_fchmodat,
    libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_umask, libc::SYS_getdents64, libc::SYS_copy_file_range,
    libc::SYS_sendfile, libc::SYS_symlinkat,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_chmod,
];

/// Looking at the own process, as a status report does.
#[rustfmt::skip]
const LOOK: &[c_long] = &[
    libc::SYS_times, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_clock_adjtime, // whether the clock is right; setting it takes a capability
];

/// What only an intruder calls: other programs, other processes, other file systems, other kernels.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
    libc::SYS_move_mount, libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsmount, libc::SYS_mount_setattr,
    libc::SYS_setns, libc::SYS_unshare, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setgroups, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module,
    libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_sethostname,
    libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_adjtimex, libc::SYS_add_key, libc::SYS_request_key,
    libc::SYS_keyctl, libc::SYS_userfaultfd, libc::SYS_perf_event_open, libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup, libc::SYS_acct, libc::SYS_quotactl, libc::SYS_personality, libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")] libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")] libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")] libc::SYS_ioperm,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;

    /// Set in a copy of this test program that shall do what [`NEVER`] says.
    const INTRUDER: &str = "KAMEI_TEST_INTRUDER";

    /// A thread of its own is confined, the test is not.
    fn confined<T: Send>(written: &Path, role: Role, work: impl FnOnce() -> T + Send) -> T {
        let confinement = Confinement::new(vec![written.to_owned()], Vec::new());
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                confinement.enter().unwrap();
                if role == Role::Worker {
                    only(role).unwrap();
                }
                work()
            });
            thread.join().unwrap()
        })
    }

    #[test]
    fn a_confined_thread_opens_files_of_its_own_directories_alone() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("secret"), "x").unwrap();
        confined(own.path(), Role::Other, || {
            let refused = |path: &Path| {
                let read = std::fs::read(path).map_err(|error| error.kind());
                assert_eq!(read, Err(ErrorKind::PermissionDenied), "{}", path.display());
            };
            refused(&other.path().join("secret"));
            refused(Path::new("/etc/passwd"));
            refused(Path::new("/proc/1/status"));
            assert!(std::fs::write(other.path().join("new"), "x").is_err());
            std::fs::write(own.path().join("draft"), "x").unwrap();
            std::fs::rename(own.path().join("draft"), own.path().join("file")).unwrap();
            assert_eq!(std::fs::read(own.path().join("file")).unwrap(), b"x");
            std::fs::remove_file(own.path().join("file")).unwrap();
        });
    }

    #[test]
    fn a_confined_thread_has_the_needed_capabilities_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (sets, locked) = confined(scratch.path(), Role::Other, || {
            (rustix::thread::capabilities(None).unwrap(), rustix::thread::no_new_privs().unwrap())
        });
        assert!(locked && CAPABILITIES.contains(sets.permitted) && sets.permitted == sets.effective, "{sets:?}");
    }

    #[test]
    fn a_worker_makes_no_sockets_and_starts_no_threads() {
        let scratch = tempfile::tempdir().unwrap();
        confined(scratch.path(), Role::Worker, || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.kind());
            assert_eq!(socket.err(), Some(ErrorKind::Unsupported));
            assert!(std::thread::Builder::new().spawn(|| ()).is_err());
            assert!(std::fs::rename(scratch.path().join("a"), scratch.path().join("b")).is_err());
        });
    }

    #[test]
    #[allow(unsafe_code, reason = "bpf(2) is called as an intruder would")]
    fn a_worker_reads_and_writes_maps_and_makes_nothing_with_bpf() {
        let scratch = tempfile::tempdir().unwrap();
        let errors = |role| {
            confined(scratch.path(), role, || {
                let mut attributes = [0_u8; 128];
                [1_i64, 2, 0, 5, 7, 8, 12, 28].map(|command| {
                    // SAFETY: the kernel reads at most the 128 bytes that are given, all zero, which name no map and no program.
                    let done =
                        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
                    assert_eq!(done, -1, "{command}");
                    io::Error::last_os_error().raw_os_error().unwrap() == libc::ENOSYS
                })
            })
        };
        assert_eq!(errors(Role::Worker), [false, false, true, true, true, true, true, true]);
        assert_eq!(errors(Role::Other), [false; 8]);
        let held = confined(scratch.path(), Role::Worker, || rustix::thread::capabilities(None).unwrap().permitted);
        assert!(!held.intersects(CapabilitySet::all().difference(WORKERS_CAPABILITIES)), "{held:?}");
    }

    #[test]
    #[allow(unsafe_code, reason = "nobody wraps it")]
    fn whether_the_clock_is_right_may_be_asked_but_it_is_not_set() {
        let ask = |modes| {
            let scratch = tempfile::tempdir().unwrap();
            confined(scratch.path(), Role::Other, || {
                // SAFETY: all zeros are a valid `timex`, a plain structure.
                let mut timex: libc::timex = unsafe { std::mem::zeroed() };
                timex.modes = modes;
                // SAFETY: the kernel writes one `timex` to where it is told, which is one.
                let done = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &mut timex) };
                if done < 0 { Err(io::Error::last_os_error().kind()) } else { Ok(()) }
            })
        };
        assert_eq!(ask(0), Ok(()));
        // Of no effect, were it let through: the clock is moved by nothing.
        assert_eq!(ask(libc::ADJ_SETOFFSET), Err(ErrorKind::PermissionDenied));
    }

    #[test]
    fn nobody_calls_a_tcp_server_from_here() {
        let scratch = tempfile::tempdir().unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let called = confined(scratch.path(), Role::Other, || std::net::TcpStream::connect(address).map(|_| ()));
        assert_eq!(called.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn whoever_starts_another_program_ends_the_process() {
        let name = "host::confine::tests::whoever_starts_another_program_ends_the_process";
        if std::env::var_os(INTRUDER).is_some() {
            confined(Path::new("/tmp"), Role::Worker, || {
                use std::os::unix::process::CommandExt;
                panic!("/bin/true was not started: {}", Command::new("/bin/true").exec());
            });
        }
        let me = std::env::current_exe().unwrap();
        let ended = Command::new(me).args(["--exact", name]).env(INTRUDER, "1").output().unwrap().status;
        assert_eq!(ended.signal(), Some(libc::SIGSYS), "{ended}");
    }

    #[test]
    fn a_kernel_without_landlock_is_made_do_with_and_said_so() {
        let scratch = tempfile::tempdir().unwrap();
        let said = std::thread::scope(|scope| {
            let without = scope.spawn(|| {
                let missing = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
                filter(all_of(&[libc::SYS_landlock_create_ruleset]), SeccompAction::Allow, missing).unwrap();
                let said = Confinement::new(vec![scratch.path().to_owned()], Vec::new()).enter().unwrap();
                assert!(std::fs::read("/etc/passwd").is_ok(), "no directory is closed");
                assert!(rustix::thread::no_new_privs().unwrap(), "but all else is given up");
                said
            });
            without.join().unwrap()
        });
        assert!(said.is_some_and(|words| words.contains("no Landlock")), "{said:?}");
    }

    #[test]
    fn no_call_is_both_needed_and_never_made() {
        let both: Vec<&c_long> = OTHER.iter().copied().flatten().filter(|call| NEVER.contains(call)).collect();
        assert!(both.is_empty(), "{both:?}");
        assert!(WORKER.iter().all(|group| OTHER.contains(group)), "a role can only be narrowed");
    }
}
