"""Reads the run log of one request from its Redis stream, as a program outside AstraForge would.

Usage: subscriber.py PORT STREAM LAST. Prints one line an entry, its id and its data, until entry LAST-0 has come.
It knows nothing but the protocol of Redis, reconnects when the server is away, and goes on after the last id it saw.
"""

import socket
import sys
import time


def command(connection, *words):
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        word = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    connection.sendall(b"".join(parts))


def answer(lines):
    line = lines.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    sign, rest = line[:1], line[1:-2]
    if sign in b"+:":
        return rest
    if sign == b"-":
        raise ConnectionError(rest.decode())
    length = int(rest)
    if length < 0:
        return None
    if sign == b"$":
        return lines.read(length + 2)[:-2]
    return [answer(lines) for _ in range(length)]


def main():
    port, stream, last = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    seen = "0-0"
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as lines:
                while True:
                    command(connection, "XREAD", "COUNT", "10", "BLOCK", "1000", "STREAMS", stream, seen)
                    for _, entries in answer(lines) or []:
                        for entry, fields in entries:
                            assert fields[0] == b"data" and len(fields) == 2, fields
                            seen = entry.decode()
                            print(seen, fields[1].decode(), flush=True)
                            if seen == f"{last}-0":
                                return
        except OSError:
            time.sleep(0.02)


main()
