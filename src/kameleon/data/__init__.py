"""Rows of text to packed passes, and the data doctor. The base's chat template is known here, adapters are not."""

from kameleon.data.checkup import Checkup, check_records, check_rows
from kameleon.data.corpus import Corpus, Origin, fitting, read_corpus, read_rows, split_held_out
from kameleon.data.doctor import beyond_base, examine
from kameleon.data.encode import Encoded, Example, encode_records, encode_row, require_trainable
from kameleon.data.faults import Fault, by_reason
from kameleon.data.formats import describe_empty, read_records
from kameleon.data.memory import Data, Rows
from kameleon.data.overview import Observation, observe, observe_system_prompt, shared_tools
from kameleon.data.packing import PackedPass, RowSpan, pack, pack_groups
from kameleon.data.prompts import AskedRow, read_prompts
from kameleon.data.records import Record
from kameleon.data.rows import Row, make_row, with_answer
from kameleon.data.sample import sample
from kameleon.data.sources import find_data

__all__ = [
    "AskedRow",
    "Checkup",
    "Corpus",
    "Data",
    "Encoded",
    "Example",
    "Fault",
    "Observation",
    "Origin",
    "PackedPass",
    "Record",
    "Row",
    "RowSpan",
    "Rows",
    "beyond_base",
    "by_reason",
    "check_records",
    "check_rows",
    "describe_empty",
    "encode_records",
    "encode_row",
    "examine",
    "find_data",
    "fitting",
    "make_row",
    "observe",
    "observe_system_prompt",
    "pack",
    "pack_groups",
    "read_corpus",
    "read_prompts",
    "read_records",
    "read_rows",
    "require_trainable",
    "sample",
    "shared_tools",
    "split_held_out",
    "with_answer",
]
