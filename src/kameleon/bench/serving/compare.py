"""Everyone measured in turn on the same loads, and what comes of it as one document."""

from __future__ import annotations

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

from kameleon.bench.machine import machine
from kameleon.bench.serving.contender import Contender, Stage
from kameleon.bench.serving.load import Drive, joined
from kameleon.bench.serving.servers import ADAPTER_BYTES, KameleonServer, LlamaServer, Vllm
from kameleon.bench.serving.settings import OWN_MIXES, POWER_LAW, ServeBenchSettings, spread
from kameleon.bench.serving.stage import set_stage
from kameleon.bench.serving.workers import OpenVino, Peft
from kameleon.errors import ContenderError, SettingError, install_command

OURS, OURS_GGUF, PEFT, LLAMA, VLLM, OPENVINO = "kameleon", "kameleon_gguf", "peft", "llama_server", "vllm", "openvino"
TITLES = {
    OURS: "Kameleon, bf16",
    OURS_GGUF: "Kameleon, the GGUF file",
    PEFT: "transformers + PEFT, bf16",
    LLAMA: "llama-server, the GGUF file",
    VLLM: "vLLM's CPU backend, bf16",
    OPENVINO: "OpenVINO GenAI, bf16",
}
_GGUF_CASES = (("base", 1), ("1", 1))  # loads of the packed base: one person
_SWITCHES = 12

Start = Callable[[Stage], Contender]
Rates = Mapping[str, Mapping[str, float]]


