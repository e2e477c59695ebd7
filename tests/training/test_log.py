"""The loss curve of a run: its mean is over a part of the run, however short that is."""

import json

import pytest

from kameleon.training.log import LOG_FILE, draw_loss_curve


@pytest.mark.parametrize(
    ("steps", "label"), [(4, None), (10, "mean of 2 steps"), (50, "mean of 10 steps"), (400, "mean of 20 steps")]
)
def test_the_mean_of_the_loss_curve_is_over_at_most_a_fifth_of_the_run(tmp_path, monkeypatch, steps, label):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "plot", lambda self, *_, label=None, **__: drawn.append(label))
    monkeypatch.setattr(Axes, "legend", lambda self, **_: None)
    (tmp_path / LOG_FILE).write_text("".join(json.dumps({"step": i, "loss": 1.0}) + "\n" for i in range(steps)))
    draw_loss_curve(tmp_path, "law")
    assert drawn == ["each step", *([label] if label else [])]
