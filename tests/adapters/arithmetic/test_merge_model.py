"""A full model out of base and adapter: as PEFT merges, measured, whole or not at all, and the base untouched."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, reference_model, save_base, save_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

import kameleon
from kameleon.adapters import EndChange, LoraFactors
from kameleon.adapters.arithmetic import merge
from kameleon.adapters.formats import write_adapter
from kameleon.adapters.proof import PROBE, probe_logits
from kameleon.cli import main
from kameleon.errors import AdapterMismatchError, SettingError, WeightsError, WrongBaseError
from kameleon.model import open_gguf, open_weights
from kameleon.weights import HEAD

UP = "model.layers.0.mlp.up_proj"


def load(path):
    return kameleon.load(str(path), dtype=torch.float32).base


@pytest.mark.parametrize("family", ["llama tied", "llama untied", "qwen2"])
def test_as_peft_merges_and_transformers_loads(family, tmp_path):
    assert family in FAMILIES
    save_base(tmp_path / "base", family)
    base = load(tmp_path / "base")
    adapter = random_adapter(base, "mine")
    write_adapter(adapter, tmp_path / "mine")
    report = merge(base, adapter, out=tmp_path / "merged")
    theirs = PeftModel.from_pretrained(reference_model(family), tmp_path / "mine").merge_and_unload()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, expected in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], expected, rtol=1e-5, atol=1e-6)
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == ours.config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("Hi").input_ids
    assert report.survived == pytest.approx(1, abs=1e-4)
    assert report.logit_gap_max < 1e-4 < 0.1 < report.logits_moved_max
    assert base.weights.fingerprint() == base.fingerprint == open_weights(tmp_path / "base").fingerprint()


def test_shards_stay_as_they_are_and_only_changed_tensors_change(tmp_path):
    model = save_base(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    (tmp_path / "base" / "LICENSE").write_text("free")
    (tmp_path / "base" / "pytorch_model.bin").write_text("a pickle")
    base = load(tmp_path / "base")
    adapter = random_adapter(base, "mine")
    merge(base, replace(adapter, modules={UP: adapter.modules[UP]}), out=tmp_path / "merged")
    before, after = ({f.name for f in (tmp_path / f).glob("[!.]*")} for f in ("base", "merged"))
    assert after == before - {"pytorch_model.bin"} | {"README.md"}
    shards = sorted(name for name in after if name.endswith(".safetensors"))
    assert len(shards) > 2
    for shard in shards:
        one, other = load_file(tmp_path / "base" / shard), load_file(tmp_path / "merged" / shard)
        assert [name for name in one if not torch.equal(one[name], other[name])] in ([], [f"{UP}.weight"])


def test_every_chat_template_goes_along(tmp_path):
    save_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base")
    merge(base, random_adapter(base, "mine"), out=tmp_path / "merged")
    assert load(tmp_path / "merged").tokenizer.chat_template == tokenizer.chat_template


def test_bf16_is_kept_and_what_it_rounds_away_is_measured(tmp_path):
    save_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base")
    adapter = random_adapter(base, "mine")
    tiny = {name: replace(f, b=f.b * 1e-6) for name, f in adapter.modules.items()}
    report = merge(base, replace(adapter, modules=tiny), out=tmp_path / "lost")
    assert report.survived < 0.3
    report = merge(base, adapter, out=tmp_path / "merged")
    assert report.survived == pytest.approx(1, abs=0.01)
    assert load_file(tmp_path / "merged" / "model.safetensors")[f"{UP}.weight"].dtype == torch.bfloat16


def too_large_for_fp16(folder):
    """A base in fp16, and an adapter that makes one number of it larger than fp16 holds."""
    save_base(folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    base = load(folder)
    adapter = random_adapter(base, "mine")
    a, b = adapter.modules[UP].a.clone(), adapter.modules[UP].b.clone()
    a[0, 0], b[0, 0], alpha = 300.0, 300.0, 4.0
    return base, replace(adapter, modules={UP: replace(adapter.modules[UP], a=a, b=b, alpha=alpha)})


def test_a_number_too_large_for_fp16_is_refused_and_written_in_other_types(tmp_path):
    base, adapter = too_large_for_fp16(tmp_path / "base")
    with pytest.raises(
        WeightsError, match=rf"{UP}.weight holds numbers up to 9e\+04, .* as F16; write it as BF16 or F32"
    ):
        merge(base, adapter, out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    for kind, dtype in (("BF16", torch.bfloat16), ("F32", torch.float32)):
        report = merge(base, adapter, out=tmp_path / kind, kind=kind)
        assert report.survived == pytest.approx(1, abs=0.01)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype="auto")
        assert {p.dtype for p in theirs.parameters()} == {dtype}
        assert all(p.isfinite().all() for p in theirs.parameters())


@pytest.mark.parametrize("kind", ["F16", "Q4_1"])
def test_a_number_too_large_for_a_gguf_kind_is_refused(kind, tmp_path):
    save_gguf(tmp_path / "base.gguf", "F32")
    base = load(tmp_path / "base.gguf")
    adapter = random_adapter(base, "mine")
    huge = replace(adapter.modules[UP], b=adapter.modules[UP].b * 1e6)
    for whole in (False, True):
        with pytest.raises(WeightsError, match=f"would be infinite as {kind}; write it as BF16 or F32"):
            merge(base, replace(adapter, modules={UP: huge}), out=tmp_path / "merged.gguf", kind=kind, whole=whole)
    assert not (tmp_path / "merged.gguf").exists()


def test_a_base_that_stores_its_embedding_as_head_too_gets_another_head(tmp_path):
    save_base(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    base = load(tmp_path / "base")
    adapter = random_adapter(base, "mine")
    head = EndChange(factors=LoraFactors(torch.ones(2, 64) * 0.1, torch.ones(320, 2).tril() * 0.1, 2.0))
    report = merge(base, replace(adapter, ends={HEAD: head}), out=tmp_path / "merged")
    assert report.logit_gap_max < 1e-4 < 0.05 < report.logits_moved_max
    assert not json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]


def test_a_quantised_base_is_refused_with_the_reason_and_the_ways_out(tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q4_0")
    base = load(tmp_path / "base.gguf")
    with pytest.raises(SettingError, match=r"Q4_0.*eats part of the change: keep the adapter separate.*`kind=KIND`"):
        merge(base, random_adapter(base, "mine"), out=tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()
    save_base(tmp_path / "folder")
    packed = kameleon.load(str(tmp_path / "folder"), dtype=torch.float32, quantize="nf4").base
    with pytest.raises(SettingError, match="without `quantize='nf4'`"):
        merge(packed, random_adapter(packed, "mine"), out=tmp_path / "merged")


@pytest.mark.parametrize(("kind", "least"), [("F32", 0.9999), ("BF16", 0.99), ("Q8_0", 0.97), ("Q4_1", 0.8)])
def test_a_gguf_is_written_in_the_kind_asked_for_and_what_survived_is_measured(kind, least, tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q4_0")
    base = load(tmp_path / "base.gguf")
    adapter = random_adapter(base, "mine")
    report = merge(base, adapter, out=tmp_path / "merged.gguf", kind=kind)
    assert least < report.survived < 1.1
    merged, source = open_gguf(tmp_path / "merged.gguf"), base.weights
    file_type = merged.metadata.pop("general.file_type")
    assert file_type != source.metadata["general.file_type"]
    assert merged.metadata == {k: v for k, v in source.metadata.items() if k != "general.file_type"}
    kinds = {tensor.name: tensor.kind for tensor, _ in merged.stored_tensors}
    assert kinds["blk.0.attn_q.weight"] == kind
    for (before, one), (after, other) in zip(source.stored_tensors, merged.stored_tensors, strict=True):
        assert before.name == after.name
        assert bytes(one) == bytes(other) or before.name.startswith("blk.")
    if kind == "F32":
        plain, live = probe_logits(base, adapter)
        torch.testing.assert_close(probe_logits(load(tmp_path / "merged.gguf"))[0], live, rtol=1e-4, atol=1e-4)
        assert (live - plain).abs().max() > 0.1
        assert report.logit_gap_max < 1e-4


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_whole_puts_every_matrix_in_the_kind_asked_for(kind, tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q4_0")
    base = load(tmp_path / "base.gguf")
    report = merge(base, random_adapter(base, "mine"), out=tmp_path / "merged.gguf", kind=kind, whole=True)
    merged = open_gguf(tmp_path / "merged.gguf")
    assert {t.kind for t, _ in merged.stored_tensors if len(t.shape) == 2} == {kind}
    assert {t.kind for t, _ in merged.stored_tensors if len(t.shape) == 1} == {"F32"}
    assert report.survived > 0.97
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(merged.tensor(name).float(), base.weights.tensor(name), rtol=0.02, atol=0.02)


def test_a_base_is_converted_by_the_command(tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q4_0")
    command = ["base", "convert", str(tmp_path / "base.gguf"), "--kind", "F32", "--out", str(tmp_path / "f32.gguf")]
    for expected in (0, 2):  # the second time the file is there already
        with pytest.raises(SystemExit) as end:
            main(command)
            raise SystemExit(0)
        assert (end.value.code or 0) == expected
    source, copy = load(tmp_path / "base.gguf"), load(tmp_path / "f32.gguf")
    assert {t.kind for t, _ in copy.weights.stored_tensors} == {"F32"}
    assert copy.fingerprint != source.fingerprint
    torch.testing.assert_close(probe_logits(copy)[0], probe_logits(source)[0], rtol=1e-4, atol=1e-4)


def test_rounding_to_coarse_blocks_eats_a_small_change(tmp_path):
    """What mlx-lm's users met when they fused into a quantised base: the training was gone."""
    save_gguf(tmp_path / "base.gguf", "Q4_0")
    base = load(tmp_path / "base.gguf")
    adapter = random_adapter(base, "mine")
    small = {name: replace(f, b=f.b * 3e-3) for name, f in adapter.modules.items()}
    coarse = merge(base, replace(adapter, modules=small), out=tmp_path / "coarse.gguf", kind="Q4_0")
    assert coarse.logit_gap_max > 0.3 * coarse.logits_moved_max
    fine = merge(base, replace(adapter, modules=small), out=tmp_path / "fine.gguf", kind="F32")
    assert fine.survived > 0.99
    assert fine.logit_gap_max < 0.1 * fine.logits_moved_max


