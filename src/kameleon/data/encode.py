"""Rows to tokens, each marked as trained or not; a row that cannot be encoded is refused with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kameleon.data.faults import Fault
from kameleon.data.records import Record
from kameleon.data.rows import Row, answers_apart, kinds, make_row, unread_fields, with_answer
from kameleon.errors import DataError, RewrittenTurnsError
from kameleon.text import ChatTemplate
from kameleon.words import short_repr

# All rows share one `int` object for each token of the vocabulary: one for each place would take 28 bytes.
_TOKENS: dict[int, int] = {}


@dataclass(frozen=True)
class Example:
    """One row as tokens. `trained[i]` says whether token i is learned; `row` is its number in the file."""

    row: int
    tokens: tuple[int, ...]
    trained: tuple[bool, ...]
    cut_tokens: int = 0
    """Tokens that were cut off at the end, if there are trained ones among them; else 0."""

    @property
    def trained_tokens(self) -> int:
        """How many tokens are learned. The first token of all is not, since nothing precedes it."""
        return sum(self.trained[1:])


@dataclass(frozen=True)
class Encoded:
    """All records of a file after encoding. `rows`, `examples` and `alternatives` match, place by place."""

    rows: tuple[Row, ...] = ()
    examples: tuple[Example, ...] = ()
    alternatives: tuple[tuple[Example, ...], ...] = ()
    """For each row its other right answers, encoded."""
    refused: tuple[Fault, ...] = ()
    """Fatal faults: the records that could not be read or encoded, which are in none of the above."""
    skipped: tuple[Fault, ...] = ()
    """Faults of the rows that are left out: those with an empty cell of a table; with `skip_bad` all bad ones."""
    split: int = 0
    """Conversations that became several rows, one for each answer, because the template rewrites earlier turns. All of
    these rows have the number of their conversation."""
    mixed: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    """How many records hold several kinds of row, by those kinds. The first kind was taken."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """How many records hold a field that is not read, by its name ("messages[].FIELD" for a field of messages)."""

    __repr__ = short_repr

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(e.tokens) for e in self.examples)

    @property
    def trained_tokens(self) -> int:
        """Tokens of all examples that are learned."""
        return sum(e.trained_tokens for e in self.examples)

    def row_tokens(self) -> dict[str, int]:
        """The shortest, middle, 90th-percentile and longest row, in tokens."""
        lengths = sorted(len(e.tokens) for e in self.examples) or [0]
        places = {"shortest": 0.0, "median": 0.5, "p90": 0.9, "longest": 1.0}
        return {name: lengths[round(share * (len(lengths) - 1))] for name, share in places.items()}


def encode_row(row: Row, template: ChatTemplate, *, raw: bool = False, max_tokens: int = 2048) -> Example:
    """The row through the base's chat template: the assistant's tokens, and the one that ends its turn, are learned.

    With `raw`, prompt and completion stand as they are: the completion and the end token are learned. All of a plain
    text is learned. Tokens behind the first `max_tokens` are cut off. Raises DataError.
    """
    if row.text is not None:
        tokens = template.ended(template.encode_whole(row.text))
        trained = tuple(at >= len(template.opening) for at in range(len(tokens)))
    elif raw:
        if row.prompt is None or row.completion is None:
            raise DataError("`raw=True` needs prompt and completion as text alone; these are messages")
        prompt = template.encode_whole(row.prompt)
        answer = template.ended(template.encode_after(row.prompt, row.completion))
        tokens, trained = (*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer)
    else:
        tokens, trained = template.encode_conversation(row.messages, row.tools, learned=row.learned)
    cut = len(tokens) - max_tokens if any(trained[max_tokens:]) else 0
    kept = tuple(_TOKENS.setdefault(token, token) for token in tokens[:max_tokens])
    return Example(row.number, kept, trained[:max_tokens], cut)


def encode_records(
    records: Iterable[Record],
    template: ChatTemplate,
    *,
    raw: bool = False,
    max_tokens: int = 2048,
    skip_bad: bool = False,
) -> Encoded:
    """Every record as an example, or refused: it cannot be read, has an unknown role or kind, or an empty answer.

    With `skip_bad` the latter are skipped, as rows of a table with an empty cell always are.
    """
    rows: list[Row] = []
    examples: list[Example] = []
    alternatives: list[tuple[Example, ...]] = []
    refused: list[Fault] = []
    skipped: list[Fault] = []
    mixed: Counter[tuple[str, ...]] = Counter()
    unread: Counter[str] = Counter()
    split = 0
    for record in records:
        mixed[tuple(kinds(record))] += 1
        try:
            parts = _encode(make_row(record), template, raw=raw, max_tokens=max_tokens)
            others = [tuple(_alternatives(row, template, raw=raw, max_tokens=max_tokens)) for row, _ in parts]
        except DataError as error:
            is_left_out = skip_bad or record.empty
            fault = Fault(record.number, str(error), fatal=not is_left_out, skipped=is_left_out)
            (skipped if is_left_out else refused).append(fault)
            continue
        unread.update(unread_fields(record))
        split += len(parts) > 1
        alternatives += others
        for row, example in parts:
            rows.append(row)
            examples.append(example)
    several = {held: count for held, count in mixed.items() if len(held) > 1}
    faults = tuple(refused), tuple(skipped)
    return Encoded(tuple(rows), tuple(examples), tuple(alternatives), *faults, split, several, unread)


def _encode(row: Row, template: ChatTemplate, *, raw: bool, max_tokens: int) -> list[tuple[Row, Example]]:
    """The row as one example; or, where the template rewrites earlier turns, one for each answer, as in generation."""
    try:
        return [(row, encode_row(row, template, raw=raw, max_tokens=max_tokens))]
    except RewrittenTurnsError:
        return [(one, encode_row(one, template, raw=raw, max_tokens=max_tokens)) for one in answers_apart(row)]


def _alternatives(row: Row, template: ChatTemplate, *, raw: bool, max_tokens: int) -> Iterator[Example]:
    return (encode_row(with_answer(row, other), template, raw=raw, max_tokens=max_tokens) for other in row.also)


def require_trainable(examples: Sequence[Example]) -> None:
    """Raise DataError unless at least one token would be learned."""
    if not any(example.trained_tokens for example in examples):
        raise DataError(
            f"none of the {len(examples)} rows has a token to learn: all labels are masked. "
            "`base.check(rows)` shows why, token by token"
        )
