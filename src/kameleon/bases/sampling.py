"""The sampling of a base by default: what its authors recommend, else values for small models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kameleon.errors import SettingError, WeightsError
from kameleon.model.files import read_generation_config
from kameleon.settings import Sampling
from kameleon.weights import GgufFile, Metadata, WeightFile

FOR_SMALL_BASES = Sampling(temperature=0.2, top_p=0.9)
"""For a base that recommends nothing. SmolLM2's model cards give these values: small bases ramble at temperature 1."""

# Our field and its key in a generation_config.json. llama.cpp has other words for two of them in a `.gguf` file.
_KEYS = {name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
_GGUF_WORDS = _KEYS | {"temperature": "temp", "repetition_penalty": "penalty_repeat"}
_GGUF_KEYS = {name: f"general.sampling.{word}" for name, word in _GGUF_WORDS.items()}


def recommended_sampling(path: Path, weights: WeightFile) -> Sampling:
    """The sampling that `generation_config.json` or the metadata of a `.gguf` file recommend, or `FOR_SMALL_BASES`.

    Raises WeightsError for an impossible value, naming it and the file.
    """
    if isinstance(weights, GgufFile):
        return _sampling_of(weights.metadata, _GGUF_KEYS)
    return _sampling_of(Metadata(read_generation_config(path), "generation_config.json"), _KEYS)


def _sampling_of(values: Metadata, keys: Mapping[str, str]) -> Sampling:
    """Fields that the file leaves out change nothing: a missing temperature is 1.

    transformers decodes greedily unless `do_sample` is true. That is the library's default and not the authors' wish,
    so a missing `do_sample` is ignored. If it is false, only the repetition penalty counts, as in transformers.
    """
    said = {name: values.find(key, int if name == "top_k" else float, None) for name, key in keys.items()}
    # A `.gguf` file stores fp32: 0.95 is read as 0.949999988.
    given = {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in said.items() if v is not None}
    if given.get("top_k") == -1:  # llama.cpp and vLLM write -1 for all tokens
        given["top_k"] = 0
    try:
        own = Sampling(**given)  # type: ignore[arg-type]
    except SettingError as error:
        raise WeightsError(f"the sampling that {values.where} recommends: {error}; correct it there") from error
    if values.find("do_sample", bool, default=True) and given.keys() - {"repetition_penalty"}:
        return own if "temperature" in given else replace(own, temperature=1.0)
    return replace(FOR_SMALL_BASES, repetition_penalty=own.repetition_penalty)
