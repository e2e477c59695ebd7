"""kameleon bench: training speed beside others, and where the time of a step goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Group
from rich.text import Text

from kameleon.bench import CASES, CONTENDERS, BenchSettings, Event, find_cases, losses_agree, profile_steps, run_bench
from kameleon.cli.bench_serve import serve
from kameleon.cli.console import BaseRef, Json, megabytes, notes, progress, show, table, write_document
from kameleon.errors import SettingError

app = App(name="bench", help="How fast training and serving are here, beside others, and where the time goes.")
app.command(serve)
# Packed cases write bases of gigabytes, and one of their steps takes minutes: they run only if named.
_SMALL_CASES = ",".join(name for name, case in CASES.items() if not case.packed)
_ALL_CONTENDERS = ",".join(CONTENDERS)
Cases = Annotated[str, Parameter(help=f"What to measure: {', '.join(CASES)}, or ROWSxTOKENS; separated by commas.")]
Settings = Annotated[BenchSettings, Parameter(name="*")]


@app.command
def train(
    *,
    cases: Cases = _SMALL_CASES,
    contenders: Annotated[str, Parameter(help="Who takes part, by commas; Kameleon always does.")] = _ALL_CONTENDERS,
    base: BaseRef = "smollm2",
    settings: Settings = BenchSettings(),  # noqa: B008 (frozen)
    out: Annotated[Path | None, Parameter(help="Write the JSON document here too, after each case.")] = None,
    json: Json = False,
) -> None:
    """Train beside PEFT, PEFT + torch.compile, TRL and the bare multiplications: same model, tokens, rank and type.

    Each side has a process of its own, and they step in turn; those that do not fit in memory together are measured in
    groups, Kameleon in each. The losses of Kameleon and PEFT are compared first, on small steps. The rows of `chat`
    have 40 to 300 tokens: Kameleon and TRL pack them, PEFT pads them, and only real tokens count.

    Exit status 0, or 1 when the losses do not agree.

    Try: kameleon bench train --cases 4x512,chat --contenders kameleon,peft
    """

    def write(document: dict[str, Any]) -> None:
        if out is not None:
            write_document(document, out)

    with _watching() as on_event:
        document = run_bench(find_cases(cases, base), contenders, settings, on_event=on_event, on_case=write)
    show(document, _picture(document), as_json=json)
    if not losses_agree(document):
        sys.exit(1)


@app.command
def profile(
    *,
    case: Annotated[str, Parameter(help=f"The size of a step: {', '.join(CASES)}, or ROWSxTOKENS.")] = "4x512",
    base: BaseRef = "smollm2",
    settings: Settings = BenchSettings(steps=2),  # noqa: B008 (frozen)
    json: Json = False,
) -> None:
    """Show where the time of a Kameleon step goes, by operator, forward and backward.

    Try: kameleon bench profile --case 1x2048
    """
    found, *more = find_cases(case, base)
    if more:
        raise SettingError(f"case is {case!r}; one is profiled at a time")
    with notes.status(f"profiling {settings.steps} steps of {found.name}"):
        document = profile_steps(found, settings)
    shown = table("operator", ">share", ">forward ms", ">backward ms", ">of which products ms")
    for one in document["operators"]:
        times = (f"{one[key] * 1000:,.1f}" for key in ("forward_s", "backward_s", "products_s"))
        shown.add_row(one["operator"], f"{one['share']:.1%}", *times)
    shown.caption = f"a step of {document['step_s']:.2f} s, profiled; {document['compute']}"
    shown.caption_justify = "left"
    show(document, shown, as_json=json)


@contextmanager
def _watching() -> Iterator[Callable[[Event], None]]:
    """On a terminal a bar for each case; elsewhere a line for each step, so that a log shows progress."""
    if not notes.is_terminal:
        yield _tell_line
        return
    with progress() as bars:
        tasks: dict[str, Any] = {}

        def on_event(event: Event) -> None:
            if event.case not in tasks:
                tasks[event.case] = bars.add_task(event.case, total=event.total)
            one = CONTENDERS.get(event.contender)  # None for PEFT in fp32, which is run for its losses only
            told = f"{event.case}: {one.title if one else event.contender}, {event.what}"
            bars.update(tasks[event.case], completed=event.done, description=told)

        yield on_event


def _tell_line(event: Event) -> None:
    told = f"{event.case} {event.contender} {event.what}"
    if event.seconds:
        notes.print(f"{told}: {event.seconds:.2f} s ({event.done} of {event.total})", highlight=False)
    elif event.what == "loading":
        notes.print(told, highlight=False)


def _picture(document: dict[str, Any]) -> Group:
    """The table for a person, and notes below it."""
    shown = table("case", "", ">tokens/s", ">Kameleon is", ">peak memory")
    said = [f"{name}: {words}" for name, words in document["skipped"].items()]
    for name, case in document["cases"].items():
        for contender, numbers in case["contenders"].items():
            told = "" if contender == "kameleon" else f"{numbers['kameleon_is']:.2f} ×"
            first, title = ("" if told else name), CONTENDERS[contender].title
            shown.add_row(first, title, f"{numbers['tokens_per_s']:,.0f}", told, megabytes(numbers["peak_bytes"]))
        said += [f"{name}: {contender} stopped: {words}" for contender, words in case["stopped"].items()]
        if case["loss_gap"] is not None:
            loss = case["loss"]
            word = "agree" if case["loss_gap"] <= loss["limit"] else "DO NOT AGREE"
            size = f"{loss['steps']} steps of {loss['rows']} rows of up to {loss['tokens']} tokens"
            said.append(f"{name}: losses {word}: gap {case['loss_gap']:.1e}, at most {loss['limit']:.0e} ({size})")
        wide = {who: gap for who, gap in case["loss_gap_to_fp32"].items() if gap is not None}
        if wide:
            parts = ", ".join(f"{CONTENDERS[who].title} {gap:.1e}" for who, gap in wide.items())
            said.append(f"{name}: gap to the losses of PEFT in fp32: {parts}")
    said.append(f"{document['dtype']}: {document['compute']}; {document['threads']} threads")
    return Group(shown, Text("\n".join(said)))
