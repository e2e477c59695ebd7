"""Shared by `kameleon chat` and `kameleon ask`: their base with its adapter, how they sample, and where answers go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kameleon.cli.console import AnyBase, Compute, Quantize, notes, open_base, results
from kameleon.cli.settings import GivenSampling, sampling_words
from kameleon.errors import DataError, SettingError
from kameleon.settings import Sampling
from kameleon.terminal import printable

if TYPE_CHECKING:
    from kameleon.adapters import Adapter, Shelf
    from kameleon.api import LoadedBase


def _told_default(default: object) -> str | None:
    """A default as help shows it. Left out: values that change nothing, and those that the base decides."""
    return None if default in (None, (), 0, 1) else str(default)


AskedSampling = Annotated[GivenSampling, Parameter(name="*", show_default=_told_default)]


@dataclass(frozen=True)
class Speaker:
    """Who answers."""

    adapter: Annotated[str | None, Parameter(help="Answer with this adapter of the shelf.")] = None
    system: Annotated[
        str | None,
        Parameter(
            help="The system prompt; by default the one that the adapter was trained with. none: what the base's "
            "template puts there."
        ),
    ] = None
    base: Annotated[
        str | None,
        Parameter(
            help="The frozen base: smollm2 or gemma3-270m, a folder, a .gguf file, or a hub id owner/name; by default "
            "that of the adapter, without one smollm2."
        ),
    ] = None
    quantize: Quantize = None
    compute: Compute = None
    any_base: AnyBase = False


AskedSpeaker = Annotated[Speaker, Parameter(name="*")]


def base_of(adapter: Adapter | None, quantize: Quantize) -> tuple[str, Quantize]:
    """The base that `adapter` was trained on, and how it is packed; without an adapter smollm2. Raises SettingError."""
    from kameleon.bases import reference_of

    if adapter is None:
        return "smollm2", quantize
    if adapter.card.base_id is None:
        raise SettingError(f"adapter {adapter.name!r} does not say which base it was trained on: give it as --base")
    ref, packed = reference_of(adapter.card.base_id, adapter.card.base_fingerprint)
    return ref, quantize if packed is None else packed


def open_with(speaker: Speaker, *, raw: bool = False) -> LoadedBase:
    """Load the base of a conversation. An adapter that is absent or does not fit is told before.

    Raises AdapterError, BaseModelError, SettingError, and DataError for a base that has no chat template if not `raw`.
    """
    from kameleon.adapters import Shelf
    from kameleon.unloaded import check_shapes

    name, base, quantize = speaker.adapter, speaker.base, speaker.quantize
    adapter = None if name is None or is_plain(name, Shelf()) else Shelf().load(name)
    if base is None:
        base, quantize = base_of(adapter, quantize)
    if adapter is not None:
        check_shapes(base, adapter)
    loaded = open_base(base, quantize, compute=speaker.compute)
    if loaded.base.template.source is None and not raw:
        raise DataError(
            f"{loaded.base.name} has no chat template, so it cannot hold a conversation; it can go on with a text: "
            'kameleon ask --raw "Once upon a time"'
        )
    return loaded


def is_plain(name: str, shelf: Shelf) -> bool:
    """Whether the name means the plain base: "none" or "base", unless an adapter is called so."""
    return name in ("none", "base") and not shelf.has(name)


def sampling_of(loaded: LoadedBase, given: GivenSampling) -> Sampling:
    """What the base's authors recommend, with the given values in its place; printed."""
    wishes = replace(loaded.base.sampling, **given.given)
    limit = f"at most {wishes.max_tokens:,} tokens an answer (--max-tokens)"
    notes.print(f"sampling: {sampling_words(wishes)}; {limit}", highlight=False)
    return wishes


@contextmanager
def answers() -> Iterator[None]:
    """Inside the block answers are written to standard output. Raises SettingError when that fails (disk full)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        results.on_broken_pipe()  # ends the command as rich does when the reader has gone
    except OSError as error:
        raise SettingError(f"standard output cannot be written: {error}") from error


def write(text: str) -> None:
    """Write a part of an answer at once. In a terminal control codes are shown as escapes; elsewhere the text stays."""
    with answers():
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)


def tell_cut(finish: str | None, sampling: Sampling) -> None:
    """Print a note if the limit of tokens ended an answer."""
    if finish == "length":
        told = f"cut at {sampling.max_tokens:,} tokens or the end of the context (--max-tokens)"
        notes.print(told, style="dim", highlight=False)
