"""The commands as a person or a script meets them: real files, real exit codes, JSON alone on standard output."""

import importlib.metadata
import os
import subprocess
import sys
import warnings

import pytest
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.errors import SettingError


def test_a_warning_is_one_line_without_the_line_of_code(on_tiny, rows, monkeypatch):
    def warned(*_, **__):
        warnings.warn("the base is tired", stacklevel=1)
        raise SettingError("enough seen")

    monkeypatch.setattr("kameleon.api.load", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        err = on_tiny("eval", rows)[2]
    assert err.split("\n", 1)[0] == "warning: the base is tired"
    assert "warnings.warn" not in err


def test_an_error_is_one_line_on_standard_error_and_status_2(on_tiny, rows):
    status, out, err = on_tiny("train", "--data", rows, "--name", "count", "--rank", "0")
    assert (status, out) == (2, "")
    assert err.strip().endswith("error: rank is 0; it must be from 1 to 4096")
    status, out, err = on_tiny("chat", "--adapter", "cout")
    assert status == 2
    assert "no adapter 'cout' on the shelf" in err
    status, _, err = on_tiny("base", "show", "smolm2", base=False)
    assert status == 2
    assert "did you mean 'smollm2'?" in err.replace("\n", " ")


@pytest.mark.parametrize("words", [["nosuch"], ["train", "--nosuch", "3"], ["train", "--rank", "x"], ["train"]])
def test_wrong_words_are_told_on_standard_error_with_status_2(on_tiny, words):
    status, out, err = on_tiny(*words, base=False)
    assert (status, out) == (2, "")
    assert err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], 'error: unknown command "trian". Did you mean "train"?'),
        (["trian"], "chat, serve, ...; kameleon --help"),
        (["train", "--name", "x"], "error: kameleon train needs DATA: Rows to learn from"),
        (["train", "rows.jsonl"], "error: kameleon train needs --name: The adapter's name on the shelf"),
        (["train", "rows.jsonl", "--nme", "x"], "(did you mean --name instead of --nme?)"),
        (["train", "rows.jsonl", "--name", "x", "--rank", "y"], 'unable to convert "y" into a whole number'),
        (["train", "rows.jsonl", "more.jsonl", "--name", "x"], "does not know what to do with more.jsonl"),
        (["adapter", "shwo"], 'Did you mean "show"?'),
    ],
)
def test_a_mistake_in_the_words_is_one_line_that_says_where_help_is(run, words, told):
    status, out, err = run(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err and " --help shows what can be given" in err


@pytest.mark.parametrize("words", [["train", "--name", "x", "--data"], ["data", "check"]])
def test_rows_that_are_not_there_are_told_before_a_base_is_loaded(on_tiny, tmp_path, words):
    status, _, err = on_tiny(*words, tmp_path / "absent.jsonl", "--base", tmp_path / "no-base", base=False)
    assert status == 2
    assert "error: there is no file" in err


@pytest.mark.parametrize("words", [("train", "--data", "rows.jsonl"), ("adapter", "extract", "tuned")])
def test_a_name_that_is_taken_is_told_before_a_base_is_loaded(on_tiny, tiny, rows, tmp_path, monkeypatch, words):
    Shelf().save(random_adapter(tiny.base, "count"))
    monkeypatch.chdir(tmp_path)
    status, out, err = on_tiny(*words, "--name", "count", "--base", "no-base", base=False)
    assert (status, out) == (2, "")
    assert err.startswith(
        "error: adapter 'count' is on the shelf already; pick another name, or replace it with --overwrite"
    )
    assert err.count("\n") == 1


def test_help_teaches_every_setting(on_tiny):
    status, out, _ = on_tiny("train", "--help", base=False)
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    assert "Width of the side path. 16 has room for what some thousand rows teach" in text
    assert "kameleon train law.jsonl --name law" in text


@pytest.mark.parametrize("command", ["train", "plan", "serve", "chat", "eval"])
def test_help_shows_each_switch_once(on_tiny, command):
    out = on_tiny(command, "--help", base=False)[1]
    assert not any(word in out for word in ("--no-", "--empty-", "[default: False]", "[default: ()]"))


HELP = """
import contextlib, os, sys
from kameleon.cli import app
commands = "", "train", "eval", "chat", "data check", "base list", "adapter list", "lab", "doctor"
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    for command in commands:
        with contextlib.suppress(SystemExit):
            app([*command.split(), "--help"])
print(sorted({"torch", "transformers", "huggingface_hub", "numpy"} & sys.modules.keys()))
"""


PRINTING = """
from kameleon.cli import app, main
from kameleon.cli.console import show


@app.command(name="print")
def say(*, json: bool = False):
    show(["a"], "a", as_json=json)


main()
"""
"""A command that prints a result as all do, without the seconds in which torch is imported."""


@pytest.mark.parametrize("form", ["", "--json"])
def test_a_reader_that_has_gone_ends_a_command_without_a_traceback(form):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PRINTING, "print", *form.split()]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("form", ["", "--json"])
@pytest.mark.parametrize(
    ("where", "told"),
    [
        (">/dev/full", "error: standard output cannot be written: [Errno 28] No space left on device"),
        (">&-", "error: standard output is closed, where results go; to have none of them give >/dev/null"),
    ],
)
def test_a_result_that_cannot_be_written_is_one_line_and_status_2(form, where, told):
    command = f'{sys.executable} -c "$PRINTING" print {form} {where}'
    ended = subprocess.run(
        command, shell=True, stderr=subprocess.PIPE, text=True, env={**os.environ, "PRINTING": PRINTING}
    )
    assert (ended.returncode, ended.stderr.splitlines()) == (2, [told])


def test_help_answers_without_importing_torch():
    """In a process of its own, since this one has it already. Only `bench` computes its help."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_what_needs_torch_is_found_in_the_package_when_asked_for():
    import kameleon

    assert all(hasattr(kameleon, name) for name in kameleon.__all__)
    with pytest.raises(AttributeError, match="'kameleon' has no attribute 'lode'"):
        kameleon.lode  # noqa: B018


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied", "x")]
)
def test_what_the_system_refuses_anywhere_is_one_line(on_tiny, monkeypatch, error):
    def refused(*_, **__):
        raise error

    monkeypatch.setattr("kameleon.adapters.Shelf.entries", refused)
    status, out, err = on_tiny("adapter", "list", base=False)
    assert (status, out, err) == (2, "", f"error: the system refused: {error}\n")


def test_python_dash_m_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "kameleon", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == importlib.metadata.version("kameleon")
