"""Generation: what a request gets never depends on its neighbours, its cache, or how its text is streamed."""

from dataclasses import replace

import pytest
import torch
from fakes import random_adapter

from kameleon import LoadedBase, Sampling
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.errors import AdapterNotFoundError, SettingError
from kameleon.generation import Request, choose, generate, new_generator, stream
from kameleon.ops import Segments

PROMPTS = ["a", "Where is the harbour?", "Ten green bottles, hanging on the wall"]


def uncached(loaded, prompt, adapter, count):
    """Greedy tokens from the whole sequence again and again, without a cache."""
    tokens = list(loaded.encode_prompt(prompt))
    new = []
    for _ in range(count):
        segments = Segments((len(tokens),), (loaded.bank.slot(adapter),))
        with torch.inference_mode():
            hidden = loaded.base.decoder.hidden(torch.tensor(tokens), segments, loaded.bank)
        token = int(loaded.base.decoder.logits(hidden[-1:]).argmax())
        if token in loaded.base.stop_token_ids:
            break
        tokens.append(token)
        new.append(token)
    return tuple(new)


@pytest.fixture
def with_adapters(tiny):
    for seed, name in enumerate(("red", "green")):
        tiny.bank.add(random_adapter(tiny.base, name, seed=seed))
    return tiny


def test_a_mixed_batch_gives_each_prompt_what_it_would_get_alone_and_uncached(with_adapters):
    adapters = ["red", None, "green"]
    together = with_adapters.generate(PROMPTS, adapters, sampling=Sampling(max_tokens=12))
    for prompt, adapter, got in zip(PROMPTS, adapters, together, strict=True):
        alone = with_adapters.generate([prompt], [adapter], sampling=Sampling(max_tokens=12))[0]
        assert got == alone
        assert got.tokens == uncached(with_adapters, prompt, adapter, 12)
    assert len({got.tokens for got in together}) == 3


def test_requests_that_end_early_leave_the_others_alone(with_adapters):
    lengths = [3, 15, 7]
    requests = [
        Request(with_adapters.encode_prompt(p), a, Sampling(max_tokens=n))
        for p, a, n in zip(PROMPTS, ("red", "green", None), lengths, strict=True)
    ]
    for request, got in zip(requests, generate(with_adapters.base, with_adapters.bank, requests), strict=True):
        assert got.tokens == generate(with_adapters.base, with_adapters.bank, [request])[0].tokens
        assert got.finish in ("length", "stop")


def test_a_seed_gives_the_same_text_in_any_batch(with_adapters):
    wish = Sampling(max_tokens=10, temperature=1.5, top_p=0.9, top_k=50, seed=7)
    alone = with_adapters.generate(["hello"], sampling=wish)[0]
    other = Sampling(max_tokens=10, temperature=1.0, seed=1)
    among = with_adapters.generate(["x", "hello", "y"], ["red", None, "green"], sampling=[other, wish, other])[1]
    assert among.text == alone.text
    another = with_adapters.generate(["hello"], sampling=Sampling(max_tokens=10, temperature=1.5, seed=8))[0]
    assert another.text != alone.text


def test_streamed_pieces_are_the_text(with_adapters):
    requests = [Request(with_adapters.encode_prompt(p), "red", Sampling(max_tokens=20)) for p in PROMPTS]
    texts, done = ["", "", ""], {}
    for piece in stream(with_adapters.base, with_adapters.bank, requests):
        texts[piece.request] += piece.text
        if piece.completion:
            done[piece.request] = piece.completion
    assert [done[i].text for i in range(3)] == texts


def test_a_stop_string_ends_the_text_before_it(with_adapters):
    whole = with_adapters.generate(["hello"], ["red"], sampling=Sampling(max_tokens=30))[0].text
    assert len(whole) > 8
    stop = whole[5:8]
    got = with_adapters.generate(["hello"], ["red"], sampling=Sampling(max_tokens=30, stop=(stop,)))[0]
    assert got.text == whole[: whole.index(stop)]
    assert got.finish == "stop"


def test_the_end_token_stops_and_is_not_in_the_text(tiny):
    said = tiny.generate(["hello"], sampling=Sampling(max_tokens=6))[0]
    last = said.tokens[3]
    config = replace(tiny.base.config, stop_token_ids=frozenset({last}))
    ending = LoadedBase(replace(tiny.base, config=config))
    got = ending.generate(["hello"], sampling=Sampling(max_tokens=6))[0]
    assert got.finish == "stop"
    assert got.tokens == said.tokens[: said.tokens.index(last)]


