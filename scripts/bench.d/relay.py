#!/usr/bin/env python3
"""Measures relay and agent beside rathole, bore, `ssh -R`, one hop of haproxy and the direct way; see scripts/bench --help.

The hidden server is terminal2 of a lab, the agent terminal1, the relay server1, the client server2. Rounds are interleaved:
every way once, then all again; medians are compared. A way that does not work here is named, with what it said.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "target/bench"
PEERS = RESULTS / "peers"
RELAY, HIDDEN = "203.0.113.11", "10.0.0.12"
# What the hidden server serves, and where it is called at the relay.
PORTS = {"iperf": (5201, 15201), "web": (8080, 18080), "echo": (7, 10007)}
WAYS = ["direct", "haproxy", "kamei_plain", "kamei_own", "kamei_shared", "rathole", "rathole_tls", "bore", "ssh"]
ROWS = {  # title, unit, scale of the value, what an amount is of for the cost
    "in_1": ("TCP, 1 stream, client → server", "Gb/s", 1e9),
    "out_1": ("TCP, 1 stream, server → client", "Gb/s", 1e9),
    "in_4": ("TCP, 4 streams, client → server", "Gb/s", 1e9),
    "out_4": ("TCP, 4 streams, server → client", "Gb/s", 1e9),
    "connections": ("new HTTP connections", "k/s", 1e3),
    "rtt": ("round trip, idle, p50", "µs", 1),
    "rtt_p99": ("round trip, idle, p99", "µs", 1),
    "busy_rtt": ("round trip beside a bulk stream, p50", "µs", 1),
    "busy_rtt_p99": ("round trip beside a bulk stream, p99", "µs", 1),
    "memory_relay": ("memory of the relay, an idle connection", "KB", 1e3),
    "memory_agent": ("memory of the agent, an idle connection", "KB", 1e3),
}
# Way, row, what it is compared with, at least so many times.
TARGETS = [
    ("kamei_plain", "in_1", "rathole", 1.5), ("kamei_plain", "out_1", "rathole", 1.5),
    ("kamei_plain", "in_1", "haproxy", 0.9), ("kamei_plain", "out_1", "haproxy", 0.9),
    ("kamei_own", "in_1", "rathole_tls", 1.0), ("kamei_own", "out_1", "rathole_tls", 1.0),
    ("kamei_shared", "in_1", "rathole_tls", 1.0), ("kamei_shared", "out_1", "rathole_tls", 1.0),
    ("kamei_plain", "connections", "rathole", 1.2), ("kamei_shared", "connections", "rathole", 1.2),
    ("kamei_plain", "connections", "ssh", 1.2), ("kamei_shared", "connections", "ssh", 1.2),
]
KAMEI = ("kamei_shared", "kamei_own", "kamei_plain")
# Bytes of the relay, an idle connection, at most; round trips beside a bulk stream, so many times those without, at most.
MOST_MEMORY, MOST_DELAY = 8000, 2
IDLE = 2000
LAYOUT = """Client, relay, agent and hidden server are four hosts (network namespaces) on one
machine; the agent calls the relay through a router. `kamei_shared` is a stream of the agent's session (TLS), `kamei_own` a TLS
connection for each call, `kamei_plain` a TCP connection for each in the clear; rathole and bore are in the clear, rathole_tls is
not, ssh is `ssh -R`. haproxy, one hop on the relay's host with splice, is what no relay can do better than; direct is without any.
The cost is in processor seconds of the whole machine, both ends included. Medians of interleaved rounds."""
CLIENTS = """
import json, socket, sys, time
def connect():
    stream = socket.create_connection((sys.argv[2], int(sys.argv[3])), 10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream
if sys.argv[1] == "ping":
    stream, times, end = connect(), [], time.monotonic() + float(sys.argv[4])
    while time.monotonic() < end:
        begin = time.perf_counter_ns()
        stream.sendall(b"x")
        if not stream.recv(1):
            sys.exit("the server has closed")
        times.append((time.perf_counter_ns() - begin) / 1000)
    times.sort()
    print(json.dumps([times[len(times) // 2], times[len(times) * 99 // 100]]))
else:
    streams = [connect() for _ in range(int(sys.argv[4]))]
    for stream in streams:
        stream.sendall(b"x")
    for stream in streams:
        if not stream.recv(1):
            sys.exit("the server has closed")
    print("open", flush=True)
    sys.stdin.readline()
"""
ECHO = """
import asyncio, socket
async def serve(reader, writer):
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", 7, backlog=4096) as server:
        await server.serve_forever()
asyncio.run(main())
"""
NGINX = """daemon off; worker_processes 2; pid {0}/pid; error_log {0}/error.log; events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_timeout 0; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;
uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; server {{ listen 8080 reuseport backlog=4096; location / {{ return 200 "here"; }} }} }}
"""


class Unable(Exception):
    """A way or a measurement does not work here."""


class Bed:
    """The lab, and what runs in it."""

    def __init__(self, kamei):
        self.program, self.lab = kamei, f"benchr{os.getpid()}"
        self.work = Path(tempfile.mkdtemp())
        self.servers, self.programs = [], []

    def __enter__(self):
        up = ["up", "--prefix", self.lab, "--gateways", "1", "--terminals", "2", "--servers", "2", "--no-kamei"]
        subprocess.run([ROOT / "scripts/lab", *up], check=True, stdout=subprocess.DEVNULL)
        for host in ("server1", "server2"):
            self.run(host, "ip", "route", "add", "10.0.0.0/24", "via", "203.0.113.1")
        for host in ("terminal1", "terminal2", "server1", "server2"):
            self.run(host, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535", "net.core.somaxconn=4096")
            # Where somebody will listen, no call shall come from.
            self.run(host, "sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=2222,2333,5201,7835,8080,10007,15201,18080")
        (self.work / "nginx").mkdir()
        (self.work / "nginx/conf").write_text(NGINX.format(self.work / "nginx"))
        (self.work / "clients.py").write_text(CLIENTS)
        self.keep("terminal2", "nginx", "-c", self.work / "nginx/conf")
        self.keep("terminal2", "iperf3", "-s")
        self.keep("terminal2", "python3", "-c", ECHO)
        self.servers, self.programs = self.programs, []
        for port, _ in PORTS.values():
            self.wait_for(f"port {port}", lambda port=port: self.listens("terminal2", port))
        return self

    def __exit__(self, *_):
        self.stop()
        self.programs = self.servers
        self.stop()
        subprocess.run([ROOT / "scripts/lab", "down", "--prefix", self.lab], check=False)
        shutil.rmtree(self.work)

    def run(self, host, *words, **more):
        """One command; what it prints."""
        said = subprocess.run(self.at(host, *words), capture_output=True, text=True, timeout=120, check=False, **more)
        if said.returncode:
            lines = (said.stderr or said.stdout).strip().splitlines() or ["it failed without a word"]
            raise Unable(lines[-1])
        return said.stdout

    def at(self, host, *words):
        """The same command in the host's namespace."""
        return ["ip", "netns", "exec", f"{self.lab}-{host}", *map(str, words)]

    def keep(self, host, *words):
        """A program that runs until it is stopped."""
        log = open(self.work / f"log{len(self.programs)}", "a", encoding="utf-8")
        program = subprocess.Popen(self.at(host, *words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.programs.append(program)
        return program

    def stop(self):
        """Ends what was kept."""
        for program in self.programs:
            program.terminate()
        for program in self.programs:
            try:
                program.wait(5)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        self.programs = []

    def listens(self, host, port):
        """Whether somebody listens there."""
        return bool(self.run(host, "ss", "-Hltn", f"sport = {port}").strip())

    def wait_for(self, what, is_so):
        """Waits for a condition."""
        end = time.monotonic() + 15
        while not is_so():
            dead = [program for program in self.programs if program.poll() not in (None, 0)]
            if dead or time.monotonic() > end:
                logs = [path.read_text(errors="replace").strip().splitlines() for path in sorted(self.work.glob("log*"))]
                last = [log[-1] for log in logs if log]
                raise Unable(f"waited in vain for {what}: {' / '.join(last[-2:])}")
            time.sleep(0.05)

    # --- ways: each returns the processes of relay and agent --------------------------------------------------------

    def start(self, way):
        """Switches a way on."""
        for log in self.work.glob("log*"):
            log.unlink()
        kind, _, more = way.partition("_")
        pair = getattr(self, kind)(more) if more else getattr(self, kind)()
        if way != "direct":
            for _, port in PORTS.values():
                self.wait_for(f"port {port} of the relay", lambda port=port: self.listens("server1", port))
        self.wait_for("the way", lambda: self.echoes(way))
        return pair

    def echoes(self, way):
        """Whether a call reaches the server."""
        try:
            self.run("server2", "python3", self.work / "clients.py", "ping", *called(way, "echo"), 0.01)
        except Unable:
            return False
        return True

    def direct(self):
        """No relay at all."""
        return None, None

    def haproxy(self):
        """One hop on the relay's host: the limit of what any relay can do."""
        need("haproxy")
        text = "global\n  maxconn 7000\n  nbthread 2\ndefaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n"
        text += "  timeout client 1h\n  timeout server 1h\n"
        for name, (port, at) in PORTS.items():
            text += f"listen {name}\n  bind :{at}\n  server s {HIDDEN}:{port}\n"
        (self.work / "haproxy").write_text(text)
        return self.keep("server1", "haproxy", "-db", "-f", self.work / "haproxy"), None

    def kamei_at(self, role, *words):
        """kamei with state and socket of its own."""
        place = self.work / role
        return [self.program, role, *words, "--control", place.with_suffix(".sock")]

    def kamei(self, channel):
        """Relay and agent, with this kind of data channels."""
        text = f'listen = [":443"]\npublic = "{RELAY}:443"\n[limits]\nof-client = 100000\nof-server = 100000\nof-agent = 100000\n'
        for name, (_, at) in PORTS.items():
            text += f'[[server]]\nname = "{name}"\nport = {at}\nchannel = "{channel}"\n'
        (self.work / "relay.toml").write_text(text)
        state = self.work / f"state{time.monotonic_ns()}"
        words = ["--config", self.work / "relay.toml", "--state-dir", state / "relay"]
        relay = self.keep("server1", *self.kamei_at("relay", *words))
        self.wait_for("the relay", lambda: (self.work / "relay.sock").exists() and self.listens("server1", 443))
        line = self.run("server1", *self.kamei_at("relay", "invite", "agent", "--publish", ",".join(PORTS)))
        token = line.split("--invite ")[1].split()[0]
        words = ["--relay", f"{RELAY}:443", "--invite", token, "--state-dir", state / "agent"]
        for name, (port, _) in PORTS.items():
            words += ["--publish", f"{name}={HIDDEN}:{port}"]
        agent = self.keep("terminal1", *self.kamei_at("agent", *words))
        return relay, agent

    def rathole(self, transport=""):
        """Its own protocol over TCP, or TLS."""
        both = f'[{{0}}]\n{{1}} = "{{2}}:2333"\ndefault_token = "token"\n'
        server, client = both.format("server", "bind_addr", "0.0.0.0"), both.format("client", "remote_addr", RELAY)
        if transport:
            self.certificate()
            tls = '[{0}.transport]\ntype = "tls"\n[{0}.transport.tls]\n{1}\n'
            server += tls.format("server", f'pkcs12 = "{self.work}/relay.p12"\npkcs12_password = "1234"')
            client += tls.format("client", f'trusted_root = "{self.work}/relay.pem"\nhostname = "relay"')
        for name, (port, at) in PORTS.items():
            server += f'[server.services.{name}]\nbind_addr = "0.0.0.0:{at}"\n'
            client += f'[client.services.{name}]\nlocal_addr = "{HIDDEN}:{port}"\n'
        (self.work / "server.toml").write_text(server)
        (self.work / "client.toml").write_text(client)
        program = peer("rathole")
        return (
            self.keep("server1", program, "--server", self.work / "server.toml"),
            self.keep("terminal1", program, "--client", self.work / "client.toml"),
        )

    def certificate(self):
        """For rathole's TLS."""
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=relay"
        make += f" -addext subjectAltName=DNS:relay -keyout {self.work}/relay.key -out {self.work}/relay.pem"
        subprocess.run(make.split(), check=True, capture_output=True)
        pack = f"openssl pkcs12 -export -inkey {self.work}/relay.key -in {self.work}/relay.pem -passout pass:1234"
        subprocess.run([*pack.split(), "-out", self.work / "relay.p12"], check=True, capture_output=True)

    def bore(self):
        """A program for each port."""
        program = peer("bore")
        relay = self.keep("server1", program, "server", "--min-port", "1024")
        self.wait_for("bore", lambda: self.listens("server1", 7835))
        agents = [
            self.keep("terminal1", program, "local", port, "--local-host", HIDDEN, "--to", RELAY, "--port", at)
            for port, at in PORTS.values()
        ]
        return relay, agents[-1]

    def ssh(self):
        """OpenSSH's own forwarding."""
        need("sshd")
        os.makedirs("/run/sshd", exist_ok=True)
        for name in ("host", "user"):
            if not (self.work / name).exists():
                make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.work / name]
                subprocess.run(make, check=True)
        (self.work / "sshd").write_text(
            f"ListenAddress 0.0.0.0:2222\nHostKey {self.work}/host\nAuthorizedKeysFile {self.work}/user.pub\nPermitRootLogin yes\n"
            f"StrictModes no\nUsePAM no\nGatewayPorts yes\nPidFile none\nMaxSessions 10\n"
        )
        relay = self.keep("server1", shutil.which("sshd", path=PATH), "-D", "-e", "-f", self.work / "sshd")
        self.wait_for("sshd", lambda: self.listens("server1", 2222))
        words = ["ssh", "-N", "-F", "none", "-i", self.work / "user", "-p", 2222, "-o", "StrictHostKeyChecking=no"]
        words += ["-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes"]
        for port, at in PORTS.values():
            words += ["-R", f"0.0.0.0:{at}:{HIDDEN}:{port}"]
        return relay, self.keep("terminal1", *words, f"root@{RELAY}")

    # --- rows -------------------------------------------------------------------------------------------------------

    def bulk(self, way, seconds, direction, streams):
        """Bits a second, and bytes."""
        host, port = called(way, "iperf")
        more = ["-R"] if direction == "out" else []
        said = self.run("server2", "iperf3", "-c", host, "-p", port, "-t", seconds, "-P", streams, "--json", *more)
        total = json.loads(said)["end"]["sum_received"]
        return total["bits_per_second"], total["bytes"]

    def connections(self, way, seconds):
        """Connections a second, and how many."""
        host, port = called(way, "web")
        wrk = ["wrk", "-t", "1", "-c", "32", "-d", f"{seconds}s", "-H", "Connection: close", f"http://{host}:{port}/"]
        lines = self.run("server2", *wrk).splitlines()
        if any("Non-2xx" in line for line in lines):
            raise Unable("answers that are none")
        count = next(int(line.split()[0]) for line in lines if " requests in " in line)
        rate = next(float(line.split()[1]) for line in lines if line.startswith("Requests/sec"))
        return rate, count

    def ping(self, way, seconds):
        """p50 and p99 of round trips, in µs."""
        said = self.run("server2", "python3", self.work / "clients.py", "ping", *called(way, "echo"), seconds)
        return json.loads(said)

    def busy_ping(self, way, seconds):
        """The same beside a stream to the server."""
        host, port = called(way, "iperf")
        bulk = subprocess.Popen(
            self.at("server2", "iperf3", "-c", host, "-p", port, "-t", seconds + 2),
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(0.7)
            return self.ping(way, seconds)
        finally:
            bulk.wait()

    def idle(self, way, pair):
        """Bytes of the relay and of the agent, a connection on which nothing is said."""
        before = [memory(program) for program in pair]
        words = ["python3", self.work / "clients.py", "hold", *called(way, "echo"), IDLE]
        with subprocess.Popen(self.at("server2", *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hold:
            if hold.stdout.readline() != "open\n":
                raise Unable(f"{IDLE} connections cannot be open at once")
            time.sleep(1)
            after = [memory(program) for program in pair]
            hold.stdin.close()
        return [(now - then) / IDLE if then else None for now, then in zip(after, before)]


PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def need(program):
    """A program of Debian's."""
    if not shutil.which(program, path=PATH):
        raise Unable(f"'{program}' is missing: scripts/setup --bench")


def peer(name):
    """A program of the Rust registry, built once."""
    program = PEERS / "bin" / name
    if not program.exists():
        print(f"bench: building {name}", file=sys.stderr)
        crate = {"bore": "bore-cli"}.get(name, name)
        built = subprocess.run(["cargo", "install", "--quiet", "--root", PEERS, crate], check=False, capture_output=True, text=True)
        if built.returncode:
            raise Unable(f"{crate} does not build: {built.stderr.strip().splitlines()[-1]}")
    return program


def called(way, name):
    """Where the client calls."""
    port, at = PORTS[name]
    return (HIDDEN, port) if way == "direct" else (RELAY, at)


def memory(program):
    """Bytes of a process and what it has started, as far as nobody shares them."""
    if program is None:
        return 0
    total, wanted = 0, [str(program.pid)]
    while wanted:
        pid = wanted.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        wanted += children
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return total


def busy():
    """Processor seconds of the machine so far: user, nice, system, irq, softirq."""
    ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(ticks[at]) for at in (0, 1, 2, 5, 6)) / 100


def measure(bed, way, rows, seconds):
    """Every row of a way: (row, value, cost)."""
    pair = bed.start(way)
    def costs(row, work):
        before = busy()
        value, amount = work()
        return row, value, (busy() - before) / amount * (1e4 if row == "connections" else 1e9)
    for direction, streams in (("in", 1), ("out", 1), ("in", 4), ("out", 4)):
        row = f"{direction}_{streams}"
        if row in rows:
            yield costs(row, lambda: bed.bulk(way, seconds, direction, streams))
    if "connections" in rows:
        yield costs("connections", lambda: bed.connections(way, seconds))
    for name, work in (("rtt", bed.ping), ("busy_rtt", bed.busy_ping)):
        if name in rows:
            middle, most = work(way, seconds)
            yield name, middle, None
            yield f"{name}_p99", most, None
    if "memory_relay" in rows and way != "direct":
        for name, value in zip(("memory_relay", "memory_agent"), bed.idle(way, pair)):
            if value is not None:
                yield name, value, None


def table(found, missing, facts):
    """What was measured, as text."""
    lines = [facts, ""]
    medians = {key: statistics.median(value for value, _ in values) for key, values in found.items()}
    for row, (title, unit, scale) in ROWS.items():
        ways = [way for way in WAYS if (way, row) in medians]
        if not ways:
            continue
        lines += [f"**{title}**", "", f"| way | {unit} | lowest to highest | cost |", "| --- | --- | --- | --- |"]
        for way in ways:
            values = sorted(value / scale for value, _ in found[way, row])
            spent = [cost for _, cost in found[way, row] if cost is not None]
            unit_of_cost = "s/10k" if row == "connections" else "s/GB"
            cost = f"{statistics.median(spent):.2f} {unit_of_cost}" if spent else ""
            middle = medians[way, row] / scale
            lines.append(f"| {way} | {middle:.4g} | {values[0]:.4g} to {values[-1]:.4g} | {cost} |")
        lines.append("")
    return "\n".join(lines + verdicts(medians) + [f"- {way} does not work here: {why}" for way, why in sorted(missing.items())])


def verdicts(medians):
    """What is expected, and whether it is so, as lines of a table."""
    wanted = [(f"{ROWS[row][0]}: {way} ÷ {other}", f"≥ {bound:g}", medians[way, row] / medians[other, row], bound, 1)
              for way, row, other, bound in TARGETS if {(way, row), (other, row)} <= medians.keys()]
    wanted += [(f"{ROWS['memory_relay'][0]}, KB: {way}", f"≤ {MOST_MEMORY / 1e3:g}", medians[way, "memory_relay"] / 1e3, MOST_MEMORY / 1e3, -1)
               for way in KAMEI if (way, "memory_relay") in medians]
    wanted += [(f"p99 of round trips, beside a bulk stream ÷ idle: {way}", f"≤ {MOST_DELAY}", medians[way, "busy_rtt_p99"] / medians[way, "rtt_p99"], MOST_DELAY, -1)
               for way in KAMEI if {(way, "busy_rtt_p99"), (way, "rtt_p99")} <= medians.keys()]
    lines = ["| what is expected | | measured | |", "| --- | --- | --- | --- |"] if wanted else []
    for title, expected, value, bound, sign in wanted:
        lines.append(f"| {title} | {expected} | {value:.2f} | {'yes' if sign * value >= sign * bound else '**no**'} |")
    return lines


def main():
    """The run."""
    parser = argparse.ArgumentParser(prog="scripts/bench --relay", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="put the tables into scripts/bench.d/relay.md")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rows", default=",".join(ROWS))
    arguments = parser.parse_args()
    if os.geteuid():
        parser.exit(1, "bench: needs root: it makes network namespaces\n")
    ways, rows = arguments.ways.split(","), arguments.rows.split(",")
    wrong = [name for name in ways if name not in WAYS] + [name for name in rows if name not in ROWS]
    if wrong or arguments.rounds < 1 or arguments.seconds < 1:
        parser.error(f"there is no {wrong}; ways: {', '.join(WAYS)}; rows: {', '.join(ROWS)}" if wrong else "at least 1")
    program = os.environ.get("KAMEI")
    if not program:
        subprocess.run(["cargo", "build", "--release", "--quiet", "--bin", "kamei"], check=True, cwd=ROOT)
        program = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target")) + "/release/kamei"
    RESULTS.mkdir(parents=True, exist_ok=True)
    found, missing = defaultdict(list), {}
    with Bed(program) as bed:
        for number in range(arguments.rounds):
            for way in [way for way in ways if way not in missing]:
                print(f"bench: round {number + 1} of {arguments.rounds}: {way}", file=sys.stderr)
                try:
                    for row, value, cost in measure(bed, way, rows, arguments.seconds):
                        found[way, row].append((value, cost))
                except (Unable, subprocess.SubprocessError) as error:
                    missing[way] = str(error)
                finally:
                    bed.stop()
    model = next(line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    facts = f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}; {arguments.rounds} rounds of {arguments.seconds} s"
    text = table(found, missing, facts)
    (RESULTS / "relay.md").write_text(text + "\n")
    print(text)
    if arguments.publish:
        (ROOT / "scripts/bench.d/relay.md").write_text(f"# How fast relay and agent are\n\n`scripts/bench --relay --publish` has written this. {LAYOUT}\n\n{text}\n")


if __name__ == "__main__":
    main()
