//! A real socket with a relay or an agent behind it of which only the answers are there.

use super::*;
use crate::config::Difference;
use crate::session::{ConnectionId, DataChannel, Published, Transport};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A relay without agents.
#[derive(Default)]
struct Relay {
    invited: Mutex<Vec<Invite>>,
    ended: Mutex<Vec<String>>,
}

fn web() -> Published {
    Published { name: "web".parse().unwrap(), transport: Transport::Tcp }
}

impl RelayAdmin for Relay {
    fn status(&self) -> RelayStatus {
        RelayStatus { role: "relay".to_owned(), carried: 7, ..RelayStatus::default() }
    }

    fn agents(&self) -> Result<Vec<AgentView>, String> {
        Err("the register cannot be read".to_owned())
    }

    fn servers(&self) -> Vec<ServerView> {
        vec![ServerView {
            sni: Vec::new(),
            server: web(),
            port: Some(8000),
            virtual_ips: Default::default(),
            own_port: None,
            agents: Vec::new(),
            channel: DataChannel::Own,
            connections: 0,
        }]
    }

    fn connections(&self) -> Vec<ConnectionView> {
        Vec::new()
    }

    fn invitations(&self) -> Result<Vec<InvitationView>, String> {
        Ok(vec![InvitationView { name: "factory-7".to_owned(), servers: vec!["web".to_owned()], left_seconds: 60 }])
    }

    fn clients(&self) -> Result<Vec<ClientView>, String> {
        Ok(vec![ClientView { name: "alice".to_owned(), servers: Vec::new(), connections: 2 }])
    }

    fn admit(&self, admit: Admit) -> Result<Admitted, Refused> {
        match admit.name.as_str() {
            "taken" => Err(Refused::Wrong("'taken' is a member already".to_owned())),
            _ => Ok(Admitted { password: admit.password.unwrap_or("drawn".to_owned()) }),
        }
    }

    fn invite(&self, invite: &Invite) -> Result<Invited, Refused> {
        self.invited.lock().push(invite.clone());
        match invite.name.as_str() {
            "taken" => Err(Refused::Wrong("'taken' is a member already".to_owned())),
            "full" => Err(Refused::Failed("no space left on device".to_owned())),
            _ => Ok(Invited { relay: "relay.example.com:443".to_owned(), token: "kamei1-x".to_owned() }),
        }
    }

    fn revoke(&self, name: &str) -> Result<Option<usize>, String> {
        self.ended.lock().push(name.to_owned());
        Ok((name == "factory-7").then_some(3))
    }

    fn close(&self, connection: ConnectionId) -> bool {
        connection == ConnectionId::new(255)
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        let difference = Difference { changes: vec!["server a goes".to_owned()], restart: vec!["listen"] };
        Reloaded::planned(difference, dry_run)
    }
}

struct Agent;

impl AgentAdmin for Agent {
    fn status(&self) -> AgentStatus {
        AgentStatus { role: "agent".to_owned(), ..AgentStatus::default() }
    }

    fn reload(&self, _: bool) -> Result<Reloaded, String> {
        Ok(Reloaded { applied: true, ..Reloaded::default() })
    }
}

/// A socket in a directory of its own.
struct Scene {
    directory: tempfile::TempDir,
    relay: Arc<Relay>,
    _server: Option<Server>,
}

impl Scene {
    fn of(serve: impl FnOnce(SocketSettings, Arc<Relay>) -> Option<Server>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let relay = Arc::new(Relay::default());
        let server = serve(SocketSettings::at(&directory.path().join("sock")), Arc::clone(&relay));
        Self { directory, relay, _server: server }
    }

    fn relay() -> Self {
        Self::of(|door, relay| Some(Listener::bind(door.of_relay()).unwrap().serve_relay(relay)))
    }

    fn agent() -> Self {
        Self::of(|door, _| Some(Listener::bind(door.of_agent()).unwrap().serve_agent(Arc::new(Agent))))
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: kamei\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or(body.into()))
    }
}

