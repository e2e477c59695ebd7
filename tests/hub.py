"""A small hub in this process, and copies in a hub's cache."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
}


UNWANTED = {
    "pytorch_model.bin": b"a pickle that nobody wants",
    "consolidated.safetensors": b"the same weights once more, in no index",
    "original/params.json": b"{}",
    "original/tokenizer.model": b"the same tokenizer",
    "onnx/model.safetensors": b"another program's",
}


HELD = {**FILES, **UNWANTED}


NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


def snapshot(cache, hub_id, files):
    folder = cache / f"models--{hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    kept = folder / "snapshots" / REVISION
    kept.mkdir(parents=True)
    for name, content in files.items():
        (kept / name).write_bytes(content)
    return kept


class Answering(BaseHTTPRequestHandler):
    """Answers of a server of tests; HEAD is GET without content. A subclass has `do_GET`."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def json(self, value):
        return self.answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def answer(self, content, status=200, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


class Hub(Answering):
    """As much of the hub's interface as a download of a model needs."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("/hotel"):
            return self.answer(b"<html>pay here</html>", 200)
        if "/gated/" in path:
            return self.answer(b"{}", 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "ask first"})
        if "/broken/" in path:
            return self.answer(b"{}", 400)
        owner_and_name = "owner/bare" if "owner/bare" in path else "owner/name"
        files = {k: v for k, v in HELD.items() if owner_and_name == "owner/name" or k != "config.json"}
        api = f"/api/models/{owner_and_name}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in files]
            return self.json({"id": owner_and_name, "sha": REVISION, "siblings": siblings})
        if path == f"{api}/tree/{REVISION}":
            return self.json([{"type": "file", "path": k, "size": len(v), "oid": oid(v)} for k, v in files.items()])
        if path.startswith(f"{api}/revision/"):
            return self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        prefix = f"/{owner_and_name}/resolve/{REVISION}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            content = files[path.removeprefix(prefix)]
            return self.answer(content, 200, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": REVISION})
        return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})


def oid(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
