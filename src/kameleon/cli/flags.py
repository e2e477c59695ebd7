"""Messages of the package speak Python, between backticks; a command line has flags and commands instead."""

from __future__ import annotations

import re

_FLAGS = {"from_adapter": "from", "dtype": "compute", "memory_bytes": "memory", "kind": "requantise"}
"""Keywords whose flags have another name."""
_VALUES = {"True": "", "torch.bfloat16": "bf16", "torch.float32": "fp32"}
_KEYWORDS = re.compile(r"`(?:\w+=[A-Z]\w*\()?(?P<given>[a-z]\w*=[^`()]*)\)?`")
_COMMANDS = (
    (re.compile(r"`kind='BF16'`"), "--unpacked"),
    (re.compile(r"`resize\(adapter, rank\)`"), "`kameleon adapter resize`"),
    (re.compile(r"`base\.check\(rows\)`"), "`kameleon data check`"),
    (re.compile(r"`Shelf\(\)\.names\(\)`"), "`kameleon adapter list`"),
    (re.compile(r"`Shelf\(\)\.save\(read_adapter\(folder\)\)`"), "`kameleon adapter import`"),
    (re.compile(r"`Shelf\(\)\.rollback\('([^`']*)', version\)`"), r"`kameleon adapter rollback \1 VERSION`"),
    (re.compile(r"`kameleon\.load\('([^`']*)'\)`"), r"`kameleon base pull \1`"),
)


def in_flags(message: str) -> str:
    """A message with the words of the command line: "`resume=True` goes on" is "--resume goes on"."""
    for call, command in _COMMANDS:
        message = call.sub(command, message)
    return _KEYWORDS.sub(lambda found: " ".join(map(_flag, found["given"].split(", "))), message)


def _flag(given: str) -> str:
    name, _, value = given.partition("=")
    value = value.strip("'\"")
    return f"--{_FLAGS.get(name, name).replace('_', '-')} {_VALUES.get(value, value)}".rstrip()
