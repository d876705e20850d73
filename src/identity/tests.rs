//! Relay and agent as they meet: real handshakes in memory, and the register as both sides see it.

use super::*;
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALPN: &[&[u8]] = &[b"kamei/1", b"h2"];
const HOUR: Duration = INVITATION_LIFE;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A relay and an agent with a directory each.
struct Pair {
    directory: TempDir,
    relay: Authority,
    agent: Keys,
}

/// What the relay has found of who called.
#[derive(Debug, PartialEq)]
struct Seen {
    key: Option<Fingerprint>,
    protocol: Option<Vec<u8>>,
    is_resumed: bool,
}

impl Pair {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let relay = Authority::open(&directory.path().join("relay")).unwrap();
        let agent = Keys::open(&directory.path().join("agent")).unwrap();
        Self { directory, relay, agent }
    }

    fn register(&self) -> Register {
        Register::open(&self.register_path()).unwrap()
    }

    fn register_path(&self) -> std::path::PathBuf {
        self.directory.path().join("relay/relay.db")
    }

    fn client(&self) -> Arc<rustls::ClientConfig> {
        self.agent.client_config(self.relay.fingerprint(), ALPN).unwrap()
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// One handshake, and a byte in each direction: only then both know that the other has agreed (RFC 8446, appendix E.1).
fn meet(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
) -> (std::io::Result<Seen>, std::io::Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (near, far) = duplex(64 << 10);
    runtime.block_on(async { tokio::join!(accept(Arc::clone(server), near), connect(Arc::clone(client), far)) })
}

async fn accept(config: Arc<rustls::ServerConfig>, stream: DuplexStream) -> std::io::Result<Seen> {
    let mut stream = TlsAcceptor::from(config).accept(stream).await?;
    assert_eq!(stream.read_u8().await?, 1);
    stream.write_u8(2).await?;
    stream.shutdown().await?;
    let connection = stream.get_ref().1;
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    Ok(Seen {
        key: shown.and_then(fingerprint_of),
        protocol: connection.alpn_protocol().map(<[u8]>::to_vec),
        is_resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    })
}

async fn connect(config: Arc<rustls::ClientConfig>, stream: DuplexStream) -> std::io::Result<()> {
    let name = ServerName::try_from("whatever.example").unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_u8(1).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    assert_eq!(answer, [2]);
    Ok(())
}

#[test]
fn rc2_both_ends_prove_their_keys_to_each_other() {
    let pair = Pair::new();
    let server = pair.relay.server_config(ALPN).unwrap();
    let seen = Seen { key: Some(pair.agent.fingerprint()), protocol: Some(ALPN[0].to_vec()), is_resumed: false };
    let (found, answer) = meet(&server, &pair.client());
    assert_eq!(found.unwrap(), seen);
    answer.unwrap();

    // With the certificate of the relay the agent is who it was.
    let certificate = pair.relay.sign(&pair.agent.request().unwrap(), "web", SystemTime::now()).unwrap();
    pair.agent.keep(certificate).unwrap();
    assert_eq!(meet(&server, &pair.client()).0.unwrap(), seen);
}

#[test]
fn rc2_another_relay_is_found_out_and_named() {
    let (pair, other) = (Pair::new(), Pair::new());
    let server = other.relay.server_config(ALPN).unwrap();
    let (found, answer) = meet(&server, &pair.client());
    assert!(found.is_err());
    let error = answer.unwrap_err();
    let expected = pair.relay.fingerprint();
    let wrong = WrongRelay { expected, found: Some(other.relay.fingerprint()) };
    assert_eq!(WrongRelay::in_error(&error), Some(wrong));
    let text = wrong.to_string();
    let keys = format!("fingerprint {}, not {expected} (a TLS-inspecting proxy", other.relay.fingerprint());
    assert!(text.starts_with("this is not the relay that the invitation is of") && text.contains(&keys), "{text}");
    assert_eq!(WrongRelay::in_error(&std::io::Error::other("else")), None);
}

#[test]
fn rc2_a_caller_without_a_certificate_has_no_key() {
    let pair = Pair::new();
    let server = pair.relay.server_config(ALPN).unwrap();
    let judge = tls::PinnedRelay::new(
        pair.relay.fingerprint(),
        rustls::crypto::ring::default_provider().signature_verification_algorithms,
    );
    let client = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(judge))
        .with_no_client_auth();
    let (found, answer) = meet(&server, &Arc::new(client));
    assert_eq!(found.unwrap(), Seen { key: None, protocol: None, is_resumed: false });
    answer.unwrap();
}

