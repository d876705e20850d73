use super::backend::Backend;
use super::state_file::Database;
use super::*;
use crate::nat::{
    BindingState, CallbackPolicy, CreationLimit, DropReason, InsideSettings, Nat, Policy, PoolSettings, Realm,
    Restored, Settings, StoredBinding, StoredContact, Translator, Verdict,
};
use crate::time::Time;
use crate::wire::Packet;
use history::{By, Happened, HistoryQuestion, HistorySettings};
use parking_lot::Mutex;
use std::hash::Hasher;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod carried;
mod faults;
mod log_check;
mod moment;
mod past;
mod rewrite;

const NOW: Time = Time::from_secs(1_800_000_000);
const SETTINGS: StoreSettings = StoreSettings {
    durability: Durability::Process,
    when_disk_fails: WhenDiskFails::Refuse,
    sync_interval: Duration::from_millis(1),
    history: Some(HistorySettings { keep: Duration::from_secs(86_400 * 180), entries: 1000 }),
};

fn nat() -> Arc<Nat> {
    let pool = |range: &str| PoolSettings {
        name: range.to_owned(),
        range: range.parse().unwrap(),
        reserved: Vec::new(),
        destinations: Vec::new(),
        callback: None,
        draining: false,
        kind: Default::default(),
    };
    let sources = vec!["10.0.0.0/8".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    Nat::new(Settings {
        insides: vec![InsideSettings { name: "inside".to_owned(), sources }],
        pools: vec![pool("198.18.0.0/16"), pool("fd00:2::/64")],
        own_outside: Vec::new(),
        hash_key: [7; 16],
        restore_hop: false,
        policy: Policy {
            creation: CreationLimit { per_second: 1_000_000, burst: 1_000_000, ..CreationLimit::default() },
            ..Policy::default()
        },
    })
    .unwrap()
}

/// On a machine whose clock is right.
fn moment(time: Time) -> Moment {
    let wall = Duration::from_millis(time.as_millis());
    Moment { time, reading: Reading { boot: 1, since_boot: Duration::from_secs(100), wall, is_synchronised: true } }
}

/// A gateway without packets, on a state directory.
struct Scene {
    nat: Arc<Nat>,
    translator: Translator,
    store: Arc<Store>,
    restored: Restored,
    said: Vec<String>,
    now: Time,
    reading: Reading,
    /// What the store's clock says.
    clock: Arc<Mutex<Moment>>,
}

impl Scene {
    fn on(directory: &Path) -> Self {
        Self::try_on(directory).unwrap()
    }

    fn try_on(directory: &Path) -> Result<Self, StoreError> {
        Self::try_at(directory, moment(NOW).reading)
    }

    /// The same when the clocks say this.
    fn at(directory: &Path, reading: Reading) -> Self {
        Self::try_at(directory, reading).unwrap()
    }

    fn try_at(directory: &Path, reading: Reading) -> Result<Self, StoreError> {
        Self::try_with(directory, reading, SETTINGS)
    }

    fn try_with(directory: &Path, reading: Reading, settings: StoreSettings) -> Result<Self, StoreError> {
        let mut said = Vec::new();
        let state = StateFile::take(directory, "kamei")?;
        let opened = state.open(jiff::Timestamp::UNIX_EPOCH, &mut |line| said.push(line.to_owned()))?;
        let nat = nat();
        let now = opened.resumed(reading).time;
        let clock = Arc::new(Mutex::new(Moment { time: now, reading }));
        let (store, restored) = Store::start(opened, Arc::clone(&nat), settings, {
            let clock = Arc::clone(&clock);
            move || *clock.lock()
        });
        Ok(Self { translator: nat.translator(), nat, store, restored, said, now, reading, clock })
    }

    /// Time goes by.
    fn pass(&mut self, time: Duration) {
        let mut clock = self.clock.lock();
        self.now = self.now + time;
        (self.reading.wall, self.reading.since_boot) = (self.reading.wall + time, self.reading.since_boot + time);
        *clock = Moment { time: self.now, reading: self.reading };
    }

    /// The history writes what waits and trims, as its writer has it do.
    fn turn_history(&self) {
        let moment = *self.clock.lock();
        self.store.turn_history(&moment, false);
    }

    fn call(&mut self, terminal: u32) -> IpAddr {
        self.try_call(terminal).unwrap()
    }

    /// The virtual IP that a terminal gets, not yet recorded; `None` if it is refused.
    fn try_call(&mut self, terminal: u32) -> Option<IpAddr> {
        self.try_call_peer(terminal, 1)
    }

    /// The same with another peer.
    fn try_call_peer(&mut self, terminal: u32, peer: u8) -> Option<IpAddr> {
        let [_, b, c, d] = terminal.to_be_bytes();
        let mut bytes = Vec::new();
        let packet = etherparse::PacketBuilder::ipv4([10, b, c, d], [192, 0, 2, peer], 64).udp(5000, 53);
        packet.write(&mut bytes, b"question").unwrap();
        match self.translator.translate(&mut Packet::new(&mut bytes), Realm::inside(0), self.now) {
            Verdict::Forward { event: Some(event), .. } if event.kind.is_unrecorded() => Some(event.virtual_ip.into()),
            Verdict::Drop(DropReason::CannotRecord) => None,
            other => panic!("{other:?}"),
        }
    }

    /// The same, recorded: its packet may leave.
    fn record(&mut self, terminal: u32) -> IpAddr {
        let virtual_ip = self.call(terminal);
        let recorded = self.store.record(&[virtual_ip]).unwrap();
        self.store.mark_recorded(&recorded);
        virtual_ip
    }

    fn keep(&self) -> Writer {
        self.try_keep().unwrap()
    }

    fn try_keep(&self) -> Result<Writer, StoreError> {
        let now = Moment { time: self.now, reading: self.reading };
        Writer::start(Arc::clone(&self.store), Duration::from_secs(3600), move || now, || ())
    }

    fn bindings(&self) -> Vec<StoredBinding> {
        self.nat.stored_bindings().collect()
    }
}

#[test]
fn what_was_recorded_is_there_after_the_process_has_gone() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let mut given: Vec<IpAddr> = (1..=300).map(|terminal| scene.record(terminal)).collect();
    given.sort_unstable();
    let before = scene.bindings();
    // Nothing was synced or closed in order: what the system has is all there is.
    std::mem::forget(scene.store);
    let copy = private_directory();
    for name in ["kamei.db", "kamei.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let after = Scene::on(copy.path());
    assert!(before.iter().all(|binding| binding.contacts.len() == 1));
    assert_eq!(after.bindings(), before, "each with its contact");
    assert_eq!(after.bindings().iter().map(|binding| binding.virtual_ip).collect::<Vec<_>>(), given);
}

#[test]
fn what_can_wait_is_written_by_the_writer() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let (kept, gone) = (scene.record(1), scene.record(2));
    let writer = scene.keep();
    scene.nat.set_callback(&kept.into(), Some(&CallbackPolicy::Anyone), NOW).unwrap();
    scene.nat.release(gone, NOW).unwrap();
    scene.store.mark(kept, By::Itself);
    scene.store.mark(gone, By::Itself);
    writer.stop();
    drop(scene);
    let after = Scene::on(directory.path()).bindings();
    let of = |virtual_ip| after.iter().find(|binding| binding.virtual_ip == virtual_ip).unwrap();
    assert_eq!(of(kept).callback, Some(CallbackPolicy::Anyone));
    assert_eq!(
        of(kept).contacts,
        [StoredContact {
            peer: "192.0.2.1".parse().unwrap(),
            first: NOW.as_secs(),
            last: NOW.as_secs(),
            answered: false,
            called_back: false
        }]
    );
    assert_eq!((of(gone).state, of(gone).contacts.len()), (BindingState::Quarantined, 0));
}

