"""The soak of a relay and an agent; see scripts/soak."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

from bed import HERE, KAMEI, run

RELAY, HIDDEN = "203.0.113.11", "10.0.0.12"
CHANNELS = {"shared": 7001, "own": 7002, "plain": 7003}
PROBING = 'probe-every = "1s"\nprobe-patience = "2s"\n'
# After the last disturbance, everything works again within this many seconds: probes find a dead end within 3, and the agent,
# which was disturbed again and again, comes back within its longest pause, 30.
CALM = 35
RULES = """
table inet firewall {
    chain forward { type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname gi oifname go accept
    }
    chain leave { type nat hook postrouting priority srcnat; oifname go masquerade; }
}
"""


class Relayed:
    """The lab: relay on server1, client on server2, agent on terminal1, hidden server on terminal2."""

    def __init__(self, root, scratch, seed):
        self.root, self.scratch, self.prefix = root, scratch, f"soakr{os.getpid()}"
        self.random, self.programs, self.roles = random.Random(seed), [], {}
        self.figures = dict.fromkeys(
            ("calls", "failed_while_disturbed", "bytes", "kills", "stops", "cuts", "flaps", "reloads"), 0)
        self.faults, self.calm_since, self.is_over, self.lock = [], None, False, threading.Lock()

    def __enter__(self):
        run(self.root / "scripts/lab", "up", "--prefix", self.prefix, "--terminals", "2", "--servers", "2", "--no-kamei")
        self.at("gateway1", "nft", "-f", "-", input=RULES)
        # Hundreds of connections a second between two addresses: ports would not come free in time.
        for host in ("terminal1", "server2"):
            self.at(host, "sysctl", "-qw", "net.ipv4.ip_local_port_range=8000 65535", "net.ipv4.tcp_tw_reuse=1")
        self.write_config("1h")
        (self.scratch / "agent.toml").write_text(PROBING)
        self.listen(self.program("terminal2", "serve", "7"))
        self.start("relay")
        line = self.ask("relay", "invite", "agent", "--publish", ",".join(CHANNELS)).stdout
        self.token = line.split("--invite ")[1].split()[0]
        self.start("agent")
        self.wait_for("the agent", lambda: self.json("relay", "agents")[0]["state"] == "here")
        return self

    def __exit__(self, *_):
        for program in [*self.programs, *self.roles.values()]:
            program.kill()
            program.wait()
        run(self.root / "scripts/lab", "down", "--prefix", self.prefix, check=False)

    def at(self, host, *words, **more):
        """A command on a host."""
        return run("ip", "netns", "exec", f"{self.prefix}-{host}", *words, **more)

    def program(self, host, *words):
        """talk.py on a host."""
        words = ["ip", "netns", "exec", f"{self.prefix}-{host}", "python3", str(HERE / "talk.py"), *words]
        program = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.programs.append(program)
        return program

    def listen(self, program):
        """Counts what it tells."""
        def count():
            for line in program.stdout:
                self.told(json.loads(line))
        threading.Thread(target=count, daemon=True).start()

    def told(self, line):
        """One conversation."""
        with self.lock:
            is_calm = self.calm_since is not None and line.get("began", 0) > self.calm_since
            if "ok" in line:
                self.figures["calls"] += 1
                self.figures["bytes"] += 2 * line["ok"]
            elif "failed" in line and not is_calm:
                self.figures["failed_while_disturbed"] += 1
        if not self.is_over and ("fault" in line or ("failed" in line and is_calm)):
            self.fault(line.get("fault") or f"while nothing disturbs: {line['failed']}")

    def fault(self, text):
        """What must not be."""
        with self.lock:
            self.faults.append(text)
        print(f"soak: FAULT {text}", file=sys.stderr, flush=True)

    def write_config(self, idle):
        """The relay's."""
        servers = "".join(f'[[server]]\nname = "{channel}"\nport = {port}\nchannel = "{channel}"\n' for channel, port in CHANNELS.items())
        (self.scratch / "relay.toml").write_text(
            f'listen = [":443"]\npublic = "{RELAY}:443"\nidle = "{idle}"\n{PROBING}'
            f'[proxy]\nlisten = [":1080"]\nclients = ["203.0.113.0/24"]\n{servers}')

    def start(self, role):
        """The relay or the agent."""
        words = [KAMEI, role, "--config", self.scratch / f"{role}.toml", "--state-dir", self.scratch / f"{role}-state"]
        words += ["--control", self.scratch / f"{role}.sock"]
        if role == "agent":
            words += ["--relay", f"{RELAY}:443"]
            words += [word for name in CHANNELS for word in ("--publish", f"{name}={HIDDEN}:7")]
            if not (self.scratch / "agent-state").exists():
                words += ["--invite", self.token]
        host = f"{self.prefix}-{'server1' if role == 'relay' else 'terminal1'}"
        with open(self.scratch / f"{role}.log", "ab") as log:
            words = ["ip", "netns", "exec", host, *map(str, words)]
            self.roles[role] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_for(f"the {role}", lambda: self.ask(role, "status").returncode == 0)

    def ask(self, role, *question):
        """A question to its control socket."""
        return run(KAMEI, role, *question, "--control", self.scratch / f"{role}.sock", check=False)

    def json(self, role, *question):
        """The same, read."""
        return json.loads(self.ask(role, *question, "--json").stdout or "null")

    def wait_for(self, what, is_so, patience=30):
        """Waits for a condition."""
        end = time.monotonic() + patience
        while not is_so():
            if time.monotonic() > end:
                logs = [(self.scratch / f"{role}.log").read_text(errors="replace").splitlines()[-8:] for role in self.roles]
                raise RuntimeError(f"waited in vain for {what}:\n" + "\n".join(sum(logs, [])))
            time.sleep(0.05)

    # --- disturbances -----------------------------------------------------------------------------------------------

    def kill(self):
        """kill -9 of either, and another start."""
        role = self.random.choice(("relay", "agent"))
        self.roles[role].kill()
        self.roles[role].wait()
        time.sleep(self.random.uniform(0, 1))
        self.start(role)
        self.figures["kills"] += 1

    def suspend(self):
        """Either stands still: shorter than probes wait, or longer."""
        program = self.roles[self.random.choice(("relay", "agent"))]
        program.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.5, 8))
        program.send_signal(signal.SIGCONT)
        self.figures["stops"] += 1

    def cut(self):
        """Nothing passes in one direction."""
        side = self.random.choice(("gi", "go"))
        rule = f"add table inet cut; add chain inet cut forward {{ type filter hook forward priority -10; }}; add rule inet cut forward iifname {side} drop"
        self.at("gateway1", "nft", rule)
        time.sleep(self.random.uniform(0.5, 6))
        self.at("gateway1", "nft", "delete table inet cut")
        self.figures["cuts"] += 1

    def flap(self):
        """The firewall's outside goes down and comes up."""
        self.at("gateway1", "ip", "link", "set", "go", "down")
        time.sleep(self.random.uniform(0.1, 2))
        self.at("gateway1", "ip", "link", "set", "go", "up")
        self.figures["flaps"] += 1

    def reload(self):
        """The relay reads another file: no connection ends of it."""
        self.write_config(self.random.choice(("1h", "2h")))
        self.roles["relay"].send_signal(signal.SIGHUP)
        self.figures["reloads"] += 1

    def footprint(self):
        """Resident memory and open descriptors of both."""
        found = {}
        for role, program in self.roles.items():
            with open(f"/proc/{program.pid}/status", encoding="ascii") as status:
                rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
            found[role] = {"rss_kib": rss, "descriptors": len(os.listdir(f"/proc/{program.pid}/fd"))}
        return found

    def run(self, seconds):
        """All of it; memory and descriptors at the beginning and the end of the calm part."""
        paths = [f"{RELAY}:{port}" for port in CHANNELS.values()] + [f"{RELAY}:1080={name}" for name in CHANNELS]
        caller = self.program("server2", "call", "12", *paths)
        self.listen(caller)
        end = time.monotonic() + seconds
        while time.monotonic() < end - max(seconds / 3, 12) - CALM:
            time.sleep(self.random.uniform(0.5, 4))
            disturb = (self.kill, self.suspend, self.cut, self.flap, self.reload)
            self.random.choices(disturb, (4, 2, 2, 1, 2))[0]()
        time.sleep(CALM)
        self.calm_since = time.monotonic()
        first = self.footprint()
        while time.monotonic() < end:
            time.sleep(self.random.uniform(1, 3))
            self.reload()
        last = self.footprint()
        # Whoever kills the client ends its questions in order.
        self.is_over = True
        caller.kill()
        def left():
            status = self.json("agent", "status")
            return self.json("relay", "connections"), sum(relay["connections"] for relay in status["relays"])
        try:
            self.wait_for("the end of all connections", lambda: left() == ([], 0), 20)
        except RuntimeError:
            self.fault(f"left behind, at the relay and at the agent: {left()}")
        for role, before in first.items():
            after = last[role]
            if after["rss_kib"] > before["rss_kib"] * 1.5 + 8192:
                self.fault(f"memory of the {role} grew from {before['rss_kib']} to {after['rss_kib']} KiB")
            # Connections come and go; each has some.
            if after["descriptors"] > before["descriptors"] + 64:
                self.fault(f"descriptors of the {role} grew from {before['descriptors']} to {after['descriptors']}")
        return {"first": first, "last": last}


def soak(root, scratch, arguments, results):
    """Runs it and tells what came of it."""
    with Relayed(root, scratch, arguments.seed) as relayed:
        print(f"soak of relay and agent: {arguments.minutes:g} minutes, seed {arguments.seed}", flush=True)
        memory = relayed.run(arguments.minutes * 60)
        for role in relayed.roles:
            shutil.copy(scratch / f"{role}.log", results)
        figures = {**relayed.figures, "minutes": arguments.minutes, "seed": arguments.seed, "memory": memory}
        (results / "relayed.json").write_text(json.dumps({**figures, "faults": relayed.faults}, indent=2) + "\n")
        for key, value in figures.items():
            print(f"{key:24} {value}")
        print(f"soak: {len(relayed.faults)} faults")
        return 1 if relayed.faults else 0
