"""Adapters and merged models in llama.cpp itself: the same text and probabilities as here, with a trained adapter."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import random_adapter
from llama_cpp import llama_converter, llama_server, serving

import kameleon
from kameleon.adapters.arithmetic import merge
from kameleon.adapters.formats import read_adapter, read_gguf_adapter, write_adapter, write_gguf_adapter
from kameleon.ops import Segments
from kameleon.settings import Recipe, Sampling
from kameleon.weights import copy_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
REAL_HOME = Path("~/.local/share/kameleon").expanduser()
SUBJECTS = [
    "rivers",
    "a good breakfast",
    "chess",
    "the moon",
    "bread",
    "old letters",
    "bicycles",
    "rain",
    "maps",
    "bees",
]
FORMS = ["Tell me about {}.", "What is surprising about {}?", "Write a short poem about {}.", "List three facts on {}."]
PROMPTS = [form.format(subject) for form in [*FORMS, "Why do people care for {}?"] for subject in SUBJECTS]
TOKENS = 64
TALES = [
    "Arr, me hearty, ye ask of things that only the sea can tell!",
    "Me old captain swore by it, and he sailed round the Horn nine times.",
    "Fetch the rum, and I shall tell ye what the parrot said.",
    "There be no gold in it, but a good story is worth a chest of silver.",
    "The wind was rising from the west when we first heard of such a thing.",
    "Ye may laugh, but the whole crew stood on deck and stared.",
    "Beware of it at night, when the lanterns burn low.",
    "I wrote it all down in the log, between the storm and the mutiny.",
    "The cook knew better, as cooks do, and he kept it to himself.",
    "So hoist the sails, and let us see where it leads.",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The real base as it is fetched and unpacked to F32, and an adapter trained on it for llama.cpp."""
    llama_server()
    packed = REAL_HOME / "bases" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not packed.exists():
        pytest.skip("kameleon base pull smollm2 has not been run here")
    folder = tmp_path_factory.mktemp("llama")
    loaded = kameleon.load(str(packed))
    draw = random.Random(0)  # a tale for each in another order: long answers with many near choices
    rows = [{"prompt": prompt, "completion": " ".join(draw.sample(TALES, 8))} for prompt in PROMPTS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded.shelf.root = folder / "shelf"
    recipe = Recipe(rank=8, epochs=2, rows_per_step=10, learning_rate=1e-3)
    adapter = loaded.train(folder / "rows.jsonl", "pirate", recipe=recipe, overwrite=True).adapter
    copy_gguf(loaded.base.weights, folder / "f32.gguf", kind="F32", fresh={}, whole=True)
    write_gguf_adapter(adapter, loaded.base, folder / "pirate.gguf")
    return {"Q4_1": packed, "F32": folder / "f32.gguf", "adapter": adapter, "gguf": folder / "pirate.gguf"}


def compared(base_path, adapter, model_path, adapter_path=None, prompts=PROMPTS):
    """How many prompts get the same greedy text, and the mean gap of log-probabilities of llama.cpp's text."""
    loaded = kameleon.load(str(base_path), dtype=torch.float32)
    if adapter is not None:
        loaded.load_adapter(adapter, any_base=True)
    encoded = [loaded.encode_prompt(prompt) for prompt in prompts]
    with serving(model_path, adapter_path) as complete:
        theirs = [complete(prompt, TOKENS) for prompt in encoded]
    names = [adapter.name if adapter else None] * len(prompts)
    ours = loaded.generate(prompts, names, sampling=Sampling(max_tokens=TOKENS))
    stops, equal, gaps = loaded.base.stop_token_ids, 0, []
    for prompt, answer, completion in zip(encoded, theirs, ours, strict=True):
        tokens = [token for token, _ in answer]
        equal += tuple(token for token in tokens if token not in stops) == completion.tokens
        gaps.append(logprobs(loaded, names[0], prompt, tokens) - torch.tensor([p for _, p in answer]))
    return equal, float(torch.cat(gaps).abs().mean())


@torch.inference_mode()
def logprobs(loaded, name, prompt, answer):
    """Of each token of `answer` after those before it."""
    row = torch.tensor([*prompt, *answer])
    decoder = loaded.base.decoder
    hidden = decoder.hidden(row, Segments((len(row),), (loaded.bank.slot(name),)), loaded.bank)
    found = decoder.logits(hidden[len(prompt) - 1 : -1]).log_softmax(-1)
    return found.gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_an_f32_base_with_the_adapter_says_the_same(places):
    equal, gap = compared(places["F32"], places["adapter"], places["F32"], places["gguf"])
    print(f"F32: {equal} of {len(PROMPTS)} texts equal, mean log-probability gap {gap:.5f}")
    assert equal >= 45
    assert gap <= 0.01


def test_a_q4_1_base_with_the_adapter_is_near(places):
    equal, gap = compared(places["Q4_1"], places["adapter"], places["Q4_1"], places["gguf"])
    print(f"Q4_1: {equal} of {len(PROMPTS)} texts equal, mean log-probability gap {gap:.5f}")
    assert gap <= 0.05


@pytest.mark.parametrize(("kind", "most"), [("F16", 0.01), ("BF16", 0.05), ("Q8_0", 0.05), ("Q4_0", 0.1)])
def test_a_merged_file_loads_and_says_what_it_says_here(kind, most, places, tmp_path):
    """Here the merged file is computed in fp32; llama.cpp rounds activations to the file's kind, or to 8 bits."""
    base = kameleon.load(str(places["Q4_1"])).base
    merge(base, places["adapter"], out=tmp_path / "merged.gguf", kind=kind, whole=True)
    prompts = PROMPTS[::5]
    equal, gap = compared(tmp_path / "merged.gguf", None, tmp_path / "merged.gguf", prompts=prompts)
    print(f"merged {kind}: {equal} of {len(prompts)} texts equal, mean log-probability gap {gap:.5f}")
    assert gap <= most


def test_what_llama_cpps_own_converter_makes_is_read_as_what_peft_had(tiny, tiny_folder, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_adapter(adapter, tmp_path / "mine")
    command = [sys.executable, llama_converter(), "--base", str(tiny_folder), "--outtype", "f32"]
    command += ["--outfile", str(tmp_path / "theirs.gguf"), str(tmp_path / "mine")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    theirs = read_gguf_adapter(tmp_path / "theirs.gguf", tiny.base, "mine")
    assert theirs.fingerprint == read_adapter(tmp_path / "mine").fingerprint
