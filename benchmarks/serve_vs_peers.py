"""Speed of serving mixes of adapters over HTTP, beside PEFT and the servers that are installed here, in one run.

    .venv/bin/python benchmarks/serve_vs_peers.py [flags of `kameleon bench serve`: --contenders peft --rounds 3 …]

Writes the result, with versions and machine, to benchmarks/serve_vs_peers.json, and from it the README's table.
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
