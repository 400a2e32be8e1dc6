"""An S3 server (moto) as a process of its own, and a proxy before it that counts requests, fails and delays some."""
import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BUCKET = "pictures"
KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass
class S3:
    port: int

    def __post_init__(self) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1",
                                   aws_access_key_id="test-key", aws_secret_access_key="test-secret")

    def upload(self, folder: Path, prefix: str) -> str:
        """→ the URL of what lies there now."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"


@contextlib.contextmanager
def moto():
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "moto ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        server = S3(port)
        server.client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.terminate()
        process.wait()


@dataclass
class Proxy:
    """Passes requests on to a port of this machine. A share of them fails: 500, 503, a cut connection, a cut answer, late."""

    to: int
    failing: float = 0.0
    slow: float = 0.0  # seconds that some of those wait, where nothing else is wrong; 0: they fail
    page: int = 0  # objects that a listing gives at once
    seen: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    failed: int = 0

    def reads(self) -> list[tuple[str, str, str]]:
        return [one for one in self.seen if one[0] == "GET" and "list-type" not in one[1]]


def environment(port: int) -> dict[str, str]:
    return KEYS | {"AWS_ENDPOINT": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}


@contextlib.contextmanager
def serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def proxy(state: Proxy):
    """Yields its port."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            pass

        def do_GET(self) -> None:
            with lock:
                state.seen.append((self.command, self.path, self.headers.get("Range", "")))
                bad = state.failing > 0 and len(state.seen) % round(1 / state.failing) == 0  # every fifth of 0.2
                state.failed += bad
                kind = state.failed % 5 if bad else -1
                kind = 0 if kind == 3 and not state.slow else kind
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if kind in (0, 1):
                self.send_response((500, 503)[kind])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if kind == 2:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if kind == 3:
                time.sleep(state.slow)
            upstream = http.client.HTTPConnection("127.0.0.1", state.to)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            page = f"&max-keys={state.page}" if state.page and "list-type" in self.path else ""
            upstream.request(self.command, self.path + page, body or None, headers)
            answer = upstream.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if kind == 4:
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            self.wfile.write(data)

        do_HEAD = do_PUT = do_POST = do_GET

    with serving(Handler) as port:
        yield port


@contextlib.contextmanager
def http_files(folder: Path, etags: bool = True):
    """The standard library's file server, with ranges. Yields its port."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args) -> None:
            pass

        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            path = Path(self.translate_path(self.path))
            if not wanted or not path.is_file():
                super().do_GET()
                return
            data, start = path.read_bytes(), int(wanted[1])
            part = data[start : int(wanted[2] or len(data)) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Last-Modified", self.date_time_string(int(os.stat(path).st_mtime)))
            self.end_headers()
            self.wfile.write(part)

    with serving(Handler) as port:
        yield port
