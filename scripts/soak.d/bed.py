"""The lab of the soak: namespaces, a gateway in one of them, hosts that call and answer."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

KAMEI = os.environ["KAMEI"]
HERE = Path(__file__).resolve().parent
POOLS = ("198.18.1.0/24", "2001:db8:18:1::/64")
# Nobody calls this server; its pool comes and goes.
EXTRA_POOL = '[[pool]]\nrange = "198.18.77.0/28"\ndestinations = ["192.0.2.99/32"]\n'
INSIDE = "10.0.0.0/24", "fd00:a::/64"


def run(*command, check=True, **options):
    ran = subprocess.run(command, capture_output=True, text=True, **options)
    if check and ran.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {ran.stderr.strip()}")
    return ran


class Host:
    """A process in a namespace that makes calls and answers them."""

    def __init__(self, namespace, name):
        self.namespace = namespace
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, "python3", str(HERE / "host.py"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.numbers, self.lock, self.waiting = itertools.count(1), threading.Lock(), {}
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            result = json.loads(line)
            with self.lock:
                waiter = self.waiting.pop(result["id"], None)
            if waiter:
                waiter["result"] = result
                waiter["done"].set()

    def call(self, to, source, length, patience):
        waiter = {"done": threading.Event(), "result": {"ok": False, "error": "no result"}}
        with self.lock:
            number = next(self.numbers)
            self.waiting[number] = waiter
            order = {"id": number, "to": to, "source": source, "length": length, "patience": patience}
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        waiter["done"].wait(4 * patience + 10)
        return waiter["result"]

    def stop(self):
        self.process.kill()
        self.process.wait()


class Gateway:
    def __init__(self, namespace, scratch):
        self.namespace, self.scratch = namespace, scratch
        self.control = scratch / "run" / "gateway.sock"
        self.config = scratch / "gateway.toml"
        self.state = scratch / "state"
        self.log = open(scratch / "gateway.log", "ab")
        self.process = None
        self.control.parent.mkdir()

    def write_config(self, extra, hold, durability="process"):
        pools = "".join(f'[[pool]]\nrange = "{pool}"\n' for pool in POOLS) + (EXTRA_POOL if extra else "")
        self.config.write_text(
            f'inside = ["gi"]\noutside = ["go"]\ndurability = "{durability}"\ncontrol = "{self.control}"\nstate-dir = "{self.state}"\n'
            f'{pools}[lifetimes]\nhold = "{hold}"\n[creation]\nper-second = 100000\nburst = 100000\n')

    def start(self, environment=None, arguments=()):
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, KAMEI, "gateway", "--config", str(self.config), *arguments],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env={**os.environ, **(environment or {})})
        self.wait_until_ready()

    def wait_until_ready(self):
        if self.ask("status", "--wait", "20").returncode != 0:
            raise RuntimeError(f"the gateway does not start:\n{self.last_words()}")

    def last_words(self):
        return "\n".join((self.scratch / "gateway.log").read_text(errors="replace").splitlines()[-30:])

    def ask(self, *question):
        return run(KAMEI, *question, "--control", str(self.control), check=False)

    def bindings(self):
        ran = self.ask("bindings", "--json")
        if ran.returncode != 0:
            raise RuntimeError(f"bindings: {ran.stderr.strip()}\n{self.last_words()}")
        return json.loads(ran.stdout)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def footprint(self):
        """Resident memory and open descriptors."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
        return {"rss_kib": rss, "descriptors": len(os.listdir(f"/proc/{self.process.pid}/fd"))}

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()


