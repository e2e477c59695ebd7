"""A bar is shown in a terminal and in a notebook, and nothing anywhere else; results show themselves there."""

import sys
from types import SimpleNamespace

import pytest

from kameleon import Recipe
from kameleon.api.progress import bar

ROWS = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in range(8)]
QUICK = Recipe(rank=2, epochs=2)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook's cell shows, as it changes."""
    told = []

    class Handle:
        def update(self, shown, raw):
            told.append(shown["text/plain"])

    def display(shown, *, raw, display_id):
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return told


def test_a_notebook_shows_one_line_that_ends_full(tiny, shown):
    tiny.train(ROWS, "mine", recipe=QUICK)
    assert shown[-1].startswith("training mine, loss ") and "100%" in shown[-1]
    tiny.evaluate("mine", ROWS)
    assert shown[-1].startswith("evaluating") and "100%" in shown[-1]


def test_no_bar_is_shown_where_it_is_turned_off_or_steps_are_reported_otherwise(tiny, shown):
    tiny.train(ROWS, "mine", recipe=QUICK, progress=False)
    tiny.train(ROWS, "other", recipe=QUICK, on_step=lambda report: None)
    assert shown == []


def test_a_terminal_shows_a_bar_and_a_script_without_one_nothing(tiny, capsys, monkeypatch):
    tiny.train(ROWS, "mine", recipe=QUICK)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar(shown=True) as move:
        move("training [mine]", 4, 8)
    out, err = capsys.readouterr()
    assert out == "" and "training [mine]" in err


def test_results_are_tables_and_curves_in_a_notebook(tiny):
    plans = []
    result = tiny.train(ROWS, "mine", recipe=QUICK, on_plan=plans.append)
    assert "<svg" in result._repr_html_() and "adapter mine" in result._repr_html_()
    assert [step for step, _ in result.losses] == [1, 2, 3, 4]
    scores = tiny.evaluate([None, "mine"], ROWS)
    assert scores._repr_html_().count("<tr>") == 3
    assert "Plan(" in repr(plans[0]) and "4" in repr(plans[0]) and "<td" in plans[0]._repr_html_()
    check = tiny.check([*ROWS, ROWS[0], {"prompt": "<b>", "completion": ""}], test=ROWS[:1])
    assert not check.usable and tiny.check(ROWS).usable
    assert "duplicate of row 1" in check._repr_html_() and "&#x27;completion&#x27;" in check._repr_html_()
    assert all(len(repr(one)) < 300 for one in (result, scores, plans[0], check))
