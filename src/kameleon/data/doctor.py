"""The data doctor: it examines encoded rows before time is spent on training. The faults it finds are not fatal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from kameleon.data.encode import Encoded, Example
from kameleon.data.faults import Fault
from kameleon.data.rows import Row
from kameleon.model import DecoderConfig


def examine(encoded: Encoded, test_rows: Sequence[Row] = ()) -> tuple[Fault, ...]:
    """All faults of a file, in the order of its rows: the refused rows (fatal), the skipped ones, and doubts.

    Doubts: an answer that is cut or has no trained token, a duplicate, a row that also stands in the test set.
    """
    pairs = zip(encoded.examples, encoded.rows, strict=True)
    doubts = (Fault(row.number, reason, fatal=False) for example, row in pairs for reason in _doubts(example, row))
    faults = [*encoded.refused, *encoded.skipped, *doubts, *_repeats(encoded.rows, test_rows)]
    return tuple(sorted(faults, key=lambda fault: fault.row))


def beyond_base(examples: Iterable[Example], config: DecoderConfig) -> tuple[Fault, ...]:
    """Fatal faults: rows that are longer than the base's context, or hold a token that has no embedding there."""
    return tuple(Fault(e.row, reason, fatal=True) for e in examples if (reason := _beyond(e, config)))


def _beyond(example: Example, config: DecoderConfig) -> str | None:
    context, vocabulary = config.max_sequence_tokens, config.vocab_size
    if len(example.tokens) > context:
        return (
            f"longer than the base's context of {context:,} tokens: shorten it, or let `max_row_tokens={context}` "
            "cut it"
        )
    if (highest := max(example.tokens, default=0)) >= vocabulary:
        return (
            f"holds token {highest:,}, but the base has embeddings for {vocabulary:,} tokens only: its tokenizer does "
            "not belong to its weights; leave that token's text out, or take another copy of the base"
        )
    return None


def _doubts(example: Example, row: Row) -> Iterator[str]:
    if not example.trained_tokens:
        unlearned = row.learned is not None and not row.learned
        full = " (its prompt fills all tokens that a row may have: raise `max_row_tokens=N`, or shorten the prompt)"
        why = " (each answer has weight 0)" if unlearned else full if example.cut_tokens else ""
        yield f"all masked: none of its tokens would be learned{why}"
    elif example.cut_tokens:
        yield (
            f"truncated: its last {example.cut_tokens} tokens do not fit, so its answer has no end: raise "
            "`max_row_tokens=N`"
        )


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
    learned = None if row.learned is None else sorted(row.learned)
    return json.dumps([row.messages, row.tools, row.text, learned], sort_keys=True, default=str)
