"""kameleon ask: one answer, or an answer to each prompt of a file."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kameleon.cli.answering import (
    AskedSampling,
    AskedSpeaker,
    Speaker,
    is_plain,
    open_with,
    sampling_of,
    tell_cut,
    write,
)
from kameleon.cli.console import Json, Raw, notes, progress
from kameleon.cli.settings import GivenSampling
from kameleon.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kameleon.data import AskedRow
    from kameleon.generation import Completion, Piece
    from kameleon.settings import Sampling


def ask(
    *prompt: Annotated[str, Parameter(help="The question. Without one, standard input is the question.")],
    stdin: Annotated[bool, Parameter(help="Read standard input too, and put it below the question.")] = False,
    file: Annotated[
        str | None,
        Parameter(
            help="Answer each prompt of this file: a line of a .txt file, or `prompt` or `messages` of a row of JSONL, "
            "JSON, CSV or Parquet."
        ),
    ] = None,
    speaker: AskedSpeaker = Speaker(),  # noqa: B008 (frozen)
    raw: Raw = False,
    sampling: AskedSampling = GivenSampling(),  # noqa: B008 (frozen)
    json: Json = False,
) -> None:
    """Answer one question and end. Standard output gets the answer and nothing else.

    With --file the answers are JSON lines in the order of the file, each with the fields of its row, `answer` and
    `finish` ("stop", or "length" for one that --max-tokens cut). Rows are answered together, which is faster.

    Temperature, top-p, top-k, min-p and repetition-penalty are as the base's authors recommend unless you give them, or
    temperature 0.2 and top-p 0.9 where they say nothing.

    Try: kameleon ask "What is a contract?" --adapter law; or kameleon ask "Shorten this:" --stdin < letter.txt;
    or kameleon ask --file questions.jsonl > answers.jsonl
    """
    from kameleon.data import AskedRow, read_prompts

    if file is not None and (prompt or stdin):
        raise SettingError("a question and --file are both given; give one of them")
    if file is not None:
        rows = read_prompts(file)
    else:
        question = _question(prompt, stdin=stdin)
        rows = [AskedRow(1, question, {"prompt": question})]
    loaded = open_with(speaker, raw=raw)
    wishes = sampling_of(loaded, sampling)
    name = None if speaker.adapter is None or is_plain(speaker.adapter, loaded.shelf) else speaker.adapter
    if name is not None:
        loaded.load_adapter(name, any_base=speaker.any_base)
    pieces = loaded.stream(
        [_begun(row, speaker.system, raw=raw) for row in rows],
        [name] * len(rows),
        sampling=wishes,
        raw=raw,
        as_trained=speaker.system != "none",
    )
    if file is not None:
        _write_rows(rows, pieces, wishes)
    elif json:
        (completion,) = [piece.completion for piece in pieces if piece.completion is not None]
        write(_document(rows[0], completion) + "\n")
    else:
        _write_answer(pieces, wishes)


def _question(words: tuple[str, ...], *, stdin: bool) -> str:
    """The words, with standard input below them or in their place. Raises SettingError if nothing is asked, and for
    the name of a file alone."""
    if len(words) == 1 and not stdin and _is_file(words[0]):
        raise SettingError(
            f"{words[0]} is a file: --file {words[0]} answers each prompt in it; kameleon ask < {words[0]} asks its "
            "whole text as one question"
        )
    if not words and not stdin and sys.stdin.isatty():
        raise SettingError('nothing is asked: kameleon ask "What is a contract?", or pipe the question in')
    read = sys.stdin.read() if stdin or not words else ""
    question = "\n".join((" ".join(words), read)).strip()
    if not question:
        raise SettingError('nothing is asked: the question is empty; kameleon ask "What is a contract?"')
    return question


def _is_file(word: str) -> bool:
    """Whether a word names a file; a long question is no name at all."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _begun(row: AskedRow, system: str | None, *, raw: bool) -> Any:
    """The row's prompt, with the given system prompt in front. Raises SettingError for one that would be ignored."""
    from kameleon.text import with_system

    if system in (None, "none"):
        return row.prompt
    if raw:
        raise SettingError("--system and --raw are both given; a raw prompt has no system prompt: write it there")
    messages = [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
    return with_system(messages, system)


def _write_answer(pieces: Iterator[Piece], sampling: Sampling) -> None:
    finish, begun = None, False
    for piece in pieces:
        text = piece.text if begun else piece.text.lstrip()
        begun = begun or bool(text)
        write(text)
        finish = piece.completion and piece.completion.finish
    write("\n")
    tell_cut(finish, sampling)


def _write_rows(rows: list[AskedRow], pieces: Iterator[Piece], sampling: Sampling) -> None:
    """Write each answer as soon as those before it are written."""
    done: dict[int, Completion] = {}
    written = cut = 0
    with progress() as bars:
        task = bars.add_task("answering", total=len(rows))
        for piece in pieces:
            if piece.completion is None:
                continue
            done[piece.request] = piece.completion
            while written in done:
                completion = done.pop(written)
                cut += completion.finish == "length"
                write(_document(rows[written], completion) + "\n")
                written += 1
            bars.update(task, advance=1)
    if cut:
        notes.print(f"{cut} of {len(rows)} answers were cut at {sampling.max_tokens:,} tokens (--max-tokens)")


def _document(row: AskedRow, completion: Completion) -> str:
    document = {**row.fields, "answer": completion.text.strip(), "finish": completion.finish}
    return json_.dumps(document, ensure_ascii=False)
