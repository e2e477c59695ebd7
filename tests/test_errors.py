"""The error for a library that is not there holds a command that works from any folder."""

import shlex
import sys

import pytest

from kameleon import errors


@pytest.mark.parametrize(
    ("has_pip", "begins"), [(True, [sys.executable, "-m", "pip", "install"]), (False, ["uv", "pip", "install"])]
)
def test_the_command_names_this_python_and_needs_no_checkout(monkeypatch, has_pip, begins):
    monkeypatch.setattr(errors, "find_spec", lambda name: has_pip or None)
    told = str(errors.MissingExtraError("serving needs fastapi", "serve"))
    command = shlex.split(told.removeprefix("serving needs fastapi: "))
    assert command[: len(begins)] == begins
    assert sys.executable in command and command[-1] == "kameleon[serve]"


def test_a_path_with_spaces_stays_one_word(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my programs/python")
    assert "/my programs/python" in shlex.split(errors.install_command("plot"))
