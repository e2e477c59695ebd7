"""kameleon serve in a process of its own."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

KAMELEON = Path(sys.executable).with_name("kameleon")
_EXACT = (
    "import torch; from kameleon.cli import main; from kameleon.model import base; "
    "from kameleon.ops import ComputeType; "
    "base.measure_compute_type = lambda: ComputeType(torch.float32, 'fp32: asked for')"
)


class Served:
    """A running server: its address, its process, how much memory it holds."""

    def __init__(self, process):
        self.process = process
        line = process.stdout.readline()
        assert line, "it ended before it was ready"
        self.ready = json.loads(line)
        self.address = self.ready["address"]

    def resident_bytes(self):
        """Memory of the process that belongs to it alone: mapped weights would come and go."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024


@contextmanager
def serving(base, *words, log=subprocess.DEVNULL, exact=False):
    """Serve `base` on a free port until the block ends; `exact` in fp32, whatever this machine multiplies faster in."""
    words = ["serve", "--base", str(base), "--port", "0", "--json", *words]
    command = [sys.executable, "-c", f"{_EXACT}; main({words!r})"] if exact else [KAMELEON, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            yield Served(process)
        finally:
            process.kill()
