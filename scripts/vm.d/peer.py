"""Both ends of the checks' traffic.

  peer.py echo ADDRESS PORT                   TCP and UDP: says by which address it was called, and all that it hears
  peer.py call ADDRESS PORT BYTES             over TCP: prints how the other end saw this one, and has BYTES echoed
  peer.py count ADDRESS PORT RATE             numbered datagrams to an echo until SIGTERM: how many came back, and the longest
                                              silence; "heard N" with each RATE that did
"""

import signal
import socket
import sys
import threading
import time


# Not in Python's list of names (socket(7)).
SO_RCVBUFFORCE = 33


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def datagram_socket(address):
    """One with room for what a gateway holds back while it restarts on a slow machine, and then delivers at once."""
    made = socket.socket(family(address), socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    return made


def echo(address, port):
    tcp = socket.socket(family(address), socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind((address, port))
    tcp.listen(50)
    udp = datagram_socket(address)
    udp.bind((address, port))

    def datagrams():
        while True:
            data, peer = udp.recvfrom(2000)
            udp.sendto(peer[0].encode() + b" " + data, peer)

    def serve(connection, peer):
        connection.sendall((peer[0] + "\n").encode())
        while data := connection.recv(65536):
            connection.sendall(data)
        connection.close()

    threading.Thread(target=datagrams, daemon=True).start()
    while True:
        threading.Thread(target=serve, args=tcp.accept(), daemon=True).start()


def call(address, port, size):
    stream = socket.create_connection((address, port), 10).makefile("rwb")
    print("seen as", stream.readline().decode().strip())
    while size > 0:
        chunk = b"x" * min(size, 16384)
        stream.write(chunk)
        stream.flush()
        if stream.read(len(chunk)) != chunk:
            sys.exit("the echo is another")
        size -= len(chunk)


def count(address, port, rate):
    peer = datagram_socket(address)
    peer.connect((address, port))
    peer.settimeout(0.5)
    heard, errors, silence = set(), [], [time.monotonic(), 0.0]
    enough, ended = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: enough.set())

    def listen():
        while not ended.is_set():
            try:
                data = peer.recv(2000)
            except TimeoutError:
                continue
            except OSError as error:
                errors.append(str(error))
                continue
            now = time.monotonic()
            silence[:] = [now, max(silence[1], now - silence[0])]
            heard.add(int(data.split()[1]))
            if len(heard) % rate == 0:
                print("heard", len(heard), flush=True)

    listener = threading.Thread(target=listen)
    listener.start()
    begin, sent = time.monotonic(), 0
    while not enough.is_set():
        time.sleep(max(0, begin + sent / rate - time.monotonic()))
        try:
            peer.send(b"%d" % sent)
        except OSError as error:
            errors.append(str(error))
        sent += 1
    deadline = time.monotonic() + 15
    while len(heard) < sent and time.monotonic() < deadline:
        time.sleep(0.1)
    ended.set()
    listener.join()
    lost = sorted(set(range(sent)) - heard)
    print(f"sent {sent}, lost {len(lost)} ({lost[:3]} … {lost[-1:]}), longest silence {silence[1]:.2f} s, errors {errors[:3]}")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    what, address, port, *numbers = sys.argv[1:]
    {"echo": echo, "call": call, "count": count}[what](address, int(port), *map(int, numbers))
