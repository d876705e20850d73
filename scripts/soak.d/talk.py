"""Conversations whose every byte is checked, in both directions.

talk.py serve PORT                answers for ever
talk.py call THREADS PATH...      talks for ever; PATH is HOST:PORT, or HOST:PORT=NAME by SOCKS5 there; a line of JSON for each

The client says how long its question is, then the question, and closes that direction. The server answers with as many bytes
of another pattern. Whoever hears another byte, or an end in order before the last one, tells a fault.
"""

import json
import os
import random
import socket
import struct
import sys
import threading
import time

BLOCK = 1 << 16
LONGEST = 1 << 21
PATIENCE = 20


def pattern(seed, length):
    """Blocks of bytes that only this seed gives."""
    source = random.Random(seed)
    while length > 0:
        piece = source.randbytes(min(BLOCK, length))
        length -= len(piece)
        yield piece


def read(stream, length):
    """So many bytes; less at an end in order."""
    whole = b""
    while len(whole) < length:
        piece = stream.recv(length - len(whole))
        if not piece:
            break
        whole += piece
    return whole


def hear(stream, seed, length):
    """What is wrong with what is heard; None if nothing is."""
    heard = 0
    for piece in pattern(seed, length):
        said = read(stream, len(piece))
        if said != piece[:len(said)]:
            return f"another byte within {heard} to {heard + len(piece)} of {length}"
        heard += len(said)
        if len(said) < len(piece):
            return f"an end in order after {heard} of {length} bytes"
    return f"bytes after the {length} that there are" if stream.recv(1) else None


def say(stream, seed, length):
    """All of it, and the end."""
    for piece in pattern(seed, length):
        stream.sendall(piece)
    stream.shutdown(socket.SHUT_WR)


def tell(**line):
    """One line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def serve(port):
    """Answers whoever calls."""
    listener = socket.create_server(("0.0.0.0", port), backlog=1024)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream,), daemon=True).start()


def answer(stream):
    """One conversation."""
    stream.settimeout(3 * PATIENCE)
    try:
        with stream:
            head = read(stream, 16)
            if len(head) < 16:
                # Nothing was asked: the relay or the agent has ended meanwhile.
                return
            seed, length = struct.unpack("!QQ", head)
            wrong = hear(stream, seed, length)
            if wrong:
                tell(fault=f"the server heard {wrong}")
                return
            say(stream, seed + 1, length)
    except OSError:
        pass  # the client is told the same


def connect(path):
    """A connection by this path."""
    at, _, name = path.partition("=")
    host, port = at.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), PATIENCE)
    stream.settimeout(PATIENCE)
    if name:
        stream.sendall(b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(name)]) + name.encode() + b"\x00\x07")
        reply = read(stream, 12)
        if len(reply) < 12 or reply[3]:
            stream.close()
            raise ConnectionRefusedError(f"SOCKS5 says {reply[3:4].hex() or 'nothing'}")
    return stream


def talk(paths):
    """Conversations, one after the other."""
    source = random.Random(os.urandom(8))
    while True:
        path, seed = source.choice(paths), source.getrandbits(60)
        length = int(LONGEST ** source.random())
        began = time.monotonic()
        try:
            with connect(path) as stream:
                stream.sendall(struct.pack("!QQ", seed, length))
                reset = []
                saying = threading.Thread(target=quietly, args=(reset, say, stream, seed, length))
                saying.start()
                wrong = hear(stream, seed + 1, length)
                saying.join(PATIENCE)
                if wrong and reset:
                    # The kernel tells of a reset once: to the other direction, this time.
                    raise reset[0]
                if wrong:
                    tell(fault=f"the client heard {wrong} by {path}", began=began)
                else:
                    tell(ok=length, began=began)
        except OSError as error:
            tell(failed=f"{path}: {error}", began=began)
            time.sleep(0.05)


def quietly(errors, work, *arguments):
    """Keeps the error that ends it."""
    try:
        work(*arguments)
    except OSError as error:
        errors.append(error)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
for _ in range(int(sys.argv[2])):
    threading.Thread(target=talk, args=(sys.argv[3:],), daemon=True).start()
threading.Event().wait()
