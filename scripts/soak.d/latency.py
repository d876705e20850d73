"""What a binding costs its first packet: new terminals call one after the other, and each once more."""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bed import Bed

ROUNDS = 3
ADDRESSES = [f"10.0.0.{last}" for last in range(50, 250)]
PORT = 9002


def measure(bed: Bed, results):
    terminal = bed.namespace("terminal1")
    for address in ADDRESSES:
        subprocess.run(["ip", "-n", terminal, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
    server = python(bed.namespace("server1"), "answer")
    server.stdout.readline()
    times = {"process": ([], []), "strict": ([], [])}
    try:
        for durability, (first, second) in [pair for _ in range(ROUNDS) for pair in times.items()]:
            # On the disk that `target` is on: the lab's own keeps everything in memory.
            with tempfile.TemporaryDirectory(dir=results) as state:
                bed.gateway.state = Path(state)
                bed.gateway.write_config(extra=False, hold="24h", durability=durability)
                bed.gateway.start()
                told = json.loads(python(terminal, "call").communicate()[0])
                first += told["first"]
                second += told["second"]
                bed.gateway.stop()
    finally:
        server.kill()
        server.wait()
    rows = [{"durability": durability, "new_terminals": len(first), "first_us": quantiles(first), "second_us": quantiles(second)}
            for durability, (first, second) in times.items()]
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "disk": disk(results)}
    (results / "latency.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    for row in rows:
        print(row)
    return 0


def quantiles(times):
    ordered = sorted(times)
    return {name: round(1e6 * ordered[int(share * (len(ordered) - 1))]) for name, share in (("p50", 0.5), ("p99", 0.99))}


def disk(path):
    ran = subprocess.run(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", path], capture_output=True, text=True)
    return ran.stdout.strip()


def python(namespace, what):
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, "python3", __file__, what], stdout=subprocess.PIPE, text=True)


def answer():
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.bind(("0.0.0.0", PORT))
    print("ready", flush=True)
    while True:
        text, peer = own.recvfrom(64)
        own.sendto(text, peer)


def call():
    sockets = []
    for address in ADDRESSES:
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind((address, 0))
        # So that the gateway knows the neighbour before it counts.
        own.sendto(b"", ("10.0.0.1", 9))
        own.settimeout(5)
        sockets.append(own)
    time.sleep(1)
    first = [round_trip(own) for own in sockets]
    second = [round_trip(own) for own in sockets]
    print(json.dumps({"first": first, "second": second}))


def round_trip(own):
    begin = time.perf_counter()
    own.sendto(b"call", (Bed.server_v4, PORT))
    own.recv(64)
    return time.perf_counter() - begin


if __name__ == "__main__":
    {"answer": answer, "call": call}[sys.argv[1]]()
