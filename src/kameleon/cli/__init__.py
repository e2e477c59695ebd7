"""The command line: parse, call, print. Every decision is made elsewhere.

Commands import what needs torch when they run, not before, so that help answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

import cyclopts
from cyclopts import App

from kameleon.cli import adapters, arithmetic, bases, data
from kameleon.cli.chat import chat
from kameleon.cli.console import notes
from kameleon.cli.doctor import doctor
from kameleon.cli.evaluate import evaluate
from kameleon.cli.lab import lab
from kameleon.cli.plan import plan
from kameleon.cli.serve import serve
from kameleon.cli.train import train
from kameleon.errors import KameleonError, RunInterruptedError

__all__ = ["main"]

app = App(
    name="kameleon",
    version=version("kameleon"),
    help="One frozen base model, many small LoRA adapters, on the computer you already own.\n\n"
    "Start with: kameleon base pull smollm2; kameleon data check rows.jsonl; "
    "kameleon train --data rows.jsonl --name mine; kameleon chat --adapter mine; kameleon serve\n\n"
    "Exit status: 0 done, 1 the answer is no (a check failed), 2 an error, 130 interrupted.",
)
app.command(bases.app)
app.command(data.app)
app.command(plan)
app.command(train)
app.command(evaluate, name="eval")
app.command(chat)
app.command(serve)
arithmetic.register(adapters.app)
app.command(adapters.app)
app.command(
    "kameleon.cli.bench:app",
    name="bench",
    help="How fast training and serving are here, beside others, and where the time goes.",
)
app.command(lab)
app.command(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Kameleon's own errors become one line on standard error and exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    path = words[words.index("--config") + 1] if "--config" in words[:-1] else None
    app.config = () if path is None else (cyclopts.config.Toml(path, must_exist=True),)
    try:
        app(words)
    except RunInterruptedError as error:
        notes.print(str(error), style="yellow", markup=False, highlight=False)
        sys.exit(130)
    except KameleonError as error:
        notes.print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        notes.print("interrupted", style="yellow")
        sys.exit(130)
