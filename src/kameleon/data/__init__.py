"""Rows of text to packed segments, and the data doctor. It knows the base's template, but no adapter."""

from kameleon.data.corpus import Corpus, Origin, read_corpus, read_rows, split_held_out
from kameleon.data.doctor import Examined, Fault, by_reason, colour_mask, examine, require_trainable
from kameleon.data.encode import Example, encode_row
from kameleon.data.formats import Record, describe_empty, find_data, read_records
from kameleon.data.overview import Observation, observe, observe_system_prompt
from kameleon.data.packing import PackedPass, RowSpan, pack, pack_groups
from kameleon.data.rows import Row, make_row, with_answer
from kameleon.data.sample import sample

__all__ = [
    "Corpus",
    "Examined",
    "Example",
    "Fault",
    "Observation",
    "Origin",
    "PackedPass",
    "Record",
    "Row",
    "RowSpan",
    "by_reason",
    "colour_mask",
    "describe_empty",
    "encode_row",
    "examine",
    "find_data",
    "make_row",
    "observe",
    "observe_system_prompt",
    "pack",
    "pack_groups",
    "read_corpus",
    "read_records",
    "read_rows",
    "require_trainable",
    "sample",
    "split_held_out",
    "with_answer",
]
