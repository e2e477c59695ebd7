"""Speed of training on a packed base, beside PEFT on bitsandbytes' NF4, and beside Kameleon on plain bf16.

    .venv/bin/python benchmarks/giants.py 8B-Q4_K_M-1x512 peft_nf4      (or kameleon_unpacked; or case 1.5B-Q4_0-1x512)
                                          [flags of `kameleon bench train`: --steps 1 …]

One comparison a call: on two cores each takes minutes. Both sides step in turn if they fit in memory together. Adds the
result to benchmarks/giants.json, from which benchmarks/table.py writes the README's table.
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
