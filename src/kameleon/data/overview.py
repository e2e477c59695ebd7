"""Observations about a file as a whole, which no single row shows: a sentence each. None of them stops training."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from kameleon.data.columns import KNOWN_FIELDS
from kameleon.data.encode import Encoded, Example
from kameleon.data.rows import Row, learned_answers, system_prompt_of
from kameleon.data.sample import sample
from kameleon.settings import DEFAULT_MICRO_BATCH_TOKENS
from kameleon.text import ChatTemplate
from kameleon.words import did_you_mean, first_few, short_repr

_MOST_NAMED = 8
"""A sentence names this many rows and counts the others."""
_LEAST_ROWS = 8
"""A smaller file has no majority and no median that would say something about its rows."""
_LONG = 8
"""A row is long from this many times the median's tokens on. The demo's longest law row has 4 times as many."""
_LEAST_LONG_TOKENS = 256
"""A shorter row is never called long: it costs little."""
_MOST_LONG_SHARE = 0.1
"""If more rows are long, long rows are usual in this file."""
_FEW_BYTES_A_TOKEN = 2.5
"""With fewer UTF-8 bytes a token, words are cut to letters. SmolLM2 has 5 to 6 bytes a token in English, 2.7 to 3.0 in
German, Spanish and French; 2.2 in the demo's Polish answers, at most 2.4 in Russian, Turkish, Greek, Hindi and Chinese.
Letters would not do: a tokenizer made for Chinese has 1 to 2 letters a token, of 3 bytes each."""
_ENGLISH_BYTES_A_TOKEN = 5
_LEAST_LETTERS = 100
"""Letters of different words. Answers with fewer are a handful of labels, which say nothing about a language."""
_MOST_ANSWERS = 1000
"""The tokenizer is judged by a sample of this many answers."""


@dataclass(frozen=True)
class Observation:
    """`kind` is for scripts, `text` for people. `rows` are the numbers of the rows concerned; () means all rows."""

    kind: str
    text: str
    rows: tuple[int, ...] = ()

    __repr__ = short_repr


def observe(encoded: Encoded, template: ChatTemplate, *, test_rows: Sequence[Row] = ()) -> list[Observation]:
    """All observations about a file, and about the test set beside it."""
    rows = encoded.rows
    found = (
        unread_fields(encoded.unread),
        observe_system_prompt(rows),
        shared_tools(rows),
        contradictions(rows),
        dominant_answer(rows),
        long_rows(encoded.examples),
        cut_words(encoded.examples, template),
        spelled_control_tokens(rows, template),
        test_overlap(rows, test_rows),
        test_contradictions(rows, test_rows),
    )
    return [one for one in found if one is not None]


def observe_system_prompt(rows: Sequence[Row]) -> Observation | None:
    """One system prompt in all rows, or in at least half of them."""
    prompts = Counter(map(system_prompt_of, rows))
    del prompts[None]
    prompt, count = next(iter(prompts.most_common(1)), (None, 0))
    if count == 0 or count < len(rows) / 2:
        return None
    if count == len(rows):
        text = (
            f"all rows have the system prompt {_quoted(prompt)}: the adapter keeps it, and is asked with it by default"
        )
        return Observation("system_prompt", text)
    others = tuple(row.number for row in rows if system_prompt_of(row) != prompt)
    return Observation(
        "mixed_system_prompts",
        f"{_share(count, len(rows))} rows have the system prompt {_quoted(prompt)}, but not {_named(others)}: an "
        "adapter keeps a system prompt only if all rows have it",
        others,
    )


def unread_fields(unread: Mapping[str, int]) -> Observation | None:
    """Fields that hold something and are not read, as `Encoded.unread` counts them."""
    if not unread:
        return None
    of_rows = {field: count for field, count in unread.items() if "[]." not in field}
    of_messages = {field: count for field, count in unread.items() if field not in of_rows}
    told = [f"fields that are not read, so nothing of them is learned: {_counted(of_rows)}"] if of_rows else []
    if of_messages:
        told.append(
            f"fields inside of messages or tools that are not known, so only a chat template reads them: "
            f"{_counted(of_messages)}"
        )
    return Observation("unread_fields", "; ".join(told))


def _counted(fields: Mapping[str, int]) -> str:
    """ "'sytem' in 3 rows (did you mean 'system'?), 'id' in 1 row"."""
    hints = {field: did_you_mean(field, KNOWN_FIELDS, cutoff=0.8) for field in fields}
    told = (
        f"{field!r} in {count:,} row{'s' if count != 1 else ''}{hints[field] and f' ({hints[field]})'}"
        for field, count in fields.items()
    )
    return first_few(told, _MOST_NAMED)


def shared_tools(rows: Sequence[Row]) -> Observation | None:
    """The same tools in all rows: unlike a system prompt, an adapter does not keep them."""
    first = rows[0].tools if rows else ()
    if not first or any(row.tools != first for row in rows):
        return None
    names = first_few((repr(tool.get("function", tool).get("name")) for tool in first), _MOST_NAMED)
    return Observation(
        "shared_tools",
        f"all rows have the same tools ({names}), which the adapter does not keep: give them with every request",
    )


def contradictions(rows: Sequence[Row]) -> Observation | None:
    """Rows with the same prompt and different answers, where no row lists the others in `also`."""
    asked: dict[str, list[Row]] = {}
    for row in rows:
        if (prompt := _prompt(row)) is not None:
            asked.setdefault(prompt, []).append(row)
    groups = [group for group in asked.values() if len(_unmarked_answers(group)) > 1]
    if not groups:
        return None
    named = (_named([row.number for row in group]) for group in groups)
    told = first_few(named, _MOST_NAMED, separator="; ", rest="more prompts")
    prompts = "1 prompt has" if len(groups) == 1 else f"{len(groups)} prompts have"
    return Observation(
        "contradictory_rows",
        f"{prompts} different answers in different rows: {told}. The adapter learns a mixture; where all are "
        "right, list the others in `also`, for the score",
        tuple(row.number for group in groups for row in group),
    )


def _unmarked_answers(rows: Sequence[Row]) -> set[str]:
    """The answers of the rows, without those that one of the rows lists in `also`."""
    return set(map(_answer, rows)) - {answer for row in rows for answer in row.also}


def dominant_answer(rows: Sequence[Row]) -> Observation | None:
    """One answer in more than half of the rows."""
    answers = Counter(_answer(row) for row in rows if _prompt(row) is not None)
    answer, count = next(iter(answers.most_common(1)), ("", 0))
    if answers.total() < _LEAST_ROWS or count <= answers.total() / 2:
        return None
    score = f"{count / answers.total():.2f}"
    return Observation(
        "dominant_answer",
        f"{_share(count, answers.total())} rows have the answer {_quoted(answer)}: a model that always says it scores "
        f"{score} on such rows",
    )


def long_rows(examples: Sequence[Example]) -> Observation | None:
    """A few rows that have many times the tokens of the median row."""
    if len(examples) < _LEAST_ROWS:
        return None
    middle = median(len(example.tokens) for example in examples)
    least = max(_LONG * middle, _LEAST_LONG_TOKENS)
    long = sorted((e for e in examples if len(e.tokens) >= least), key=lambda e: -len(e.tokens))
    if not long or len(long) > max(1, _MOST_LONG_SHARE * len(examples)):
        return None
    told = first_few((f"row {e.row} ({len(e.tokens):,} tokens)" for e in long), _MOST_NAMED)
    share = sum(len(e.tokens) for e in long) / sum(len(e.tokens) for e in examples)
    memory = ", and memory grows with the longest" if len(long[0].tokens) > DEFAULT_MICRO_BATCH_TOKENS else ""
    return Observation(
        "long_rows",
        f"{told}: at least {_LONG} times the middle row's {middle:,.0f} tokens. {share:.0%} of all tokens, and "
        f"so of the time, are theirs{memory}",
        tuple(e.row for e in long),
    )


def cut_words(examples: Sequence[Example], template: ChatTemplate) -> Observation | None:
    """Answers in a language that the base's tokenizer cuts to letters.

    Capitals (abbreviations) and single letters are left out, since every tokenizer cuts them so.
    """
    words = [word for example in sample(examples, _MOST_ANSWERS) for word in _words(_answer_text(example, template))]
    if sum(map(len, set(words))) < _LEAST_LETTERS:
        return None
    text = " ".join(words)
    tokens, size = len(template.encode_text(text)), len(text.encode())
    if size / tokens >= _FEW_BYTES_A_TOKEN:
        return None
    letters, times = sum(map(len, words)) / tokens, _ENGLISH_BYTES_A_TOKEN * tokens / size
    return Observation(
        "cut_words",
        f"the base's tokenizer cuts the words of the answers into pieces of {letters:.1f} letters ({size / tokens:.1f} "
        f"bytes a token, where English has about {_ENGLISH_BYTES_A_TOKEN}). Answers take some {times:.1f} times as "
        "long, in training and later, and the base has read little of such a language: another one may learn it better",
    )


def spelled_control_tokens(rows: Sequence[Row], template: ChatTemplate) -> Observation | None:
    """Conversations in whose messages control tokens are spelled. (In a plain text they are control tokens.)"""
    found = {row.number: template.spelled_control_tokens(row.messages) for row in rows}
    spelled = {number: tokens for number, tokens in found.items() if tokens}
    if not spelled:
        return None
    named = first_few(dict.fromkeys(token for tokens in spelled.values() for token in tokens), _MOST_NAMED)
    return Observation(
        "spelled_control_tokens",
        f"{_named([*spelled])} spell{'s' if len(spelled) == 1 else ''} control tokens in a message ({named}): they are "
        "learned as text and end no turn. "
        "If they were meant to, cut the conversation into messages there, or write the whole row as `text`",
        tuple(spelled),
    )


def test_overlap(rows: Sequence[Row], test_rows: Sequence[Row]) -> Observation | None:
    """Rows of the test set that also stand in the training rows."""
    learned = _answers_by_prompt(rows)
    known = [row for row in test_rows if _is_answered(row, learned)]
    if not known:
        return None
    prompts = {_prompt(row) or row.text for row in known}
    mine = tuple(row.number for row in rows if (_prompt(row) or row.text) in prompts)
    return Observation(
        "test_overlap",
        f"{_share(len(known), len(test_rows))} rows of the test set are learned: their prompts and answers stand in "
        f"{_named(mine)}. Their score is memory",
        mine,
    )


def test_contradictions(rows: Sequence[Row], test_rows: Sequence[Row]) -> Observation | None:
    """Rows of the test set whose prompt stands in the training rows with another answer."""
    learned = _answers_by_prompt(rows)
    other = [row for row in test_rows if _prompt(row) in learned and not _is_answered(row, learned)]
    if not other:
        return None
    prompts = {_prompt(row) for row in other}
    mine = tuple(row.number for row in rows if _prompt(row) in prompts)
    return Observation(
        "test_contradictions",
        f"{_share(len(other), len(test_rows))} rows of the test set have a prompt that is learned with another answer: "
        f"{_named([row.number for row in other])} of the test set, {_named(mine)} here",
        mine,
    )


def _answers_by_prompt(rows: Sequence[Row]) -> dict[str | None, set[str]]:
    """Right answers by prompt. A plain text is its own prompt, and its answer is empty."""
    learned: dict[str | None, set[str]] = {}
    for row in rows:
        learned.setdefault(_prompt(row) or row.text, set()).update((_answer(row), *row.also))
    return learned


def _is_answered(row: Row, learned: dict[str | None, set[str]]) -> bool:
    return not learned.get(_prompt(row) or row.text, set()).isdisjoint((_answer(row), *row.also))


def _prompt(row: Row) -> str | None:
    """The messages before a row's last answer, and its tools, as a key; None for plain text."""
    if row.text is not None:
        return None
    return json.dumps([row.messages[: _last_answer(row)], row.tools], sort_keys=True, default=str)


