"""Names of columns and fields: which of them stand for the prompt, the completion and the other parts of a row."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from kameleon.errors import DataError
from kameleon.settings import Reading
from kameleon.words import did_you_mean

# The fields that each kind of row needs, from the most to the least structured.
FIELDS = {
    "messages": ("messages",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "conversations": ("conversations",),
    "text": ("text",),
}
SYSTEM_FIELDS = ("system", "system_prompt")
TOOLS_FIELDS = ("tools", "functions")  # the latter is OpenAI's older name
_BESIDE = (*SYSTEM_FIELDS, *TOOLS_FIELDS)
# Fields that may stand beside those of each kind.
MORE_FIELDS = {
    "messages": _BESIDE,
    "prompt": (*_BESIDE, "history", "also"),
    "instruction": (*_BESIDE, "input", "history", "also"),
    "conversations": _BESIDE,
    "text": (),
}
KNOWN_FIELDS = sorted({field for fields in (*FIELDS.values(), *MORE_FIELDS.values()) for field in fields})
_EXPECTED = [field for fields in FIELDS.values() for field in fields]
_CONTENT = ("input", *_EXPECTED)
# Names for the two sides, without accents: English, Polish, German, Spanish, French, Italian, Portuguese.
_PROMPTS = frozenset(
    {"prompt", "question", "query", "q", "input", "instruction", "user", "problem"}  # English; French has question
    | {"pytanie", "zapytanie", "polecenie", "frage", "eingabe", "anweisung", "pregunta", "entrada", "instruccion"}
    | {"entree", "consigne", "domanda", "pergunta"}
)
_COMPLETIONS = frozenset(
    {"completion", "answer", "response", "reply", "a", "output", "assistant", "solution"}
    | {"odpowiedz", "antwort", "ausgabe", "respuesta", "salida", "reponse", "sortie", "risposta", "resposta"}
)


@lru_cache(maxsize=64)
def field_names(names: tuple[str, ...], reading: Reading) -> Mapping[str, str | None]:
    """For each name that is not used as it stands, the field that it stands for; None for one that is left out.

    Nothing is renamed where the names are not understood. Raises DataError for two names that could be the same field,
    and for a chosen column that is not there.
    """
    if reading.prompt_column is not None or reading.completion_column is not None:
        return _chosen(names, reading)
    if _is_complete(names):
        return {}
    known = {_plain(field): field for field in KNOWN_FIELDS}
    renamed = {name: known[_plain(name)] for name in names if _plain(name) in known and name not in KNOWN_FIELDS}
    after = [renamed.get(name, name) for name in names]
    if _is_complete(after) and len(set(after)) == len(after):
        return renamed
    prompts, completions = _named(names, _PROMPTS), _named(names, _COMPLETIONS)
    if "instruction" in after and len(completions) == 1:
        return {**renamed, completions[0]: "output"}
    if not prompts or not completions:
        return {}
    return {
        _only(prompts, "prompt"): "prompt",
        _only(completions, "completion"): "completion",
    }


def is_understood(names: tuple[str, ...], reading: Reading) -> bool:
    """Whether columns of these names make rows."""
    try:
        renamed = field_names(names, reading)
    except DataError:
        return False
    fields = [renamed.get(name, name) for name in names]
    return _is_complete([field for field in fields if field is not None])


def describe_names(names: Sequence[str], *, is_table: bool) -> str:
    """Why columns of a table, or fields of a JSON object, of these names make no row, and what to do."""
    near = {name: did_you_mean(name, _EXPECTED, cutoff=0.75) for name in names if name not in KNOWN_FIELDS}
    held = ", ".join(f"{name!r} ({near[name]})" if near.get(name) else repr(name) for name in names) or "none"
    told, header = ("columns", "; row 1 must name them") if is_table else ("fields", "")
    if len(names) == 1:
        remedy = "Rename it to 'text' if all of it is to be learned"
    else:
        remedy = "Rename them, or say which they are: `reading=Reading(prompt_column=NAME, completion_column=NAME)`"
    return (
        f"its {told} are {held}; expected prompt and completion (question and answer), messages, instruction and "
        f"output, conversations, or text{header}. {remedy}"
    )


def guessed_names(names: tuple[str, ...], reading: Reading) -> dict[str, str]:
    """The fields that were understood from names in other words, by these names; {} where nothing was guessed."""
    if reading.prompt_column is not None and reading.completion_column is not None:
        return {}
    renamed = field_names(names, reading)
    taken = {reading.prompt_column, reading.completion_column}
    return {n: f for n, f in renamed.items() if f is not None and _plain(n) != _plain(f) and n not in taken}


def empty_cells(value: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The fields of a table's row that are empty, so that it has no prompt or no answer. `names` are all its fields."""
    complete = [fields for fields in FIELDS.values() if set(fields) <= set(names)]
    filled = [fields for fields in complete if all(value.get(field) is not None for field in fields)]
    for fields in (filled or complete)[:1]:
        empty = [field for field in fields if _is_blank(value.get(field))]
        return [field for field in empty if field != "instruction" or _is_blank(value.get("input"))]
    return []


def _chosen(names: tuple[str, ...], reading: Reading) -> dict[str, str | None]:
    chosen: dict[str, str | None] = {}
    if reading.prompt_column is not None:
        chosen[_find(reading.prompt_column, names, "prompt_column")] = "prompt"
    if reading.completion_column is not None:
        chosen[_find(reading.completion_column, names, "completion_column")] = "completion"
    left = [name for name in names if name not in chosen]
    if reading.prompt_column is None:
        chosen[_only(_named(left, _PROMPTS), "prompt", names)] = "prompt"
    if reading.completion_column is None:
        chosen[_only(_named(left, _COMPLETIONS), "completion", names)] = "completion"
    if len(chosen) < 2:
        raise DataError("`prompt_column=` and `completion_column=` name the same column")
    return {name: None for name in names if name in _CONTENT} | chosen


def _find(wanted: str, names: Sequence[str], keyword: str) -> str:
    found = [name for name in names if name == wanted] or [name for name in names if _plain(name) == _plain(wanted)]
    if len(found) != 1:
        held, near = ", ".join(map(repr, names)), did_you_mean(wanted, names)
        raise DataError(f"there is no {wanted!r} (`{keyword}=`); it has {held}{near and '; ' + near}")
    return found[0]


def _only(found: Sequence[str], field: str, names: Sequence[str] = ()) -> str:
    keyword = f"`reading=Reading({field}_column=NAME)`"
    if not found:
        raise DataError(f"none of {', '.join(map(repr, names))} is known as the {field}: name it with {keyword}")
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(repr, found))} could both be the {field}: name one with {keyword}")
    return found[0]


def _named(names: Iterable[str], known: frozenset[str]) -> list[str]:
    return [name for name in names if _plain(name) in known]


def _is_complete(names: Iterable[str]) -> bool:
    held = set(names)
    return any(held.issuperset(fields) for fields in FIELDS.values())


def _plain(name: str) -> str:
    """A name without case, accents and spaces around it."""
    letters = unicodedata.normalize("NFKD", name.strip().casefold().replace("ł", "l"))
    return "".join(one for one in letters if not unicodedata.combining(one))


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
