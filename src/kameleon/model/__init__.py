"""The frozen base's decoder: its shape, read from files by family, and its pass. It knows no adapter."""

from kameleon.model.config import DecoderConfig
from kameleon.model.decoder import Decoder, build_decoder
from kameleon.model.ends import AdaptedEnd
from kameleon.model.families import families
from kameleon.model.files import open_gguf, open_weights, read_config
from kameleon.model.layout import find_member, groups, module_names, module_shapes
from kameleon.model.projections import Group, Member

__all__ = [
    "AdaptedEnd",
    "Decoder",
    "DecoderConfig",
    "Group",
    "Member",
    "build_decoder",
    "families",
    "find_member",
    "groups",
    "module_names",
    "module_shapes",
    "open_gguf",
    "open_weights",
    "read_config",
]
