"""Serving compared: who takes part, what is reported, and a real small run of Kameleon and PEFT."""

import random
import sys
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kameleon.bench.serving import (
    ServeBenchSettings,
    case_name,
    compare,
    document_of,
    find_contenders,
    run_serve_bench,
    spread,
)
from kameleon.bench.serving.contender import Contender, Program
from kameleon.bench.serving.load import Drive, drive
from kameleon.bench.serving.stage import random_adapter
from kameleon.cli import main
from kameleon.errors import ContenderError, SettingError

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
    adapter = random_adapter(tiny.base.config, "a0", seed=0, rank=4)
    assert tiny.load_adapter(adapter, any_base=True).live


class Silent(BaseHTTPRequestHandler):
    """A server whose engine died in the middle of an answer: it begins, and never goes on."""

    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: {}\n\n")
        self.wfile.flush()
        self.server.released.wait(20)

    def log_message(self, *words):
        pass


def test_a_peer_that_goes_silent_is_not_waited_for_for_ever():
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        server.released = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ContenderError, match="said nothing for 0 s"):
            drive(f"127.0.0.1:{server.server_port}", "/", [{}, {}], silent_s=0.2)
        server.released.set()
        server.shutdown()


@pytest.mark.parametrize(
    ("script", "told"), [("input()", "said nothing"), ("exit('out of memory')", "status 1: out of")]
)
def test_a_worker_that_hangs_or_ends_says_so(script, told):
    program = Program([sys.executable, "-c", script], 1)
    with pytest.raises(ContenderError, match=told):
        program.line(0.5 if "said" in told else 20)
    program.end()


class Dying(Contender):
    def __init__(self, dies_in):
        self.left, self.closed = dies_in, 0

    def run(self, adapters, prompts, tokens):
        self.left -= 1
        if self.left < 0:
            raise ContenderError("it said nothing for 120 s")
        return Drive(1.0, 100, [])

    def close(self):
        self.closed += 1


def test_a_peer_that_dies_is_ended_and_counts_as_not_measured_from_there_on(monkeypatch):
    settings = ServeBenchSettings(mixes="base,4", streams="4", rounds=2)
    seats = {"kameleon": Dying(99), "vllm": Dying(5)}  # three loads that warm it up, the prompt and the base once
    rates, first, skipped = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list)), {}
    died = compare._measure(seats, settings, rates, first, skipped, lambda told: None)
    assert died == {"vllm": "4 × 4"}
    assert seats["vllm"].closed == 1 and seats["vllm"].left == -1
    assert skipped["vllm"] == "died in 4 × 4: it said nothing for 120 s"
    assert list(rates["vllm"]) == ["prefill", "base × 4"] and len(rates["kameleon"]["4 × 4"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_small_run_measures_everyone_who_is_here(monkeypatch, tmp_path, capsys):
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
