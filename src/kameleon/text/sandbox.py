"""The program of a process in which chat templates run (`rendering.py` starts it). It imports nothing of Kameleon.

A template is a stranger's program, and Jinja's sandbox limits neither time nor memory. Here the system does.
The environment is that of transformers, for which templates are written.
"""

import datetime
import json
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any

sys.path.append(sys.argv[1])  # where jinja2 is

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

_CPU_S, _MEMORY_BYTES, _MOST_CHARACTERS = map(int, sys.argv[2:])


class _Generation(Extension):
    """`{% generation %}` marks an answer; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja reads it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Any) -> str:
        return caller()


class _Namespace(Namespace):
    """A namespace without names that begin with an underscore, which lead into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args  # `self` may be the name of an attribute
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)  # type: ignore[arg-type]

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name with an underscore in front, but got {name!r}")


class _Dict:
    """`dict` for templates, without its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:  # noqa: FBT002
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


_environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
)
_environment.filters["tojson"] = _tojson
_environment.globals |= {"raise_exception": _raise, "dict": _Dict(), "namespace": _Namespace}
_sources: list[str] = []


@cache
def _compiled(number: int) -> Template:
    return _environment.from_string(_sources[number])


def _answer(request: dict[str, Any]) -> dict[str, str]:
    """The text of one rendering, or why there is none."""
    try:
        if "source" in request:
            _sources.append(request["source"])
        date = request["date"]

        def strftime_now(form: str) -> str:
            if isinstance(date, str):
                return date
            return (datetime.date(*date) if date else datetime.datetime.now()).strftime(form)

        text = _compiled(request["template"]).render(**{"strftime_now": strftime_now, **request["values"]})
    except MemoryError:
        return {"limit": f"takes more than {_MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:  # noqa: BLE001 (any exception of a stranger's program is its refusal)
        return {"refusal": str(error)[:1000]}
    if len(text) > _MOST_CHARACTERS:
        return {"limit": f"writes more than {_MOST_CHARACTERS:,} characters"}
    return {"text": text}


def _limit(kind: str, most: int) -> None:
    with suppress(ImportError, AttributeError, ValueError, OSError):  # Windows, and systems without this limit
        import resource

        _, hard = resource.getrlimit(getattr(resource, kind))
        resource.setrlimit(getattr(resource, kind), (most, hard))


def main() -> None:
    """Answer requests, one line of JSON each, until standard input ends. Too much time ends the process (SIGXCPU)."""
    _limit("RLIMIT_AS", _MEMORY_BYTES)
    _limit("RLIMIT_CORE", 0)
    for line in sys.stdin.buffer:
        _limit("RLIMIT_CPU", int(time.process_time()) + 1 + _CPU_S)
        try:
            answer = json.dumps(_answer(json.loads(line)))
        except MemoryError:
            answer = json.dumps({"limit": f"takes more than {_MEMORY_BYTES >> 20} MiB of memory"})
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


main()
