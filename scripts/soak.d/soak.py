"""The soak; see scripts/soak."""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import gap
import latency
import relayed
from bed import Bed

TERMINALS = 4  # hosts
EXTRA = 25  # further addresses of each
QUARANTINE = 120  # seconds (RFC 6888 REQ-8)
CALM = 4.0  # seconds after a disturbance from which on a call must work
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class Model:
    """What must be true: which terminal has which virtual IP, as servers have seen it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.owner = {}  # virtual IP → terminal
        self.given = {}  # terminal → virtual IP
        self.released = {}  # virtual IP → (terminal, when)
        self.generations = {}  # terminal → how often its binding was released
        self.faults = []
        self.figures = dict.fromkeys(
            ("calls", "callbacks", "failed_while_disturbed", "kills", "reloads", "flaps", "floods", "full_disks",
             "clock_steps", "departures", "releases", "bytes", "bindings_seen", "bindings_lost", "wrong_terminal"), 0)

    def count(self, what, number=1):
        with self.lock:
            self.figures[what] += number

    def fault(self, text):
        with self.lock:
            self.faults.append(text)
        print(f"soak: FAULT {text}", file=sys.stderr, flush=True)

    def generation(self, terminal):
        with self.lock:
            return self.generations.get(terminal, 0)

    def called(self, terminal, virtual_ip, generation):
        """A server has seen this terminal as this virtual IP, in a call that began in this generation of its bindings."""
        with self.lock:
            if generation != self.generations.get(terminal, 0):
                return
            before = self.given.get(terminal)
            if before == virtual_ip:
                return
            other = self.owner.get(virtual_ip)
            past = self.released.get(virtual_ip)
            self.given[terminal], self.owner[virtual_ip] = virtual_ip, terminal
            self.figures["bindings_seen"] += 1
        if before is not None:
            self.fault(f"{terminal} was {before} and is {virtual_ip} now")
        if other not in (None, terminal):
            self.fault(f"{virtual_ip} is {terminal} now and still {other}'s")
        if past and past[0] != terminal and time.monotonic() - past[1] < QUARANTINE:
            self.fault(f"{virtual_ip} was given to {terminal} within its quarantine")

    def release(self, terminal):
        """To be called before and after a release: a call that overlaps with it says nothing."""
        with self.lock:
            self.generations[terminal] = self.generations.get(terminal, 0) + 1
            virtual_ip = self.given.pop(terminal, None)
            if virtual_ip:
                self.owner.pop(virtual_ip, None)
                self.released[virtual_ip] = (terminal, time.monotonic())

    def pairs(self):
        with self.lock:
            return dict(self.given)


class Soak:
    def __init__(self, bed, seconds, seed):
        self.bed, self.model, self.random = bed, Model(), random.Random(seed)
        self.seconds, self.ready_ms = seconds, []
        self.disturbed = time.monotonic()
        self.over = threading.Event()
        self.busy = threading.RLock()  # held while the gateway is changed
        self.homes = bed.homes(TERMINALS, EXTRA)

    # --- traffic ----------------------------------------------------------------------------------------------

    def traffic(self, number):
        dice = random.Random(number)
        while not self.over.is_set():
            known = self.model.pairs()
            if known and dice.random() < 0.4:
                self.callback(dice, *dice.choice(sorted(known.items())))
            else:
                self.call(dice, dice.choice(sorted(self.homes)))

    def call(self, dice, terminal):
        length = dice.choice((1, 100, 3000, 60_000, 400_000))
        server = self.bed.server_v6 if ":" in terminal else self.bed.server_v4
        generation = self.model.generation(terminal)
        result = self.try_call(self.homes[terminal], server, terminal, length)
        if result:
            self.model.count("calls")
            self.model.called(terminal, result["seen"], generation)

    def callback(self, dice, terminal, virtual_ip):
        length = dice.choice((1, 100, 3000, 60_000))
        result = self.try_call(self.bed.server, virtual_ip, None, length)
        if not result:
            return
        self.model.count("callbacks")
        if result["reached"] != terminal and self.model.pairs().get(terminal) == virtual_ip:
            self.model.count("wrong_terminal")
            self.model.fault(f"a callback to {virtual_ip} reached {result['reached']}, not {terminal}")

    def try_call(self, host, to, source, length):
        begun = time.monotonic()
        result = host.call(to, source, length, patience=8)
        if result.get("ok"):
            self.model.count("bytes", 2 * length)
            return result
        if result.get("differs"):
            self.model.fault(f"{source or 'server'} → {to}: {result['error']}")
        elif begun - self.disturbed > CALM and self.disturbed < begun and not self.over.is_set():
            self.model.fault(f"{source or 'server'} → {to} failed although nothing was wrong: {result['error']}")
        else:
            self.model.count("failed_while_disturbed")
        return None

    # --- disturbances -----------------------------------------------------------------------------------------

    def kill(self, environment=None):
        with self.busy:
            self.disturb()
            self.bed.gateway.kill()
            self.model.count("kills")
            before = self.model.pairs()
            begun = time.monotonic()
            self.bed.gateway.start(environment)
            self.ready_ms.append((time.monotonic() - begun) * 1000)
            self.compare(before)
            self.disturb()

    def compare(self, before):
        """Every pair that a server had seen before the kill is there again."""
        listed = {binding["terminal"]: binding for binding in self.bed.gateway.bindings()
                  if binding["state"] != "quarantined"}
        for terminal, virtual_ip in before.items():
            binding = listed.get(terminal)
            if binding is None or binding["virtual_ip"] != virtual_ip:
                self.model.count("bindings_lost")
                self.model.fault(f"after a kill {terminal} is {binding and binding['virtual_ip']}, not {virtual_ip}")
        seen = [binding["virtual_ip"] for binding in listed.values()]
        if len(seen) != len(set(seen)):
            self.model.fault("a virtual IP is listed twice")

    def step_the_clock(self):
        hours = self.random.choice((-30, -1, 1, 48))
        self.model.count("clock_steps")
        self.kill({"LD_PRELOAD": FAKETIME, "FAKETIME": f"{hours:+d}h", "DONT_FAKE_MONOTONIC": "1"})

    def reload(self, hold=None):
        with self.busy:
            self.model.count("reloads")
            hold = hold or self.random.choice(("24h", "5h"))
            self.bed.gateway.write_config(extra=self.random.random() < 0.5, hold=hold)
            ran = self.bed.gateway.ask("reload")
            if ran.returncode != 0:
                self.model.fault(f"reload: {ran.stderr.strip()}")

    def flap(self):
        with self.busy:
            self.disturb()
            self.model.count("flaps")
            interface = self.random.choice(("gi", "go"))
            self.bed.in_gateway("ip", "link", "set", interface, "down")
            time.sleep(self.random.uniform(0.05, 0.5))
            self.bed.in_gateway("ip", "link", "set", interface, "up")
            self.bed.restore_routes()
            self.disturb()

    def flood(self, side=None):
        self.disturb()
        self.model.count("floods")
        self.bed.flood(side or self.random.choice(("inside", "outside")), self.random.randrange(1 << 30))
        self.disturb()

    def fill_the_disk(self):
        self.disturb()
        self.model.count("full_disks")
        with self.bed.full_disk():
            time.sleep(self.random.uniform(0.5, 2))
            if self.random.random() < 0.3:
                self.kill()
        self.disturb()

    def depart(self):
        """A terminal's address goes and comes back."""
        self.disturb()
        self.model.count("departures")
        terminal = self.random.choice([address for address in self.homes if not self.bed.is_first(address)])
        self.bed.address(self.homes[terminal], terminal, "del")
        time.sleep(self.random.uniform(0, 0.5))
        self.bed.address(self.homes[terminal], terminal, "add")
        self.disturb()

    def release(self):
        with self.busy:
            self.disturb()
            pairs = self.model.pairs()
            if not pairs:
                return
            terminal = self.random.choice(sorted(pairs))
            self.model.release(terminal)
            ran = self.bed.gateway.ask("bindings", "release", terminal)
            self.model.release(terminal)
            if ran.returncode == 0:
                self.model.count("releases")
            else:
                self.model.fault(f"release {terminal}: {ran.stderr.strip()}")

    def disturb(self):
        self.disturbed = time.monotonic()

    # --- the run ----------------------------------------------------------------------------------------------

    def run(self):
        self.bed.gateway.write_config(extra=False, hold="24h")
        self.bed.gateway.start()
        self.disturb()
        threads = [threading.Thread(target=self.traffic, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + self.seconds
        self.until(end - self.seconds * 0.3, self.rough, (0.05, 0.9))
        memory = self.steady(end)
        self.over.set()
        for thread in threads:
            thread.join()
        return memory

    def until(self, end, choose, pause):
        while time.monotonic() < end:
            time.sleep(self.random.uniform(*pause))
            choose()

    def rough(self):
        others = (self.reload, self.flap, self.flood, self.fill_the_disk, self.step_the_clock, self.depart, self.release)
        weights = (4, 1, 1, 1, 2, 2, 2)
        if self.random.random() < 0.85:
            self.kill()
        else:
            self.random.choices(others, weights)[0]()

    def steady(self, end):
        """Without kills, so that memory and descriptors of one process can be watched."""
        time.sleep(min(5, (end - time.monotonic()) / 3))
        # What a process takes once, it has then: a second set of tables, and caches as large as they get here.
        for hold in ("5h", "24h"):
            self.reload(hold)
        for side in ("inside", "outside"):
            self.flood(side)
        first = self.bed.gateway.footprint()
        self.until(end - CALM - 1, lambda: self.random.choice((self.reload, self.flood, self.depart, self.release))(),
                   (0.5, 2))
        time.sleep(CALM + 1)
        last = self.bed.gateway.footprint()
        # A table that is filled takes memory; what is bounded may fill up to its bound.
        if last["rss_kib"] > first["rss_kib"] * 1.5 + 16_384:
            self.model.fault(f"memory grew from {first['rss_kib']} to {last['rss_kib']} KiB")
        if last["descriptors"] > first["descriptors"] + 8:
            self.model.fault(f"descriptors grew from {first['descriptors']} to {last['descriptors']}")
        return {"first": first, "last": last}


def main():
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--gap", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--relay", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    root = Path(__file__).resolve().parent.parent.parent
    results = root / "target" / "soak"
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak") as scratch:
        if arguments.relay:
            return relayed.soak(root, Path(scratch), arguments, results)
        if arguments.gap or arguments.latency:
            with Bed(root, Path(scratch), terminals=1) as bed:
                return (gap if arguments.gap else latency).measure(bed, results)
        with Bed(root, Path(scratch), TERMINALS) as bed:
            print(f"soak: {arguments.minutes:g} minutes, seed {arguments.seed}", flush=True)
            soak = Soak(bed, arguments.minutes * 60, arguments.seed)
            try:
                memory = soak.run()
            finally:
                soak.over.set()
            leaks = bed.leaks()
            if leaks:
                soak.model.fault(f"{leaks} packets outside show an inside address")
            return report(soak, memory, leaks, arguments, results)


def report(soak, memory, leaks, arguments, results):
    figures = dict(soak.model.figures)
    figures.update(
        minutes=arguments.minutes, seed=arguments.seed, leaked_packets=leaks,
        ready_ms_median=round(statistics.median(soak.ready_ms)) if soak.ready_ms else None,
        ready_ms_most=round(max(soak.ready_ms)) if soak.ready_ms else None,
        memory=memory, faults=soak.model.faults)
    (results / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
    for key, value in figures.items():
        if key != "faults":
            print(f"{key:24} {value}")
    print(f"soak: {len(soak.model.faults)} faults")
    return 1 if soak.model.faults else 0


if __name__ == "__main__":
    sys.exit(main())
