"""What a restart costs: 10,000 packets a second from a terminal to a server while the gateway restarts."""

import array
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time

from bed import KAMEI, Bed

RATE = 10_000
ROUNDS = 5
SECONDS = 3
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; Python does not name it


class Store:
    """What systemd does for a service with FileDescriptorStoreMax=."""

    def __init__(self, path):
        self.path, self.kept = path, {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            text, descriptors, _, _ = socket.recv_fds(self.socket, 4096, 8)
            lines = dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line)
            if descriptors:
                self.kept[lines.get("FDNAME", "stored")] = descriptors[0]
            if lines.get("FDSTOREREMOVE") == "1" and lines.get("FDNAME") in self.kept:
                os.close(self.kept.pop(lines["FDNAME"]))

    def start(self, gateway, home, arguments):
        kept = sorted(self.kept.items())
        numbers = [descriptor for _, descriptor in kept]

        def hand_over():
            # Out of the way first: a number that one has may be the number that another gets.
            high = [os.dup2(number, 200 + place) for place, number in enumerate(numbers)]
            for place, number in enumerate(high):
                os.dup2(number, 3 + place)
                os.close(number)

        environment = {
            **os.environ, "NOTIFY_SOCKET": str(self.path), "LISTEN_FDS": str(len(kept)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in kept)}
        # The shell knows its own number, and hands it on with itself.
        line = 'LISTEN_PID=$$ exec "$@"'
        gateway.process = subprocess.Popen(
            ["nsenter", "--target", str(home.pid), "--mount", "--net", "--", "sh", "-c", line, "sh", KAMEI, "gateway", "--config",
             str(gateway.config), "--on-stop", "leave", *arguments],
            stdin=subprocess.DEVNULL, stdout=gateway.log, stderr=gateway.log, env=environment, close_fds=False,
            preexec_fn=hand_over)
        gateway.wait_until_ready()


def measure(bed: Bed, results):
    bed.gateway.write_config(extra=False, hold="24h")
    # A BPF file system as every systemd host has it, in the gateway's namespace: what is pinned there stays.
    home = subprocess.Popen(
        ["ip", "netns", "exec", bed.gateway.namespace, "sh", "-c",
         "mount -t bpf bpf /sys/fs/bpf && echo ready && exec sleep 3600"],
        stdout=subprocess.PIPE, text=True)
    home.stdout.readline()
    try:
        return measure_at(home, bed, results)
    finally:
        home.kill()
        home.wait()


def measure_at(home, bed, results):
    lines = []
    for path in ("off", "tc"):
        for how in ("restart", "kill -9"):
            store = Store(bed.scratch / f"notify-{path}-{how[:4]}")
            arguments = ["--fast-path", path]
            store.start(bed.gateway, home, arguments)
            rounds = [one(bed, home, store, arguments, how) for _ in range(ROUNDS)]
            bed.gateway.stop()
            bed.gateway.ask("cleanup")
            lines.append({
                "fast_path": path, "how": how, "sent": sum(r["sent"] for r in rounds),
                "lost": [r["lost"] for r in rounds],
                "silence_ms_median": round(statistics.median(r["silence_ms"] for r in rounds), 1),
                "silence_ms_most": round(max(r["silence_ms"] for r in rounds), 1)})
            print(lines[-1], flush=True)
            for descriptor in store.kept.values():
                os.close(descriptor)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "packets_a_second": RATE}
    (results / "gap.json").write_text(json.dumps({"machine": machine, "rows": lines}, indent=2) + "\n")
    return 0


def one(bed, home, store, arguments, how):
    script = __file__
    receiver = subprocess.Popen(
        ["ip", "netns", "exec", bed.namespace("server1"), "python3", script, "receive"],
        stdout=subprocess.PIPE, text=True)
    receiver.stdout.readline()
    sender = subprocess.Popen(
        ["ip", "netns", "exec", bed.namespace("terminal1"), "python3", script, "send"], stdout=subprocess.PIPE, text=True)
    time.sleep(SECONDS / 3)
    if how == "restart":
        bed.gateway.process.terminate()
        bed.gateway.process.wait()
    else:
        bed.gateway.kill()
    store.start(bed.gateway, home, arguments)
    sent = int(sender.communicate()[0])
    told = json.loads(receiver.communicate()[0])
    return {"sent": sent, "lost": sent - told["received"], "silence_ms": told["silence_ms"]}


def send():
    to = (Bed.server_v4, 9001)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    begin, number = time.perf_counter(), 0
    while number < RATE * SECONDS:
        due = int((time.perf_counter() - begin) * RATE)
        while number < due:
            out.sendto(number.to_bytes(4, "big"), to)
            number += 1
        time.sleep(0.0002)
    print(number)


def receive():
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    heard.bind(("0.0.0.0", 9001))
    print("ready", flush=True)
    heard.settimeout(SECONDS + 10)
    times, seen = array.array("d"), set()
    try:
        while True:
            seen.add(heard.recv(16))
            times.append(time.perf_counter())
            heard.settimeout(3)
    except TimeoutError:
        pass
    silence = max((b - a for a, b in zip(times, times[1:])), default=0)
    print(json.dumps({"received": len(seen), "silence_ms": silence * 1000}))


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]]()