/// A certificate can be seen by all; only who has its key can show it.
#[test]
fn rc2_the_certificate_of_another_is_no_proof() {
    let (pair, thief) = (Pair::new(), Pair::new());
    let server = pair.relay.server_config(ALPN).unwrap();
    let stolen = pair.relay.sign(&pair.agent.request().unwrap(), "web", SystemTime::now()).unwrap();
    assert!(matches!(thief.agent.keep(stolen.clone()), Err(IdentityError::OtherKey)));
    let key = key::Key::open(&thief.directory.path().join("agent/agent.key")).unwrap();
    let certified = key.certified(vec![stolen]).unwrap();
    let mut client = rustls::ClientConfig::clone(&pair.client());
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let (found, _) = meet(&server, &Arc::new(client));
    assert!(found.is_err(), "{found:?}");
}

/// The same for the relay: its certificate with another key.
#[test]
fn rc2_the_certificate_of_the_relay_without_its_key_is_no_proof() {
    let (pair, thief) = (Pair::new(), Pair::new());
    let key = key::Key::open(&thief.directory.path().join("relay/relay.key")).unwrap();
    let certified = key.certified(vec![pair.relay.server_certificate().unwrap().clone()]).unwrap();
    let mut server = rustls::ServerConfig::clone(&thief.relay.server_config(ALPN).unwrap());
    server.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let (_, answer) = meet(&Arc::new(server), &pair.client());
    assert!(answer.is_err());
}

#[test]
fn rc2_an_expired_certificate_with_a_registered_key_is_let_in_and_renewed() {
    let pair = Pair::new();
    let (server, register) = (pair.relay.server_config(ALPN).unwrap(), pair.register());
    let long_ago = SystemTime::now() - 400 * DAY;
    let secret = register.invite("web", MemberKind::Agent, &[], HOUR, long_ago).unwrap();
    register.redeem(&secret, pair.agent.fingerprint(), long_ago).unwrap();
    pair.agent.keep(pair.relay.sign(&pair.agent.request().unwrap(), "web", long_ago).unwrap()).unwrap();
    assert!(pair.agent.renewal_due(SystemTime::now()));

    let seen = meet(&server, &pair.client()).0.unwrap();
    let member = register.by_key(&seen.key.unwrap()).unwrap().unwrap();
    assert_eq!(member.name, "web");
    let request = pair.agent.request().unwrap();
    assert_eq!(fingerprint_of_request(&request), seen.key);
    pair.agent.keep(pair.relay.sign(&request, &member.name, SystemTime::now()).unwrap()).unwrap();
    assert!(!pair.agent.renewal_due(SystemTime::now()));
    assert_eq!(meet(&server, &pair.client()).0.unwrap().key, seen.key);
}

#[test]
fn a_resumed_session_is_of_the_same_key() {
    let pair = Pair::new();
    let (server, client) = (pair.relay.server_config(ALPN).unwrap(), pair.client());
    assert!(!meet(&server, &client).0.unwrap().is_resumed);
    let second = meet(&server, &client).0.unwrap();
    assert_eq!(second.key, Some(pair.agent.fingerprint()));
    assert!(second.is_resumed);
    // Tickets of another relay are none here.
    let other = pair.relay.server_config(ALPN).unwrap();
    assert!(!meet(&other, &client).0.unwrap().is_resumed);
}

