//! C15: the agent's way to the relay leads through several firewalls, and through a proxy that asks for a password. The firewall
//! lets nobody but the proxy out.

use crate::lab::{Background, Host, need, wait_until};
use crate::relayed::{Process, Relayed};
use crate::traffic::{Web, curl};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// What the proxies know of: a name, and a password as people have them.
const USER: (&str, &str) = ("factory", "p@ss: 50%");
/// The same in a URL.
const WRITTEN: &str = "factory:p%40ss%3a%2050%25";

/// A directory that everybody can read: proxies give up being root.
fn directory(relayed: &Relayed, name: &str) -> PathBuf {
    let open = |path: &std::path::Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    let directory = relayed.lab.scratch().join(name);
    std::fs::create_dir(&directory).unwrap();
    open(relayed.lab.scratch());
    open(&directory);
    directory
}

/// Nobody but this host may call outside.
fn only(relayed: &Relayed, host: &Host) {
    let rule = format!("insert rule inet firewall forward iifname gi ip saddr != {} drop", host.v4);
    relayed.lab.gateway(1).run(&format!("nft '{rule}'")).ok();
}

fn wait_for_port(host: &Host, proxy: &Background, port: u16) {
    wait_until("the proxy to listen", || {
        let listens = !host.run(&format!("ss -Hltn 'sport = {port}'")).ok().trim().is_empty();
        assert!(listens || !proxy.output().contains("FATAL"), "{}", proxy.output());
        listens
    });
}

/// Debian's squid on terminal 3.
fn squid(relayed: &Relayed) -> Background {
    need("squid", "squid");
    let (host, directory) = (relayed.lab.terminal(3), directory(relayed, "squid"));
    let helper = directory.join("helper.py");
    // Squid sends what it was shown percent-encoded.
    let text = format!(
        "#!/usr/bin/python3 -u
import sys, urllib.parse
for line in sys.stdin:
    words = [urllib.parse.unquote(word) for word in line.rstrip('\\n').split(' ')]
    print('OK' if words == ['{}', '{}'] else 'ERR')\n",
        USER.0, USER.1
    );
    std::fs::write(&helper, text).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let text = format!(
        "http_port 3128
auth_param basic program {}
auth_param basic children 2
acl proved proxy_auth REQUIRED
acl tls port 443
http_access deny CONNECT !tls
http_access allow proved
http_access deny all
cache deny all
pid_filename none
access_log none
cache_log /dev/null
pinger_enable off
netdb_filename none
visible_hostname proxy
shutdown_lifetime 0 seconds
max_filedescriptors 1024\n",
        helper.display()
    );
    let file = directory.join("squid.conf");
    std::fs::write(&file, text).unwrap();
    let proxy = host.spawn("squid", &["/usr/sbin/squid", "-N", "-d", "1", "-f", file.to_str().unwrap()]);
    wait_for_port(&host, &proxy, 3128);
    proxy
}

/// Debian's dante-server on terminal 3. It knows the users of the machine: those of a machine of its own.
fn dante(relayed: &Relayed) -> Background {
    need("danted", "dante-server");
    let (host, directory) = (relayed.lab.terminal(3), directory(relayed, "dante"));
    let file = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let hash = host.run(&format!("openssl passwd -6 '{}'", USER.1)).ok();
    let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";
    let passwd = file("passwd", format!("{users}{}:x:1000:1000::/:/usr/sbin/nologin\n", USER.0));
    let shadow = file("shadow", format!("{}:{}:19000:0:99999:7:::\n", USER.0, hash.trim()));
    let conf = file(
        "danted.conf",
        "logoutput: stdout
internal: eth0 port = 1080
external: eth0
clientmethod: none
socksmethod: username
user.privileged: root
user.unprivileged: nobody
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 socksmethod: username }\n"
            .to_owned(),
    );
    let start = format!(
        "mount --bind {passwd} /etc/passwd && mount --bind {shadow} /etc/shadow && exec /usr/sbin/danted -f {conf}"
    );
    let proxy = host.spawn("dante", &["unshare", "--mount", "sh", "-c", &start]);
    wait_for_port(&host, &proxy, 1080);
    proxy
}

/// An agent at terminal 1 that goes by this proxy.
fn join(relayed: &Relayed, via: &str) -> Process {
    relayed.join(&[&format!("web={}:80", relayed.hidden().v4)], &["--via", via])
}

/// A proxy, and how the agent is told of it: with the right words, without and with wrong ones, and what it then says.
fn check(start: fn(&Relayed) -> Background, (scheme, port): (&str, u16), (without, wrong): (&str, &str)) {
    let mut relayed = Relayed::behind(2, &["web=8000"], "probe-every = \"1s\"\nprobe-patience = \"3s\"");
    let host = relayed.lab.terminal(3);
    only(&relayed, &host);
    let _proxy = start(&relayed);
    let _web = Web::start(&relayed.hidden(), 80);
    let at = format!("{}:{port}", host.v4);
    let agent = join(&relayed, &format!("{scheme}://{WRITTEN}@{at}"));
    let call = || curl(&relayed.client(), relayed.relay.host.v4.into(), 8000);
    assert!(!call().is_empty());
    // The relay sees the outer firewall, and the firewalls let nobody in.
    assert!(!relayed.agent_of("factory-7")["address"].as_str().unwrap().starts_with(&host.v4.to_string()));
    for (user, said) in [("", without), ("factory:wrong@", wrong)] {
        let via = format!("{scheme}://{user}{at}");
        let publish = ["ssh=127.0.0.1:22"];
        let token = relayed.invite("other", "ssh");
        let other = relayed.agent_at(&relayed.lab.terminal(1), "other", &publish, &["--via", &via, "--invite", &token]);
        wait_until("the agent to say why", || other.log().contains(said));
        assert!(other.log().contains(&format!("proxy {scheme}://{at}:")), "{}", other.log());
        drop(other);
    }
    // The proxy is cut off for a while: the agent is back by itself.
    host.run("nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; }'")
        .ok();
    wait_until("the agent to be away", || relayed.agent_of("factory-7")["state"] == "away");
    host.run("nft delete table inet cut").ok();
    relayed.wait_here("factory-7", 1);
    relayed.restart_relay();
    relayed.wait_here("factory-7", 1);
    assert!(!curl(&relayed.client(), relayed.relay.host.v4.into(), 8000).is_empty());
    assert!(!agent.log().contains("50%"), "a password in the log:\n{}", agent.log());
}

#[test]
fn rc15_the_agent_goes_through_squid_with_a_password_and_two_firewalls() {
    check(squid, ("http", 3128), ("it wants a name and a password (407)", "it refuses name and password (407)"));
}

#[test]
fn rc15_the_agent_goes_through_dante_with_a_password_and_two_firewalls() {
    check(dante, ("socks5", 1080), ("proxy socks5://", "proxy socks5://"));
}
