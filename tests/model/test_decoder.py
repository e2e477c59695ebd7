"""The decoder against transformers' own implementation of each family."""

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, SIZES, save_base

from kameleon.errors import SettingError, WeightsError
from kameleon.generation import PagePool
from kameleon.model import build_decoder, open_weights, read_config
from kameleon.ops import Segments

LENGTHS = (7, 1, 40, 25)


def ours(folder):
    weights = open_weights(folder)
    return build_decoder(read_config(folder, weights), weights, dtype=torch.float32)


@pytest.fixture(params=FAMILIES)
def both(request, tmp_path):
    model = save_base(tmp_path, request.param)
    return model, ours(tmp_path)


@torch.inference_mode()
def test_logits_equal_those_of_transformers_also_when_packed(both):
    model, decoder = both
    tokens = torch.randint(0, SIZES["vocab_size"], (sum(LENGTHS),))
    packed = decoder.logits(decoder.hidden(tokens, Segments(LENGTHS)))
    for part, logits in zip(tokens.split(LENGTHS), packed.split(LENGTHS), strict=True):
        expected = model(part[None]).logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        alone = decoder.logits(decoder.hidden(part, Segments((len(part),))))
        torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_shared_prefix_gives_the_logits_of_whole_sequences(both):
    _, decoder = both
    prefix, rows = torch.randint(0, 320, (11,)), [torch.randint(0, 320, (n,)) for n in (3, 1, 20)]
    segments = Segments((11, 3, 1, 20), parents=(-1, 0, 0, 0))
    shared = decoder.hidden(torch.cat([prefix, *rows]), segments).split(segments.lengths)[1:]
    for row, hidden in zip(rows, shared, strict=True):
        whole = decoder.hidden(torch.cat([prefix, row]), Segments((11 + len(row),)))
        torch.testing.assert_close(hidden, whole[11:], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_layers_run_in_two_parts_are_the_same_as_in_one(tiny):
    decoder = tiny.base.decoder
    tokens, segments = torch.randint(0, 320, (12,)), Segments((5, 7))
    below = decoder.run_layers(decoder.embed(tokens, segments), segments, layers=range(2))
    above = decoder.finish(decoder.run_layers(below, segments, layers=range(2, 3)))
    assert torch.equal(above, decoder.hidden(tokens, segments))


def test_a_sequence_beyond_the_base_is_refused(tiny):
    longest = tiny.base.config.max_sequence_tokens
    with pytest.raises(SettingError, match=f"{longest + 1} tokens; this base handles at most {longest}"):
        tiny.base.decoder.hidden(torch.zeros(longest + 1, dtype=torch.int64), Segments((longest + 1,)))


def test_a_tensor_of_another_shape_than_the_config_says_is_named(tmp_path):
    save_base(tmp_path)
    text = (tmp_path / "config.json").read_text().replace('"intermediate_size": 96', '"intermediate_size": 64')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"gate_proj.* is 96 × 64; the config says 64 × 64"):
        ours(tmp_path)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["mistral, windowed", "qwen2, windowed", "gemma3"])
def test_generation_with_a_cache_goes_on_beyond_a_window_as_without_one(family, tmp_path):
    save_base(tmp_path, family)
    decoder = ours(tmp_path)
    assert 10 in decoder.config.windows
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 40))
    whole = decoder.hidden(tokens.flatten(), Segments((40, 40))).view(2, 40, -1)
    cache = PagePool(decoder.config, 6, torch.float32).tables([[4, 0, 2], [1, 5, 3]])
    starts, done = torch.tensor([0, 0]), []
    for lengths in [(3, 15), (12, 1), (1, 7), *[(1, 1)] * 15]:  # prompts of two lengths, more at once, then one each
        fresh = [row[at : at + n] for row, at, n in zip(tokens, starts.tolist(), lengths, strict=True)]
        segments = Segments(lengths, offsets=tuple(starts.tolist()))
        done.append(decoder.hidden(torch.cat(fresh), segments, cache=cache).split(lengths))
        starts += torch.tensor(lengths)
    for row, parts in enumerate(zip(*done, strict=True)):
        got = torch.cat(parts)
        torch.testing.assert_close(got, whole[row, : len(got)], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3-270m"])
@torch.inference_mode()
def test_a_real_gguf_gives_the_logits_of_transformers(name):
    from transformers import AutoModelForCausalLM, GgufConfig

    import kameleon

    base = kameleon.load(name, dtype=torch.float32).base
    path = base.files.path
    if path.suffix != ".gguf":
        pytest.skip("the hub delivered safetensors")
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokens = torch.tensor(base.tokenizer.encode("The law says that a provider of 12 services must, in Łódź, tell"))
    got = base.decoder.logits(base.decoder.hidden(tokens, Segments((len(tokens),))))
    torch.testing.assert_close(got, model(tokens[None]).logits[0], rtol=1e-3, atol=1e-3)
    if name == "gemma3-270m":  # beyond its window of 512 tokens
        long = torch.tensor(base.tokenizer.encode((Path(__file__).parents[2] / "LICENSE").read_text())[:900])
        got = base.decoder.logits(base.decoder.hidden(long, Segments((900,)))[-30:])
        torch.testing.assert_close(got, model(long[None]).logits[0, -30:], rtol=1e-3, atol=1e-3)
