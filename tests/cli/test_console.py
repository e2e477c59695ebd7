"""What all commands print with: progress with and without a terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from kameleon.cli import console


@pytest.fixture
def shown(monkeypatch):
    """A task of 4 parts, 6 seconds each, on a terminal of this width or (None) in a file; returns what is written."""

    def on(width):
        written = io.StringIO()
        clock = iter(range(0, 10**6, 6))
        now = [0.0]
        made = Console(
            file=written, force_terminal=width is not None, width=width, soft_wrap=True, get_time=lambda: now[0]
        )
        monkeypatch.setattr(console, "notes", made)
        with console.progress() as bars:
            task = bars.add_task("training law  loss 2.310", total=4)
            for _ in range(4):
                now[0] += next(clock) and 6
                bars.update(task, advance=1)
        return written.getvalue()

    return on


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_that_is_too_wide_for_a_narrow_terminal_has_a_line_for_each_cell(columns):
    made = console.table("name", ">size", "about", title="adapters")
    made.add_row("law", "6.5 MB", Text("made from many questions of law"))
    made.add_row("code", "", "made from code")
    terminal = Console(file=io.StringIO(), width=columns)
    terminal.print(made)
    lines = [line.rstrip() for line in terminal.file.getvalue().splitlines()]
    if columns == 40:
        paragraphs = [
            "law",
            "size: 6.5 MB",
            "about: made from many questions of law",
            "",
            "code",
            "about: made from code",
            "",
        ]
        assert lines == ["adapters", *paragraphs]
    else:
        assert lines[1].split() == ["name", "size", "about"] and len(lines) == 4


def test_without_a_terminal_progress_is_plain_lines_with_the_time_spent_and_left(shown):
    lines = shown(None).splitlines()
    assert lines == [
        "training law  loss 2.310  3/4  0:00:12 elapsed, 0:00:06 left",
        "training law  loss 2.310  4/4  0:00:18 elapsed",
    ]


@pytest.mark.parametrize("columns", [40, 100])
def test_a_bar_tells_elapsed_and_left_in_one_line_of_the_terminal(shown, columns):
    text = shown(columns)
    assert "elapsed" in text
    assert ("/4" in text) is (columns == 100)