#[test]
fn keys_stay_for_life_and_only_their_owner_can_read_them() {
    let pair = Pair::new();
    let (relay, agent) = (pair.directory.path().join("relay"), pair.directory.path().join("agent"));
    let certificate = pair.relay.sign(&pair.agent.request().unwrap(), "web", now()).unwrap();
    pair.agent.keep(certificate).unwrap();
    for directory in [&relay, &agent] {
        assert_eq!(fs::metadata(directory).unwrap().mode() & 0o7777, 0o700);
        for file in fs::read_dir(directory).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o7777, 0o600);
        }
    }
    let again = (Authority::open(&relay).unwrap(), Keys::open(&agent).unwrap());
    assert_eq!(again.0.fingerprint(), pair.relay.fingerprint());
    assert_eq!(again.0.server_certificate(), pair.relay.server_certificate());
    assert_eq!(again.1.fingerprint(), pair.agent.fingerprint());
    assert!(!again.1.renewal_due(now()), "the certificate is forgotten");
    // A certificate that is lost is made again: the key counts.
    fs::remove_file(relay.join("relay.crt")).unwrap();
    assert_eq!(Authority::open(&relay).unwrap().fingerprint(), pair.relay.fingerprint());
}

#[test]
fn damaged_or_exposed_files_of_the_relay_are_one_clear_error() {
    let pair = Pair::new();
    let relay = pair.directory.path().join("relay");
    for name in ["relay.key", "ca.key", "relay.crt", "ca.crt"] {
        let path = relay.join(name);
        let good = fs::read(&path).unwrap();
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        let error = Authority::open(&relay).unwrap_err().to_string();
        assert!(error.contains(name) && !error.contains('\n'), "{error}");
        assert_eq!(fs::read(&path).unwrap().len(), good.len() / 2, "{name} is overwritten");
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o646)).unwrap();
        let error = Authority::open(&relay).unwrap_err();
        match name.ends_with(".key") {
            true => assert!(matches!(error, IdentityError::Exposed { mode: 0o646, .. }), "{error}"),
            false => assert!(matches!(error, IdentityError::Writable { mode: 0o646, .. }), "{error}"),
        }
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    Authority::open(&relay).unwrap();
    // The certificate of another key, as after half a restore.
    fs::copy(relay.join("ca.crt"), relay.join("relay.crt")).unwrap();
    assert!(matches!(Authority::open(&relay), Err(IdentityError::Certificate { .. })));
}

#[test]
fn an_agent_with_a_damaged_certificate_goes_on_by_its_key() {
    let pair = Pair::new();
    let directory = pair.directory.path().join("agent");
    pair.agent.keep(pair.relay.sign(&pair.agent.request().unwrap(), "web", now()).unwrap()).unwrap();
    let path = directory.join("agent.crt");
    let good = fs::read(&path).unwrap();
    for length in [0, 10, good.len() / 2] {
        fs::write(&path, &good[..length]).unwrap();
        let agent = Keys::open(&directory).unwrap();
        assert_eq!(agent.fingerprint(), pair.agent.fingerprint());
        assert!(agent.renewal_due(now()));
    }
    fs::write(directory.join("agent.key"), "").unwrap();
    assert!(matches!(Keys::open(&directory), Err(IdentityError::Damaged { .. })));
}

#[test]
fn a_certificate_is_renewed_with_a_third_of_its_life_left() {
    let pair = Pair::new();
    assert!(pair.agent.renewal_due(now()), "the relay has given none");
    pair.agent.keep(pair.relay.sign(&pair.agent.request().unwrap(), "web", now()).unwrap()).unwrap();
    for (moment, is_due) in [
        (now(), false),
        (now() + 19 * DAY, false),
        (now() + 21 * DAY, true),
        (now() + 300 * DAY, true),
        // The clock was ahead when it was made, or has gone back.
        (now() - DAY, true),
        (now() - Duration::from_secs(60), false),
        (UNIX_EPOCH - DAY, true),
    ] {
        assert_eq!(pair.agent.renewal_due(moment), is_due, "{moment:?}");
    }
}

