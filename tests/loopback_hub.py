"""A small model hub on this machine: as much of the hub's HTTP interface as pushing and loading a model needs."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFS = {"branches": "main", "tags": "v1"}
REVISION = "/api/models/org/tiny/revision/"


class _Answers(BaseHTTPRequestHandler):
    """How requests are read and answered."""

    def _json(self, value: Any, status: int = 200) -> None:
        self.send_response(status)
        self._finish(json.dumps(value).encode(), "application/json")

    def _finish(self, content: bytes, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _chunks(self) -> bytes:
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def handler(files: dict[str, bytes], made: list[dict[str, Any]] | None = None) -> type[BaseHTTPRequestHandler]:
    """A request handler over one repository `org/tiny`, whose files by path are in `files`.

    It has the branch main and the tag v1, which are equal. `made`: where requests to make the repository are kept; a
    second one is refused, as the repository is there.
    """
    made = [] if made is None else made

    class Handler(_Answers):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._chunks()
            path, url = urlsplit(self.path).path, f"http://{self.headers['Host']}/org/tiny"
            if path == "/api/repos/create":
                made.append(json.loads(body))
                self._json({"url": url}, 200 if len(made) == 1 else 409)
            elif "/preupload/" in path:
                names = [item["path"] for item in json.loads(body)["files"]]
                modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                self._json({"files": modes})
            elif "/commit/" in path:
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self._json({"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
            else:
                self._json({"errors": [], "warnings": []})

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/api/models/org/tiny/refs":
                refs = {kind: [{"name": name, "ref": name, "targetCommit": COMMIT}] for kind, name in REFS.items()}
                self._json({**refs, "converts": []})
            elif path.startswith(REVISION) and path.removeprefix(REVISION) not in (COMMIT, *REFS.values()):
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
                self._finish(b"{}", "application/json")
            elif path.startswith("/api/models/org/tiny/tree/"):
                self._json([{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in files.items()])
            elif path.startswith("/api/models/org/tiny"):
                names, private = (
                    [{"rfilename": name} for name in files],
                    bool(made) and made[0].get("visibility") == "private",
                )
                self._json({"id": "org/tiny", "sha": COMMIT, "siblings": names, "private": private, "tags": []})
            else:
                self._file(path)

        do_HEAD = do_GET  # noqa: N815

        def _file(self, path: str) -> None:
            content = files.get(path.rsplit("/", 1)[-1])
            if "/resolve/" not in path or content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("ETag", f'"{_etag(content)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self._finish(content, "application/octet-stream")

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
