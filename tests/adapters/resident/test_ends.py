"""Adapters that change the embedding and the head: as PEFT does, in any company, and merged."""

import pytest
import torch
from fakes import random_adapter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft_side import TOKENS, assert_equal, our_logits, peft_logits, saved_by_peft
from safetensors.torch import load_file, save_file
from tiny import save_base, save_gguf
from transformers import AutoModelForCausalLM

import kameleon
from kameleon import Adapter
from kameleon.adapters import EndChange, prove
from kameleon.adapters.arithmetic import merge
from kameleon.adapters.formats import read_adapter, write_adapter, write_gguf_adapter, write_mlx_adapter
from kameleon.adapters.resident import Bank
from kameleon.errors import AdapterError, AdapterFileError, AdapterMismatchError
from kameleon.ops import Segments, can_multiply
from kameleon.settings import Sampling
from kameleon.weights import EMBEDDING, HEAD

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what PEFT says of tied weights and of its files' size
FAMILIES = ("llama tied", "llama untied", "gemma3")
ends = st.sampled_from(
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "up_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head", "down_proj"], "rank_pattern": {"embed_tokens": 3}},
        {"target_modules": ["embed_tokens", "v_proj"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ]
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Bases whose head is the embedding, is another matrix, and whose embedding is scaled; in fp32."""
    folder = tmp_path_factory.mktemp("bases")
    for family in FAMILIES:
        save_base(folder / family, family)
    return {family: kameleon.load(str(folder / family), dtype=torch.float32) for family in FAMILIES}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(FAMILIES),
    end=ends,
    rslora=st.booleans(),
    seed=st.integers(0, 9),
)
def test_embedding_and_head_equal_peft(family, end, rslora, seed, bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft")
    config = {"r": 4, "lora_alpha": 6, "use_rslora": rslora, "target_modules": ["q_proj"], **end}
    saved_by_peft(folder, seed, family, **config)
    theirs, base = peft_logits(folder, family), bases[family].base
    assert_equal(our_logits(base, folder), theirs)
    adapter = read_adapter(folder)
    assert any("changes of" in word for word in adapter.variants)
    write_adapter(adapter, folder / "again")
    assert read_adapter(folder / "again").fingerprint == adapter.fingerprint
    assert_equal(peft_logits(folder / "again", family), theirs)


@pytest.mark.parametrize("family", ["llama tied", "llama untied"])
@pytest.mark.parametrize("names", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_a_file_that_holds_the_ends_under_several_names_is_read(names, family, bases, tmp_path):
    """With `save_embedding_layers=True` PEFT writes what it trained twice, and beside it what the base has there."""
    saved_by_peft(tmp_path, 1, family, save_embedding_layers=True, target_modules=["q_proj"], modules_to_save=names)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    assert {key.rpartition(".")[0].rpartition(".")[2] for key in tensors} >= {"modules_to_save", "original_module"}
    assert_equal(our_logits(bases[family].base, tmp_path), peft_logits(tmp_path, family))
    twin = next(key for key in tensors if "modules_to_save" in key)
    save_file({**tensors, twin: tensors[twin] + 1}, path)
    with pytest.raises(
        AdapterFileError, match=r"two matrices instead of (lm_head|model.embed_tokens), and they differ"
    ):
        read_adapter(tmp_path)


@pytest.mark.parametrize("family", ["llama tied", "llama untied"])
@pytest.mark.parametrize(
    "end",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
def test_embedding_and_head_merge(family, end, bases, tmp_path):
    """Into files that transformers loads with the adapter's logits: where the two were one, they are two."""
    saved_by_peft(tmp_path / "peft", 1, family, r=3, **end)
    adapter, base = read_adapter(tmp_path / "peft"), bases[family].base
    report = merge(base, adapter, out=tmp_path / "merged", any_base=True)
    assert report.logit_gap_max < 1e-4 < 0.05 < report.logits_moved_max
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.inference_mode():
        assert_equal(theirs(TOKENS[None]).logits[0], peft_logits(tmp_path / "peft", family))
    assert not theirs.config.tie_word_embeddings


@pytest.mark.parametrize("end", [{"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens", "lm_head"]}])
def test_a_gguf_base_gets_a_head_of_its_own(end, tmp_path):
    save_gguf(tmp_path / "base.gguf", "F32")
    base = kameleon.load(str(tmp_path / "base.gguf"), dtype=torch.float32).base
    saved_by_peft(tmp_path / "peft", 1, **{"r": 3, "target_modules": ["q_proj"], **end})
    adapter = read_adapter(tmp_path / "peft")
    report = merge(base, adapter, out=tmp_path / "merged.gguf", any_base=True)
    assert report.logit_gap_max < 1e-4 < 0.05 < report.logits_moved_max
    merged = kameleon.load(str(tmp_path / "merged.gguf")).base
    assert not merged.config.tie_word_embeddings
    assert merged.decoder.head is not merged.decoder.embedding