#[test]
fn a_certificate_says_what_the_relay_knows_and_nothing_of_the_request() {
    use x509_parser::prelude::*;
    let pair = Pair::new();
    let mut asked = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
    asked.distinguished_name.push(rcgen::DnType::CommonName, "root");
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    asked.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    let key = rcgen::KeyPair::generate().unwrap();
    let request = asked.serialize_request(&key).unwrap();
    let signed = pair.relay.sign(request.der(), "web", now()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&signed).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=web");
    assert!(!certificate.is_ca());
    let text = format!("{:?}", certificate.extensions());
    assert!(!text.contains("relay.example") && !text.contains("1.2.3.4"), "{text}");
    let (_, authority) = X509Certificate::from_der(pair.relay.certificate()).unwrap();
    certificate.verify_signature(Some(authority.public_key())).unwrap();
    assert_eq!(certificate.issuer(), authority.subject());
    let life = certificate.validity().not_after.timestamp() - certificate.validity().not_before.timestamp();
    assert_eq!(life, 30 * 24 * 3600 + 3600);
    let again = pair.relay.sign(request.der(), "web", now()).unwrap();
    assert_ne!(X509Certificate::from_der(&again).unwrap().1.raw_serial(), certificate.raw_serial());
}

#[test]
fn what_is_no_request_is_not_signed() {
    let pair = Pair::new();
    let good = pair.agent.request().unwrap();
    for length in 0..good.len() {
        assert!(matches!(pair.relay.sign(&good[..length], "web", now()), Err(IdentityError::Request(_))));
    }
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        // How the signature is wrapped is not signed itself.
        match pair.relay.sign(&flipped, "web", now()) {
            Ok(signed) => assert_eq!(fingerprint_of(&signed), Some(pair.agent.fingerprint()), "byte {at}"),
            Err(error) => assert!(matches!(error, IdentityError::Request(_)), "byte {at}: {error}"),
        }
    }
    let longer = [good.as_slice(), &[0]].concat();
    for wrong in [longer.as_slice(), &[0; 20_000]] {
        assert!(matches!(pair.relay.sign(wrong, "web", now()), Err(IdentityError::Request(_))));
    }
    assert!(matches!(pair.relay.sign(&good, "Web", now()), Err(IdentityError::Request(_))));
    for clock in [UNIX_EPOCH - DAY, UNIX_EPOCH + 8000 * 365 * DAY] {
        assert!(matches!(pair.relay.sign(&good, "web", clock), Err(IdentityError::Clock)));
    }
    assert!(pair.relay.sign(&good, "web", UNIX_EPOCH).is_ok());
}

#[test]
fn an_agent_keeps_no_certificate_that_is_not_its_own() {
    let (pair, other) = (Pair::new(), Pair::new());
    let foreign = pair.relay.sign(&other.agent.request().unwrap(), "web", now()).unwrap();
    for wrong in [foreign, CertificateDer::from(vec![1, 2, 3])] {
        assert!(matches!(pair.agent.keep(wrong), Err(IdentityError::OtherKey)));
        assert!(!pair.directory.path().join("agent/agent.crt").exists());
    }
}

#[test]
fn debug_shows_no_key() {
    let pair = Pair::new();
    let text = format!("{:?} {:?} {:?}", pair.relay, pair.agent, pair.register());
    assert!(text.len() < 500 && text.contains(&pair.relay.fingerprint().to_string()), "{text}");
}

fn key(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 32])
}

