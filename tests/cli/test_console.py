"""What all commands print with: progress with and without a terminal."""

import io

import pytest
from rich.console import Console

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
