"""kameleon serve in a process of its own."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

KAMELEON = Path(sys.executable).with_name("kameleon")


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
def serving(base, *words, port=0, log=subprocess.DEVNULL, exact=False):
    """Serve `base` on a port (0: a free one) until the block ends; `exact` in fp32, also where this machine has other
    units."""
    command = [KAMELEON, "serve", "--base", str(base), "--port", str(port), "--json", *words]
    command += ["--compute", "fp32"] if exact else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            yield Served(process)
        finally:
            process.kill()