fn refusal(result: Result<Member, RegisterError>) -> Refusal {
    match result {
        Err(RegisterError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_invitation_makes_a_member() {
    let pair = Pair::new();
    let register = pair.register();
    let asked = names(&["web", "db", "web"]);
    let secret = register.invite("office", MemberKind::Agent, &asked, HOUR, now()).unwrap();
    let open = OpenInvitation {
        name: "office".to_owned(),
        kind: MemberKind::Agent,
        servers: names(&["db", "web"]),
        expires: now() + HOUR,
    };
    assert_eq!(register.invitations(now()).unwrap(), [open]);
    assert!(register.invitations(now() + HOUR).unwrap().is_empty());
    let later = now() + Duration::from_secs(60);
    let member = register.redeem(&secret, key(1), later).unwrap();
    let expected = Member {
        name: "office".to_owned(),
        kind: MemberKind::Agent,
        key: key(1),
        servers: names(&["db", "web"]),
        since: later,
    };
    assert_eq!(member, expected);
    assert!(member.may("db") && !member.may("mail"));
    assert!(register.invitations(later).unwrap().is_empty());
    let client = register.invite("alice", MemberKind::Client, &[], HOUR, now()).unwrap();
    let alice = register.redeem(&client, key(2), now()).unwrap();
    assert!(alice.may("anything"));

    drop(register);
    let register = pair.register();
    assert_eq!(register.by_key(&key(1)).unwrap(), Some(expected.clone()));
    assert_eq!(register.by_key(&key(3)).unwrap(), None);
    assert_eq!(register.members().unwrap(), [alice, expected]);
}

#[test]
fn an_invitation_is_good_once_but_a_lost_answer_can_be_asked_for_again() {
    let pair = Pair::new();
    let register = pair.register();
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let member = register.redeem(&secret, key(1), now()).unwrap();
    let later = now() + Duration::from_secs(1800);
    assert_eq!(register.redeem(&secret, key(1), later).unwrap(), member);
    assert_eq!(refusal(register.redeem(&secret, key(2), later)), Refusal::Spent("office".to_owned()));
    assert_eq!(refusal(register.redeem(&secret, key(1), now() + HOUR)), Refusal::Expired("office".to_owned()));
    assert_eq!(register.by_key(&key(1)).unwrap(), Some(member));
    assert_eq!(register.by_key(&key(2)).unwrap(), None);
}

#[test]
fn unknown_expired_and_early_secrets_are_refused() {
    let pair = Pair::new();
    let register = pair.register();
    assert_eq!(refusal(register.redeem(&Secret::random().unwrap(), key(1), now())), Refusal::Unknown);
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let office = || "office".to_owned();
    assert_eq!(refusal(register.redeem(&secret, key(1), now() + HOUR)), Refusal::Expired(office()));
    assert_eq!(refusal(register.redeem(&secret, key(1), now() - HOUR)), Refusal::Early(office()));
    let error = register.redeem(&secret, key(1), now() + HOUR).unwrap_err();
    assert!(error.is_refusal() && !REFUSED.contains("office"));
    assert!(register.members().unwrap().is_empty());
    // A clock that is set a little back does not matter.
    register.redeem(&secret, key(1), now() - Duration::from_secs(60)).unwrap();
}

#[test]
fn a_second_invitation_replaces_the_first() {
    let pair = Pair::new();
    let register = pair.register();
    let first = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let second = register.invite("office", MemberKind::Client, &names(&["web"]), HOUR, now()).unwrap();
    assert_eq!(refusal(register.redeem(&first, key(1), now())), Refusal::Unknown);
    assert_eq!(register.invitations(now()).unwrap().len(), 1);
    assert_eq!(register.redeem(&second, key(1), now()).unwrap().kind, MemberKind::Client);
}

#[test]
fn a_name_belongs_to_one_key_and_a_key_to_one_name() {
    let pair = Pair::new();
    let register = pair.register();
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let member = register.redeem(&secret, key(1), now()).unwrap();
    for kind in [MemberKind::Agent, MemberKind::Client] {
        let error = register.invite("office", kind, &[], HOUR, now()).unwrap_err();
        assert!(matches!(&error, RegisterError::Member(name) if name == "office"));
        assert!(error.to_string().contains("kamei relay revoke office"));
    }
    let other = register.invite("shop", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let wrong = Refusal::OtherName { invited: "shop".to_owned(), member: "office".to_owned() };
    assert_eq!(refusal(register.redeem(&other, key(1), now())), wrong);
    assert_eq!(register.members().unwrap(), [member]);
    assert_eq!(register.redeem(&other, key(2), now()).unwrap().name, "shop");
}

#[test]
fn revoked_is_revoked() {
    let pair = Pair::new();
    let register = pair.register();
    assert_eq!(register.revoke("office").unwrap(), None);
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let member = register.redeem(&secret, key(1), now()).unwrap();
    assert_eq!(register.revoke("office").unwrap(), Some(Revoked::Member(member)));
    assert_eq!(register.by_key(&key(1)).unwrap(), None);
    // Not by the spent secret either.
    assert_eq!(refusal(register.redeem(&secret, key(1), now())), Refusal::Unknown);
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    assert_eq!(register.revoke("office").unwrap(), None);
    assert_eq!(refusal(register.redeem(&secret, key(1), now())), Refusal::Unknown);
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    assert_eq!(register.redeem(&secret, key(2), now()).unwrap().key, key(2));
}

#[test]
fn a_client_with_a_password_has_a_name_of_its_own() {
    let pair = Pair::new();
    let register = pair.register();
    register.admit("alice", &names(&["web", "ssh"]), "hash", now()).unwrap();
    let alice = register.client("alice").unwrap().unwrap();
    assert_eq!((alice.servers.clone(), alice.hash.as_str(), alice.since), (names(&["ssh", "web"]), "hash", now()));
    assert!(alice.may("web") && !alice.may("db"));
    // Other rights and another password take the place of those before.
    register.admit("alice", &[], "other", now()).unwrap();
    assert!(register.client("alice").unwrap().unwrap().may("db"));
    drop(register);
    let register = pair.register();
    assert_eq!(register.clients().unwrap().len(), 1);
    let is_taken = |result: Result<(), RegisterError>| matches!(result, Err(RegisterError::Member(_)));
    assert!(is_taken(register.invite("alice", MemberKind::Agent, &[], HOUR, now()).map(drop)));
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    assert!(is_taken(register.admit("office", &[], "hash", now())), "who is invited may come any time");
    register.redeem(&secret, key(1), now()).unwrap();
    assert!(is_taken(register.admit("office", &[], "hash", now() + DAY)));
    assert!(matches!(register.admit("a b", &[], "hash", now()), Err(RegisterError::Name(_))));
    assert!(matches!(register.revoke("alice").unwrap(), Some(Revoked::Client(alice)) if alice.hash == "other"));
    assert_eq!((register.client("alice").unwrap(), register.revoke("alice").unwrap()), (None, None));
}

#[test]
fn a_ca_of_the_operator_can_use_only_names_that_are_free_and_not_revoked() {
    let pair = Pair::new();
    let register = pair.register();
    let refused = |name: &str, number: u8| match register.vouched(name, &key(number)) {
        Err(RegisterError::Refused(refusal)) => Some(refusal),
        other => {
            other.unwrap();
            None
        }
    };
    assert_eq!(refused("shop", 1), None);
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    register.redeem(&secret, key(1), now()).unwrap();
    assert_eq!(refused("office", 1), None);
    assert_eq!(refused("office", 2), Some(Refusal::OtherKey("office".to_owned())));
    for name in ["office", "shop"] {
        register.revoke(name).unwrap();
        assert_eq!(refused(name, 1), Some(Refusal::Revoked(name.to_owned())));
    }
    assert!(matches!(register.revoke("a b"), Err(RegisterError::Name(_))));
    assert!(register.pardon("shop").unwrap() && !register.pardon("shop").unwrap());
    assert_eq!(refused("shop", 1), None);
    // An invitation of a revoked name makes a member, and does not let certificates in before.
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    assert_eq!(refused("office", 3), Some(Refusal::Revoked("office".to_owned())));
    register.redeem(&secret, key(4), now()).unwrap();
    assert_eq!(register.by_key(&key(4)).unwrap().unwrap().name, "office");
}

#[test]
fn what_a_member_may_do_can_be_changed() {
    let pair = Pair::new();
    let register = pair.register();
    assert_eq!(register.permit("office", &names(&["web"])).unwrap(), None);
    let secret = register.invite("office", MemberKind::Agent, &names(&["web"]), HOUR, now()).unwrap();
    register.redeem(&secret, key(1), now()).unwrap();
    let member = register.permit("office", &names(&["web", "db"])).unwrap().unwrap();
    assert_eq!(member.servers, names(&["db", "web"]));
    assert_eq!(register.by_key(&key(1)).unwrap(), Some(member));
    assert!(matches!(register.permit("office", &names(&["a,b"])), Err(RegisterError::Name(_))));
}

#[test]
fn an_invitation_that_cannot_be_is_refused() {
    let pair = Pair::new();
    let register = pair.register();
    let agent = MemberKind::Agent;
    assert!(matches!(register.invite("Office", agent, &[], HOUR, now()), Err(RegisterError::Name(_))));
    assert!(matches!(register.invite("a", agent, &names(&["x y"]), HOUR, now()), Err(RegisterError::Name(_))));
    let many: Vec<String> = (0..257).map(|number| format!("s{number}")).collect();
    assert!(matches!(register.invite("a", agent, &many, HOUR, now()), Err(RegisterError::Servers(257))));
    for valid in [Duration::ZERO, Duration::MAX] {
        let error = register.invite("a", agent, &[], valid, now()).unwrap_err();
        assert!(matches!(error, RegisterError::Valid(_)), "{error}");
        assert!(!error.to_string().is_empty());
    }
    let early = register.invite("a", agent, &[], HOUR, UNIX_EPOCH - HOUR);
    assert!(matches!(early, Err(RegisterError::File(IdentityError::Clock))));
    assert!(register.invitations(now()).unwrap().is_empty());
    assert!(register.invite("a", agent, &many[1..], HOUR, now()).is_ok());
}

/// Threads of one relay, and two processes with a connection each.
#[test]
fn of_two_keys_at_once_exactly_one_wins() {
    let pair = Pair::new();
    let registers = [pair.register(), pair.register()];
    for round in 0..20 {
        let name = format!("agent{round}");
        let secret = registers[0].invite(&name, MemberKind::Agent, &[], HOUR, now()).unwrap();
        let barrier = Barrier::new(4);
        let results: Vec<Result<Member, RegisterError>> = std::thread::scope(|scope| {
            let (registers, secret, barrier) = (&registers, &secret, &barrier);
            let redeem = |number: u8| {
                barrier.wait();
                registers[usize::from(number % 2)].redeem(secret, key(round * 4 + number), now())
            };
            let threads: Vec<_> = (0..4).map(|number| scope.spawn(move || redeem(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won: Vec<&Member> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert_eq!(registers[0].by_key(&won[0].key).unwrap().as_ref(), Some(won[0]));
        assert!(results.iter().all(|result| result.as_ref().err().is_none_or(RegisterError::is_refusal)));
    }
    let members = registers[1].members().unwrap();
    assert_eq!(members.iter().map(|member| member.key).collect::<BTreeSet<_>>().len(), 20);
}

#[test]
fn the_file_has_no_secret_and_only_its_owner_can_read_it() {
    let pair = Pair::new();
    let register = pair.register();
    let secret = register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    let invitation = Invitation { relay: pair.relay.fingerprint(), secret: secret.clone() };
    let (text, token) = (secret.reveal(), invitation.to_string());
    let bytes = data_encoding::BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).unwrap();
    for file in fs::read_dir(pair.register_path().parent().unwrap()).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600, "{}", path.display());
        let content = fs::read(&path).unwrap();
        for wanted in [text.as_bytes(), token.as_bytes(), &bytes] {
            assert!(!content.windows(wanted.len()).any(|window| window == wanted), "{}", path.display());
        }
    }
}

#[test]
fn a_damaged_a_foreign_and_a_newer_register_are_one_clear_error() {
    let pair = Pair::new();
    let register = pair.register();
    register.invite("office", MemberKind::Agent, &[], HOUR, now()).unwrap();
    drop(register);
    let path = pair.register_path();
    let good = fs::read(&path).unwrap();
    let open = |path: &Path| {
        let error = Register::open(path).unwrap_err();
        assert!(error.to_string().contains("relay.db") && !error.to_string().contains('\n'), "{error}");
        error
    };
    for length in [50, 1000, good.len() / 2, good.len() - 5000] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(matches!(open(&path), IdentityError::Damaged { .. }), "{length}");
        assert_eq!(fs::read(&path).unwrap().len(), length, "{length}");
    }
    fs::write(&path, "not a register").unwrap();
    assert!(matches!(open(&path), IdentityError::Damaged { .. }));

    let change = |statement: &str| {
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", path.display()));
        }
        fs::write(&path, &good).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(statement).unwrap();
        open(&path)
    };
    assert!(matches!(change("PRAGMA user_version = 99"), IdentityError::Newer { version: 99, known: 4, .. }));
    for damage in [
        "PRAGMA application_id = 7",
        "DROP TABLE members",
        "CREATE TABLE more (a)",
        "UPDATE invitations SET kind = 7",
        "UPDATE invitations SET spent_by = x'00'",
    ] {
        assert!(matches!(change(damage), IdentityError::Damaged { .. }), "{damage}");
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(Register::open(&path).unwrap().invitations(now()).unwrap().len(), 1);
}
