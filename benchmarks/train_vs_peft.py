"""Speed of training beside PEFT, PEFT compiled, TRL and the bare multiplications, in one run.

    .venv/bin/python benchmarks/train_vs_peft.py [flags of `kameleon bench train`: --cases 4x512 --compute fp32 …]

Writes the result, with versions and machine, to benchmarks/train_vs_peft.json, and from it the README's table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from table import write_table

from kameleon.cli import main

HERE = Path(__file__).parent
RESULT = HERE / "train_vs_peft.json"

if __name__ == "__main__":
    try:
        main(["bench", "train", *sys.argv[1:], "--out", str(RESULT)])
    finally:  # a command ends with sys.exit
        write_table(HERE.parent / "README.md", RESULT)
