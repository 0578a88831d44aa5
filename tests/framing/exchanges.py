"""The exchanges of the framing proof, and what is known of each: an HTTP/1.1 client that parses answers by itself.

The bytes it has sent and received say where a connection must be between its requests and answers; entryway's
`/v1/connections`, its `conn.close` lines and its counters must say the same.
"""
import json
import socket
import time
import urllib.request

TEXT = b"x" * 3000
# How long entryway may take to show what has passed: its own state, read over HTTP on a busy machine.
SOON = 2.0


class Wrong(Exception):
    pass


class Proxy:
    """The entryway under test, through its admin port and its log."""

    def __init__(self, listen, admin, log):
        self.listen, self.admin, self.log = listen, admin, log
        self.answers = 0  # of all connections whose framing is known

    def read(self, path):
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=5) as answer:
            return answer.read().decode()

    def connection(self, client):
        rows = json.loads(self.read("/v1/connections"))["connections"]
        return next((row for row in rows if row["client"] == client), None)

    def counted(self):
        lines = self.read("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("entryway_answers_total{"))

    def close_line(self, port):
        end = time.monotonic() + SOON
        while time.monotonic() < end:
            for line in open(self.log, encoding="utf-8"):
                if '"conn.close"' in line and json.loads(line).get("client.port") == port:
                    return json.loads(line)
            time.sleep(0.02)
        raise Wrong("no conn.close line")


class Connection:
    """One connection, and what its bytes have been so far."""

    def __init__(self, proxy):
        self.proxy = proxy
        self.socket = socket.create_connection(proxy.listen, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, self.port = self.socket.getsockname()
        self.client = f"{host}:{self.port}"
        self.got = b""
        self.requests = self.answers = 0
        self.is_known = True
        self.checked = 0

    def send(self, data, requests=0):
        self.requests += requests
        self.socket.sendall(data)

    def more(self):
        piece = self.socket.recv(65536)
        self.got += piece
        return bool(piece)

    def take(self, count):
        while len(self.got) < count:
            if not self.more():
                raise Wrong(f"ended after {len(self.got)} of {count} bytes")
        taken, self.got = self.got[:count], self.got[count:]
        return taken

    def line(self):
        while b"\r\n" not in self.got:
            if not self.more():
                raise Wrong("ended inside a line")
        line, self.got = self.got.split(b"\r\n", 1)
        return line

    def head(self):
        """Status, fields and version of the next answer, interim ones included."""
        version, status = self.line().split(b" ")[:2]
        fields = {}
        while line := self.line():
            name, value = line.split(b":", 1)
            fields[name.strip().lower()] = value.strip().lower()
        return int(status), fields, version

    def body(self, method, status, fields, inside=None):
        """The rest of an answer; `inside` is called once its first byte of body is there."""
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif fields.get(b"transfer-encoding") == b"chunked":
            body = b""
            while size := int(self.line().split(b";")[0], 16):
                body += self.take(size)
                # Jetty sends the line end of a chunk with the next one: the pause is before it.
                if inside:
                    inside = inside()
                self.take(2)
            self.line()
        elif b"content-length" in fields:
            length = int(fields[b"content-length"])
            body = self.take(min(1, length))
            if inside:
                inside()
            body += self.take(length - len(body))
        else:
            body = self.take(1)
            if inside:
                inside()
            while self.more():
                pass
            body, self.got = body + self.got, b""
        self.answers += 1
        return body

    def answer(self, method="GET", inside=None):
        status, fields, version = self.head()
        body = self.body(method, status, fields, inside)
        asked = fields.get(b"connection", b"")
        closes = asked == b"close" or version == b"HTTP/1.0" and asked != b"keep-alive"
        return status, body, closes

    def phase(self, wanted):
        """The phase that entryway must show, at once or very soon."""
        end = time.monotonic() + SOON
        while True:
            row = self.proxy.connection(self.client)
            seen = row and row["phase"]
            if seen == wanted:
                self.checked += 1
                return
            if time.monotonic() > end:
                raise Wrong(f"phase is {seen}, not {wanted}")
            time.sleep(0.01)

    def stays(self, wanted, seconds):
        """The phase for a while: a pause must not look like an end."""
        self.phase(wanted)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            row = self.proxy.connection(self.client)
            if not row or row["phase"] != wanted:
                raise Wrong(f"phase became {row and row['phase']}, not {wanted} any more")
            self.checked += 1
            time.sleep(0.05)

    def finish(self):
        """Ends it, and compares what entryway says of it as a whole."""
        self.socket.close()
        line = self.proxy.close_line(self.port)
        if self.is_known:
            if line.get("http.requests") != self.requests:
                raise Wrong(f"http.requests is {line.get('http.requests')}, not {self.requests}")
            if "http.phase" in line:
                raise Wrong(f"http.phase is {line['http.phase']} although nothing was cut")
            self.proxy.answers += self.answers
        return self.checked + 1


def request(method, path, *fields, version="1.1", body=b""):
    lines = [f"{method} {path} HTTP/{version}", "Host: framing.test", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def post(body, *fields):
    return request("POST", "/echo", f"Content-Length: {len(body)}", *fields)


def expect(seen, wanted, what):
    if seen != wanted:
        raise Wrong(f"{what} is {seen!r}, not {wanted!r}")


def ended(connection):
    """The server said that it closes: it must."""
    expect(connection.more(), False, "more bytes after the answer")


# --- The exchanges. Each gets fresh connections from `open`, and says by `finish` that it is through.


def keep_alive(open):
    connection = open()
    connection.phase("idle")
    checked = 0
    asks = [("GET", "/length", 200), ("GET", "/chunked", 200), ("HEAD", "/length", 200), ("GET", "/none", 204),
            ("GET", "/length", 200), ("GET", "/unchanged", 304), ("GET", "/missing", 404), ("GET", "/length", 200)]
    for method, path, wanted in asks:
        connection.send(request(method, path), requests=1)
        status, body, closes = connection.answer(method)
        expect(status, wanted, f"status of {method} {path}")
        if status == 200:
            expect(body, b"" if method == "HEAD" else TEXT, "body")
        if closes:
            ended(connection)
            checked += connection.finish()
            connection = open()
        else:
            connection.phase("idle")
    return checked + connection.finish()


def waiting(open):
    connection = open()
    connection.send(request("GET", "/slow"), requests=1)
    connection.stays("waiting", 0.3)
    expect(connection.answer()[0], 200, "status")
    connection.phase("idle")
    return connection.finish()


def pause_inside(path):
    def pause(open):
        connection = open()
        for _ in range(2):
            connection.send(request("GET", path), requests=1)
            _, body, _ = connection.answer(inside=lambda: connection.stays("answer", 0.3))
            expect(body, TEXT, "body")
            connection.phase("idle")
        return connection.finish()
    return pause


def split_request(open):
    connection = open()
    whole = post(b"0123456789", "Content-Type: text/plain")
    for at in range(1, len(whole), 25):
        connection.send(whole[max(0, at - 25):at])
        connection.phase("request")
    connection.send(whole[at:], requests=1)
    connection.stays("request", 0.2)
    connection.send(b"01234")
    connection.stays("request", 0.2)
    connection.send(b"56789")
    expect(connection.answer()[:2], (200, b"0123456789"), "echo")
    connection.phase("idle")
    return connection.finish()


def chunked_upload(open):
    connection = open()
    connection.send(request("POST", "/echo", "Transfer-Encoding: chunked"), requests=1)
    connection.send(b"5;some=extension\r\n01234\r\n")
    connection.stays("request", 0.2)
    connection.send(b"5\r\n56789\r\n0\r\n\r\n")
    expect(connection.answer()[:2], (200, b"0123456789"), "echo")
    connection.phase("idle")
    return connection.finish()


def hundred_continue(open):
    connection = open()
    connection.send(post(b"0123456789", "Expect: 100-continue"), requests=1)
    expect(connection.head()[0], 100, "interim status")
    connection.stays("request", 0.3)
    connection.send(b"0123456789")
    expect(connection.answer()[:2], (200, b"0123456789"), "echo")
    connection.phase("idle")
    return connection.finish()


def pipelined(open):
    connection = open()
    connection.send(request("GET", "/slow") + request("HEAD", "/length") + request("GET", "/length"), requests=3)
    connection.stays("waiting", 0.3)
    for method in ("GET", "HEAD", "GET"):
        status, body, _ = connection.answer(method)
        expect((status, body), (200, b"" if method == "HEAD" else TEXT), f"pipelined {method}")
    connection.phase("idle")
    return connection.finish()


def old_version(open):
    connection = open()
    connection.send(request("GET", "/length", version="1.0"), requests=1)
    status, body, _ = connection.answer()
    expect((status, body), (200, TEXT), "answer")
    ended(connection)
    checked = connection.finish()
    connection = open()
    connection.send(request("GET", "/length", "Connection: keep-alive", version="1.0"), requests=1)
    status, body, closes = connection.answer()
    expect((status, body), (200, TEXT), "answer")
    if closes:
        ended(connection)
    else:
        connection.phase("idle")
    return checked + connection.finish()


def until_close(open):
    connection = open()
    connection.send(request("GET", "/paused-chunked", version="1.0"), requests=1)
    _, body, _ = connection.answer(inside=lambda: connection.stays("answer", 0.3))
    expect(body, TEXT, "body")
    return connection.finish()


def broken(data):
    """What is no HTTP, or ambiguous, is unknown from there on, whatever the server makes of it."""
    def exchange(open):
        connection = open()
        connection.send(request("GET", "/length"), requests=1)
        expect(connection.answer()[0], 200, "status")
        connection.phase("idle")
        connection.proxy.answers += 1  # before it became unknown
        connection.is_known = False
        connection.socket.sendall(data)
        # The server may end it before anybody can look.
        try:
            connection.phase("unknown")
        except Wrong:
            if connection.proxy.connection(connection.client):
                raise
        return connection.finish()
    return exchange


EXCHANGES = {
    "keep-alive, chunked, HEAD, 204, 304, 404": keep_alive,
    "an answer that is waited for": waiting,
    "a pause inside an answer of known length": pause_inside("/paused"),
    "a pause inside a chunked answer": pause_inside("/paused-chunked"),
    "a request in pieces": split_request,
    "a chunked upload that pauses": chunked_upload,
    "100-continue": hundred_continue,
    "pipelined": pipelined,
    "HTTP/1.0": old_version,
    "HTTP/1.0 until close, with a pause": until_close,
    "garbage": broken(b"\x16\x03\x01\x02\x00garbage\r\n\r\n"),
    "a length that is none": broken(request("POST", "/echo", "Content-Length: +5x")),
}