def test_a_gguf_of_plain_floats_needs_no_kind(tmp_path):
    save_gguf(tmp_path / "base.gguf", "F32")
    base = load(tmp_path / "base.gguf")
    assert merge(base, random_adapter(base, "mine"), out=tmp_path / "merged.gguf").logit_gap_max < 1e-4


def test_what_cannot_be_merged_leaves_nothing_behind(tmp_path, tiny, tiny_folder, monkeypatch):
    adapter = random_adapter(tiny.base, "mine")
    huge = {name: replace(f, b=f.b * 1e38, a=f.a * 1e38) for name, f in adapter.modules.items()}
    with pytest.raises(AdapterMismatchError, match="NaN or infinity"):
        merge(tiny.base, replace(adapter, modules=huge), out=tmp_path / "out")
    stranger = replace(adapter, card=replace(adapter.card, base_fingerprint="sha256:0"))
    with pytest.raises(WrongBaseError):
        merge(tiny.base, stranger, out=tmp_path / "out")
    with pytest.raises(SettingError, match="not quantised"):
        merge(tiny.base, adapter, out=tmp_path / "out", kind="Q8_0")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    with pytest.raises(SettingError, match="its disk has 0 MB free"):
        merge(tiny.base, adapter, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "kameleon-home"] == []
    with pytest.raises(SettingError, match="is there already"):
        merge(tiny.base, adapter, out=tmp_path)
    assert json.loads((tiny_folder / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(("kind", "dtype"), [(None, torch.bfloat16), ("F32", torch.float32)])
def test_a_gguf_base_is_merged_into_a_folder_that_transformers_loads(kind, dtype, tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q8_0")
    base = load(tmp_path / "base.gguf")
    adapter = random_adapter(base, "mine")
    report = merge(base, adapter, out=tmp_path / "merged", kind=kind)
    live = probe_logits(base, adapter)[1]
    ours = load(tmp_path / "merged")
    near = {"rtol": 1e-4, "atol": 1e-4} if kind else {"rtol": 0.05, "atol": 0.1 * float(live.abs().max())}
    torch.testing.assert_close(probe_logits(ours)[0], live, **near)
    assert report.survived == pytest.approx(1, abs=1e-2)
    assert load_file(tmp_path / "merged" / "model.safetensors")[f"{UP}.weight"].dtype == dtype
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "merged").encode(PROBE, add_special_tokens=False)
    with torch.no_grad():
        [logits] = theirs(torch.tensor([tokens])).logits
    torch.testing.assert_close(logits, probe_logits(ours)[0], rtol=1e-3, atol=1e-3)
    assert ours.template.hash == base.template.hash
    assert ours.stop_token_ids == base.stop_token_ids
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "merged").glob("*.json"))


def test_a_folder_from_a_gguf_base_holds_plain_numbers_or_nothing(tmp_path):
    save_gguf(tmp_path / "base.gguf", "Q8_0")
    base = load(tmp_path / "base.gguf")
    with pytest.raises(SettingError, match=r"can hold F32, BF16, F16; Q8_0 is for a .gguf file"):
        merge(base, random_adapter(base, "mine"), out=tmp_path / "merged", kind="Q8_0")
    odd = replace(base, config=replace(base.config, windows=(4,) * base.config.num_layers))  # no Llama has windows
    with pytest.raises(SettingError, match=r"no config.json of llama says its windows; merge into a .gguf file"):
        merge(odd, random_adapter(base, "mine"), out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