#[test]
fn since_when_a_peer_is_a_contact_and_whether_it_has_called_back_outlives_the_process_and_a_way_through_lines() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let virtual_ip = scene.record(1);
    let writer = scene.keep();
    scene.pass(Duration::from_secs(70));
    scene.try_call_peer(1, 2);
    scene.store.mark_recorded(&scene.store.record(&[virtual_ip]).unwrap());
    scene.pass(Duration::from_secs(70));
    let IpAddr::V4(virtual_v4) = virtual_ip else { panic!("{virtual_ip}") };
    let (terminal, inside) = ([10, 0, 0, 1], Realm::inside(0));
    for (realm, from, to) in [
        (inside, terminal, [192, 0, 2, 1]),
        (inside, terminal, [192, 0, 2, 2]),
        (Realm::Outside, [192, 0, 2, 2], virtual_v4.octets()),
    ] {
        let mut bytes = Vec::new();
        let packet = etherparse::PacketBuilder::ipv4(from, to, 64).tcp(5000, 80, 1, 1000).syn();
        packet.write(&mut bytes, b"").unwrap();
        let verdict = scene.translator.translate(&mut Packet::new(&mut bytes), realm, scene.now);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    }
    scene.translator.flush(scene.now);
    writer.stop();
    let contact = |n: u8, first, called_back| {
        let last = NOW.as_secs() + 140;
        StoredContact {
            peer: IpAddr::from([192, 0, 2, n]),
            first: NOW.as_secs() + first,
            last,
            answered: false,
            called_back,
        }
    };
    let expected = [contact(1, 0, false), contact(2, 70, true)];
    assert_eq!(scene.bindings()[0].contacts, expected);
    let reading = scene.reading;
    drop(scene);
    let after = Scene::at(directory.path(), reading).bindings();
    assert_eq!(after[0].contacts, expected);
    let mut lines = Vec::new();
    lines::write(&after, &mut lines).unwrap();
    assert_eq!(lines::read(&mut lines.as_slice()).unwrap(), after);
    let mut moved = after[0].clone();
    moved.shift(-40);
    assert_eq!(moved.contacts[1].first, NOW.as_secs() + 30);
}

