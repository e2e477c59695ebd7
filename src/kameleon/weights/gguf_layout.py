"""How the GGUF files of one architecture name a base's tensors, and in which order they keep the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from kameleon.weights.names import EMBEDDING, HEAD, NORM, ModuleName

_OUTER = {"token_embd": EMBEDDING, "output_norm": NORM, "output": HEAD}
_INNER = re.compile(r"blk\.(\d{1,9})\.(\w+)\.(weight|bias)")


@dataclass(frozen=True, eq=False)
class GgufLayout:
    """The layout of one architecture; without members, that of one whose tensors keep their stored names."""

    architecture: str
    """`general.architecture` of these files."""
    members: Mapping[str, str] = field(default_factory=dict)
    """For each name inside a block of the file (`attn_q`) the name inside a layer (`self_attn.q_proj`)."""
    paired: Mapping[str, str] = field(default_factory=dict)
    """Members of which the file keeps the two rows of a rotated pair next to each other, each with the metadata key
    that counts its heads."""

    def hf_name(self, stored: str) -> str:
        """The Hugging Face name of a stored tensor; a name that no member has stays as it is."""
        outer, _, kind = stored.rpartition(".")
        if outer in _OUTER and kind == "weight":
            return f"{_OUTER[outer]}.weight"
        inner = _INNER.fullmatch(stored)
        if inner and inner[2] in self.members:
            return str(ModuleName(int(inner[1]), f"{self.members[inner[2]]}.{inner[3]}"))
        return stored

    def stored_name(self, name: str) -> str:
        """The stored name of a tensor of a layer."""
        place = ModuleName.parse(name)
        member, _, kind = place.member.rpartition(".")
        stored = next(stored for stored, hf in self.members.items() if hf == member)
        return f"blk.{place.layer}.{stored}.{kind}"

    def heads_key(self, name: str) -> str | None:
        """The metadata key that counts the heads of a tensor whose rows are paired; None for other tensors."""
        return self.paired.get(ModuleName.parse(name).member.rpartition(".")[0])


def pair_rows(rows: Tensor, half: int) -> Tensor:
    """From Hugging Face's order, in which each head has the first rows of all pairs before the second ones, to pairs.

    `half` is half of a head's size; 0 stands for rows that are not paired.
    """
    return rows.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2) if half else rows


def part_rows(rows: Tensor, half: int) -> Tensor:
    """The inverse of `pair_rows`."""
    return rows.unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2) if half else rows
