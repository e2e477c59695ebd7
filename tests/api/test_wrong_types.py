"""Every public function names a wrong argument: no error comes from the inside."""

import inspect
from dataclasses import fields, is_dataclass

import pytest
from fakes import random_adapter

import kameleon
from kameleon.errors import KameleonError

WRONG = [object(), 3, -1.5, float("nan"), "", b"bytes", ("tuple",), [3], {"a": 1}, {1}]
PUBLIC = [name for name in kameleon.__all__ if name != "KameleonError"]


def methods(kind):
    return [name for name, f in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")]


@pytest.fixture
def right(tiny):
    """Right values for arguments without a default, by name."""
    adapter = random_adapter(tiny.base, "law")
    tiny.shelf.save(adapter)
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(4)]
    tests = [tiny.test_set("rows", tiny.read(rows))]
    given = {"prompt": "Hi", "prompts": ["Hi"], "data": rows, "adapters": [None], "tests": tests}
    return given | {
        "name": "law",
        "adapter": adapter,
        "version": 1,
        "folder": "nowhere",
        "modules": {},
        "card": adapter.card,
    }


def calls(tiny, right):
    """Each public function and method, its parameters, and right values for those without a default."""
    targets = [getattr(kameleon, name) for name in PUBLIC if name != "LoadedBase"]
    for owner in (tiny, tiny.shelf):
        targets += [getattr(owner, name) for name in methods(type(owner))]
    for target in targets:
        parameters = inspect.signature(target).parameters
        needed = {n: right[n] for n, p in parameters.items() if p.default is p.empty}
        yield target, parameters, needed


def test_each_wrong_argument_of_each_public_function_is_told_by_name(tiny, right, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for target, parameters, needed in calls(tiny, right):
        for name in parameters:
            passed = []
            for value in WRONG:
                try:
                    target(**needed | {name: value})
                except (KameleonError, TypeError) as error:
                    assert "NoneType" not in str(error) and "object has no" not in str(error), (target, name, value)
                else:
                    passed.append(value)
            assert WRONG[0] not in passed and len(passed) < 4, (target, name, passed)


@pytest.mark.parametrize("name", [name for name in PUBLIC if is_dataclass(getattr(kameleon, name))])
def test_each_field_of_settings_is_told_by_name(name, tiny, right):
    kind = getattr(kameleon, name)
    needed = {f.name: right[f.name] for f in fields(kind) if f.name in right}
    for field in fields(kind):
        with pytest.raises(KameleonError, match=rf"\b{field.name}\b"):
            kind(**needed | {field.name: object()})
