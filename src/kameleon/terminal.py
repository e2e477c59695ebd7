"""Text from files and clients, made safe for a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """The text with control codes and marks of writing direction shown as escapes; line breaks stay."""
    return "".join(_printable(letter) for letter in text)


def _printable(letter: str) -> str:
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and letter != "\n"
    return letter.encode("unicode_escape").decode() if hidden else letter
