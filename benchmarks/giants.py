"""How fast does Kameleon train on a packed base, beside PEFT on bitsandbytes' NF4, and beside itself on plain bf16?

    .venv/bin/python benchmarks/giants.py 8B-Q4_K_M-1x512 peft_nf4      (or kameleon_unpacked; or case 1.5B-Q4_0-1x512)
                                          [what `kameleon bench train` takes: --steps 1 …]

One comparison a call: on two cores each takes minutes. Both sides step in turn where they fit in memory together. The
result goes to benchmarks/giants.json, where what other calls measured stays; benchmarks/table.py writes the README's
table from it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from kameleon.cli import main as kameleon

HERE = Path(__file__).parent
RESULT = HERE / "giants.json"


def main(case: str, contender: str, options: list[str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        asked = ["--cases", case, "--contenders", contender, "--loss-steps", "0", *options, "--out", file.name]
        with suppress(SystemExit):  # a command ends with it
            kameleon(["bench", "train", *asked])
        measured = json.loads(Path(file.name).read_text())
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kept[f"{case} beside {contender}"] = measured
    RESULT.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
