"""What users of other programs reported as lost work, each by the behaviour that must be here instead."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from safetensors.torch import load_file, save_file
from tiny import save_base

import kameleon
from kameleon import Sampling
from kameleon.adapters import verify
from kameleon.adapters.arithmetic import merge
from kameleon.adapters.formats import read_adapter, write_adapter, write_gguf_adapter, write_mlx_adapter, write_ollama
from kameleon.adapters.resident import Bank
from kameleon.errors import AdapterError, AdapterMismatchError, AdapterNotFoundError, WrongBaseError

PROMPT, SHORT = "What is the moon?", Sampling(max_tokens=12)


@pytest.fixture
def renamed(tiny, tmp_path):
    """An adapter in which every module goes by a name that the base has not, as after a change of library version."""
    write_adapter(random_adapter(tiny.base, "mine"), tmp_path / "mine")
    (tmp_path / "mine" / "kameleon.json").unlink()
    path = tmp_path / "mine" / "adapter_config.json"
    path.write_text(path.read_text().replace("model.layers", "language_model.layers"))
    path = tmp_path / "mine" / "adapter_model.safetensors"
    save_file({k.replace("model.layers", "language_model.layers"): t for k, t in load_file(path).items()}, path)
    return tmp_path / "mine"


def test_an_adapter_whose_keys_match_nothing_is_an_error_everywhere_and_never_the_bases_answer(renamed, tiny, tmp_path):
    adapter, base = read_adapter(renamed), tiny.base
    for use in (
        lambda: tiny.load_adapter(renamed, any_base=True),
        lambda: Bank(base).add(adapter, any_base=True),
        lambda: merge(base, adapter, out=tmp_path / "merged", any_base=True),
        lambda: write_gguf_adapter(adapter, base, tmp_path / "x.gguf"),
        lambda: write_mlx_adapter(adapter, base, tmp_path / "x"),
        lambda: write_ollama(adapter, base, tmp_path / "y"),
    ):
        with pytest.raises(AdapterMismatchError, match="has no such projection"):
            use()
    assert {path.name for path in tmp_path.iterdir()} <= {"mine", "kameleon-home"}
    checks = {check.what: check.holds for check in verify(base, adapter, any_base=True)}
    assert checks["names and shapes"] is False


def test_one_key_that_matches_nothing_is_enough(renamed, tiny):
    adapter = read_adapter(renamed)
    whole = random_adapter(tiny.base, "mine")
    odd = next(iter(adapter.modules.items()))
    with pytest.raises(AdapterMismatchError, match=odd[0]):
        tiny.load_adapter(replace(whole, modules=whole.modules | dict([odd])))


def test_an_adapter_without_modules_is_an_error(tiny):
    with pytest.raises(AdapterMismatchError, match="holds no module at all"):
        tiny.load_adapter(replace(random_adapter(tiny.base, "mine"), modules={}))


def test_an_unknown_name_is_an_error_and_not_answered_by_the_base(tiny):
    with pytest.raises(AdapterNotFoundError):
        tiny.generate([PROMPT], ["nobody"], sampling=SHORT)


def test_an_adapter_that_never_learned_is_told(tiny):
    """Its B stayed zero while its loss was said to fall."""
    adapter = random_adapter(tiny.base, "mine")
    modules = {name: replace(f, b=torch.zeros_like(f.b)) for name, f in adapter.modules.items()}
    proof = tiny.load_adapter(replace(adapter, modules=modules))
    assert not proof.live
    assert len(proof.dead_modules) == len(modules)


def test_another_base_of_the_same_shape_is_refused(tiny, tmp_path):
    save_base(tmp_path / "other", seed=1)
    other = kameleon.load(str(tmp_path / "other"), dtype=torch.float32)
    with pytest.raises(WrongBaseError, match="was trained on"):
        other.load_adapter(random_adapter(tiny.base, "mine"))


def test_switching_there_and_back_leaves_nothing_of_one_adapter_in_anothers_answer(tiny):
    for seed, name in enumerate(("law", "code")):
        tiny.load_adapter(random_adapter(tiny.base, name, seed=seed))
    alone = {name: tiny.generate([PROMPT], [name], sampling=SHORT)[0].tokens for name in (None, "law", "code")}
    assert len(set(alone.values())) == 3
    for name in ("law", None, "code", "law", "law", None):
        assert tiny.generate([PROMPT], [name], sampling=SHORT)[0].tokens == alone[name]
    tiny.bank.remove("law")
    assert tiny.generate([PROMPT, PROMPT], ["code", None], sampling=SHORT)[1].tokens == alone[None]


def test_the_type_of_an_adapter_does_not_depend_on_how_it_was_loaded(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_adapter(adapter, tmp_path / "mine")
    tiny.shelf.save(adapter)
    for loaded in (read_adapter(tmp_path / "mine"), tiny.shelf.load("mine")):
        assert {t.dtype for f in loaded.modules.values() for t in f.tensors} == {torch.float32}
        assert loaded.fingerprint == adapter.fingerprint


def test_a_merge_into_a_base_that_shares_its_head_changes_both_ends_or_neither(tiny, tmp_path):
    merge(tiny.base, random_adapter(tiny.base, "mine"), out=tmp_path / "merged")
    merged = kameleon.load(str(tmp_path / "merged"), dtype=torch.float32).base
    assert merged.decoder.head is merged.decoder.embedding
    assert torch.equal(merged.decoder.embedding.dense(), tiny.base.decoder.embedding.dense())
    with pytest.raises(AdapterError):
        merge(tiny.base, replace(random_adapter(tiny.base, "x"), modules={}), out=tmp_path / "again")
