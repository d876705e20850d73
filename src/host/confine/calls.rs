//! System calls, in groups: what a thread does with them.

use libc::c_long;

/// Being a thread: clocks, locks, signals, random numbers, an orderly end.
#[rustfmt::skip]
pub const PROCESS: &[c_long] = &[
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
pub const MEMORY: &[c_long] = &[
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_msync, libc::SYS_mincore, libc::SYS_mlock, libc::SYS_munlock,
];

/// Reading, writing and waiting on descriptors: packets, events, the log.
#[rustfmt::skip]
pub const PACKETS: &[c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_close,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
];

/// Talking on sockets that are open: netlink (a worker announces new IPv6 virtual IPs), the journal, systemd.
#[rustfmt::skip]
pub const TALK: &[c_long] = &[
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt,
];

/// Files where Landlock lets them be, as a store of bindings uses them (a worker commits before a packet leaves).
#[rustfmt::skip]
pub const FILES: &[c_long] = &[
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
pub const MAP_COMMANDS: &[u32] = &[1, 2, 3, 4, 21, 24, 25, 26, 27];

/// Maps and programs of the fast path.
pub const FAST_PATH: &[c_long] = &[libc::SYS_bpf];

/// Starting threads.
#[rustfmt::skip]
pub const THREADS: &[c_long] = &[
    libc::SYS_clone, libc::SYS_clone3, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler,
    // A reload may give threads another priority or processor.
    libc::SYS_sched_setscheduler, libc::SYS_setpriority, libc::SYS_getpriority,
    // A thread that starts must be able to confine itself further.
    libc::SYS_capset, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
];

/// New sockets, and devices: the control socket's callers, netlink after a loss, queues after a reload.
#[rustfmt::skip]
pub const SOCKETS: &[c_long] = &[
    libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4,
    libc::SYS_connect, libc::SYS_shutdown, libc::SYS_setsockopt, libc::SYS_ioctl,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_signalfd4,
];

/// Carrying bytes from one socket to another in the kernel.
pub const SPLICE: &[c_long] = &[libc::SYS_splice];

/// Changing directories: sockets, pins and drafts come and go.
#[rustfmt::skip]
pub const DIRECTORIES: &[c_long] = &[
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
pub const LOOK: &[c_long] = &[
    libc::SYS_times, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_clock_adjtime, // whether the clock is right; setting it takes a capability
];

/// What only an intruder calls: other programs, other processes, other file systems, other kernels.
#[rustfmt::skip]
pub const NEVER: &[c_long] = &[
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
