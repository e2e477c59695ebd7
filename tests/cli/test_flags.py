"""Messages speak Python, and a command line shows them with its own flags and commands."""

import ast
import re
from pathlib import Path

import pytest

import kameleon
from kameleon.cli.flags import in_flags

SOURCE = Path(kameleon.__file__).parent
COMMAND = re.compile(r"\bkameleon (base|data|train|plan|eval|chat|serve|adapter|bench|doctor)\b")
OF_THE_COMMAND_LINE = ("cli", "http", "bench")
NEXT_COMMANDS = "next_steps.py"  # what to type after an export, in other programs too


@pytest.mark.parametrize(
    ("python", "command_line"),
    [
        ("`resume=True` goes on", "--resume goes on"),
        ("`any_base=True` allows it", "--any-base allows it"),
        ("give `held_out=FILE`", "give --held-out FILE"),
        ("go on with `dtype=torch.bfloat16`", "go on with --compute bf16"),
        ("`recipe=Recipe(epochs=3)` is more", "--epochs 3 is more"),
        ("`reading=Reading(prompt_column=A, completion_column=B)`", "--prompt-column A --completion-column B"),
        ("`prompt_column=` is there twice", "--prompt-column is there twice"),
        ("`from_adapter='law'`", "--from law"),
        ("`kind='BF16'` or `kind=KIND`", "--unpacked or --requantise KIND"),
        ("`base.check(rows)` shows why", "`kameleon data check` shows why"),
        ("`Shelf().rollback('law', version)`", "`kameleon adapter rollback law VERSION`"),
        ("rows with `text`, a = 3, `pip install x`", "rows with `text`, a = 3, `pip install x`"),
    ],
)
def test_a_keyword_becomes_a_flag_and_a_call_a_command(python, command_line):
    assert in_flags(python) == command_line


def test_no_message_of_the_package_names_a_flag_or_a_command():
    wrong = []
    for path in SOURCE.rglob("*.py"):
        if path.relative_to(SOURCE).parts[0] in OF_THE_COMMAND_LINE:
            continue
        if path.name == NEXT_COMMANDS:
            continue
        tree = ast.parse(path.read_text())
        explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
                text = node.value
                flag = re.search(r"(?<![\w-])--[a-z]", text) and not re.fullmatch(r"--[\w-]+(=\S*)?", text)
                if "pip install" not in text and (flag or COMMAND.search(text)):
                    wrong.append((path.name, text))
    assert wrong == []
