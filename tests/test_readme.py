"""What the README shows is run, on a tiny base instead of the real one."""

import json
import re
from pathlib import Path

from kameleon.adapters.formats import read_adapter

README = Path(__file__).parents[1] / "README.md"


def test_the_quick_start_runs_and_has_at_most_ten_lines(tiny_folder, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('"smollm2"', repr(str(tiny_folder))), "README.md", "exec"), {})
    assert len(read_adapter("exported").modules) == 21
    assert capsys.readouterr().out.count("\n") >= 2


def test_every_command_that_the_readme_names_exists():
    from kameleon.cli import app

    block = re.search(r"## Commands\n\n(.*?)\n\n", README.read_text(), re.DOTALL)
    assert block
    for line in block[1].splitlines():
        _, command, *rest = line.split()
        assert command in app, command
        if rest and "|" in rest[0]:
            for name in rest[0].split("|"):
                assert name in app[command], f"{command} {name}"


def test_every_test_that_the_tests_readme_names_exists():
    folder, named = Path(__file__).parent, 0
    for row in (folder / "README.md").read_text().splitlines():
        file = ""
        for words in re.findall(r"`([^`]*::[^`]*)`", row):
            given, _, name = words.partition("::")
            file, named = given or file, named + 1
            assert f"def {name}(" in (folder / file).read_text(), f"{file} has no {name}"
    assert named > 40
