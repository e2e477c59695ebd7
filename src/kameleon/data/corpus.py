"""A file of rows, encoded for one base: what training and evaluation take."""

from __future__ import annotations

import datetime
import hashlib
import random
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from kameleon.data.doctor import beyond_base, examine
from kameleon.data.encode import Example, encode_records, encode_row, require_trainable
from kameleon.data.faults import Fault, describe_faults
from kameleon.data.formats import describe_empty, read_records, usual_fields
from kameleon.data.memory import Data, RowsInMemory
from kameleon.data.overview import unread_fields
from kameleon.data.records import Record
from kameleon.data.rows import Row, make_row, shared_system_prompt, with_answer, with_system_prompt
from kameleon.data.sources import find_data
from kameleon.errors import DataError
from kameleon.model import DecoderConfig
from kameleon.settings import Reading, Recipe
from kameleon.text import ChatTemplate
from kameleon.words import short_repr

_HELD_OUT_SHARE, _LEAST_HELD_OUT, _MOST_HELD_OUT = 0.05, 16, 200


@dataclass(frozen=True)
class Origin:
    """Where the examples come from, for the adapter's card."""

    path: str
    """The file's name without its folder, or the id of a data set on the hub."""
    sha256: str
    rows: int
    trained_tokens: int
    raw: bool
    of_rows: int | None = None
    """How many rows the file has, where a sample of them was asked for; else None."""
    skipped: int = 0
    """How many rows were left out because a cell is empty, or because they are bad and bad ones are to be skipped."""
    columns: tuple[str | None, str | None] | None = None
    """The columns that were chosen as prompt and completion, where they were."""
    date: str | None = None
    """The day (2026-11-30) that the chat template wrote into the rows, if it writes one."""


@dataclass(frozen=True)
class Corpus:
    """Encoded rows. `alternatives[i]` are other right answers to row i, for evaluation."""

    examples: tuple[Example, ...] = field(repr=False)
    alternatives: tuple[tuple[Example, ...], ...] = field(repr=False)
    origin: Origin
    doubts: tuple[Fault, ...] = field(default=(), repr=False)
    """What the data doctor reported. None of it stops training."""
    system_prompt: str | None = None
    """The system message of every row of the file; None where they differ, or one has none."""
    rows: tuple[Row, ...] = field(default=(), repr=False)
    """The rows that were encoded, so that another system prompt can be put in; () where examples come without rows."""

    __repr__ = short_repr

    def pick(self, places: Sequence[int]) -> Corpus:
        """The rows at these places, as a corpus of its own."""
        examples = tuple(self.examples[i] for i in places)
        origin = replace(self.origin, rows=len(examples), trained_tokens=sum(e.trained_tokens for e in examples))
        alternatives = tuple(self.alternatives[i] for i in places)
        rows = tuple(self.rows[i] for i in places) if self.rows else ()
        return replace(self, examples=examples, alternatives=alternatives, origin=origin, rows=rows)

    def with_system_prompt(self, template: ChatTemplate, system_prompt: str | None) -> Corpus:
        """The corpus with this system prompt in all rows that have none; the corpus itself if no row changes.

        The same tokens are learned, or scored, as before. Raises DataError when the template refuses a system prompt.
        """
        if system_prompt is None or self.origin.raw:
            return self
        template = template.on(None if self.origin.date is None else datetime.date.fromisoformat(self.origin.date))
        rows = tuple(with_system_prompt(row, system_prompt) for row in self.rows)
        if all(row is before for row, before in zip(rows, self.rows, strict=True)):
            return self
        examples = tuple(_again(*pair, template) for pair in zip(rows, self.examples, strict=True))
        alternatives = tuple(
            tuple(
                _again(with_system_prompt(with_answer(row, answer), system_prompt), one, template)
                for answer, one in zip(row.also, others, strict=True)
            )
            for row, others in zip(rows, self.alternatives, strict=True)
        )
        shared = shared_system_prompt(rows)
        return replace(self, examples=examples, alternatives=alternatives, rows=rows, system_prompt=shared)


def _again(row: Row, before: Example, template: ChatTemplate) -> Example:
    """The row encoded again. Its answer is cut where it was cut before, although the prompt has another length."""
    whole = encode_row(row, template, max_tokens=sys.maxsize)
    end = len(whole.tokens) - before.cut_tokens
    return Example(row.number, whole.tokens[:end], whole.trained[:end], before.cut_tokens)


