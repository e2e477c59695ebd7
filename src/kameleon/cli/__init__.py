"""The command line: parse, call, print. Every decision is made elsewhere.

Commands import modules that need torch when they run, not before, so that help answers at once.
"""

from __future__ import annotations

import logging
import sys
import tomllib
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import cyclopts
from cyclopts import App, Parameter

from kameleon.bug_report import note_error
from kameleon.cli import adapters, arithmetic, bases, data, wrong_words
from kameleon.cli.ask import ask
from kameleon.cli.chat import chat
from kameleon.cli.clean import clean
from kameleon.cli.console import notes, results
from kameleon.cli.doctor import doctor
from kameleon.cli.evaluate import evaluate
from kameleon.cli.export import export
from kameleon.cli.flags import in_flags
from kameleon.cli.lab import lab
from kameleon.cli.plan import plan
from kameleon.cli.serve import serve
from kameleon.cli.settings import zero_to_none, zeros_to_none
from kameleon.cli.train import train
from kameleon.errors import KameleonError, RunInterruptedError, SettingError
from kameleon.home import is_current, read_text, sweep_home
from kameleon.terminal import PrintableRecord

__all__ = ["main"]


def _shown(default: Any) -> str | None:
    """A default as help shows it. None, an empty tuple and a switch that is off are not shown."""
    return None if default is None or default is False or default == () else str(default)


app = App(
    name="kameleon",
    default_parameter=Parameter(negative=(), show_default=_shown),
    version=version("kameleon"),
    help="One frozen base model, many small LoRA adapters, on the computer you already own.\n\n"
    "Start with: kameleon base pull smollm2; kameleon data check rows.jsonl; "
    "kameleon train rows.jsonl --name mine; kameleon chat --adapter mine; kameleon serve\n\n"
    "Exit status: 0 done, 1 the answer is no (a check failed), 2 an error, 130 interrupted.",
)
app.command(bases.app)
app.command(data.app)
app.command(plan)
app.command(train)
app.command(evaluate, name="eval")
app.command(ask)
app.command(chat)
app.command(serve)
arithmetic.register(adapters.app)
adapters.app.command(export)
app.command(adapters.app)
app.command(
    "kameleon.cli.bench:app",
    name="bench",
    help="How fast training and serving are here, beside others, and where the time goes.",
)
app.command(lab)
app.command(doctor)
app.command(clean)


def _config(words: Sequence[str]) -> tuple[cyclopts.config.Dict, ...]:
    """The settings of the TOML file that --config names. Raises SettingError for one that cannot be read."""
    given = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    given += [after for word, after in pairwise(words) if word == "--config"]
    if not given:
        return ()
    path = given[-1]
    try:
        values = tomllib.loads(read_text(Path(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{path} cannot be read: {error}") from error
    outside = ", ".join(values.keys() - {"train"})
    if outside:
        raise SettingError(f"{path} has {outside} outside of its table [train], where all settings go")
    if isinstance(train := values.get("train"), dict):
        values["train"] = {key: zero_to_none(f"--{key}", value) for key, value in train.items()}
    return (cyclopts.config.Dict(values, source=path),)


def _open_home(words: Sequence[str]) -> None:
    """Bring Kameleon's folder to today's format, and delete what killed processes left there; help and the version are
    shown without that."""
    if {"--help", "-h", "--version"} & set(words):
        return
    if not is_current():
        from kameleon.home_format import open_home

        open_home()
    sweep_home()


def _command(words: Sequence[str]) -> str:
    """The command's own words, without anything that a person gave it."""
    group, known = app, []
    for word in words:
        if word.startswith("-") or word not in [*group]:
            break
        known.append(word)
        group = group[word]
    return " ".join(known)


def _tell_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning in one line, without the line of code that gave it."""
    notes.print(f"warning: {in_flags(str(message))}", style="yellow", highlight=False)


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody expected."""
    notes.print("".join(traceback.format_exception(kind, error, trace)), end="", highlight=False)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Kameleon's errors and wrong words become one line on standard error and exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _tell_warning
    sys.excepthook = _tell_crash
    logging.setLogRecordFactory(PrintableRecord)
    if isinstance(sys.stdout, TextIOWrapper):  # a name or a path may hold bytes that are not text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if sys.stdout is None:
            raise SettingError("standard output is closed, where results go; to have none of them give >/dev/null")
        _open_home(words)
        app.config = _config(words)
        app(zeros_to_none(words), exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        notes.print(f"error: {wrong_words.told(error)}", style="red", highlight=False)
        sys.exit(2)
    except RunInterruptedError as error:
        notes.print(in_flags(str(error)), style="yellow", highlight=False)
        sys.exit(130)
    except KameleonError as error:
        note_error(_command(words), error)
        notes.print(f"error: {in_flags(str(error))}", style="red", highlight=False)
        sys.exit(2)
    except BrokenPipeError:
        results.on_broken_pipe()  # ends as rich does when the reader has gone
    except OSError as error:  # a full disk, a folder that cannot be written
        note_error(_command(words), error)
        notes.print(f"error: the system refused: {error}", style="red", highlight=False)
        sys.exit(2)
    except Exception as error:
        note_error(_command(words), error)
        raise
    except KeyboardInterrupt:
        notes.print("interrupted", style="yellow")
        sys.exit(130)
