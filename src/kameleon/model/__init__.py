"""The frozen base: its decoder, tokenizer and template, and where bases come from. It knows no adapter."""

from kameleon.model.config import FAMILIES, DecoderConfig
from kameleon.model.decoder import Decoder, build_decoder
from kameleon.model.ends import EMBEDDING, HEAD, AdaptedEnd
from kameleon.model.layout import Group, Member, find_member, groups, module_names, module_shapes

__all__ = [
    "EMBEDDING",
    "FAMILIES",
    "HEAD",
    "AdaptedEnd",
    "Decoder",
    "DecoderConfig",
    "Group",
    "Member",
    "build_decoder",
    "find_member",
    "groups",
    "module_names",
    "module_shapes",
]
