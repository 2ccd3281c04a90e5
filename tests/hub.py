"""A hub of our own: the few calls of huggingface_hub that make a repository and commit files to it, over real HTTP.

No library offers one. What arrives is kept as the client sent it; files come inside the commit, as small files do.
"""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by (kind, name): {"private": bool, "files": {path: bytes}}."""

    def __init__(self):
        self.repositories = {}
        self.tokens = set()
        self.paths = []
        """Of all requests."""
        self.address = ""
        self.key = ""
        """A token that every request must bear; empty takes any."""

    def create(self, said):
        owner = said.get("organization") or "me"
        where = (said.get("type", "model"), f"{owner}/{said['name'].rpartition('/')[2]}")
        url = self.url(where)
        if where in self.repositories:
            return 409, {"error": "You already created this repo", "url": url}
        private = said.get("private") or said.get("visibility") == "private"
        self.repositories[where] = {"private": bool(private), "files": {}}
        return 200, {"url": url, "name": where[1]}

    def url(self, where):
        return f"{self.address}/{'datasets/' if where[0] == 'dataset' else ''}{where[1]}"

    def commit(self, where, lines):
        for line in lines:
            if line["key"] == "file":
                self.repositories[where]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.url(where)}/commit/{'1' * 40}", "commitOid": "1" * 40}

    def answer(self, method, path, body):
        """(status, JSON) of a request."""
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        _, _, kind, owner, name, *rest = path.partition("?")[0].split("/")
        where = (kind.removesuffix("s"), f"{owner}/{name}")
        if where not in self.repositories:
            return 404, {"error": "Repository not found"}
        if rest[:1] == ["preupload"]:
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": file["path"], **plain} for file in json.loads(body)["files"]]}
        if rest[:1] == ["commit"]:
            return self.commit(where, [json.loads(line) for line in body.splitlines()])
        found = self.repositories[where]
        return 200, {"id": where[1], "private": found["private"], "sha": "0" * 40, "siblings": [], "tags": []}


@contextmanager
def serving():
    """A hub at `hub.address`, for as long as the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.paths.append(self.path)
            token = self.headers.get("Authorization", "")
            hub.tokens.add(token)
            if hub.key and token != f"Bearer {hub.key}":
                status, said = 401, {"error": "Invalid username or password."}
            else:
                status, said = hub.answer(self.command, self.path, body)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
