"""A Hub on this machine: repositories in memory behind the addresses that huggingface_hub asks."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USER, TOKEN = "ada", "hf_test"


@dataclass
class FakeHub:
    """What was uploaded.

    Attributes:
        repositories: ``user/name`` to paths and their bytes.
        commits: Messages of the commits.
        pages: Texts whose metadata the client asked to have checked.
        endpoint: Address of the server.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    endpoint: str = ""

    def commit_of(self, name: str) -> str:
        """The current commit of a repository: a hash of what it holds."""
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        """Answer requests inside the block."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            if urlsplit(self.path).path == "/api/whoami-v2":
                self._checked(lambda: {"type": "user", "name": USER})
            else:
                self._file(body=True)

        def do_POST(self) -> None:
            given = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
            if not given and self.headers.get("Transfer-Encoding") == "chunked":
                given = self._chunks()
            parts = urlsplit(self.path).path.strip("/").split("/")
            self._checked(lambda: self._post(parts, given))

        def _post(self, parts: list[str], given: bytes) -> dict[str, Any]:
            if parts == ["api", "repos", "create"]:
                asked = json.loads(given)
                name = f"{asked.get('organization') or USER}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                return {"url": f"{hub.endpoint}/{name}", "name": name}
            if parts == ["api", "validate-yaml"]:
                hub.pages.append(json.loads(given)["content"])
                return {}
            if parts[4] == "preupload":
                files = json.loads(given)["files"]
                return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            name = "/".join(parts[2:4])
            for line in map(json.loads, given.splitlines()):
                if line["key"] == "header":
                    hub.commits.append(line["value"]["summary"])
                else:
                    hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = hub.commit_of(name)
            return {"commitUrl": f"{hub.endpoint}/{name}/commit/{commit}", "commitOid": commit}

        def _chunks(self) -> bytes:
            read = b""
            while size := int(self.rfile.readline(), 16):
                read += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return read

        def _checked(self, answer: Any) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(401, b'{"error": "Invalid credentials"}')
            else:
                self._send(200, json.dumps(answer()).encode())

        def _file(self, *, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            name = "/".join(parts[:2])
            if len(parts) < 5 or parts[2] != "resolve" or name not in hub.repositories:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
                return
            commit = hub.commit_of(name)
            data = hub.repositories[name].get("/".join(parts[4:]))
            if parts[3] not in ("main", commit):
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
            elif data is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, body=body)
            else:
                facts = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
                self._send(200, data, facts, body=body)

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool = True) -> None:
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    return Handler
