"""What the demo prints, from the report of a whole run."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_has_a_line_for_each_adapter_in_80_columns(monkeypatch, capsys):
    demo = ROOT / "examples" / "demo"
    monkeypatch.syspath_prepend(demo)
    monkeypatch.setenv("COLUMNS", "80")
    report = json.loads((ROOT / "benchmarks" / "demo_report.json").read_text())
    runpy.run_path(str(demo / "run.py"))["print_report"](report)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["adapter", "base", "law", "medicine", "code", "polish"]
    assert "0.720 · 0.23" in lines[2]
