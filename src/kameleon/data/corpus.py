"""A file of rows, encoded for one base: what training and evaluation take."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kameleon.data.doctor import Examined, Fault, examine
from kameleon.data.encode import Example, encode_row
from kameleon.data.formats import find_data, read_records
from kameleon.data.rows import Row, with_answer
from kameleon.errors import DataError
from kameleon.model import ChatTemplate

_HELD_OUT_SHARE, _MOST_HELD_OUT = 0.05, 200


@dataclass(frozen=True)
class Origin:
    """Where the examples come from, for the adapter's card."""

    path: str
    sha256: str
    rows: int
    trained_tokens: int
    raw: bool


@dataclass(frozen=True)
class Corpus:
    """Encoded rows. `alternatives[i]` are other right answers to row i, for evaluation."""

    examples: tuple[Example, ...]
    alternatives: tuple[tuple[Example, ...], ...]
    origin: Origin
    doubts: tuple[Fault, ...] = ()
    """What the data doctor reported, short of faults that stop training."""

    def pick(self, places: Sequence[int]) -> Corpus:
        """The rows at these places, as a corpus of its own."""
        examples = tuple(self.examples[i] for i in places)
        origin = replace(self.origin, rows=len(examples), trained_tokens=sum(e.trained_tokens for e in examples))
        return replace(self, examples=examples, alternatives=tuple(self.alternatives[i] for i in places), origin=origin)


def read_corpus(source: str | Path, template: ChatTemplate, raw: bool = False, max_tokens: int = 2048) -> Corpus:
    """Rows of a local file or hub data set, ready for training or evaluation; rows with nothing to learn are left out.

    Raises DataError, naming the rows that cannot be used.
    """
    paths = find_data(source)
    examined = examine(read_records(*paths), template, raw, max_tokens)
    _refuse_fatal(source, examined)
    kept = [(r, e) for r, e in zip(examined.rows, examined.examples, strict=True) if e.trained_tokens]
    if examined.examples and not kept:
        raise DataError(
            f"{source}: none of the {len(examined.examples)} rows has a token to learn: all labels are masked. "
            "`kameleon data check` shows why, token by token"
        )
    if not kept:
        raise DataError(f"{source} holds no rows")
    examples = tuple(example for _, example in kept)
    alternatives = tuple(_alternatives(row, template, raw, max_tokens) for row, _ in kept)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    origin = Origin(str(source), digest.hexdigest(), len(examples), sum(e.trained_tokens for e in examples), raw)
    return Corpus(examples, alternatives, origin, examined.faults)


def _alternatives(row: Row, template: ChatTemplate, raw: bool, max_tokens: int) -> tuple[Example, ...]:
    return tuple(encode_row(with_answer(row, other), template, raw, max_tokens) for other in row.also)


def _refuse_fatal(source: str | Path, examined: Examined) -> None:
    fatal = [fault for fault in examined.faults if fault.fatal]
    if fatal:
        shown = "; ".join(f"row {fault.row}: {fault.reason}" for fault in fatal[:5])
        more = f"; and {len(fatal) - 5} more rows (see `kameleon data check`)" if len(fatal) > 5 else ""
        raise DataError(f"{source}: {shown}{more}")


def split_held_out(corpus: Corpus, seed: int) -> tuple[Corpus, Corpus]:
    """Set a twentieth of the rows (at most 200) aside to watch a run; which ones, the seed decides.

    A conversation that is several rows is on one side with all of them.
    """
    order = list(dict.fromkeys(example.row for example in corpus.examples))
    count = min(_MOST_HELD_OUT, int(len(order) * _HELD_OUT_SHARE))
    random.Random(f"held out/{seed}").shuffle(order)
    aside = set(order[:count])
    places = range(len(corpus.examples))
    return (
        corpus.pick([i for i in places if corpus.examples[i].row not in aside]),
        corpus.pick([i for i in places if corpus.examples[i].row in aside]),
    )