def read_corpus(
    source: Data,
    template: ChatTemplate,
    *,
    raw: bool = False,
    max_tokens: int = 2048,
    rows: int | None = None,
    seed: int = 0,
    reading: Reading | None = None,
) -> Corpus:
    """Rows of a file, of a hub data set or in memory, encoded for training or evaluation.

    Rows with nothing to learn are left out.

    Rows of a table with an empty cell are left out too, and with `reading.skip_bad` all bad ones: a warning names them,
    and another one the fields that are not read.

    With `rows`, only a sample of that size is held and encoded; `seed` decides which rows it has.
    Raises DataError, naming the rows that cannot be used.
    """
    Recipe(max_row_tokens=max_tokens, rows=rows, seed=seed)  # checks their bounds
    reading = Reading() if reading is None else reading
    template = template.on_one_day()
    paths, held = _found(source)
    before = _stamps(paths)
    source = held.name if held else str(source)
    records, of_rows = _records(paths, held, reading), None
    if rows is not None:
        records, of_rows = _reservoir(records, rows, seed)
    encoded = encode_records(records, template, raw=raw, max_tokens=max_tokens, skip_bad=reading.skip_bad)
    _refuse(source, encoded.refused, encoded.skipped, good=len({example.row for example in encoded.examples}))
    if not encoded.examples:
        raise DataError(describe_empty(source, paths))
    try:
        require_trainable(encoded.examples)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    parts = zip(encoded.examples, encoded.alternatives, encoded.rows, strict=True)
    kept = [(example, others, row) for example, others, row in parts if example.trained_tokens]
    examples, alternatives, sources = zip(*kept, strict=True)
    trained_tokens = sum(example.trained_tokens for example in examples)
    sha256 = held.sha256 if held else _sha256(paths)
    if _stamps(paths) != before:  # the hash would be of other rows
        raise DataError(f"{source} was changed while it was read: try again when nothing writes to it any more")
    name = Path(source).name if Path(source).expanduser().is_file() else source  # of rows in memory it is no path
    chosen = (reading.prompt_column, reading.completion_column)
    columns = None if chosen == (None, None) else chosen
    origin = Origin(name, sha256, len(examples), trained_tokens, raw, of_rows, len(encoded.skipped), columns)
    if template.is_dated and template.date is not None:
        origin = replace(origin, date=str(template.date))
    doubts = tuple(fault for fault in examine(encoded) if not fault.skipped)
    prompt = shared_system_prompt(sources)
    if (unread := unread_fields(encoded.unread)) is not None:
        warnings.warn(f"{source}: {unread.text}", stacklevel=2)
    return Corpus(examples, alternatives, origin, doubts, prompt, sources)


def fitting(corpus: Corpus, config: DecoderConfig, *, skip_bad: bool = False) -> Corpus:
    """The corpus, all of whose rows the base can take: none is too long, or has an unknown token.

    Other rows raise DataError, which names them, or are left out with `skip_bad`.
    """
    beyond = beyond_base(chain(corpus.examples, *corpus.alternatives), config)
    bad = {fault.row for fault in beyond}
    good = [place for place, example in enumerate(corpus.examples) if example.row not in bad]
    count = len({corpus.examples[place].row for place in good})
    _refuse(corpus.origin.path, *((), beyond) if skip_bad else (beyond, ()), good=count)
    if not bad:
        return corpus
    fit = corpus.pick(good)
    return replace(fit, origin=replace(fit.origin, skipped=fit.origin.skipped + len(bad)))


def _found(source: Data) -> tuple[tuple[Path, ...], RowsInMemory | None]:
    """The files that hold the rows, or the rows where they are in memory."""
    if isinstance(source, str | Path):
        return find_data(source), None
    return (), RowsInMemory.of(source)


def _records(paths: Sequence[Path], held: RowsInMemory | None, reading: Reading) -> Iterator[Record]:
    if held:
        return usual_fields(held.name, held.records, reading, is_table=held.is_table)
    return read_records(*paths, reading=reading)


