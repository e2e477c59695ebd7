"""Where rows come from: a local file, or the files of one split of a data set on the hub."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download, list_repo_files
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # of the HTTP client that this version uses  # pyright: ignore[reportPrivateImportUsage]
    RepositoryNotFoundError,
)

from kameleon.errors import DataError
from kameleon.words import did_you_mean, first_few

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_CSV = (
    "save it as “CSV UTF-8” (in Excel File, Save As; in LibreOffice File, Save As, Text CSV, character set UTF-8; in "
    "Numbers or Google Sheets as CSV), with the columns prompt and completion"
)
_EXPORTS = {
    (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"): f"is a spreadsheet: {_CSV}",
    (".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".htm", ".epub", ".pptx", ".odp"): "is a document without rows: "
    f"copy each question and its answer into a row of a spreadsheet, and {_CSV}",
    (".txt", ".md"): "is text without rows. A table that is separated by tabs is read if its name ends in .tsv. Else "
    f"put each question and its answer into a row of a spreadsheet, and {_CSV}; or, to learn plain text, write one "
    'JSON object a line into a .jsonl file: {"text": "..."}',
    (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz", ".rar"): "is packed: unpack it first",
}


def find_data(source: str | Path) -> tuple[Path, ...]:
    """The files that `source` names: a local file, or files of a hub data set.

    A data set is owner/name (its split with `train` in its name, or its only one), owner/name:SPLIT,
    owner/name:CONFIG/SPLIT, owner/name:CONFIG (its split train), or owner/name:FILE. A split is one file, or all of its
    numbered parts in their order. Raises DataError, also when several splits could be meant or a part is missing.
    """
    try:
        path = Path(source).expanduser()
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~NAME of no user
        raise DataError(f"{source} cannot be read: {error}") from error
    if is_file:
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(_describe_kind(path))
        return (path,)
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file in it, or a hub data set owner/name")
    name, _, wanted = str(source).partition(":")
    if name.count("/") != 1 or path.exists() or name.startswith((".", "/", "~")) or _is_data(name):
        near = did_you_mean(path.name, _names_beside(path))
        raise DataError(
            f"there is no file {path}{near and '; ' + near}; give a local file, or a hub data set owner/name"
        )
    try:
        held = list_repo_files(name, repo_type="dataset")
        files = sorted(file for file in held if _is_data(file))
        if not files:
            told = f"it holds {first_few(held, 8) or 'nothing'}"
            raise DataError(f"the hub's data set {name} has no file that ends in one of {', '.join(SUFFIXES)}: {told}")
        chosen = [wanted] if wanted in files else _split(name, files, wanted)
        return tuple(Path(hf_hub_download(name, file, repo_type="dataset")) for file in chosen)
    except RepositoryNotFoundError as error:
        raise DataError(f"there is neither a file {path} nor a hub data set {name}") from error
    except (HTTPError, HFValidationError, OSError) as error:
        raise DataError(f"there is no file {path}, and the hub did not deliver a data set {name}: {error}") from error


def _names_beside(path: Path) -> list[str]:
    try:
        return [one.name for one in path.parent.iterdir()]
    except OSError:
        return []


def _is_data(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and name.rpartition("/")[2] not in _NOT_ROWS


def _describe_kind(path: Path) -> str:
    suffix = path.suffix.lower()
    for suffixes, told in _EXPORTS.items():
        if suffix in suffixes:
            return f"{path} {told}"
    return f"{path} ends in {path.suffix or 'nothing'}; expected one of {', '.join(SUFFIXES)}"


@dataclass(frozen=True)
class _Part:
    """A file of a data set. Files with the same split and suffix are its parts, and `numbers` give their order."""

    file: str
    split: str
    numbers: tuple[int, ...]
    of: int | None

    @staticmethod
    def of_file(file: str) -> _Part:
        """data/train-00000-of-00002-3f2a.parquet is part 0 of 2 of `train`, en/train/1.csv part 1 of `en/train`."""
        stem = file.rpartition(".")[0].removeprefix("data/")
        if found := re.fullmatch(r"(.+)-(\d+)-of-(\d+)(?:-[0-9a-f]+)?", stem):
            return _Part(file, found[1], (int(found[2]),), int(found[3]))
        split, numbers = re.fullmatch(r"(.*?)((?:[-./]\d+)*)", stem).groups()  # pyright: ignore[reportOptionalMemberAccess]
        return _Part(file, split, tuple(map(int, re.findall(r"\d+", numbers))), None)

    @property
    def suffix(self) -> str:
        return self.file.rpartition(".")[2].lower()


def _split(name: str, files: Sequence[str], wanted: str) -> list[str]:
    """The files of the split that is wanted, in their order."""
    parts = [_Part.of_file(file) for file in files]
    splits = list(dict.fromkeys(part.split for part in parts))
    held = first_few(splits, 20)
    chosen = _meant(splits, wanted)
    if _is_data(wanted) or not chosen:
        what = f"file {wanted!r}" if _is_data(wanted) else f"split {wanted or 'train'!r}"
        near = did_you_mean(wanted, files if _is_data(wanted) else splits)
        listed = f"files {first_few(files, 8)}" if _is_data(wanted) else f"splits {held}"
        raise DataError(
            f"the hub's data set {name} has no {what}{near and '; ' + near}; it has the {listed}: "
            f"name one as {name}:{'FILE' if _is_data(wanted) else 'SPLIT'}"
        )
    if len(chosen) > 1:
        raise DataError(
            f"the hub's data set {name} has several splits that could be meant: {', '.join(chosen)}; it has the splits "
            f"{held}: name one as {name}:{chosen[0]}"
        )
    own = sorted((part for part in parts if part.split == chosen[0]), key=lambda part: part.numbers)
    if len({part.suffix for part in own}) > 1 or not _are_all_there(own):
        raise DataError(
            f"the split {chosen[0]} of the hub's data set {name} has files that are not the parts of one, or not all "
            f"of them: {first_few((part.file for part in own), 8)}; name one as {name}:FILE"
        )
    if not wanted and len(splits) > 1:
        warnings.warn(
            f"{name}: the split {chosen[0]} is read, out of {held} (name another as {name}:SPLIT)", stacklevel=2
        )
    return [part.file for part in own]


def _meant(splits: Sequence[str], wanted: str) -> list[str]:
    """The splits that a person can mean: the one of that name, or the one of that configuration."""
    named = [split for split in splits if split == wanted]
    if wanted and named:
        return named
    if wanted:
        ends = [split for split in splits if split.endswith(f"/{wanted}")]
        return ends or [split for split in splits if split == f"{wanted}/train"]
    # "train" must be a word of its own: "constraints.jsonl" is no file of it.
    word = re.compile(r"(?<![a-z])train(?![a-z])")
    return [split for split in splits if word.search(split)] or (list(splits) if len(splits) == 1 else [])


def _are_all_there(parts: Sequence[_Part]) -> bool:
    """Whether the numbers of the parts have no gap, and are as many as their names say (train-00000-of-00003)."""
    told = {part.of for part in parts}
    if told != {None}:
        return told == {len(parts)} and [part.numbers for part in parts] == [(number,) for number in range(len(parts))]
    return _have_no_gap([part.numbers for part in parts])


def _have_no_gap(numbers: Sequence[tuple[int, ...]]) -> bool:
    """Whether numbers of one length count from 0 or 1 on, on each level."""
    if len(numbers) == 1 and not numbers[0]:
        return True
    if not all(numbers):
        return False
    first = sorted({one[0] for one in numbers})
    below = [[one[1:] for one in numbers if one[0] == number] for number in first]
    counted = first[0] in (0, 1) and first == list(range(first[0], first[0] + len(first)))
    return counted and all(len(set(rest)) == len(rest) and _have_no_gap(rest) for rest in below)
