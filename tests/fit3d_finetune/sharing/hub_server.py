"""As much of the Hugging Face hub as uploading a folder speaks to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """A server in a thread; what it was sent stands in its attributes."""

    def __init__(self, token: str = "good") -> None:
        self.token = token
        self.created: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        """Files of each commit, by name."""
        self.refuse_commits = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and JSON for a POST."""
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            repo = f"{self.created[-1]['organization']}/{self.created[-1]['name']}"
            return 200, {"url": f"{self.endpoint}/{repo}", "name": repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            return 200, {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return 200, {
                "transfer": "basic",
                "objects": [
                    {**each, "actions": {"upload": {"href": f"{self.endpoint}/lfs/{each['oid']}"}}} for each in objects
                ],
            }
        if path.endswith("/commit/main"):
            if self.refuse_commits:
                return 400, {"error": "the storage is full"}
            self.commits.append(self._files(body))
            return 200, {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.endpoint}/x/y/commit/{'a' * 40}"}
        return 404, {"error": f"no {path} here"}

    def _files(self, body: bytes) -> dict[str, bytes]:
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        return files

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (self is the handler's)
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self._send(401, {"error": "Invalid credentials in Authorization header"})
                    return
                self._send(*hub.answer(self.path.partition("?")[0], body))

            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.blobs[hashlib.sha256(body).hexdigest()] = body
                self._send(200, {})

            def _send(self, status: int, content: dict[str, Any]) -> None:
                payload = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