#[test]
fn what_an_operator_is_told_is_on_disk() {
    let directory = private_directory();
    let scene = Scene::on(directory.path());
    let writer = scene.keep();
    let (terminal, virtual_ip) = ("10.0.0.9".parse().unwrap(), "198.18.0.9".parse().unwrap());
    scene.nat.pin(terminal, virtual_ip, NOW).unwrap();
    scene.store.record_and_sync(&[virtual_ip], Happened::Pinned, By::Operator(0)).unwrap();
    let status = scene.store.status();
    assert!(status.commits >= 1 && status.synced >= 1 && status.failing.is_none(), "{status:?}");
    writer.stop();
}

#[test]
fn a_state_file_has_one_user_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = private_directory();
    let state = directory.path().join("deep/state");
    let mut scene = Scene::on(&state);
    scene.record(1);
    let refused = Scene::try_on(&state).err().unwrap();
    assert!(matches!(refused, StoreError::InUse(_)), "{refused}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for name in ["kamei.db", "kamei.db-wal", "kamei.lock"] {
        assert_eq!(mode(&state.join(name)), 0o600, "{name}");
    }
    drop(scene);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Scene::try_on(&state).err().unwrap(), StoreError::NotPrivate(_)));
}

#[test]
fn a_link_in_place_of_the_state_file_is_not_followed() {
    for name in ["kamei.db", "kamei.lock"] {
        let (directory, other) = (private_directory(), private_directory());
        let target = other.path().join("victim");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join(name)).unwrap();
        assert!(Scene::try_on(directory.path()).is_err(), "{name}");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    }
}

