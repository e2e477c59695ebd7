"""Serving compared: who takes part, what is reported, and a real small run of Kameleon and PEFT."""

import random
from collections import Counter

import pytest

from kameleon.bench.serving import ServeBenchSettings, case_name, document_of, find_contenders, run_serve_bench, spread
from kameleon.bench.serving.stage import random_adapter
from kameleon.cli import main
from kameleon.errors import SettingError

KEYS = {
    "decode_tokens_per_s",
    "mixed4_vs_base",
    "mixed16_vs_base",
    "mixed1000_vs_10",
    "mixed4_vs_llama_server",
    "mixed4_vs_vllm",
    "mixed16_vs_peft",
    "base_vs_openvino",
    "base_vs_vllm",
    "mixed4_vs_openvino_one_adapter",
    "one_stream_vs_llama_server",
}


def test_streams_are_spread_over_adapters():
    draws = random.Random(0)
    assert spread("base", 3, draws) == [None, None, None]
    assert spread("1", 3, draws) == [0, 0, 0]
    assert spread("4", 6, draws) == [0, 1, 2, 3, 0, 1]
    drawn = Counter(spread("1000", 10_000, draws))
    assert len(drawn) > 800 and 1.5 < drawn[0] / drawn[1] < 2.5


def test_ratios_are_taken_at_the_most_streams_and_none_where_somebody_is_missing():
    ours = {case_name("base", 16): 100.0, case_name("4", 16): 80.0, case_name("16", 16): 50.0, case_name("4", 1): 7.0}
    rates = {"kameleon": ours, "peft": {case_name("16", 16): 10.0}}
    document = document_of(rates, ServeBenchSettings(streams="1,16"))
    assert document.keys() >= KEYS
    assert document["mixed4_vs_base"] == 0.8
    assert document["mixed16_vs_peft"] == 5.0
    assert document["decode_tokens_per_s"]["4"] == {"1": 7.0, "16": 80.0}
    assert all(document[key] is None for key in KEYS if "vllm" in key or "openvino" in key or "llama" in key)


def test_who_is_not_here_is_skipped_with_a_word_and_nobody_unknown_takes_part(monkeypatch, tmp_path):
    for name in ("KAMELEON_LLAMA_SERVER", "KAMELEON_VLLM", "KAMELEON_OPENVINO_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    starts, skipped = find_contenders("llama_server,vllm,openvino")
    assert list(starts) == ["kameleon"]
    assert skipped["llama_server"] == "no llama-server on PATH, and KAMELEON_LLAMA_SERVER names none"
    monkeypatch.setenv("KAMELEON_LLAMA_SERVER", "/opt/llama-server")
    assert "llama_server" in find_contenders("llama_server")[0]
    with pytest.raises(SettingError, match="no contender ollama"):
        find_contenders("ollama")


@pytest.mark.parametrize("fields", [{"mixes": "3"}, {"streams": "0"}, {"streams": "many"}, {"rounds": 0}])
def test_settings_that_cannot_be_measured_are_refused(fields):
    with pytest.raises(SettingError):
        ServeBenchSettings(**fields)


def test_random_adapters_change_what_is_said(tiny):
    adapter = random_adapter(tiny.base.config, "a0", 0, 4)
    assert tiny.load_adapter(adapter, any_base=True).live


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_run_measures_everyone_who_is_here(monkeypatch, tmp_path, capsys):
    import kameleon.bench.serving.compare as compare

    monkeypatch.setattr(compare, "_SWITCHES", 2)
    settings = ServeBenchSettings(mixes="base,4", streams="4", rounds=1, tokens=4, prefill_tokens=32)
    document = run_serve_bench("smollm2", "peft", settings)
    assert set(document["contenders"]) == {"kameleon", "peft"}
    for rates in document["contenders"].values():
        assert set(rates) == {"prefill", "base × 4", "4 × 4"}
        assert all(rate > 0 for rate in rates.values())
    assert document["mixed4_vs_base"] > 0
    assert document["first_token_s"]["kameleon"]["base × 4"] > 0
    assert document["same_adapter_ms"] > 0


def test_the_command_refuses_before_it_starts_anything(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "serve", "--contenders", "ollama", "--json"])
    assert ended.value.code == 2
    assert "no contender ollama" in capsys.readouterr().err
