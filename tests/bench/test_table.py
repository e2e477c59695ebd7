"""The README's tables say what the results in benchmarks/ say."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "train_vs_peft.json"


def load_table():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load_table()


def test_the_readme_agrees_with_the_result():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split(table.BEGIN)[1].split(table.END)[0].strip("\n")
    assert block == table.table_block(json.loads(RESULT.read_text())), "run .venv/bin/python benchmarks/table.py"


def test_the_readme_agrees_with_the_results_on_giants():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split(table.GIANTS_BEGIN)[1].split(table.END)[0].strip("\n")
    assert block == table.giants_block(*table.giants_results()), "run .venv/bin/python benchmarks/table.py"
    assert all(len(line) <= 120 for line in block.splitlines() if not line.startswith("|"))


def test_the_table_has_a_line_for_each_case_and_words_for_those_that_are_missing(tmp_path):
    document = json.loads(RESULT.read_text())
    case = {**document["cases"]["4x512"], "tokens_per_s": 1234.4, "vs_peft": 1.5, "loss_gap": 2e-5}
    case["loss_gap_to_fp32"] = {"kameleon": 9e-4, "peft": 2e-2}
    case |= {"vs_peft_compiled": None, "vs_trl": None}
    case["stopped"] = {"trl": "its process ended with status -9"}
    document["cases"] = {"chat": case, "7x33": {**case, "vs_peft": None, "stopped": {}}}
    document["skipped"] = {"peft_compiled": "skipped: torch.compile needs a C++ compiler"}
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    (tmp_path / "result.json").write_text(json.dumps(document))
    table.write_table(readme, tmp_path / "result.json")
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert lines[4].startswith("| SmolLM2-135M, chats: 8 × 40–300 | 1,234 | 1.50 | – | – |")
    assert lines[5].startswith("| 7x33 | 1,234 | – |")
    told = " ".join(lines)
    assert "differ by at most 2e-05" in told
    assert "From PEFT's in fp32 they differ by at most so much: Kameleon's by 9e-04, PEFT's by 2e-02." in told
    assert "TRL packed stopped in chat: its process ended with status -9." in told
    assert "PEFT compiled skipped: torch.compile needs a C++ compiler." in told
    assert all(len(line) <= 120 for line in lines if not line.startswith("|"))