def find_contenders(names: str) -> tuple[dict[str, Start], dict[str, str]]:
    """A function that starts each installed contender, and for each of the others the reason why it is left out.

    Kameleon always takes part. Raises SettingError for an unknown name.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()} | {OURS}
    if unknown := sorted(wanted - TITLES.keys()):
        raise SettingError(f"no contender {', '.join(unknown)}; there are {', '.join(TITLES)}")
    llama = os.environ.get("KAMELEON_LLAMA_SERVER") or shutil.which("llama-server")
    vllm = os.environ.get("KAMELEON_VLLM") or shutil.which("vllm")
    openvino = os.environ.get("KAMELEON_OPENVINO_PYTHON")
    found: dict[str, Start | str] = {
        OURS: KameleonServer,
        OURS_GGUF: lambda stage: KameleonServer(stage, gguf=True),
        PEFT: Peft if find_spec("peft") else f"peft is not installed ({install_command('bench')})",
        LLAMA: (lambda stage: LlamaServer(stage, llama))
        if llama
        else "no llama-server on PATH, and KAMELEON_LLAMA_SERVER names none",
        VLLM: (lambda stage: Vllm(stage, vllm)) if vllm else "no vllm on PATH, and KAMELEON_VLLM names none",
        OPENVINO: (lambda stage: OpenVino(stage, openvino))
        if openvino
        else "KAMELEON_OPENVINO_PYTHON names no Python that has it",
    }
    starts = {name: how for name, how in found.items() if name in wanted and not isinstance(how, str)}
    return starts, {name: why for name, why in found.items() if name in wanted and isinstance(why, str)}


def run_serve_bench(
    ref: str, contenders: str, settings: ServeBenchSettings, *, on_event: Callable[[str], None] = lambda told: None
) -> dict[str, Any]:
    """Measure all contenders and return the whole document.

    Raises SettingError, ContenderError, and the errors of `load_base`.
    """
    starts, skipped = find_contenders(contenders)
    rates: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with set_stage(ref, settings) as stage, ExitStack() as stack:
        seats: dict[str, Contender] = {}
        for name, start in starts.items():
            on_event(f"{TITLES[name]} starts")
            try:
                seats[name] = start(stage)
            except ContenderError as error:
                if name == OURS:
                    raise
                skipped[name] = str(error)
            else:
                stack.callback(seats[name].close)
        died = _measure(seats, settings, rates, first, skipped, on_event)
        ours = seats[OURS]
        assert isinstance(ours, KameleonServer)
        resident = {"adapter_bytes": ours.adapter_bytes(), "adapter_bytes_budget": ADAPTER_BYTES}
        on_event("switching")
        switching = _switching(ours, settings)
    return {
        "machine": machine(),
        "threads": settings.used_threads,
        "settings": asdict(settings),
        "skipped": {name: why if name in died else f"skipped: {why}" for name, why in skipped.items()},
        "died": died,
        **document_of(_medians(rates), settings),
        "first_token_s": _medians(first),
        "contenders": _medians(rates),
        **resident,
        **switching,
    }


def document_of(rates: Rates, settings: ServeBenchSettings) -> dict[str, Any]:
    """The named figures of the document, computed from all rates; None if a contender was missing."""
    most = max(settings.stream_counts)

    def rate(name: str, mix: str, streams: int) -> float | None:
        return rates.get(name, {}).get(case_name(mix, streams))

    def ratio(ours: float | None, theirs: float | None) -> float | None:
        return ours / theirs if ours and theirs else None

    ours = {mix: rate(OURS, mix, most) for mix in ("base", "1", "4", "16")}
    return {
        "decode_tokens_per_s": {
            mix: {str(n): rate(OURS, mix, n) for n in settings.stream_counts if rate(OURS, mix, n)}
            for mix in settings.mix_names
        },
        "prefill_tokens_per_s": {name: cases["prefill"] for name, cases in rates.items() if "prefill" in cases},
        "streams": most,
        "mixed4_vs_base": ratio(ours["4"], ours["base"]),
        "mixed16_vs_base": ratio(ours["16"], ours["base"]),
        "mixed1000_vs_10": ratio(rate(OURS, POWER_LAW, most), rate(OURS, "10", most)),
        "mixed4_vs_llama_server": ratio(ours["4"], rate(LLAMA, "4", most)),
        "mixed4_vs_vllm": ratio(ours["4"], rate(VLLM, "4", most)),
        "mixed4_vs_peft": ratio(ours["4"], rate(PEFT, "4", most)),
        "mixed16_vs_peft": ratio(ours["16"], rate(PEFT, "16", most)),
        "base_vs_peft": ratio(ours["base"], rate(PEFT, "base", most)),
        "base_vs_openvino": ratio(ours["base"], rate(OPENVINO, "base", most)),
        "base_vs_vllm": ratio(ours["base"], rate(VLLM, "base", most)),
        "mixed4_vs_openvino_one_adapter": ratio(ours["4"], rate(OPENVINO, "1", most)),
        "one_stream_vs_llama_server": ratio(rate(OURS_GGUF, "base", 1), rate(LLAMA, "base", 1)),
        "one_stream_adapter_vs_base": ratio(rate(OURS_GGUF, "1", 1), rate(OURS_GGUF, "base", 1)),
    }


def case_name(mix: str, streams: int) -> str:
    """The name of a load in the document."""
    return f"{mix} × {streams}"


def _measure(
    seats: Mapping[str, Contender],
    settings: ServeBenchSettings,
    rates: dict[str, dict[str, list[float]]],
    first: dict[str, dict[str, list[float]]],
    skipped: dict[str, str],
    on_event: Callable[[str], None],
) -> dict[str, str]:
    """Measure every load, contenders in turn; the first round warms up and does not count.

    A contender that fails is ended and left out from then on; its figures so far count. Returns the load in which each
    of them failed.
    """
    died: dict[str, str] = {}
    numbers = random.Random(0)

    def prompts(count: int, tokens: int) -> list[list[int]]:
        """Random tokens, so that no prefix cache helps."""
        return [[numbers.randrange(1000, 40000) for _ in range(tokens)] for _ in range(count)]

    draws = random.Random(2)
    for round_ in range(-1, settings.rounds):
        for load in _loads(settings, draws, warm_up=round_ < 0):
            for who, seat in seats.items():
                if who in skipped or not load.suits(who) or not all(map(seat.can, load.waves)):
                    continue
                try:
                    waves = [seat.run(wave, prompts(len(wave), load.length), load.tokens) for wave in load.waves]
                except ContenderError as error:
                    if who == OURS:
                        raise
                    skipped[who], died[who] = f"died in {load.name}: {error}", load.name
                    on_event(f"{TITLES[who]} {skipped[who]}")
                    seat.close()  # so that it takes nothing from the others
                    continue
                if round_ >= 0:
                    _note(load, joined(waves), round_, who, rates, first, on_event)
    return died


@dataclass(frozen=True)
class _Load:
    """One load: prompts of `length` tokens, in waves of requests for adapters, `tokens` to generate for each."""

    mix: str
    streams: int
    waves: list[list[int | None]]
    length: int
    tokens: int

    @property
    def name(self) -> str:
        return self.mix if self.is_prefill else case_name(self.mix, self.streams)

    @property
    def is_prefill(self) -> bool:
        return self.mix == "prefill"

    def suits(self, who: str) -> bool:
        """Whether a contender takes part in it."""
        if who == OURS_GGUF and not self.is_prefill and (self.mix, self.streams) not in _GGUF_CASES:
            return False
        return who == OURS or self.mix not in OWN_MIXES


def _loads(settings: ServeBenchSettings, draws: random.Random, *, warm_up: bool) -> Iterator[_Load]:
    """The loads of one round; a warm-up generates few tokens."""

    def tokens(count: int) -> int:
        return min(count, 4) if warm_up else count

    yield _Load("prefill", 1, [[None]], settings.prefill_tokens, tokens(1))
    for mix in settings.mix_names:
        for streams in settings.stream_counts:
            if settings.can_measure(mix, streams):
                waves = [spread(mix, streams, draws) for _ in range(settings.waves(mix))]
                yield _Load(mix, streams, waves, settings.prompt_tokens, tokens(settings.tokens))


def _note(
    load: _Load,
    done: Drive,
    round_: int,
    who: str,
    rates: dict[str, dict[str, list[float]]],
    first: dict[str, dict[str, list[float]]],
    on_event: Callable[[str], None],
) -> None:
    rate = (load.length if load.is_prefill else done.tokens) / done.seconds
    rates[who][load.name].append(rate)
    on_event(f"round {round_ + 1}, {load.name}, {TITLES[who]}: {rate:,.0f} tokens/s")
    if done.first_token_s:
        first[who][load.name].append(median(done.first_token_s))


def _switching(ours: KameleonServer, settings: ServeBenchSettings) -> dict[str, float]:
    """Extra milliseconds of a one-token request if its adapter differs from the last one's, or is not in memory."""
    numbers = random.Random(1)

    def ask_ms(adapter: int) -> float:
        prompt = [numbers.randrange(1000, 40000) for _ in range(32)]
        return 1000 * ours.run([adapter], [prompt], 1).seconds

    for adapter in range(4):
        ask_ms(adapter)
    # In turn, since the machine's speed may drift.
    pairs = [(ask_ms(0), ask_ms(0), ask_ms(1 + at % 3)) for at in range(_SWITCHES)]
    same, other = median(pair[1] for pair in pairs), median(pair[2] for pair in pairs)
    warm: list[float] = []
    cold: list[float] = []
    for _ in range(_SWITCHES):
        # Both requests follow an unloading at once: a request after a pause takes longer.
        for adapter, times in ((0, warm), (4, cold)):
            ask_ms(4)
            ours.unload(4)
            times.append(ask_ms(adapter))
    return {"same_adapter_ms": same, "switch_ms": other - same, "cold_switch_ms": median(cold) - median(warm)}


def _medians(values: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    return {who: {case: median(found) for case, found in cases.items()} for who, cases in values.items()}
