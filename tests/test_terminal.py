"""Text of strangers in a terminal and in a log."""

import json
import logging
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from kameleon.cli.console import notes, results, table
from kameleon.errors import AdapterError, CheckpointError, MissingExtraError
from kameleon.notebook import html_table
from kameleon.terminal import PrintableRecord, printable, printable_json

HOSTILE = "a\x1b[2J\x1b]52;c;ZQ==\x07\x9b31m\u202eb\x08\rc\x7f\u2066\U000e0041"
WITHOUT_HARM = "\n\t\u200c\u200d"


def harmful(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in WITHOUT_HARM]


@given(st.text(st.characters(codec="utf-8", categories=("Cc", "Cf", "Zl", "Zp", "L", "Zs", "S"))))
def test_no_text_keeps_a_control_code_and_plain_text_stays(text):
    assert not harmful(printable(text))
    assert printable(printable(text)) == printable(text)
    assert harmful(text) or printable(text) == text


def test_letters_that_join_tabs_and_line_breaks_stay():
    assert printable("👩\u200d🚀\tنمی\u200cدانم\n") == "👩\u200d🚀\tنمی\u200cدانم\n"


def test_json_is_escaped_and_means_the_same():
    text = printable_json(json.dumps({HOSTILE: [HOSTILE]}, ensure_ascii=False))
    assert not harmful(text) and json.loads(text) == {HOSTILE: [HOSTILE]}


def test_whatever_is_printed_passes_the_consoles(capsys):
    made = table(HOSTILE, title=HOSTILE)
    made.add_row(HOSTILE)
    for console in (results, notes):
        console.print(HOSTILE)
        console.print(made)
        console.print(HOSTILE, style="red", highlight=False)
    out, err = capsys.readouterr()
    assert not harmful(out) and not harmful(err)
    assert "\\x1b[2J" in out and "\\x07" in out


def test_an_errors_message_is_printable_wherever_it_is_shown():
    assert str(AdapterError(HOSTILE)) == printable(HOSTILE)
    assert str(CheckpointError(HOSTILE)) == printable(HOSTILE)
    assert not harmful(str(MissingExtraError(HOSTILE, "plot")))


def test_a_line_of_a_log_and_its_traceback_are_printable():
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        found = (type(error), error, error.__traceback__)
    record = PrintableRecord("kameleon", logging.ERROR, __file__, 1, "failed: %s", (HOSTILE,), found)
    text = logging.Formatter("%(message)s").format(record)
    assert not harmful(text) and "ValueError: a\\x1b[2J" in text


def test_a_notebook_shows_no_control_code():
    assert not harmful(html_table([HOSTILE], [[HOSTILE]], title=HOSTILE))