#[test]
fn a_relay_answers_each_of_its_requests() {
    let scene = Scene::relay();
    assert_eq!(scene.ask("GET", "/v1/status", "").1["carried"], 7);
    let (code, metrics) = scene.ask("GET", "/v1/metrics", "");
    assert!(code == 200 && metrics.as_str().unwrap().ends_with("# EOF\n"), "{metrics}");
    assert_eq!(scene.ask("GET", "/v1/agents", ""), (500, json!({"error": "the register cannot be read"})));
    assert_eq!(scene.ask("GET", "/v1/servers", "").1[0]["channel"], "own");
    assert_eq!(scene.ask("GET", "/v1/connections", ""), (200, json!([])));
    assert_eq!(scene.ask("GET", "/v1/invitations", "").1[0]["left_seconds"], 60);
    assert_eq!(scene.ask("DELETE", "/v1/agents/factory-7", ""), (200, json!({"connections": 3})));
    let (code, error) = scene.ask("DELETE", "/v1/agents/f%20x", "");
    assert_eq!(
        (code, &error["error"]),
        (404, &json!("nobody is called 'f x'; `kamei relay agents` and `kamei relay clients` list names"))
    );
    assert_eq!(*scene.relay.ended.lock(), ["factory-7", "f x"]);
    assert_eq!(scene.ask("DELETE", "/v1/connections/00000000000000ff", "").0, 200);
    assert_eq!(scene.ask("GET", "/v1/clients", "").1[0]["connections"], 2);
    let admit = |body: &str| scene.ask("POST", "/v1/clients", body);
    assert_eq!(admit(r#"{"name": "alice"}"#), (200, json!({"password": "drawn"})));
    assert_eq!(admit(r#"{"name": "alice", "password": "p"}"#), (200, json!({"password": "p"})));
    assert_eq!(admit(r#"{"name": "taken"}"#).0, 409);
    assert_eq!(admit(r#"{"name": "alice", "call": []}"#).0, 400);
    let (code, error) = scene.ask("POST", "/v1/reload", "");
    let said = "listen can only be changed by a restart; nothing was changed";
    assert_eq!((code, &error["error"]), (409, &said.into()));
    let (code, plan) = scene.ask("POST", "/v1/reload?dry-run", "");
    assert_eq!((code, &plan["restart"]["keys"][0], &plan["applied"]), (200, &"listen".into(), &false.into()));
    assert_eq!(scene.ask("POST", "/v1/reload?now", "").0, 400);
    assert_eq!(Scene::agent().ask("POST", "/v1/reload", "").1["applied"], true);
    for id in ["00000000000000fe", "x", "%FF"] {
        let code = scene.ask("DELETE", &format!("/v1/connections/{id}"), "").0;
        assert_eq!(code, if id == "%FF" { 400 } else { 404 }, "{id}");
    }
}

#[test]
fn an_invitation_names_each_server_once_and_a_body_that_is_none_is_refused() {
    let scene = Scene::relay();
    let body = |name: &str| format!(r#"{{"name": "{name}", "servers": ["web", "ssh", "web"], "seconds": 60}}"#);
    let (code, invited) = scene.ask("POST", "/v1/invitations", &body("factory-7"));
    assert_eq!((code, &invited["token"]), (200, &json!("kamei1-x")));
    assert_eq!(scene.relay.invited.lock()[0].servers, ["web", "ssh"]);
    assert_eq!(scene.ask("POST", "/v1/invitations", &body("taken")).0, 409);
    assert_eq!(scene.ask("POST", "/v1/invitations", &body("full")).0, 500);
    for body in ["", "{}", "[]", r#"{"name": "a", "servers": "web", "seconds": 1}"#] {
        let (code, error) = scene.ask("POST", "/v1/invitations", body);
        assert!(code == 400 && error["error"].as_str().unwrap().starts_with("the body is no invitation"), "{error}");
    }
}

#[test]
fn what_a_role_is_not_asked_is_refused_before_and_after_its_start() {
    let starting = tempfile::tempdir().unwrap();
    let starting = starting.path().join("sock");
    let _listener = Listener::bind(SocketSettings::at(&starting).of_agent()).unwrap();
    let says = |error: ClientError| error.to_string();
    let no_path = Client::of("agent", &starting).look("/v1/agents").map_err(says).unwrap_err();
    assert!(no_path.starts_with("no such path; there are /v1/"), "{no_path}");
    let wait = Client::of("agent", &starting).look("/v1/status").unwrap_err();
    assert!(matches!(wait, ClientError::Starting(_)), "{wait}");

    for (scene, path) in [(Scene::relay(), "/v1/connections"), (Scene::agent(), "/v1/status")] {
        for (method, path, code) in [
            ("GET", path, 200),
            ("GET", &format!("{path}?"), 200),
            ("GET", &format!("{path}?limit=1"), 400),
            ("PUT", path, 405),
            ("GET", "/v1/bindings", 404),
            ("GET", "/", 404),
            ("GET", "/%zz", 400),
        ] {
            let (status, answer) = scene.ask(method, path, "");
            assert_eq!(status, code, "{method} {path}: {answer}");
            assert!(
                code == 200 || answer["error"].as_str().is_some_and(|error| error.lines().count() == 1),
                "{answer}"
            );
        }
    }
}

#[test]
fn a_client_says_whose_the_socket_is_if_it_is_another_roles() {
    let (relay, agent) = (Scene::relay(), Scene::agent());
    assert_eq!(Client::of_whoever(&relay.path()).unwrap().role(), "relay");
    assert_eq!(Client::of_whoever(&agent.path()).unwrap().role(), "agent");
    let said = Client::new(&relay.path()).status().unwrap_err().to_string();
    assert!(said.contains("is the socket of a relay, not of a gateway"), "{said}");
    let said = Client::new(&agent.path()).bindings(&Filter::default()).unwrap_err().to_string();
    assert!(said.contains("is the socket of an agent, not of a gateway"), "{said}");
    let said = Client::of("relay", &agent.path()).read::<RelayStatus>("/v1/agents").unwrap_err().to_string();
    assert!(said.contains("is the socket of an agent, not of a relay"), "{said}");
}

#[test]
fn a_second_one_at_a_socket_hears_that_it_is_taken() {
    let scene = Scene::relay();
    let error = Listener::bind(SocketSettings::at(&scene.path())).err().unwrap().to_string();
    assert!(error.starts_with("another process of kamei serves"), "{error}");
}
