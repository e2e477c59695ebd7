"""The frozen base: its decoder, tokenizer and template, and where bases come from. It knows no adapter."""

from kameleon.model.base import Base, load_base
from kameleon.model.catalogue import CATALOGUE, Entry
from kameleon.model.config import FAMILIES, DecoderConfig
from kameleon.model.decoder import Decoder, build_decoder
from kameleon.model.ends import EMBEDDING, HEAD, AdaptedEnd
from kameleon.model.fetch import BaseFiles, HeaderFiles, list_bases, locate, locate_header
from kameleon.model.go_template import go_template
from kameleon.model.layout import Group, Member, groups, module_name, module_shapes
from kameleon.model.template import ChatTemplate, with_system

__all__ = [
    "CATALOGUE",
    "EMBEDDING",
    "FAMILIES",
    "HEAD",
    "AdaptedEnd",
    "Base",
    "BaseFiles",
    "ChatTemplate",
    "Decoder",
    "DecoderConfig",
    "Entry",
    "Group",
    "HeaderFiles",
    "Member",
    "build_decoder",
    "go_template",
    "groups",
    "list_bases",
    "load_base",
    "locate",
    "locate_header",
    "module_name",
    "module_shapes",
    "with_system",
]
