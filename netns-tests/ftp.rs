//! FTP through the gateway: stock servers and clients, active and passive, both ways, both families.

use crate::gateway::Gateway;
use crate::lab::{Background, Family, Host, Lab, Plan, need, wait_until};
use crate::traffic::{accept, connect, listen};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Bytes of the file that is fetched: several windows' worth.
const LARGE: usize = 3_000_000;

/// vsftpd on a host: anonymous, with `large`, `small` and a directory to upload to.
struct Ftp {
    large: Vec<u8>,
    dir: std::path::PathBuf,
    _vsftpd: Background,
}

impl Ftp {
    #[track_caller]
    fn start(host: &Host) -> Self {
        need("vsftpd", "vsftpd");
        need("curl", "curl");
        need("lftp", "lftp");
        let dir = host.dir.join(format!("{}-ftp", host.name));
        let (root, upload, empty) = (dir.join("root"), dir.join("root/in"), dir.join("empty"));
        for dir in [&upload, &empty] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::set_permissions(&upload, PermissionsExt::from_mode(0o777)).unwrap();
        // The scratch directory is private; the server's child that serves is not root.
        fs::set_permissions(&host.dir, PermissionsExt::from_mode(0o755)).unwrap();
        let large: Vec<u8> = (0..=250).cycle().take(LARGE).collect();
        fs::write(root.join("large"), &large).unwrap();
        fs::write(root.join("small"), "small\n").unwrap();
        let config = dir.join("vsftpd.conf");
        let text = format!(
            "listen=NO\nlisten_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\n\
             anon_root={}\nsecure_chroot_dir={}\nwrite_enable=YES\nanon_upload_enable=YES\nconnect_from_port_20=YES\n\
             seccomp_sandbox=NO\nisolate=NO\nisolate_network=NO\nxferlog_enable=NO\n",
            root.display(),
            empty.display()
        );
        fs::write(&config, text).unwrap();
        let vsftpd = host.spawn("vsftpd", &["vsftpd", config.to_str().unwrap()]);
        wait_until("vsftpd to listen", || !host.run("ss -Hltn 'sport = 21'").ok().trim().is_empty());
        Self { large, dir, _vsftpd: vsftpd }
    }

    /// Fetches and brings files in every way that the clients know.
    #[track_caller]
    fn use_from(&self, client: &Host, server: IpAddr) {
        let url = format!("ftp://{}", bracketed(server));
        let out = self.dir.join(format!("got-{}", server));
        let to = out.display();
        let v4_only: &[&str] = if server.is_ipv4() { &["--ftp-port - --disable-eprt", "--disable-epsv"] } else { &[] };
        for how in [&["--ftp-port -", "--ftp-pasv"], v4_only].concat() {
            // Several transfers on one control connection.
            let fetch = format!(
                "exec curl -sS --max-time 40 --no-ftp-skip-pasv-ip {how} -o {to} {url}/large -o {to}.small {url}/small \
                 -o {to}.list {url}/"
            );
            let mut fetched = client.run(&fetch);
            // curl 7.88 now and then looks for the address of a data connection where it has not put it yet, and gives up.
            if fetched.stderr.contains("sa_addr inet_ntop() failed") {
                fetched = client.run(&fetch);
            }
            fetched.ok();
            assert!(fs::read(&out).unwrap() == self.large, "curl {how}: another file");
            assert!(fs::read_to_string(format!("{to}.list")).unwrap().contains("small"), "curl {how}");
        }
        for passive in ["on", "off"] {
            let _ = fs::remove_file(&out);
            client
                .run(&format!(
                    "exec lftp -c 'set net:timeout 20; set net:max-retries 1; set ftp:fix-pasv-address no; \
                 set ftp:prefer-epsv {}; set ftp:passive-mode {passive}; open {url}; ls; get large -o {to}; ls; \
                 cat small'",
                    server.is_ipv6()
                ))
                .ok();
            assert!(fs::read(&out).unwrap() == self.large, "lftp, passive {passive}: another file");
        }
        let script = format!(
            "import ftplib, io\n\
             for passive in (True, False):\n\
             \x20   f = ftplib.FTP()\n\
             \x20   f.trust_server_pasv_ipv4_address = True\n\
             \x20   f.connect('{server}', 21, timeout=20)\n\
             \x20   f.login()\n\
             \x20   f.set_pasv(passive)\n\
             \x20   for n in range(5):\n\
             \x20       got = io.BytesIO()\n\
             \x20       f.retrbinary('RETR small', got.write)\n\
             \x20       assert got.getvalue() == b'small\\n', got.getvalue()\n\
             \x20   f.storbinary('STOR in/{}-%d' % passive, io.BytesIO(b'x' * 100000))\n\
             \x20   print(f.nlst())\n\
             \x20   f.quit()\n",
            out.file_name().unwrap().to_string_lossy().replace(':', "-")
        );
        let file = self.dir.join("client.py");
        fs::write(&file, script).unwrap();
        client.run(&format!("exec python3 {}", file.display())).ok();
        let brought = fs::read_dir(self.dir.join("root/in")).unwrap().flatten();
        assert!(brought.filter(|entry| entry.metadata().unwrap().len() == 100_000).count() >= 2);
    }
}

