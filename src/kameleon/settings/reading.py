"""How a file of rows is read."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.arguments import check_types


@dataclass(frozen=True)
class Reading:
    """How files of rows are read. The sentence under each field is its help text."""

    prompt_column: str | None = None
    """The column or field that holds the prompt. By default prompt, question, Pytanie, Frage and the like are known."""
    completion_column: str | None = None
    """The column or field that holds the answer. By default completion, answer, Odpowiedź, Antwort and the like are
    known."""
    skip_bad: bool = False
    """Leave bad rows out, and say how many and which. By default they stop the command; only rows of a table with an
    empty cell are always left out."""

    def __post_init__(self) -> None:
        check_types(self)