def _reservoir(records: Iterable[Record], rows: int, seed: int) -> tuple[list[Record], int]:
    """`rows` of the records, in their order, each with the same chance; and how many records there are.

    Reservoir sampling (Vitter, 1985, algorithm R): only the records chosen so far are held.
    """
    chosen: list[Record] = []
    chance, seen = random.Random(f"rows/{seed}"), 0
    for seen, record in enumerate(records, start=1):
        if len(chosen) < rows:
            chosen.append(record)
        elif (place := chance.randrange(seen)) < rows:
            chosen[place] = record
    return sorted(chosen, key=lambda record: record.number), seen


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """For each file numbers that change when it is written or replaced. Raises DataError if one cannot be read."""
    try:
        return [(found.st_ino, found.st_size, found.st_mtime_ns) for found in map(Path.stat, paths)]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error}") from error


def _sha256(paths: Sequence[Path]) -> str:
    """The hash of the content of all files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_records_of(source: Data, reading: Reading | None = None) -> list[Record]:
    """All records of a file, of a hub data set or in memory; one that cannot be read has a fault.

    Raises DataError where there are none.
    """
    paths, held = _found(source)
    records = list(_records(paths, held, Reading() if reading is None else reading))
    if not records:
        raise DataError(describe_empty(str(source), paths))
    return records


def read_rows(source: Data, reading: Reading | None = None) -> list[Row]:
    """Rows of a file, of a hub data set or in memory, not encoded. Raises DataError, naming the rows at fault."""
    reading = Reading() if reading is None else reading
    rows: list[Row] = []
    refused: list[Fault] = []
    skipped: list[Fault] = []
    paths, held = _found(source)
    source = held.name if held else str(source)
    for record in _records(paths, held, reading):
        try:
            rows.append(make_row(record))
        except DataError as error:
            faults = skipped if reading.skip_bad or record.empty else refused
            faults.append(Fault(record.number, str(error), fatal=faults is refused))
    _refuse(source, refused, skipped, good=len(rows))
    if not rows:
        raise DataError(describe_empty(source, paths))
    return rows


def _refuse(source: str, refused: Sequence[Fault], skipped: Sequence[Fault], *, good: int) -> None:
    """Raise DataError for refused rows, and when all are skipped; else warn of those that are."""
    if refused:
        how = "; to go on without bad rows: `reading=Reading(skip_bad=True)`" if good else ""
        raise DataError(f"{source}: {describe_faults(refused)}{how}")
    if skipped and not good:
        raise DataError(f"{source}: no row is left. {describe_faults(skipped)}")
    if skipped:
        count = len({fault.row for fault in skipped})
        told = f"{count:,} of {good + count:,} rows are left out"
        warnings.warn(f"{source}: {told}. {describe_faults(skipped)}", stacklevel=3)


def split_held_out(corpus: Corpus, seed: int) -> tuple[Corpus, Corpus]:
    """The rows to learn from, and a twentieth of the distinct rows (at most 200) to watch the run with.

    `seed` decides which ones. If these would be fewer than 16, there are none: they would be too few to choose an
    adapter by, and learning them is worth more. Equal rows stay together, and so do the rows of one conversation. A row
    whose copies would be more than a twentieth of the file is always learned.
    """
    groups = _equal_rows(corpus)
    count = min(_MOST_HELD_OUT, int(len(groups) * _HELD_OUT_SHARE))
    if count < _LEAST_HELD_OUT:
        return corpus, corpus.pick(())
    random.Random(f"held out/{seed}").shuffle(groups)
    most = max(count, int(len(corpus.examples) * _HELD_OUT_SHARE))
    aside: list[int] = []
    for group in groups:
        if count and len(aside) + len(group) <= most:
            aside += group
            count -= 1
    held = set(aside)
    return corpus.pick([i for i in range(len(corpus.examples)) if i not in held]), corpus.pick(sorted(held))


def _equal_rows(corpus: Corpus) -> list[list[int]]:
    """Places of the examples in groups: all those of one row of the file and of its equals, in the file's order."""
    rows: dict[int, list[int]] = {}
    for place, example in enumerate(corpus.examples):
        rows.setdefault(example.row, []).append(place)
    equal: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for places in rows.values():
        equal.setdefault(tuple(corpus.examples[place].tokens for place in places), []).extend(places)
    return list(equal.values())
