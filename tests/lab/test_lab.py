"""The lab's numbers are what its words claim."""

import json

import pytest

from kameleon.lab import draw, run_lab, tell


@pytest.fixture(scope="module")
def report():
    return run_lab()


def test_counts_and_the_fresh_side_path(report):
    assert (report.trained_1000, report.trained_100) == (8000, 800)
    assert report.share_1000 == pytest.approx(0.992)
    assert report.share_100 == pytest.approx(0.9259, abs=1e-4)
    assert report.fresh_change == 0


def test_ten_points_are_learned_and_the_base_is_untouched(report):
    assert report.loss_first == pytest.approx(25, abs=0.1)
    assert report.loss_last < 0.001
    assert report.base_changed is False
    assert report.largest_change > 0.1


def test_but_only_memorised(report):
    assert abs(report.heldout_mean) < 0.5
    assert report.heldout_spread > 2
    assert 0.8 < report.heldout_mean_bias_10 < 1.8
    assert report.heldout_mean_bias_only_10 == pytest.approx(5.04, abs=0.05)
    assert report.heldout_mean_bias_1000 == pytest.approx(5.0, abs=0.1)
    assert report.heldout_mean_one_1000 == pytest.approx(5.0, abs=0.1)


def test_trained_ranks_come_near_the_best_possible_and_never_beat_it(report):
    for curve in (report.full_rank, report.low_rank):
        for trained, best in zip(curve.trained, curve.best, strict=True):
            assert best - 1e-4 <= trained <= best + 0.02
    assert report.low_rank.trained[3] < 0.01 < report.low_rank.trained[2]
    assert report.full_rank.best[3] == pytest.approx((1 - 4 / 100) ** 0.5, abs=1e-5)


def test_words_json_and_pictures_come_from_the_same_numbers(report, tmp_path):
    assert f"{report.heldout_mean_bias_only_10:.2f}" in tell(report)
    assert json.loads(json.dumps(report.to_json()))["loss_first"] == report.loss_first
    paths = draw(report, tmp_path)
    assert [p.name for p in paths] == ["loss.png", "memorised.png", "rank.png"]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in paths)
