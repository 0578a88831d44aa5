"""The pages of the framing proof, by Python's http.server. Says its port."""
import http.server
import time

PAUSE = 0.7
TEXT = b"x" * 3000
HALF = TEXT[1500:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def whole(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def halves(self, pause, chunked):
        # Chunks are for 1.1 alone; to 1.0 the end of the connection is the end of the answer.
        old = self.request_version == "HTTP/1.0"
        self.send_response(200)
        if not chunked:
            self.send_header("Content-Length", str(len(TEXT)))
        elif old:
            self.close_connection = True
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        frame = b"%x\r\n%s\r\n" % (len(HALF), HALF) if chunked and not old else HALF
        self.wfile.write(frame)
        self.wfile.flush()
        time.sleep(pause)
        self.wfile.write(frame + (b"0\r\n\r\n" if chunked and not old else b""))

    def empty(self, status):
        self.send_response(status)
        self.end_headers()

    def do_GET(self):
        pages = {
            "/length": lambda: self.whole(TEXT),
            "/slow": lambda: (time.sleep(PAUSE), self.whole(TEXT)),
            "/chunked": lambda: self.halves(0, True),
            "/paused": lambda: self.halves(PAUSE, False),
            "/paused-chunked": lambda: self.halves(PAUSE, True),
            "/none": lambda: self.empty(204),
            "/unchanged": lambda: self.empty(304),
        }
        pages.get(self.path, lambda: self.send_error(404))()

    do_HEAD = do_GET

    def do_POST(self):
        self.whole(self.body())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"PORT={server.server_port}", flush=True)
server.serve_forever()
