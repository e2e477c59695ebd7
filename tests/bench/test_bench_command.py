"""`kameleon bench` as a script meets it, and contenders whose process ends too early."""

import json
import time
from dataclasses import replace

import pytest
import torch

from kameleon.bench import CONTENDERS, BenchSettings, Case
from kameleon.bench.measure import measure_case
from kameleon.bench.result import case_document
from kameleon.errors import ContenderError, SettingError

SMALL = ("--steps", "1", "--threads", "1", "--rank", "4", "--compute", "fp32")
SETTINGS = BenchSettings(steps=1, threads=1, rank=4, compute="fp32", loss_steps=2)


def never_done(job, turns):
    """A contender that is prepared, but whose first step takes hours."""
    turns.next()
    time.sleep(9999)


def done_at_once(job, turns):
    """A contender whose steps take no time, on however busy a machine."""
    while turns.next() is not None:
        turns.done(1.0)


ENDS_AT_ONCE = print  # as a contender: it prepares nothing, takes no turn, and its process ends with status 0


def test_bench_train_prints_one_document_and_writes_the_same(tiny_folder, tmp_path, run, monkeypatch):
    monkeypatch.setattr("kameleon.bench.contenders.find_spec", lambda name: None)
    path = tmp_path / "out.json"
    wish = ("--base", tiny_folder, "--cases", "2x16", "--contenders", "peft,trl", *SMALL)
    status, out, err = run("bench", "train", *wish, "--json", "--out", path)
    assert status == 0
    document = json.loads(out)
    assert document == json.loads(path.read_text())
    assert document["skipped"].keys() == {"peft", "trl"}
    assert document["skipped"]["trl"].startswith("skipped: trl is not installed (")
    case = document["cases"]["2x16"]
    assert case["vs_peft"] is case["vs_trl"] is case["peft_peak_bytes"] is case["loss_gap"] is None
    assert case["tokens_per_s"] > 0
    assert "2x16 kameleon step 1" in err


def test_a_disagreement_is_status_1_and_the_missing_are_named(run, monkeypatch, tmp_path):
    loss = {"rows": 2, "tokens": 48, "steps": 20, "limit": 1e-4}
    numbers = {"tokens_per_s": 1500.0, "peak_bytes": 2e9}
    contenders = {"kameleon": {**numbers, "kameleon_is": 1.0}, "peft": {**numbers, "kameleon_is": 1.25}}
    document = {
        "dtype": "float32",
        "compute": "fp32: asked for",
        "threads": 1,
        "skipped": {"trl": "skipped: trl is not installed"},
        "cases": {
            "chat": {
                "tokens_per_s": 1500.0,
                "loss_gap": 0.02,
                "loss_gap_to_fp32": {"kameleon": 9e-4, "peft": 0.018},
                "loss": loss,
                "stopped": {"peft_compiled": "its process ended with status -9"},
                "contenders": contenders,
            }
        },
    }
    monkeypatch.setattr("kameleon.cli.bench.run_bench", lambda *_, **__: document)
    status, out, _ = run("bench", "train")
    said = " ".join(out.split())
    assert status == 1
    assert "chat Kameleon 1,500 2,000.0 MB PEFT 1,500 1.25 × 2,000.0 MB" in said
    assert "trl: skipped: trl is not installed" in said
    assert "chat: peft_compiled stopped: its process ended with status -9" in said
    assert "chat: gap to the losses of PEFT in fp32: Kameleon 9.0e-04, PEFT 1.8e-02" in said
    assert "chat: losses DO NOT AGREE: gap 2.0e-02, at most 1e-04 (20 steps of 2 rows of up to 48 tokens)" in said


def test_who_takes_too_long_is_out(tiny_folder):
    runs = {"kameleon": done_at_once, "gemm_floor": never_done}
    contenders = [replace(CONTENDERS[name], run=run) for name, run in runs.items()]
    settings = replace(SETTINGS, longest_turn_s=3, loss_steps=0)
    measured = measure_case(Case("2x16", 2, 16, str(tiny_folder)), contenders, settings, lambda event: None)
    assert measured.stopped == {"gemm_floor": "a step took more than 3 s"}
    assert [len(steps) for steps in measured.groups[0].values()] == [1, 0]


def test_a_result_that_cannot_be_written_is_a_clear_error(run, monkeypatch, tmp_path):
    def measured(cases, contenders, settings, on_event, on_case):
        on_case({"cases": {}})

    monkeypatch.setattr("kameleon.cli.bench.run_bench", measured)
    (tmp_path / "file").touch()
    status, out, err = run("bench", "train", "--out", tmp_path / "file" / "out.json")
    assert (status, out) == (2, "")
    assert "out.json cannot be written: [Errno 17] File exists" in err


def test_one_case_is_profiled_at_a_time(run):
    status, out, err = run("bench", "profile", "--case", "4x512,chat")
    assert (status, out) == (2, "")
    assert "case is '4x512,chat'; one is profiled at a time" in err


def test_bench_profile_tells_operators(tiny_folder, run):
    threads = torch.get_num_threads()
    words = ("bench", "profile", "--base", tiny_folder, "--case", "2x16", *SMALL)
    try:
        document = json.loads(run(*words, "--json")[1])
        told = run(*words)[1]
    finally:
        torch.set_num_threads(threads)
    assert document["case"] == "2x16"
    assert "projections and side paths" in {one["operator"] for one in document["operators"]}
    assert "projections and side paths" in told


@pytest.mark.parametrize("words", [("--cases", "4by4"), ("--contenders", "axolotl"), ("--steps", "0")])
def test_a_wrong_setting_is_one_line_and_status_2(words, run):
    status, out, err = run("bench", "train", *words)
    assert (status, out) == (2, "")
    assert "error: " in err


def test_who_stops_is_out_and_the_others_go_on(tiny_folder):
    contenders = [CONTENDERS["kameleon"], replace(CONTENDERS["peft"], run=ENDS_AT_ONCE)]
    events = []
    measured = measure_case(Case("2x16", 2, 16, str(tiny_folder)), contenders, SETTINGS, events.append)
    assert measured.stopped == {"peft": "its process ended with status 0"}
    document = case_document(measured, SETTINGS, 1e-4)
    assert document["vs_peft"] is document["loss_gap"] is document["peft_peak_bytes"] is None
    assert document["contenders"].keys() == {"kameleon"}
    assert [e.what for e in events if e.seconds] == ["loss 1", "loss 2", "warm-up", "step 1"]


def test_without_kameleon_there_is_nothing_to_compare(tiny_folder):
    kameleon = replace(CONTENDERS["kameleon"], run=ENDS_AT_ONCE)
    with pytest.raises(ContenderError, match="kameleon stopped: its process ended with status 0"):
        measure_case(Case("2x16", 2, 16, str(tiny_folder)), [kameleon], SETTINGS, lambda event: None)
    with pytest.raises(SettingError, match="needs 300 tokens; this base handles 256"):
        measure_case(Case("chat", 2, 300, str(tiny_folder)), [kameleon], SETTINGS, lambda event: None)