fn bracketed(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn start(lab: &Lab, k: u8) -> Gateway {
    lab.start_with(k, &["--pool", &Lab::pool_v4(k), "--pool", &Lab::pool_v6(k), "--alg", "ftp"])
}

#[test]
fn r10_ftp_a_terminal_uses_a_server_outside_active_and_passive() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = start(&lab, 1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let ftp = Ftp::start(&server);
    for family in [Family::V4, Family::V6] {
        ftp.use_from(&terminal, server.address(family));
    }
    assert_eq!(gateway.dropped("alg_refused"), 0);
}

#[test]
fn r10_ftp_a_terminal_is_the_server_and_is_called_back() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let gateway = start(&lab, 1);
    let (terminal, server) = (lab.terminal(1), lab.server(1));
    let ftp = Ftp::start(&terminal);
    for family in [Family::V4, Family::V6] {
        terminal.run(&format!("exec ping -c 1 -W 5 {}", server.address(family))).ok();
        ftp.use_from(&server, gateway.virtual_ip(terminal.address(family)));
    }
    assert_eq!(gateway.dropped("alg_refused"), 0);
}

#[test]
fn r10_ftp_through_a_cascade() {
    let lab = Lab::new(Plan::gateways(2).unwatched());
    let _gateways = [start(&lab, 1), start(&lab, 2)];
    let ftp = Ftp::start(&lab.server(1));
    for family in [Family::V4, Family::V6] {
        ftp.use_from(&lab.terminal(1), lab.server(1).address(family));
    }
}

#[test]
fn r10_ftp_between_two_terminals_by_a_virtual_ip() {
    let lab = Lab::new(Plan::gateways(1).terminals(2).unwatched());
    let pools = [Lab::pool_v4(1), Lab::pool_v6(1)];
    let gateway =
        lab.start_with(1, &["--pool", &pools[0], "--pool", &pools[1], "--alg", "ftp", "--callback", "anyone"]);
    let (client, server) = (lab.terminal(1), lab.terminal(2));
    let ftp = Ftp::start(&server);
    for family in [Family::V4, Family::V6] {
        server.run(&format!("exec ping -c 1 -W 5 {}", lab.server(1).address(family))).ok();
        ftp.use_from(&client, gateway.virtual_ip(server.address(family)));
    }
}

#[test]
fn r10_ftp_is_off_by_default() {
    let lab = Lab::new(Plan::gateways(1).unwatched());
    let _gateway = lab.start(1);
    let server = lab.server(1);
    let _ftp = Ftp::start(&server);
    let get = |how: &str| lab.terminal(1).run(&format!("exec curl -sS --max-time 10 {how} ftp://{}/small", server.v4));
    assert!(!get("--ftp-port -").succeeded());
    assert!(get("--ftp-pasv").succeeded());
}

/// A control connection of a terminal's own making, and the end of it that the server has.
fn control(lab: &Lab) -> (TcpStream, TcpStream) {
    let listener = listen(&lab.server(1), 21);
    let ours = connect(&lab.terminal(1), SocketAddr::new(lab.server(1).v4.into(), 21));
    (ours, accept(&listener).0)
}

#[track_caller]
fn line(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn r10_ftp_a_command_typed_letter_by_letter_arrives_and_only_the_server_may_call_the_announced_port() {
    let lab = Lab::new(Plan::gateways(1).servers(2).unwatched());
    let gateway = start(&lab, 1);
    let capture = lab.outside_wire(1);
    let (mut terminal, mut server) = control(&lab);
    let [a, b, c, d] = lab.terminal(1).v4.octets();
    // Nagle's algorithm is on: each letter waits for the one before to arrive.
    for byte in format!("PORT {a},{b},{c},{d},200,21\r\n").bytes() {
        terminal.write_all(&[byte]).unwrap();
    }
    let IpAddr::V4(shown) = gateway.virtual_ip(lab.terminal(1).v4.into()) else { panic!() };
    let expected = format!("PORT {},200,21\r\n", shown.to_string().replace('.', ","));
    assert_eq!(line(&mut server, expected.len()), expected);
    // The connection goes on in both directions with other numbers.
    for n in 0..20 {
        server.write_all(b"200 OK\r\n").unwrap();
        assert_eq!(line(&mut terminal, 8), "200 OK\r\n");
        let command = format!("NOOP {n:03}\r\n");
        terminal.write_all(command.as_bytes()).unwrap();
        assert_eq!(line(&mut server, 10), command);
    }
    let announced = SocketAddr::new(shown.into(), 200 * 256 + 21);
    let listener = listen(&lab.terminal(1), announced.port());
    let elsewhere = lab.server(2).inside(|| TcpStream::connect_timeout(&announced, Duration::from_secs(2)));
    assert!(elsewhere.is_err(), "a third host reached the announced port");
    let data = connect(&lab.server(1), announced);
    assert_eq!(accept(&listener).1, IpAddr::from(lab.server(1).v4));
    drop((data, terminal, server));
    let wire = capture.finish();
    wire.assert_hidden(&lab.hidden(1));
    assert!(!wire.has_bytes(format!("{a},{b},{c},{d}").as_bytes()), "the address was on the wire as FTP writes it");
}

#[test]
fn r10_ftp_no_bounce() {
    let lab = Lab::new(Plan::gateways(1).unwatched().terminals(2));
    let gateway = start(&lab, 1);
    let third = lab.terminal(2).v4.to_string().replace('.', ",");
    let own = lab.terminal(1).v4.to_string().replace('.', ",");
    for (count, command) in (1..).zip([
        "PORT 192,0,2,9,200,21\r\n".to_owned(),
        format!("PORT {third},200,21\r\n"),
        format!("PORT {own},0,25\r\n"),
        "EPRT |1|192.0.2.9|51221|\r\n".to_owned(),
    ]) {
        let (mut terminal, server) = control(&lab);
        terminal.write_all(command.as_bytes()).unwrap();
        wait_until("the command to be refused", || gateway.dropped("alg_refused") >= count);
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!((&server).read(&mut [0; 100]).is_err(), "{command} arrived");
    }
}
