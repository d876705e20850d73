use super::*;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// Set in a copy of this test program that shall do what [`NEVER`] says.
const INTRUDER: &str = "KAMEI_TEST_INTRUDER";

/// A thread of its own is confined, the test is not.
fn confined<T: Send>(written: &Path, thread: Thread, work: impl FnOnce() -> T + Send) -> T {
    let profile = match thread {
        Thread::Worker | Thread::Gateway => Profile::GATEWAY,
        Thread::Relay => Profile::RELAY,
        Thread::Agent => Profile::AGENT,
    };
    let confinement = Confinement::new(profile, vec![written.to_owned()]);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            confinement.enter().unwrap();
            if thread == Thread::Worker {
                narrow_to_worker().unwrap();
            }
            work()
        });
        thread.join().unwrap()
    })
}

/// Whose thread it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    Gateway,
    Worker,
    Relay,
    Agent,
}

#[test]
fn a_confined_thread_opens_files_of_its_own_directories_alone() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(other.path().join("secret"), "x").unwrap();
    confined(own.path(), Thread::Gateway, || {
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
    let (sets, locked) = confined(scratch.path(), Thread::Gateway, || {
        (rustix::thread::capabilities(None).unwrap(), rustix::thread::no_new_privs().unwrap())
    });
    assert!(
        locked && Profile::GATEWAY.capabilities.contains(sets.permitted) && sets.permitted == sets.effective,
        "{sets:?}"
    );
}

#[test]
fn a_worker_makes_no_sockets_and_starts_no_threads() {
    let scratch = tempfile::tempdir().unwrap();
    confined(scratch.path(), Thread::Worker, || {
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
    let errors = |thread| {
        confined(scratch.path(), thread, || {
            let mut attributes = [0_u8; 128];
            [1_i64, 2, 0, 5, 7, 8, 12, 28].map(|command| {
                // SAFETY: the kernel reads at most the 128 bytes that are given, all zero, which name no map and no program.
                let done = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
                assert_eq!(done, -1, "{command}");
                io::Error::last_os_error().raw_os_error().unwrap() == libc::ENOSYS
            })
        })
    };
    assert_eq!(errors(Thread::Worker), [false, false, true, true, true, true, true, true]);
    assert_eq!(errors(Thread::Gateway), [false; 8]);
    let held = confined(scratch.path(), Thread::Worker, || rustix::thread::capabilities(None).unwrap().permitted);
    assert!(!held.intersects(CapabilitySet::all().difference(profile::WORKERS_CAPABILITIES)), "{held:?}");
}

#[test]
#[allow(unsafe_code, reason = "nobody wraps it")]
fn whether_the_clock_is_right_may_be_asked_but_it_is_not_set() {
    let ask = |modes| {
        let scratch = tempfile::tempdir().unwrap();
        confined(scratch.path(), Thread::Gateway, || {
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
fn an_agent_alone_calls_servers_and_it_alone_opens_no_ports() {
    let scratch = tempfile::tempdir().unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let denied = Err(ErrorKind::PermissionDenied);
    for (thread, calls, listens) in
        [(Thread::Gateway, denied, Ok(())), (Thread::Relay, denied, Ok(())), (Thread::Agent, Ok(()), denied)]
    {
        let done = confined(scratch.path(), thread, || {
            let called = std::net::TcpStream::connect(address).map(|_| ()).map_err(|error| error.kind());
            let opened = std::net::TcpListener::bind("127.0.0.1:0").map(|_| ()).map_err(|error| error.kind());
            (called, opened)
        });
        assert_eq!(done, (calls, listens), "{thread:?}");
    }
}

#[test]
#[allow(unsafe_code, reason = "bpf(2) is called as an intruder would")]
fn relay_and_agent_have_no_fast_path() {
    let scratch = tempfile::tempdir().unwrap();
    for thread in [Thread::Relay, Thread::Agent] {
        confined(scratch.path(), thread, || {
            // SAFETY: the kernel is given no memory.
            let done = unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) };
            assert_eq!((done, io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ENOSYS)), "{thread:?}");
            let kept = rustix::thread::capabilities(None).unwrap().permitted;
            assert!(!kept.intersects(CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN)), "{thread:?}: {kept:?}");
        });
    }
}

#[test]
fn an_agent_reads_how_names_are_resolved_wherever_that_is_and_whenever_it_comes() {
    let scratch = tempfile::tempdir().unwrap();
    // As on WSL: a link to another place.
    let (elsewhere, link) = (scratch.path().join("elsewhere/resolv.conf"), scratch.path().join("resolv.conf"));
    std::fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    std::fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    assert_eq!(directory_behind(&link), elsewhere.canonicalize().unwrap().parent().map(Path::to_owned));
    assert_eq!(directory_behind(&scratch.path().join("none")), None);
    // As NetworkManager's and resolved's, which may start later: a directory below /run that anybody can make.
    let (begun, wait) = std::sync::mpsc::channel();
    let (made, later) = std::sync::mpsc::channel::<PathBuf>();
    std::thread::scope(|scope| {
        let agent = scope.spawn(move || {
            Confinement::new(Profile::AGENT, Vec::new()).enter().unwrap();
            begun.send(()).unwrap();
            std::fs::read(later.recv().unwrap()).unwrap()
        });
        wait.recv().unwrap();
        let directory = tempfile::tempdir_in("/run/lock").unwrap();
        let file = directory.path().join("resolv.conf");
        std::fs::write(&file, "nameserver 192.0.2.53").unwrap();
        made.send(file).unwrap();
        assert_eq!(agent.join().unwrap(), b"nameserver 192.0.2.53");
    });
    confined(scratch.path(), Thread::Agent, || {
        use std::net::ToSocketAddrs;
        assert!(("localhost", 80).to_socket_addrs().unwrap().all(|address| address.ip().is_loopback()));
        assert_eq!(
            std::fs::read("/proc/1/status").map_err(|error| error.kind()).err(),
            Some(ErrorKind::PermissionDenied)
        );
    });
}

#[test]
fn whoever_starts_another_program_ends_the_process() {
    let name = "host::confine::tests::whoever_starts_another_program_ends_the_process";
    if std::env::var_os(INTRUDER).is_some() {
        confined(Path::new("/tmp"), Thread::Worker, || {
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
            let said = Confinement::new(Profile::GATEWAY, vec![scratch.path().to_owned()]).enter().unwrap();
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
    for profile in [Profile::GATEWAY, Profile::RELAY, Profile::AGENT] {
        let both: Vec<&c_long> = profile.calls.iter().copied().flatten().filter(|call| NEVER.contains(call)).collect();
        assert!(both.is_empty(), "{both:?}");
    }
    let of_gateway = Profile::GATEWAY.calls;
    assert!(profile::WORKER.iter().all(|group| of_gateway.contains(group)), "a thread can only be narrowed");
}
