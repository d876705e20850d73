"""One host of the soak: answers calls, and makes calls as it is told on standard input.

An answer is "NAME CALLER\n" and then the bytes that came, so that the caller knows whom it reached and as whom.
"""

import json
import socket
import sys
import threading

PORT = 9000


def read_exactly(stream, length):
    parts = bytearray()
    while len(parts) < length:
        part = stream.recv(min(65536, length - len(parts)))
        if not part:
            raise ConnectionError("the other end closed")
        parts += part
    return bytes(parts)


def read_line(stream):
    line = bytearray()
    while not line.endswith(b"\n"):
        line += read_exactly(stream, 1)
    return line.decode().strip()


def answer(name, stream, caller):
    try:
        with stream:
            stream.settimeout(20)
            length = int(read_line(stream))
            stream.sendall(f"{name} {caller}\n".encode())
            left = length
            while left:
                part = stream.recv(min(65536, left))
                if not part:
                    return
                stream.sendall(part)
                left -= len(part)
    except (OSError, ValueError):
        pass  # the caller notices


def serve(name, family, any_address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((any_address, PORT))
    listener.listen(512)
    while True:
        stream, caller = listener.accept()
        # The local address says which of the terminals here was reached.
        own = stream.getsockname()[0]
        threading.Thread(target=answer, args=(own, stream, caller[0]), daemon=True).start()


def call(source, to, length, seed, patience):
    """Whom the call reached, and as whom; raises if the bytes differ or nobody answers."""
    data = (seed.to_bytes(8, "big") * (length // 8 + 1))[:length]
    with socket.create_connection((to, PORT), timeout=patience, source_address=(source, 0) if source else None) as stream:
        stream.sendall(f"{length}\n".encode())
        reached, seen = read_line(stream).split()
        sender = threading.Thread(target=send, args=(stream, data), daemon=True)
        sender.start()
        if read_exactly(stream, length) != data:
            raise ValueError("the bytes differ")
        sender.join()
        return reached, seen


def send(stream, data):
    try:
        stream.sendall(data)
    except OSError:
        pass  # the reader notices


def obey(order):
    result = {"id": order["id"]}
    try:
        reached, seen = call(order.get("source"), order["to"], order["length"], order["id"], order["patience"])
        result.update(ok=True, reached=reached, seen=seen)
    except (OSError, ValueError) as error:
        result.update(ok=False, error=f"{type(error).__name__}: {error}", differs=isinstance(error, ValueError))
    with lock:
        print(json.dumps(result), flush=True)


lock = threading.Lock()
for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    threading.Thread(target=serve, args=(sys.argv[1], family, any_address), daemon=True).start()
for line in sys.stdin:
    threading.Thread(target=obey, args=(json.loads(line),), daemon=True).start()
