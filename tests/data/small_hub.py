"""A hub of one repository over HTTP: what the real client asks for when it takes a snapshot, and no more."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class SmallHub:
    """Serves a folder as a data set with one commit, `main`, as long as the block lasts."""

    def __init__(self, repository, folder, commit):
        self.repository, self.commit = repository, commit
        self.files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        self.sent = []
        """Paths of the files that were sent."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def look_up(self, path):
        """(status, content, headers, name of a file that is sent)."""
        about, resolve = f"/api/datasets/{self.repository}", f"/datasets/{self.repository}/resolve/"
        if path in (about, f"{about}/revision/main", f"{about}/revision/{self.commit}"):
            found = {"id": self.repository, "sha": self.commit, "siblings": [{"rfilename": n} for n in self.files]}
            return 200, json.dumps(found).encode(), {"Content-Type": "application/json"}, ""
        if path.startswith(f"{about}/tree/{self.commit}"):
            found = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": oid(p)} for n, p in self.files.items()
            ]
            return 200, json.dumps(found).encode(), {"Content-Type": "application/json"}, ""
        name = path.removeprefix(resolve).partition("/")[2]
        if path.startswith(resolve) and name in self.files:
            headers = {"ETag": f'"{oid(self.files[name])}"', "X-Repo-Commit": self.commit}
            return 200, self.files[name].read_bytes(), headers, name
        return 404, b"", {"X-Error-Code": "RevisionNotFound"}, ""


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        status, content, headers, name = self.hub.look_up(unquote(urlsplit(self.path).path))
        self.hub.sent += [name] * bool(body and name)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def oid(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()