def test_choices_of_the_sampler():
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0])
    assert choose(logits, Sampling(), new_generator(0)) == 1

    def drawn(**wish):
        generator = new_generator(0)
        return {choose(logits, Sampling(temperature=1.0, **wish), generator) for _ in range(300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_p=0.6) == {1}
    assert drawn(top_p=0.7) == {1, 2}


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop": ("",)}, "stop string"),
    ],
)
def test_impossible_wishes_are_refused(wish, told):
    with pytest.raises(SettingError, match=told):
        Sampling(**wish)


@pytest.mark.parametrize("adds", [False, True])
def test_a_raw_prompt_begins_as_the_tokenizer_begins_a_text_and_a_rendered_one_does_not(tiny, adds):
    tokenizer = tiny.base.tokenizer
    tokenizer.add_bos_token = adds
    assert list(tiny.encode_prompt("Hi", raw=True)) == tokenizer("Hi")["input_ids"]
    assert (tiny.encode_prompt("Hi", raw=True)[0] == tokenizer.bos_token_id) == adds
    rendered = tiny.base.template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert tokenizer.decode(tiny.encode_prompt("Hi")) == rendered


def test_bad_requests_are_refused_before_anything_is_computed(tiny):
    with pytest.raises(AdapterNotFoundError, match="no adapter 'gren'"):
        tiny.generate(["hello"], ["gren"])
    with pytest.raises(SettingError, match="maximum context length is 256 tokens"):
        tiny.generate(["a" * 300])
    with pytest.raises(SettingError, match="is empty"):
        tiny.generate([""], raw=True)
    with pytest.raises(SettingError, match="adapters has 1 for 2 prompts: give one for each"):
        tiny.generate(["a", "b"], [None])


@pytest.mark.parametrize("frozen", [False, True])
def test_magnitudes_and_shifts_are_applied_in_generation_too(frozen, tiny):
    """Beside a plain adapter, in a bank that trains and in one that only serves."""
    plain = random_adapter(tiny.base, "red", seed=0)
    modules = {
        name: replace(
            f, magnitude=weight_norms(tiny.base, name) * (0.6 + i % 5 / 5), b_bias=torch.full((len(f.b),), 0.02)
        )
        for i, (name, f) in enumerate(plain.modules.items())
    }
    tiny.bank = Bank(tiny.base, frozen=frozen)
    tiny.bank.add(plain)
    tiny.bank.add(replace(plain, name="dora", modules=modules))
    together = tiny.generate(PROMPTS, ["dora", "red", "dora"], sampling=Sampling(max_tokens=12))
    for prompt, adapter, got in zip(PROMPTS, ("dora", "red", "dora"), together, strict=True):
        assert got.tokens == uncached(tiny, prompt, adapter, 12)
    assert tiny.generate(PROMPTS[:1], ["red"], sampling=Sampling(max_tokens=12))[0].tokens != together[0].tokens


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_a_prompt_without_a_system_message_gets_that_of_its_adapter(way, tiny):
    red, green = random_adapter(tiny.base, "red"), random_adapter(tiny.base, "green")
    tiny.load_adapter(replace(red, card=replace(red.card, system_prompt="You are a pirate.")))
    tiny.load_adapter(green)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "a"}]
    own, empty = [{"role": "system", "content": "No."}, *talk], [{"role": "system", "content": ""}, *talk]
    begun = [{"role": "system", "content": "You are a pirate."}, *talk]

    def lengths(prompts, name, **more):
        if way == "generate":
            done = tiny.generate(prompts, [name] * len(prompts), sampling=Sampling(max_tokens=1), **more)
        else:
            pieces = tiny.stream(prompts, [name] * len(prompts), sampling=Sampling(max_tokens=1), **more)
            done = sorted((p for p in pieces if p.completion), key=lambda p: p.request)
            done = [piece.completion for piece in done]
        return [one.prompt_tokens for one in done]

    def encoded(*prompts, **more):
        return [len(tiny.encode_prompt(prompt, **more)) for prompt in prompts]

    pirate = [{"role": "system", "content": "You are a pirate."}, {"role": "user", "content": "a"}]
    assert lengths(["a", talk, own, empty], "red") == encoded(pirate, begun, own, empty)
    assert encoded("a", talk, own, system_prompt="You are a pirate.") == encoded(pirate, begun, own)
    assert lengths(["a", talk], "red", as_trained=False) == lengths(["a", talk], "green") == encoded("a", talk)
    assert lengths(["a", talk], None) == encoded("a", talk)
    assert lengths(["a"], "red", raw=True) == encoded("a", raw=True)
