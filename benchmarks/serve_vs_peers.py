"""How fast does Kameleon serve mixes of adapters over HTTP, beside PEFT and the servers that are here, in one run?

    .venv/bin/python benchmarks/serve_vs_peers.py [what `kameleon bench serve` takes: --contenders peft --rounds 3 …]

The result, with versions and machine, goes to benchmarks/serve_vs_peers.json; the README's table is written from it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from serve_table import write_table

from kameleon.cli import main

HERE = Path(__file__).parent
RESULT = HERE / "serve_vs_peers.json"

if __name__ == "__main__":
    try:
        main(["bench", "serve", *sys.argv[1:], "--out", str(RESULT)])
    finally:  # a command ends with sys.exit
        write_table(HERE.parent / "README.md", RESULT)
