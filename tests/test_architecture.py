"""The folder tree is the architecture: imports go one way, and public names are declared and explained."""

import ast
import importlib
from pathlib import Path

import pytest

import kameleon

SOURCE = Path(kameleon.__file__).parent
# Each may import from those before it; training and serving never from each other.
ORDER = [
    "errors",
    "home",
    "terminal",
    "settings",
    "waiting",
    "ops",
    "lora",
    "lab",
    "weights",
    "model",
    "adapters",
    "data",
    "generation",
]
ARMS = ["training", "serving"]
TOP = ["plan", "unloaded", "api", "bench", "studio", "cli"]
MODULES = sorted(SOURCE.rglob("*.py"))
FOLDERS = sorted(p.parent.name for p in SOURCE.glob("*/__init__.py"))


def allowed(part):
    if part in ARMS:
        return {*ORDER, part}
    if part in TOP:
        return {*ORDER, *ARMS, *TOP[: TOP.index(part) + 1]}
    return set(ORDER[: ORDER.index(part) + 1])


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name and name.startswith("kameleon."):
                target = name.split(".")[1]
                assert target in allowed(part), f"{path.name}, line {node.lineno}: {part} must not import {target}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_names_exist_and_are_explained(folder):
    module = importlib.import_module(f"kameleon.{folder}")
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, f"kameleon.{folder}.{name} has no docstring"


def test_every_module_says_what_it_is():
    silent = [str(p.relative_to(SOURCE)) for p in MODULES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_the_changelog_speaks_of_this_version():
    changelog = (SOURCE.parents[1] / "CHANGELOG.md").read_text()
    assert f"## {kameleon.__version__}" in changelog
