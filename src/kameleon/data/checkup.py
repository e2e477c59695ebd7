"""The data doctor's findings about rows, as one value: what stops training, and what a person should look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kameleon.data.corpus import read_records_of, read_rows
from kameleon.data.doctor import beyond_base, examine
from kameleon.data.encode import Encoded, encode_records
from kameleon.data.faults import Fault, by_reason
from kameleon.data.memory import Data
from kameleon.data.overview import Observation, observe
from kameleon.data.records import Record
from kameleon.data.rows import Row
from kameleon.model import DecoderConfig
from kameleon.notebook import html_table
from kameleon.settings import Reading, Recipe
from kameleon.text import ChatTemplate


@dataclass(frozen=True)
class Checkup:
    """Rows as they would be learned, all faults by row, and observations about the rows as a whole."""

    encoded: Encoded
    faults: tuple[Fault, ...]
    observations: tuple[Observation, ...]

    @property
    def usable(self) -> bool:
        """Whether training takes the rows: none has a fatal fault, and there is something to learn."""
        return not any(fault.fatal for fault in self.faults) and self.encoded.trained_tokens > 0

    def __repr__(self) -> str:
        fatal = sum(fault.fatal for fault in self.faults)
        return (
            f"Checkup(usable={self.usable}, rows={len(self.encoded.rows)}, learned_tokens="
            f"{self.encoded.trained_tokens:,}, faults={len(self.faults)} ({fatal} fatal), "
            f"observations={len(self.observations)})"
        )

    def _repr_html_(self) -> str:
        faults = ((rows, "yes" if one.fatal else "no", one.reason) for rows, one in by_reason(self.faults))
        seen = (("", "", one.text) for one in self.observations)
        return html_table(("rows", "stops training", "what"), [*faults, *seen], title=repr(self))


def check_rows(
    data: Data,
    template: ChatTemplate,
    config: DecoderConfig,
    *,
    test: Data | None = None,
    raw: bool = False,
    max_tokens: int = 2048,
    reading: Reading | None = None,
) -> Checkup:
    """Examine rows for a base with this template and config; `test` are rows that must not be among them.

    Raises DataError for data that cannot be read at all, or that has no rows.
    """
    Recipe(max_row_tokens=max_tokens)  # checks its bounds
    in_test = [] if test is None else read_rows(test, reading)
    skip_bad = reading is not None and reading.skip_bad
    records = read_records_of(data, reading)
    return check_records(
        records, template, config, test_rows=in_test, raw=raw, max_tokens=max_tokens, skip_bad=skip_bad
    )


def check_records(
    records: Iterable[Record],
    template: ChatTemplate,
    config: DecoderConfig,
    *,
    test_rows: Sequence[Row] = (),
    raw: bool = False,
    max_tokens: int = 2048,
    skip_bad: bool = False,
) -> Checkup:
    """Like `check_rows`, for records that were read already."""
    encoded = encode_records(records, template, raw=raw, max_tokens=max_tokens, skip_bad=skip_bad)
    beyond = beyond_base(encoded.examples, config)
    if skip_bad:
        beyond = tuple(replace(fault, fatal=False, skipped=True) for fault in beyond)
    faults = (*beyond, *examine(encoded, test_rows))
    return Checkup(encoded, faults, tuple(observe(encoded, template, test_rows=test_rows)))
