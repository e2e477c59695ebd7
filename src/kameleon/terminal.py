"""Text from files and clients, made safe for a terminal: an escape sequence is shown, and does nothing."""

from __future__ import annotations

import json
import logging
import traceback
import unicodedata
from typing import Any

_SHOWN = "\n\t\u200c\u200d"  # the last two join letters of Persian and of emoji


def printable(text: str) -> str:
    """The text with control codes and marks of writing direction shown as escapes; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if _is_hidden(letter) else letter for letter in text)


def printable_json(text: str) -> str:
    """JSON with the same meaning, in which what `printable` shows as an escape is JSON's own escape."""
    return "".join(json.dumps(letter)[1:-1] if _is_hidden(letter) else letter for letter in text)


class PrintableRecord(logging.LogRecord):
    """A line of a log as `printable` shows it, with its traceback."""

    def __init__(self, *values: Any, **more: Any) -> None:
        super().__init__(*values, **more)
        if self.exc_info and self.exc_info[0]:
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:
        return printable(super().getMessage())


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and letter not in _SHOWN
