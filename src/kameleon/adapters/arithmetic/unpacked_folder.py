"""A `.gguf` base written as a folder in Hugging Face layout: weights, config, tokenizer and template."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kameleon.bases import Base
from kameleon.errors import SettingError, UnsupportedArchitectureError
from kameleon.home import atomic_folder
from kameleon.model.hf_config_of import hf_config_of
from kameleon.text import ChatTemplate
from kameleon.text.tokenizer import load_tokenizer
from kameleon.weights import HEAD, GgufFile
from kameleon.weights.copies import as_stored, check_space
from kameleon.weights.kinds import FLOATS
from kameleon.weights.safetensors_header import header_bytes

_PROBES = ("Hello, world! 3.14  http://example.org\n\ttwo", "Zażółć gęślą jaźń 海賊 🦎", " <|im_end|> </s> ")
_ROPE = "rope_freqs.weight"  # a config.json says it in numbers


def write_unpacked_folder(
    base: Base, target: Path, fresh: Mapping[str, Callable[[], Tensor]], *, kind: str, readme: str
) -> None:
    """Write all weights in `kind` ("BF16", "F16", "F32"), those of `fresh` in place of the base's, to a new folder.

    The folder is complete or does not exist. Raises SettingError, with what to do instead, where the config or the
    tokenizer cannot be written as they are in the file; WeightsError for numbers too large for `kind`; OSError.
    """
    weights = base.weights
    assert isinstance(weights, GgufFile)
    try:
        values, made = hf_config_of(base.config)
    except UnsupportedArchitectureError as error:
        raise _instead(base, str(error)) from error
    shift = made.norm_offset - base.config.norm_offset
    names = sorted((set(weights.names()) - {_ROPE}) | fresh.keys())
    shapes = {name: weights.shape(name if name in weights.names() else "model.embed_tokens.weight") for name in names}
    size = FLOATS[kind].itemsize
    listed = {name: (kind, shape, math.prod(shape) * size) for name, shape in shapes.items()}
    check_space(target, sum(size_bytes for _, _, size_bytes in listed.values()))
    dtype = str(FLOATS[kind]).removeprefix("torch.")
    values |= {"torch_dtype": dtype, "bos_token_id": base.tokenizer.bos_token_id}
    values["tie_word_embeddings"] = base.config.tie_word_embeddings and f"{HEAD}.weight" not in fresh
    with atomic_folder(target) as folder:
        with (folder / "model.safetensors").open("wb") as file:
            file.write(header_bytes(listed, {"format": "pt"}))
            for name in names:
                tensor = fresh[name]() if name in fresh else weights.tensor(name).float()
                file.write(as_stored(tensor - shift if name.endswith("norm.weight") else tensor, kind, name))
        _write_json(folder / "config.json", values)
        _write_json(folder / "generation_config.json", _generation(base))
        base.tokenizer.save_pretrained(folder)
        _check_tokenizer(base, load_tokenizer(folder, None))
        (folder / "README.md").write_bytes(readme.encode(errors="replace"))


def _generation(base: Base) -> dict[str, Any]:
    """The sampling that chat and the server use, and the tokens that end an answer."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {
        "do_sample": base.sampling.temperature > 0,
        **{name: getattr(base.sampling, name) for name in names},
        "eos_token_id": sorted(base.stop_token_ids),
    }


def _check_tokenizer(base: Base, written: PreTrainedTokenizerBase) -> None:
    """Raise SettingError unless both tokenizers cut texts in the same way."""
    before, after = ChatTemplate(base.tokenizer), ChatTemplate(written)
    for probe in _PROBES:
        if base.tokenizer.encode(probe) != written.encode(probe):
            raise _instead(base, f"its tokenizer cuts {probe!r} otherwise once transformers has written it")
    if before.source != after.source:
        raise _instead(base, "its chat template is another one once transformers has written it")


def _instead(base: Base, reason: str) -> SettingError:
    return SettingError(
        f"{base.name} cannot be written in Hugging Face layout: {reason}; merge into a .gguf file "
        "(`kind='Q8_0'`), or merge into the base's own Hugging Face folder (`any_base=True`)"
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