def _answer(row: Row) -> str:
    """A row's last answer; empty for plain text."""
    if row.text is not None:
        return ""
    message = row.messages[_last_answer(row)]
    calls = message.get("tool_calls")
    return str(message.get("content") or "") + (json.dumps(calls, sort_keys=True, default=str) if calls else "")


def _last_answer(row: Row) -> int:
    return (learned_answers(row) or learned_answers(replace(row, learned=None)))[-1]


def _answer_text(example: Example, template: ChatTemplate) -> str:
    tokens = [token for token, trained in zip(example.tokens, example.trained, strict=True) if trained]
    return str(template.tokenizer.decode(tokens, skip_special_tokens=True))


def _words(text: str) -> list[str]:
    """Runs of letters and their accents; without single letters and words in capitals."""
    letters = "".join(one if unicodedata.category(one)[0] in "LM" else " " for one in text)
    return [word for word in letters.split() if len(word) > 1 and not word.isupper()]


def _named(numbers: Sequence[int]) -> str:
    """ "row 3" or "rows 3, 5 and 2 more"."""
    return f"row{'s' if len(numbers) != 1 else ''} {first_few(map(str, numbers), _MOST_NAMED)}"


def _share(count: int, of: int) -> str:
    return f"{count:,} of {of:,} ({count / of:.0%})"


def _quoted(text: str | None, most: int = 60) -> str:
    line = " ".join((text or "").split())
    return f"“{line if len(line) <= most else line[: most - 1] + '…'}”"