#[test]
fn a_file_of_any_earlier_version_is_brought_up_to_date_and_one_of_a_later_kamei_refused() {
    let columns =
        "virtual_ip, inside, terminal, state, pinned, created, last_used, packets_out, packets_in, callbacks, callback";
    for version in 1..=state_file::STEPS.len() {
        let directory = private_directory();
        let path = directory.path().join("kamei.db");
        let mut scene = Scene::on(directory.path());
        let virtual_ip = scene.record(1);
        let binding = StoredBinding { answered: true, bytes_out: 0, bytes_in: 0, ..scene.bindings().remove(0) };
        drop(scene);
        let by_hand = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        // The same rows in the tables as they were.
        by_hand("ALTER TABLE bindings RENAME TO later; DROP TABLE contacts; DROP TABLE clock");
        state_file::STEPS.iter().take(version).for_each(|step| by_hand(step));
        let sum = row::binding_sum(&binding, None);
        by_hand(&format!("INSERT INTO bindings ({columns}, sum) SELECT {columns}, {sum} FROM later; DROP TABLE later"));
        // A contact as it was when nothing was written of its first call.
        let peer = "192.0.2.1".parse().unwrap();
        let known = StoredContact { peer, first: 0, last: NOW.as_secs(), answered: false, called_back: false };
        if version > 1 {
            let (created, last) = (binding.created, known.last);
            // Its sum as it was then, not as it is made now.
            let mut sum = siphasher::sip::SipHasher13::new();
            [row::key(virtual_ip).bytes(), b"/", &[192, 0, 2, 1]].into_iter().for_each(|part| sum.write(part));
            sum.write_u32(created);
            sum.write_u32(last);
            let sum = sum.finish().cast_signed();
            by_hand(&format!(
                "INSERT INTO contacts (virtual_ip, peer, created, last, sum) \
                 SELECT virtual_ip, x'c0000201', {created}, {last}, {sum} FROM bindings"
            ));
        }
        by_hand(&format!("PRAGMA user_version = {version}"));
        let scene = Scene::on(directory.path());
        let now = scene.bindings().remove(0);
        assert_eq!(now.contacts, vec![known; usize::from(version > 1)], "{version}");
        assert_eq!(
            (now.virtual_ip, now.answered, scene.said.len()),
            (virtual_ip, true, 0),
            "{version}: {:?}",
            scene.said
        );
        drop(scene);
        let again = Scene::on(directory.path());
        assert_eq!((again.restored.kept, again.said.len()), (1, 0), "{version}");
    }
    let directory = private_directory();
    drop(Scene::on(directory.path()));
    let path = directory.path().join("kamei.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let said = Scene::try_on(directory.path()).err().unwrap().to_string();
    let known = state_file::STEPS.len();
    assert!(said.contains(&format!("is of version 99, this kamei knows {known} at most")), "{said}");
}

#[test]
fn a_row_that_is_not_what_was_written_is_left_out_and_the_file_gets_another_name() {
    let directory = private_directory();
    let mut scene = Scene::on(directory.path());
    let (good, bad) = (scene.record(1), scene.record(2));
    drop(scene);
    let file = rusqlite::Connection::open(directory.path().join("kamei.db")).unwrap();
    let key = row::key(bad);
    file.execute("UPDATE bindings SET terminal = x'0a090909' WHERE virtual_ip = ?1", [key.bytes()]).unwrap();
    drop(file);
    let scene = Scene::on(directory.path());
    assert_eq!(scene.bindings().iter().map(|binding| binding.virtual_ip).collect::<Vec<_>>(), [good]);
    assert!(scene.said[0].contains("is damaged: 1 rows have a wrong sum; it is now"), "{:?}", scene.said);
    assert!(directory.path().join("kamei.db.damaged-19700101T000000Z").exists());
    drop(scene);
    let again = Scene::on(directory.path());
    assert_eq!((again.restored.kept, again.said.len()), (1, 0), "what was kept is in a sound file now");
}

fn state_file(backend: &mut dyn Backend) -> &mut Database {
    backend.as_any().downcast_mut().unwrap()
}

fn private_directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
