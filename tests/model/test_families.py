"""Families are files of one folder, and nothing outside of it asks for one by name."""

import ast
import sys
from pathlib import Path

import pytest
from tiny import FAMILIES

import kameleon
from kameleon.errors import UnsupportedArchitectureError
from kameleon.model.families import families, family_of_gguf, gguf_layouts
from kameleon.model.hf_config import config_from_hf

SOURCE = Path(kameleon.__file__).parent
FOLDER = SOURCE / "model" / "families"
ADDED = """
from kameleon.model.families import llama
from kameleon.model.family import Family

FAMILY = Family(name="added", models="Added", architecture="AddedForCausalLM", gguf=llama.FAMILY.gguf)
"""


def test_each_family_is_computed_in_the_tests_of_the_decoder():
    assert {config.model_type for _, config, _ in FAMILIES.values()} == families().keys()


def test_a_file_that_is_added_to_the_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "added.py").write_text(ADDED)
    folder = sys.modules["kameleon.model.families"]
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    families.cache_clear()
    try:
        assert families().keys() >= {"added", "llama"}
        assert family_of_gguf("llama").name == "llama"
        with pytest.raises(UnsupportedArchitectureError, match=r"; added \(Added\)"):
            config_from_hf({"model_type": "unknown"})
    finally:
        families.cache_clear()
        sys.modules.pop("kameleon.model.families.added")


def test_nothing_outside_of_the_folder_compares_the_name_of_a_family():
    names = families().keys() | gguf_layouts().keys()
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if FOLDER not in path.parents and SOURCE / "bench" not in path.parents  # the benchmark writes random bases
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in names
    ]
    assert found == []
