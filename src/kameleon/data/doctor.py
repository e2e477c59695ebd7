"""The data doctor: every row read, encoded and judged before any time is spent on training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from kameleon.data.encode import Example, encode_row
from kameleon.data.formats import Record
from kameleon.data.rows import Row, answers_apart, kinds, make_row, with_answer
from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text import ChatTemplate
from kameleon.words import first_few


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row. A fatal one stops training; another row is only reported, and left out if empty of
    trained tokens."""

    row: int
    reason: str
    fatal: bool


def by_reason(faults: Iterable[Fault]) -> list[tuple[str, Fault]]:
    """A line for each reason: the numbers of its rows ("1, 2, 3 and 57 more") and its first fault, fatal ones first.

    A column with a wrong name is the fault of every row, and is told once.
    """
    groups: dict[tuple[bool, str], list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: not fault.fatal):
        groups.setdefault((fault.fatal, fault.reason), []).append(fault)
    return [(first_few((str(fault.row) for fault in group), 3), group[0]) for group in groups.values()]


@dataclass(frozen=True)
class Examined:
    """All rows of a file, after encoding. `rows`, `examples` and `alternatives` (the row's other right answers) match;
    rows with a fatal fault are in none of them.

    Where the base's template rewrites earlier turns, a conversation is one row for each of its answers, all with its
    number; `split` counts such conversations. `mixed` counts the records that hold several kinds of row, by those
    kinds: the first was taken.
    """

    rows: tuple[Row, ...]
    examples: tuple[Example, ...]
    alternatives: tuple[tuple[Example, ...], ...]
    faults: tuple[Fault, ...]
    split: int = 0
    mixed: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(e.tokens) for e in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens of all examples that are learned."""
        return sum(e.trained_tokens for e in self.examples)

    def to_json(self) -> dict[str, object]:
        """For `kameleon data check --json`."""
        return {
            "rows": len(self.rows),
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "row_tokens": self.row_tokens(),
            "split": self.split,
            "mixed": [{"taken": k[0], "left": list(k[1:]), "rows": count} for k, count in self.mixed.items()],
            "faults": [{"row": f.row, "reason": f.reason, "fatal": f.fatal} for f in self.faults],
        }

    def row_tokens(self) -> dict[str, int]:
        """The shortest, middle, 90th-percentile and longest row, in tokens."""
        lengths = sorted(len(e.tokens) for e in self.examples) or [0]
        places = {"shortest": 0.0, "median": 0.5, "p90": 0.9, "longest": 1.0}
        return {name: lengths[round(share * (len(lengths) - 1))] for name, share in places.items()}


def examine(
    records: Iterable[Record],
    template: ChatTemplate,
    raw: bool = False,
    max_tokens: int = 2048,
    test_rows: Sequence[Row] = (),
) -> Examined:
    """Read and encode every record, naming each bad row with its number and reason.

    Fatal: what cannot be read, an unknown role or kind of row, an empty answer. Reported: an answer that is cut or has
    no trained token, a duplicate, a row that also stands in the test set.
    """
    rows: list[Row] = []
    examples: list[Example] = []
    alternatives: list[tuple[Example, ...]] = []
    faults: list[Fault] = []
    mixed: Counter[tuple[str, ...]] = Counter()
    split = 0
    for record in records:
        mixed[tuple(kinds(record))] += 1
        try:
            parts = _encode(make_row(record), template, raw, max_tokens)
            others = [tuple(_alternatives(row, template, raw, max_tokens)) for row, _ in parts]
        except DataError as error:
            faults.append(Fault(record.number, str(error), fatal=True))
            continue
        split += len(parts) > 1
        alternatives += others
        for row, example in parts:
            rows.append(row)
            examples.append(example)
            faults += [Fault(row.number, reason, fatal=False) for reason in _doubts(example)]
    faults += _repeats(rows, test_rows)
    faults.sort(key=lambda fault: fault.row)
    several = {held: count for held, count in mixed.items() if len(held) > 1}
    return Examined(tuple(rows), tuple(examples), tuple(alternatives), tuple(faults), split, several)


def _encode(row: Row, template: ChatTemplate, raw: bool, max_tokens: int) -> list[tuple[Row, Example]]:
    """The row as one example; or, where the template rewrites earlier turns, each answer as it is at generation."""
    try:
        return [(row, encode_row(row, template, raw, max_tokens))]
    except RewrittenTurnsError:
        return [(one, encode_row(one, template, raw, max_tokens)) for one in answers_apart(row)]


def _alternatives(row: Row, template: ChatTemplate, raw: bool, max_tokens: int) -> Iterator[Example]:
    return (encode_row(with_answer(row, other), template, raw, max_tokens) for other in row.also)


def _doubts(example: Example) -> Iterator[str]:
    if not example.trained_tokens:
        yield "all masked: none of its tokens would be learned" + (
            " (the prompt fills it)" if example.cut_tokens else ""
        )
    elif example.cut_tokens:
        yield f"truncated: its last {example.cut_tokens} tokens do not fit, so its answer has no end"


def _repeats(rows: Sequence[Row], test_rows: Sequence[Row]) -> Iterator[Fault]:
    in_test = {_content(row): row.number for row in test_rows}
    first: dict[str, int] = {}
    for row in rows:
        content = _content(row)
        if content in in_test:
            yield Fault(row.number, f"also stands in the test set (row {in_test[content]})", fatal=False)
        if content in first:
            yield Fault(row.number, f"duplicate of row {first[content]}", fatal=False)
        first.setdefault(content, row.number)


def _content(row: Row) -> str:
    return json.dumps([row.messages, row.tools, row.text], sort_keys=True, default=str)


def require_trainable(examples: Sequence[Example]) -> None:
    """Raise DataError unless at least one token would be learned."""
    if not any(example.trained_tokens for example in examples):
        raise DataError(
            f"none of the {len(examples)} rows has a token to learn: all labels are masked. "
            "`kameleon data check` shows why, token by token"
        )


def colour_mask(example: Example, template: ChatTemplate) -> Text:
    """The row's tokens, the trained ones in bold green before a heavy bar, the others grey before a thin one."""
    shown = Text()
    for token, trained in zip(example.tokens, example.trained, strict=True):
        piece = str(template.tokenizer.decode([token])).replace("\n", "⏎\n")
        shown.append(piece, style="bold green" if trained else "bright_black")
        shown.append("┃" if trained else "│", style="dim")
    return shown
