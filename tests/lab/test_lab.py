"""The lab's numbers are what the explanation says, the same every time, and the pictures are pictures."""

import builtins
import json
import math

import pytest
import torch

from kameleon.errors import MissingExtraError, SettingError
from kameleon.lab import PICTURES, explain, run_lab, save_pictures
from kameleon.settings import Recipe, Sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab") / "made" / "when missing"


@pytest.fixture(scope="module")
def report(folder):
    return run_lab(folder, seed=0)


def test_a_seed_beyond_64_bits_is_refused():
    for use in (run_lab, lambda seed: Recipe(seed=seed), lambda seed: Sampling(seed=seed)):
        for seed in (2**64, -(2**63) - 1):
            with pytest.raises(SettingError, match=f"seed is {seed}; it must be a number of 64 bits"):
                use(seed=seed)


def test_how_little_is_trained(report):
    assert (report.full_1000, report.trained_1000) == (1_000_000, 8_000)
    assert (report.frozen_100, report.trained_100) == (10_000, 800)
    assert report.share_1000 == 0.992
    assert round(report.share_100, 4) == 0.9259


def test_a_fresh_side_path_changes_nothing_to_the_bit(report):
    assert report.fresh_change == 0


def test_ten_points_are_fitted_and_the_base_stays(report):
    assert len(report.losses) == 101
    assert report.loss_first == pytest.approx(25, abs=0.01)
    assert report.loss_last < 0.001
    assert report.base_changed is False
    assert report.change_norm > report.weight_norm
    assert report.train_mean == pytest.approx(5, abs=0.05)


def test_ten_points_are_memorised_and_the_constant_is_not_learned(report):
    assert abs(report.heldout_mean) < 0.3
    assert report.heldout_spread > 2


def test_what_helps_and_what_does_not(report):
    assert report.heldout_mean_bias_10 == pytest.approx(1.3, abs=0.1)
    assert report.heldout_mean_bias_only_10 == pytest.approx(5.04, abs=0.02)
    assert abs(report.heldout_mean_lora_1000) < 0.3
    assert report.loss_lora_1000 > 20
    assert report.heldout_mean_bias_1000 == pytest.approx(5, abs=0.1)
    assert report.heldout_mean_feature_1000 == pytest.approx(5, abs=0.1)


def test_training_reaches_the_best_possible_error_at_every_rank(report):
    assert [point.rank for point in report.rank_curve] == list(range(1, 101))
    for point in report.rank_curve:
        assert point.identity_best == pytest.approx(math.sqrt(1 - point.rank / 100), abs=1e-6)
        assert (point.rank4_best < 1e-6) == (point.rank >= 4)
        assert point.identity_error == pytest.approx(point.identity_best, abs=2e-3)
        assert point.rank4_error == pytest.approx(point.rank4_best, abs=2e-3)


def test_the_same_seed_gives_the_same_report_and_leaves_the_callers_random_state(report):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert run_lab(None, seed=0) == report
    assert torch.equal(torch.get_rng_state(), before)


def test_the_document_is_json_with_the_promised_keys(report):
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert {
        "share_1000", "share_100", "fresh_change", "loss_first", "loss_last", "base_changed", "heldout_mean",
        "heldout_mean_bias_10", "heldout_mean_bias_only_10", "heldout_mean_bias_1000",
    } <= document.keys()  # fmt: skip
    assert document["rank_curve"][3]["rank"] == 4


def test_the_explanation_shows_the_numbers_on_a_narrow_screen(report):
    text = explain(report)
    words = " ".join(text.split())
    for shown in (
        "8,000 instead of 1,000,000: 99.2% fewer",
        "10,000 are frozen and 800 trained: 92.59%",
        "scaling alpha / r = 1 / 4 = 0.25",
        "the same to the bit",
        f"by {report.heldout_mean:.2f} on average, with a spread of {report.heldout_spread:.2f}",
        f"LoRA and a bias {report.heldout_mean_bias_10:.2f} {report.heldout_mean_bias_1000:.2f}",
        f"a bias alone {report.heldout_mean_bias_only_10:.2f}",
        f"always 1 {report.heldout_mean_feature_1000:.2f}",
    ):
        assert shown in words
    assert max(map(len, text.splitlines())) <= 79


def test_pictures_are_png_files(folder, report):
    assert sorted(path.name for path in folder.iterdir()) == sorted(PICTURES)
    for path in folder.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000


def test_a_folder_that_cannot_be_written_is_named(report, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingError, match=r"cannot be written to .*file.*another folder"):
        save_pictures(report, tmp_path / "file")


def test_without_matplotlib_the_install_command_is_told_before_any_work(tmp_path, monkeypatch):
    found = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    monkeypatch.setattr("kameleon.lab.run._measure", lambda seed: pytest.fail("worked before it asked"))
    with pytest.raises(MissingExtraError, match=r'pip install "kameleon\[plot\]"'):
        run_lab(tmp_path)
