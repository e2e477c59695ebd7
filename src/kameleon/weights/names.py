"""Names of modules and tensors in the Hugging Face layout, written and read in this one place."""

from __future__ import annotations

import re
from typing import NamedTuple

EMBEDDING, NORM, HEAD = "model.embed_tokens", "model.norm", "lm_head"
"""The modules outside of the layers. The embedding's and the head's matrices are [vocab, hidden_size]."""

_IN_A_LAYER = re.compile(r"(.*layers)\.(\d{1,9})\.(.+)")


class ModuleName(NamedTuple):
    """One module of a decoder; `str` gives its name as weight and adapter files write it.

    A module outside of the layers, such as `lm_head`, has layer −1, and `member` is its whole name.
    """

    layer: int
    member: str
    """Its name inside the layer: `self_attn.q_proj`."""
    stack: str = "model.layers"
    """The name of the list of layers."""

    @classmethod
    def parse(cls, text: str) -> ModuleName:
        """The name of a module, or of a tensor: its `member` then ends in `.weight` or `.bias`."""
        inside = _IN_A_LAYER.fullmatch(text)
        return cls(int(inside[2]), inside[3], inside[1]) if inside else cls(-1, text)

    @property
    def kind(self) -> str:
        """The last part, `q_proj`: what targets are called by."""
        return self.member.rpartition(".")[2]

    @property
    def in_layer(self) -> str:
        """The layer's number and the name inside it: `3.self_attn.q_proj`."""
        return self.member if self.layer < 0 else f"{self.layer}.{self.member}"

    @property
    def weight(self) -> str:
        """The name of its matrix."""
        return f"{self}.weight"

    @property
    def bias(self) -> str:
        """The name of its bias."""
        return f"{self}.bias"

    def __str__(self) -> str:
        return self.member if self.layer < 0 else f"{self.stack}.{self.layer}.{self.member}"