class Bed:
    server_v4, server_v6 = "203.0.113.11", "2001:db8:113::11"

    def __init__(self, root, scratch, terminals):
        self.root, self.scratch, self.terminals = root, scratch, terminals
        self.prefix = f"soak{os.getpid()}"
        self.hosts = []

    def __enter__(self):
        try:
            self.lay()
        except BaseException:
            self.__exit__()
            raise
        return self

    def lay(self):
        run(self.root / "scripts" / "lab", "up", "--prefix", self.prefix, "--terminals", str(self.terminals),
            "--ipv6", "--no-kamei")
        self.in_gateway("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
        state = self.scratch / "state"
        state.mkdir(mode=0o700)
        run("mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "soak", state)
        self.gateway = Gateway(self.namespace("gateway1"), self.scratch)
        self.server = self.host("server1")
        self.watch = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace("server1"), "tcpdump", "-i", "eth0", "-n", "-U", "-w",
             str(self.scratch / "outside.pcap"), leak_filter()],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        for host in self.hosts:
            host.stop()
        if hasattr(self, "gateway"):
            self.gateway.stop()
        if hasattr(self, "watch"):
            self.watch.kill()
            self.watch.wait()
        run(self.root / "scripts" / "lab", "down", "--prefix", self.prefix, check=False)
        run("umount", "-l", self.scratch / "state", check=False)

    def namespace(self, host):
        return f"{self.prefix}-{host}"

    def host(self, name):
        host = Host(self.namespace(name), name)
        self.hosts.append(host)
        return host

    def in_gateway(self, *command):
        return run("ip", "netns", "exec", self.namespace("gateway1"), *command)

    def restore_routes(self):
        """The kernel drops IPv6 addresses of an interface that goes down."""
        for interface, address in (("gi", "fd00:a::1/64"), ("go", "2001:db8:113::1/64")):
            self.in_gateway("ip", "-6", "address", "replace", address, "dev", interface, "nodad")

    def homes(self, terminals, extra):
        """The host of each terminal's address; each host has several."""
        homes = {}
        for number in range(1, terminals + 1):
            host = self.host(f"terminal{number}")
            homes[f"10.0.0.{10 + number}"] = homes[f"fd00:a::{10 + number}"] = host
            for more in range(extra):
                last = 40 + (number - 1) * extra + more
                for address in (f"10.0.0.{last}", f"fd00:a::{last:x}"):
                    homes[address] = host
                    self.address(host, address, "add")
        return homes

    def is_first(self, address):
        return address.split(".")[-1] in map(str, range(11, 11 + self.terminals)) or "::1" in address

    def address(self, host, address, what):
        length, nodad = ("64", ["nodad"]) if ":" in address else ("24", [])
        run("ip", "-n", host.namespace, "address", what, f"{address}/{length}", "dev", "eth0",
            *(nodad if what == "add" else []))

    def flood(self, side, seed):
        namespace = self.namespace("terminal1" if side == "inside" else "server1")
        run("ip", "netns", "exec", namespace, "python3", str(HERE / "flood.py"), side, str(seed), check=False)

    @contextlib.contextmanager
    def full_disk(self):
        ballast = self.scratch / "state" / "ballast"
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(65536)):
                pass
        try:
            yield
        finally:
            ballast.unlink()

    def leaks(self):
        """Packets outside that showed an inside address."""
        time.sleep(1)
        self.watch.terminate()
        self.watch.wait()
        ran = run("tcpdump", "-n", "-r", str(self.scratch / "outside.pcap"))
        for line in ran.stdout.splitlines()[:5]:
            print(f"soak: leaked: {line}", file=sys.stderr)
        return len(ran.stdout.splitlines())


def leak_filter():
    """Inside addresses in IP headers, and in those that ICMP errors quote."""
    v4, v6 = INSIDE
    quoted = "(icmp and (icmp[20:4] & 0xffffff00 = 0x0a000000 or icmp[24:4] & 0xffffff00 = 0x0a000000))"
    quoted6 = "(icmp6 and ip6[40] < 128 and (ip6[56:4] = 0xfd00000a or ip6[72:4] = 0xfd00000a))"
    return f"net {v4} or net {v6} or {quoted} or {quoted6}"
