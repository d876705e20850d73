"""Sends nonsense for a second: flood.py inside|outside SEED. Only to addresses of this lab."""

import random
import socket
import struct
import sys
import time

side, dice = sys.argv[1], random.Random(int(sys.argv[2]))
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
router = {"inside": "10.0.0.1", "outside": "203.0.113.1"}[side]


def neighbour():
    """The hardware address of the gateway."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.sendto(b"", (router, 9))
    for _ in range(100):
        for line in open("/proc/net/arp"):
            fields = line.split()
            if fields[0] == router and fields[3] != "00:00:00:00:00:00":
                return bytes.fromhex(fields[3].replace(":", ""))
        time.sleep(0.01)
    sys.exit("no gateway")


def packet():
    pool = bytes((198, 18, 1, dice.randrange(256)))
    strange = bytes((192, 0, 2, dice.randrange(256)))
    if side == "inside":
        source = dice.choice((strange, pool, bytes((10, 0, 0, 11)), bytes((203, 0, 113, 11))))
        destination = dice.choice((pool, bytes((203, 0, 113, 11))))
    else:
        source = dice.choice((strange, pool, bytes((203, 0, 113, 11))))
        destination = pool
    payload = dice.randbytes(dice.randrange(120))
    header = struct.pack(
        "!BBHHHBBH4s4s", dice.choice((0x45, 0x45, 0x45, 0x46, 0x4f)), 0, 20 + len(payload), dice.randrange(65536),
        dice.choice((0, 0, 0x2000, 0x1234)), dice.choice((1, 64)), dice.choice((1, 6, 17, 17, 47, 50, 132, 200)), 0,
        source, destination)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xffff) + (total >> 16)
    return header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + header[12:] + payload


to = ("eth0", 0x0800, 0, 0, neighbour())
packets = [packet() for _ in range(500)]
end = time.monotonic() + 1
while time.monotonic() < end:
    for nonsense in packets:
        try:
            link.sendto(nonsense, to)
        except OSError:
            pass