@pytest.fixture
def ended(tiny, tmp_path):
    """A plain adapter, and three that change the ends in all ways, on one base."""
    for i, end in enumerate(
        (
            {"target_modules": ["embed_tokens", "lm_head"]},
            {"modules_to_save": ["lm_head"]},
            {"modules_to_save": ["embed_tokens"]},
        )
    ):
        saved_by_peft(tmp_path / f"end{i}", i, **{"r": 3, "target_modules": ["q_proj"], **end})
        tiny.load_adapter(tmp_path / f"end{i}", any_base=True)
    tiny.load_adapter(random_adapter(tiny.base, "plain"))
    return tiny


def test_a_mixed_batch_gives_each_segment_what_it_gets_alone(ended):
    names = ["plain", "end0", None, "end1", "end0", "end2", "plain"]
    bank, decoder = ended.bank, ended.base.decoder
    slots = [bank.slot(name) for name in names]
    lengths = tuple(range(3, 3 + len(names)))
    tokens = torch.arange(sum(lengths)) * 11 % 320
    with torch.inference_mode():
        hidden = decoder.hidden(tokens, Segments(lengths, tuple(slots)), bank)
        rows = [slot for slot, length in zip(slots, lengths, strict=True) for _ in range(length)]
        mixed = decoder.logits(hidden, rows, bank).split(lengths)
        for part, slot, got in zip(tokens.split(lengths), slots, mixed, strict=True):
            alone = decoder.logits(
                decoder.hidden(part, Segments((len(part),), (slot,)), bank), [slot] * len(part), bank
            )
            torch.testing.assert_close(got, alone, rtol=1e-4, atol=1e-4)


def test_generation_and_evaluation_use_them(ended, tmp_path):
    names = ["end0", None, "end1", "end2", "plain"]
    prompts, wish = ["hello there"] * len(names), Sampling(max_tokens=6, logprobs=1)
    mixed = ended.generate(prompts, names, sampling=wish, raw=True)
    alone = [ended.generate(prompts[:1], [name], sampling=wish, raw=True)[0] for name in names]
    assert [one.tokens for one in mixed] == [one.tokens for one in alone]
    for one, other in zip(mixed, alone, strict=True):
        if can_multiply(torch.float32):  # torch's products, on the reference path, promise no bits
            assert one.scores == other.scores
        assert [s.logprob for s in one.scores] == pytest.approx([s.logprob for s in other.scores], abs=1e-4)
    assert len({one.scores[0].logprob for one in mixed}) == len(names)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "say it", "completion": "hello"}\n' * 3)
    test = ended.test_set("rows", ended.read(tmp_path / "rows.jsonl"))
    scores = ended.evaluate(names, [test])
    for name, score in zip(names, scores, strict=True):
        (own,) = ended.evaluate([name], [test])
        assert score.loss == pytest.approx(own.loss, rel=1e-4)
    assert len({round(score.loss, 4) for score in scores}) == len(names)


def test_a_frozen_embedding_that_peft_wrote_takes_no_memory(bases, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, r=3, target_modules=["embed_tokens"])
    adapter, base = read_adapter(tmp_path / "peft"), bases["llama tied"].base
    assert adapter.ends[EMBEDDING].instead is not None
    bank = Bank(base, frozen=True)
    slot = bank.add(adapter, any_base=True)
    assert bank.end(slot, EMBEDDING).weight is base.decoder.embedding
    assert bank.end(slot, HEAD) is None
    assert bank.bytes(slot) < 4 * base.config.vocab_size * base.config.hidden_size
    assert prove(base, adapter, any_base=True).live


@pytest.mark.parametrize("write", [write_gguf_adapter, write_mlx_adapter])
@pytest.mark.parametrize(
    "end",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_an_adapter_file_of_llama_cpp_or_mlx_cannot_hold_another_head(write, end, tiny, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, r=3, **end)
    with pytest.raises(AdapterError, match="has changes of lm_head"):
        write(read_adapter(tmp_path / "peft"), tiny.base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ends_of_another_size_and_broken_numbers_are_refused(tiny, tmp_path):
    saved_by_peft(tmp_path / "peft", 1, r=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = read_adapter(tmp_path / "peft")
    wrong = Adapter("wrong", adapter.modules, adapter.card, ends={HEAD: EndChange(torch.zeros(8, 64))})
    with pytest.raises(AdapterMismatchError, match="lm_head: it replaces a matrix of 8 × 64, the base has 320 × 64"):
        Bank(tiny.base).add(wrong, any_base=True)
    adapter.ends[HEAD].instead[3, 4] = float("nan")
    write_adapter(adapter, tmp_path / "nan")
    with pytest.raises(AdapterFileError, match="what replaces lm_head is no matrix of finite numbers"):
        read_adapter(tmp_path / "nan")
