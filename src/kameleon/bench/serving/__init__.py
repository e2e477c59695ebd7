"""Serving speed over HTTP with mixes of adapters, beside PEFT, llama-server, vLLM and OpenVINO if they are here."""

from kameleon.bench.serving.compare import TITLES, case_name, document_of, find_contenders, run_serve_bench
from kameleon.bench.serving.settings import MIXES, ServeBenchSettings, spread

__all__ = [
    "MIXES",
    "TITLES",
    "ServeBenchSettings",
    "case_name",
    "document_of",
    "find_contenders",
    "run_serve_bench",
    "spread",
]
