"""A web server of a folder on this machine that can do all that goes wrong with a download."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

BLOCK = 16384


@dataclass
class Fault:
    """What happens to one request."""

    state: int = 0  # answered with this HTTP state
    headers: dict[str, str] = field(default_factory=dict)
    stop_after: int | None = None  # bytes of the body, after which the connection is closed
    stall_after: int | None = None  # bytes, after which nothing comes any more
    ignore_range: bool = False
    corrupt: bool = False  # one bit of the last byte
    endless: bool = False  # the content again and again, until the other side has gone
    length: str | None = None  # told as Content-Length; empty: none is


@dataclass
class ShardServer:
    """Files of `folder` at `url`; `faults` are used up by requests, `requests` tells what was asked for."""

    folder: Path
    url: str = ""
    rate: float | None = None  # bytes a second of one connection
    faults: dict[str, list[Fault]] = field(default_factory=dict)  # by name of the file
    requests: list[tuple[str, int, str]] = field(default_factory=list)  # name, first byte, Authorization
    sent: int = 0  # bytes of bodies
    ended: threading.Event = field(default_factory=threading.Event)

    def asked(self, name: str) -> list[int]:
        """The first byte of each request for a file."""
        return [start for asked, start, _ in self.requests if asked == name]


@contextmanager
def serve(folder: Path, rate: float | None = None) -> Iterator[ShardServer]:
    """A server until the block ends."""
    server = ShardServer(folder, rate=rate)
    web = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    web.daemon_threads = False
    server.url = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        web.shutdown()
        web.server_close()
        thread.join()


def _handler(server: ShardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(urlsplit(self.path).path).lstrip("/")
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked else 0
            server.requests.append((name, start, self.headers.get("Authorization", "")))
            faults = server.faults.get(name)
            fault = faults.pop(0) if faults else Fault()
            path = server.folder / name
            if fault.state or not path.is_file():
                self._refuse(fault)
                return
            content = path.read_bytes()
            if fault.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            if start >= len(content) and start:
                self._refuse(Fault(416))
                return
            if fault.ignore_range:
                start = 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            length = str(len(content) - start) if fault.length is None else fault.length
            if length:
                self.send_header("Content-Length", length)
            self.end_headers()
            self._send(content[start:], fault)
            while fault.endless and not server.ended.is_set() and self._send(content, Fault()):
                pass

        def _refuse(self, fault: Fault) -> None:
            self.send_response(fault.state or 404)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, body: bytes, fault: Fault) -> bool:
            stop = min(len(body) if limit is None else limit for limit in (None, fault.stop_after, fault.stall_after))
            begin = time.monotonic()
            try:
                for sent in range(0, stop, BLOCK):
                    block = body[sent : min(sent + BLOCK, stop)]
                    self.wfile.write(block)
                    server.sent += len(block)
                    if server.rate and server.ended.wait(
                        max(begin + (sent + len(block)) / server.rate - time.monotonic(), 0)
                    ):
                        return False
                if fault.stall_after is not None:
                    server.ended.wait()
                return True
            except OSError:  # the other side has gone
                return False

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
