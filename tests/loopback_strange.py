"""A hub on this machine that answers as hubs, portals and broken lines do: one repository for each way."""

import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

import tests.loopback_hub as loopback

OTHER = "fedcba9876543210fedcba9876543210fedcba98"
GATED = "Access to model org/gated is restricted and you are not in the authorized list"
WAITS = 30.0
"""Seconds that a stalling answer would take; the test ends it before."""


def strange(files: dict[str, bytes], over: threading.Event) -> type[BaseHTTPRequestHandler]:
    """A request handler over repositories `org/KIND`; all others are as `loopback_hub` has them.

    Args:
        files: The files of all that have some.
        over: Ends answers that stall.
    """
    plain: Any = loopback.handler(files)

    class Handler(plain):  # type: ignore[misc]
        def do_GET(self) -> None:  # noqa: N802 - the name of the base class
            kind = urlsplit(self.path).path.removeprefix("/api/models").split("/")[2]
            listing = "/api/" in self.path
            answer = getattr(self, f"_{kind.replace('-', '_')}", None)
            if answer is None or not answer(listing):
                self.path = self.path.replace(f"org/{kind}", "org/tiny")
                super().do_GET()

        do_HEAD = do_GET  # noqa: N815

        def _portal(self, _: bool) -> bool:
            self.send_response(200)
            self._finish(b"<html>Please log in</html>", "text/html")
            return True

        def _gated(self, _: bool) -> bool:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", GATED)
            self._finish(b"{}", "application/json")
            return True

        def _empty(self, listing: bool) -> bool:
            return self._list([]) if listing else False

        def _outside(self, listing: bool) -> bool:
            return self._list([*files, "../evil.json", "/evil.json", "sub/evil.json"]) if listing else False

        def _odd(self, listing: bool) -> bool:
            return self._list([*files], "../..") if listing else False

        def _moved(self, listing: bool) -> bool:
            return self._list([*files], OTHER) if listing else False

        def _lost(self, listing: bool) -> bool:
            return self._list([*files, "gone.json"]) if listing else False

        def _stalls(self, _: bool) -> bool:
            over.wait(WAITS)
            return True

        def _stalls_later(self, listing: bool) -> bool:
            return False if listing else self._stalls(listing)

        def _numbers(self, _: bool) -> bool:
            self._json([1, 2, 3])
            return True

        def _list(self, names: list[str], commit: str = loopback.COMMIT) -> bool:
            names_of = [{"rfilename": name} for name in names]
            body = json.dumps({"id": "org/x", "sha": commit, "siblings": names_of, "private": False, "tags": []})
            self.send_response(200)
            self._finish(body.encode(), "application/json")
            return True

    return Handler
