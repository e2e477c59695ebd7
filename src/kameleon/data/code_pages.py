"""The encoding of a text file: UTF-8 and UTF-16 are recognised, Windows-1250 and Windows-1252 are guessed and told."""

from __future__ import annotations

import codecs
import math
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kameleon.errors import DataError

_NAMES = {"cp1250": "Windows-1250 (Central European)", "cp1252": "Windows-1252 (Western European)"}
# How many of 100 letters are these, in languages of each page. Their accents and the rate of them tell the page; k, q,
# w and z help where a text has few accents. Rounded from tables of letter frequencies.
_LETTERS = {
    "cp1252": (
        "é.02 k.8 q.1 w2.4 z.1",  # English
        "ä.6 ö.4 ü1 ß.3 k1.4 q.02 w1.9 z1.1",  # German
        "à.5 â.05 ç.09 è.3 é1.5 ê.2 ë.01 î.05 ï.01 ô.02 ù.06 û.06 œ.02 k.07 q1.4 w.05 z.3",  # French
        "á.5 é.4 í.7 ñ.3 ó.8 ú.2 ü.01 ¿.2 ¡.1 k.01 q.9 w.02 z.5",  # Spanish
        "à.07 á.1 â.6 ã.7 ç.5 é.3 ê.5 í.1 ó.3 ô.6 õ.04 ú.2 k.02 q1.2 w.04 z.5",  # Portuguese
        "à.6 è.3 é.1 ì.05 ò.1 ù.2 k.01 q.5 w.03 z1.2",  # Italian
        "é.06 ë.09 ï.03 ö.01 k2.3 q.01 w1.5 z1.4",  # Dutch
        "å1.3 ä1.8 ö1.3 é.05 k3.1 q.02 w.1 z.07",  # Swedish
        "å1.2 æ.9 ø.9 k3.4 q.01 w.07 z.03",  # Danish, Norwegian
        "ä3.6 ö.4 å.01 k5 q.01 w.09 z.05",  # Finnish
    ),
    "cp1250": (
        "ą.7 ć.7 ę1 ł2.1 ń.4 ó1.1 ś.8 ź.08 ż.7 k2.8 q.01 w5.8 z4.9",  # Polish
        "á.9 č.5 ď.02 é.6 ě1.2 í1.6 ň.01 ó.02 ř.4 š.7 ť.01 ú.05 ů.2 ý1 ž.7 k2.9 q.01 w.02 z1.5",  # Czech
        "á1.9 ä.07 č1.1 ď.2 é.8 í1.3 ĺ.01 ľ.4 ň.2 ó.1 ô.2 ŕ.01 š1 ť.5 ú.9 ý.9 ž1 k3.9 q.01 w.02 z2.2",  # Slovak
        "á3.7 é3.5 í.7 ó1.1 ö1.1 ő.9 ú.4 ü.6 ű.3 k4.9 q.01 w.02 z4.3",  # Hungarian
        "ć.7 č1.2 đ.3 š1 ž.6 k3.6 q.01 w.01 z1.9",  # Croatian, Slovenian
        "ă4.1 â.9 î1.4 ş1.3 ţ1.1 k.05 q.01 w.02 z.7",  # Romanian
    ),
}
_UNUSUAL = 5e-6
"""The share of any other letter beyond ASCII."""
_MOST_LOOKED_AT_BYTES = 1 << 20


@dataclass(frozen=True)
class _Scan:
    """What the bytes of a file say. `odd` are lines that are not UTF-8; `first` is the number of the first."""

    start: bytes
    valid_lines: int
    odd: bytes
    first: int


def text_encoding(path: Path) -> str:
    """Python's name of the encoding in which a text file can be read whole; one that is guessed is a warning.

    Raises DataError for a file that is not text, and for UTF-8 with broken places.
    """
    try:
        found = _scan(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if found.start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if not found.odd:
        return "utf-8-sig"
    page = None if found.start.startswith(codecs.BOM_UTF8) or _is_mostly_utf8(found) else likeliest_page(found.odd)
    if page is None:
        raise DataError(f"{path}, line {found.first}: not UTF-8; save the file as “CSV UTF-8”")
    word = next(iter(re.findall(r"\w*[^\W\x00-\x7f]\w*", found.odd.decode(page))), "")
    warnings.warn(
        f"{path} is not UTF-8: it is read as {_NAMES[page]}, for example “{word}”; if letters are wrong, "
        "save it again as “CSV UTF-8”",
        stacklevel=2,
    )
    return page


def _scan(path: Path) -> _Scan:
    odd, first, valid_lines = bytearray(), 0, 0
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return _Scan(start, 0, b"", 0)
        if start == b"PK\3\4":
            raise DataError(f"{path} is a spreadsheet or an archive in spite of its name: save its rows as “CSV UTF-8”")
        for number, line in enumerate(file, start=1):
            if b"\0" in line:
                raise DataError(f"{path}, line {number}: it holds a zero byte, so it is not text")
            if line.isascii():
                continue
            try:
                line.decode()
                valid_lines += 1
            except UnicodeDecodeError:
                first = first or number
                odd += line if len(odd) < _MOST_LOOKED_AT_BYTES else b""
    return _Scan(start, valid_lines, bytes(odd), first)


def likeliest_page(content: bytes) -> str | None:
    """cp1250 or cp1252: the page in which the letters are likeliest for one of its languages; None if neither fits."""
    texts = {page: text for page in _NAMES if (text := _decoded(content, page)) is not None}
    if len(texts) > 1 and len(set(texts.values())) == 1:
        return "cp1252"
    scores = {page: max(_log_likelihood(text, one) for one in _LETTERS[page]) for page, text in texts.items()}
    return max(scores, key=scores.__getitem__, default=None)


def _log_likelihood(text: str, letters: str) -> float:
    shares = {one[0]: float(one[1:]) / 100 for one in letters.split()}
    rest = 1 - sum(shares.values())
    counts = Counter(one for one in text.lower() if one.isalpha() or not one.isascii())
    return sum(count * math.log(shares.get(one, rest if one.isascii() else _UNUSUAL)) for one, count in counts.items())


def _decoded(content: bytes, page: str) -> str | None:
    try:
        return content.decode(page)
    except UnicodeDecodeError:
        return None


def _is_mostly_utf8(found: _Scan) -> bool:
    """Whether more of the text beyond ASCII is UTF-8 than is not: a code page's text has next to no valid UTF-8."""
    beyond = [one for one in found.odd.decode("utf-8", "replace") if not one.isascii()]
    return found.valid_lines > found.odd.count(b"\n") or 2 * beyond.count("\ufffd") < len(beyond)
