"""Write one file of every kind that Kameleon keeps, with the code that is installed: python write.py FOLDER

The base is tiny and random. KAMELEON_NATIVE=off and one thread make the numbers depend on little but torch.
"""

# ruff: noqa: E402 (the environment comes before torch and kameleon)
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

os.environ["KAMELEON_NATIVE"] = "off"
WHERE = Path(sys.argv[1]).resolve()
os.environ["KAMELEON_HOME"] = str(WHERE / "home")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from peft import LoraConfig, get_peft_model
from tiny import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

import kameleon
from kameleon import Recipe, Sampling, Watch
from kameleon.cli import main as kameleon_command
from kameleon.errors import RunInterruptedError

QUESTION = "What comes after 4?"
ROWS = [{"prompt": f"What comes after {i}?", "completion": f"It is {i + 1}."} for i in range(12)]
# Training makes this answer less likely, so that the first look at it is the best one: the resumed run must read that
# adapter from the disk.
HELD_OUT = [{"prompt": "What comes after 20?", "completion": "~~ ## $$ %% && ^^"}]
RECIPE = Recipe(rank=2, rows_per_step=3, epochs=2.0, learning_rate=0.01, seed=3)
WATCHED = Recipe(rank=1, rows_per_step=3, epochs=2.0, learning_rate=0.01, targets="down_proj", seed=3)
WATCH = Watch(eval_every=2, patience=0)
FOREIGN = ("adapter.gguf", "mlx", "peft", "peft-dora", "peft-rslora", "peft-head", "peft-ends")


def write_base(folder):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 320}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    ends = {"bos_token_id": 256, "eos_token_id": 257, "max_position_embeddings": 256, "tie_word_embeddings": True}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 0.1) + (parameter.dim() == 1)
            )
    model.to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def write_with_peft(base, folder, **settings):
    """An adapter as PEFT itself writes it, with random numbers in all that it trains."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"target_modules": ["q_proj", "down_proj"], **settings}
    config = LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **settings)
    adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    whole_ends = "auto" if "modules_to_save" in settings else False
    adapted.to(torch.bfloat16).save_pretrained(folder, save_embedding_layers=whole_ends)
    for extra in folder.glob("README*"):
        extra.unlink()


def main():
    torch.set_num_threads(1)
    shutil.rmtree(WHERE, ignore_errors=True)
    WHERE.mkdir(parents=True)
    os.chdir(WHERE)
    write_base(WHERE / "base")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HELD_OUT))
    for name, settings in {
        "peft-dora": {"use_dora": True},
        "peft-rslora": {"use_rslora": True},
        "peft-ends": {"modules_to_save": ["embed_tokens"]},
        "peft-head": {"target_modules": ["q_proj", "lm_head"]},
    }.items():
        write_with_peft("base", WHERE / name, **settings)

    loaded = kameleon.load("base", dtype=torch.float32)
    whole = loaded.train("rows.jsonl", "whole", recipe=RECIPE).adapter
    interrupt(loaded, "half", recipe=RECIPE)
    interrupt(loaded, "watched", held_out="held-out.jsonl", recipe=WATCHED, watch=WATCH)
    loaded.shelf.save(replace(whole, name="shelved", card=replace(whole.card, system_prompt="Be brief.")))
    loaded.shelf.save(replace(whole, name="shelved"))
    for to, out in (("gguf", "adapter.gguf"), ("mlx", "mlx"), ("ollama", "ollama"), ("peft", "peft")):
        command("adapter", "export", "whole", "--to", to, "--out", out, *([] if to == "peft" else ["--base", "base"]))
    for name in FOREIGN:
        command("adapter", "import", name, "--name", name.partition(".")[0], "--base", "base")
    for kind in ("dora", "rslora", "head"):
        command("adapter", "export", f"peft-{kind}", "--to", "peft", "--out", f"own-{kind}")
    expected = {name: [loaded.shelf.load(name).fingerprint, *answer(loaded, name)] for name in loaded.shelf.names()}
    packed = kameleon.load("base", dtype=torch.float32, quantize="nf4")
    expected["the base in NF4"] = [packed.base.fingerprint, *answer(packed, None)]
    expected["the base"] = [loaded.base.fingerprint, *answer(loaded, None)]
    lines = [f" {json.dumps(name)}: {json.dumps(values)}" for name, values in expected.items()]
    Path("expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for name in FOREIGN:
        shutil.rmtree(f"home/adapters/{name.partition('.')[0]}")
    for left in WHERE.rglob("*.lock"):
        left.unlink()


def interrupt(loaded, name, **settings):
    """A run that Ctrl-C ends after its fourth step."""

    def press(report):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        loaded.train("rows.jsonl", name, on_step=press, **settings)
    except RunInterruptedError:
        return
    raise AssertionError(f"the run {name} was not interrupted")


def answer(loaded, adapter):
    """The tokens of the adapter's greedy answer, and the log-probability of each."""
    wish = Sampling(max_tokens=12, temperature=0, logprobs=1)
    [given] = loaded.generate([QUESTION], [adapter], sampling=wish)
    return list(given.tokens), [round(score.logprob, 6) for score in given.scores]


def command(*words):
    try:
        kameleon_command([str(word) for word in words])
    except SystemExit as end:
        assert not end.code, words


if __name__ == "__main__":
    main()
