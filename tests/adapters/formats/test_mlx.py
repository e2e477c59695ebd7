"""Adapters in mlx-lm's format, and mlx-lm itself where it is: the same logits both ways."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import random_adapter
from safetensors.torch import load_file, save_file

from kameleon.adapters import Adapter, Shelf
from kameleon.adapters.formats import is_mlx_adapter, read_mlx_adapter, write_mlx_adapter
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.errors import AdapterError, AdapterFileError
from kameleon.ops import Segments

UP = "model.layers.0.mlp.up_proj"
TOKENS = torch.arange(24) * 7 % 320
PROGRAM = """
import json, sys
from pathlib import Path
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model

base, adapter, out, make = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
mx.set_default_device(mx.cpu)
model, _ = load_model(base)
if make:
    model.freeze()
    linear_to_lora_layers(model, make["num_layers"], make["lora_parameters"], make["fine_tune_type"] == "dora")
    mx.random.seed(0)
    model.update(tree_map(lambda p: p + 0.1 * mx.random.normal(p.shape), model.trainable_parameters()))
    adapter.mkdir()
    mx.save_safetensors(str(adapter / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
    (adapter / "adapter_config.json").write_text(json.dumps(make))
else:
    load_adapters(model, str(adapter))
model.eval()
np.save(out, np.array(model(mx.array([[i * 7 % 320 for i in range(24)]]))[0].astype(mx.float32)))
"""


def mixed_adapter(base, *, dora=False):
    """Other ranks and scales in other modules, and none in the lowest layer's o_proj."""
    made = {}
    for i, (name, f) in enumerate(random_adapter(base, "mine").modules.items()):
        rank = 1 + i % 4
        magnitude = weight_norms(base, name) * 1.3 if dora else None
        made[name] = replace(f, a=f.a[:rank], b=f.b[:, :rank], alpha=3.0 + i % 5, magnitude=magnitude)
    del made["model.layers.0.self_attn.o_proj"]
    return Adapter("mine", made, random_adapter(base, "x").card)


@torch.inference_mode()
def our_logits(base, adapter):
    bank = Bank(base)
    slot = bank.add(adapter, any_base=True)
    return base.decoder.logits(base.decoder.hidden(TOKENS, Segments((len(TOKENS),), (slot,)), bank))


@pytest.mark.parametrize("dora", [False, True])
def test_a_round_trip_changes_nothing(dora, tiny, tmp_path):
    adapter = mixed_adapter(tiny.base, dora=dora)
    write_mlx_adapter(adapter, tiny.base, tmp_path / "mlx")
    assert is_mlx_adapter(tmp_path / "mlx")
    read = read_mlx_adapter(tmp_path / "mlx", "mine")
    assert {f.rank for f in read.modules.values()} == {4}  # filled up to the largest
    torch.testing.assert_close(our_logits(tiny.base, read), our_logits(tiny.base, adapter), rtol=1e-4, atol=1e-4)


def test_the_layout_is_mlx_lms(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    write_mlx_adapter(adapter, tiny.base, tmp_path / "mlx")
    config = json.loads((tmp_path / "mlx" / "adapter_config.json").read_text())
    keys = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
    keys |= {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert (config["fine_tune_type"], config["num_layers"]) == ("lora", 3)
    assert config["lora_parameters"] == {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": sorted(keys)}
    tensors = load_file(tmp_path / "mlx" / "adapters.safetensors")
    assert torch.equal(tensors[f"{UP}.lora_a"], adapter.modules[UP].a.T)
    assert torch.equal(tensors[f"{UP}.lora_b"], adapter.modules[UP].b.T)


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        ({"fine_tune_type": "full"}, {}, "fine_tune_type is 'full'"),
        ({"fine_tune_type": ["lora"]}, {}, r"fine_tune_type is \"\['lora'\]\""),
        ({"lora_parameters": {"rank": 4}}, {}, "scale None"),  # older versions did not write it
        ({"lora_parameters": None}, {}, "rank None"),
        ({"lora_parameters": {"rank": 3, "scale": 2.0}}, {}, "the config rank 3"),
        ({"fine_tune_type": "dora"}, {}, "dora has"),
        ({}, {f"{UP}.lora_a": torch.full((64, 4), torch.inf)}, "NaN or infinity"),
        ({}, {"model.norm.weight": torch.ones(64)}, "has weight"),
        (
            {},
            {"model.embed_tokens.lora_a": torch.ones(320, 4), "model.embed_tokens.lora_b": torch.ones(4, 64)},
            "changes model.embed_tokens, which is read from PEFT's files alone",
        ),
        ({}, {"lm_head.lora_a": torch.ones(64, 4), "lm_head.lora_b": torch.ones(4, 320)}, "changes lm_head"),
        ({}, {f"{UP}.lora_a": torch.ones(64, 4, dtype=torch.int64)}, "not floating-point"),
    ],
)
def test_what_would_not_be_applied_exactly_is_refused(config, tensors, told, tiny, tmp_path):
    folder = tmp_path / "mlx"
    write_mlx_adapter(random_adapter(tiny.base, "mine"), tiny.base, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    save_file(load_file(folder / "adapters.safetensors") | tensors, folder / "adapters.safetensors")
    with pytest.raises(AdapterFileError, match=told):
        read_mlx_adapter(folder, "mine")


def test_biases_are_not_written(tiny, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    modules = {name: replace(f, b_bias=torch.ones(len(f.b))) for name, f in adapter.modules.items()}
    adapter = replace(adapter, modules=modules)
    with pytest.raises(AdapterError, match=r"biases of B \(lora_bias\); mlx-lm knows"):
        write_mlx_adapter(adapter, tiny.base, tmp_path / "mlx")


def test_the_commands_export_and_import(run, tiny, tiny_folder, tmp_path):
    adapter = random_adapter(tiny.base, "mine")
    Shelf().save(adapter)
    export = ["adapter", "export", "mine", "--to", "mlx", "--base", str(tiny_folder), "--out", str(tmp_path / "mlx")]
    back = ["adapter", "import", str(tmp_path / "mlx"), "--name", "back", "--base", str(tiny_folder)]
    (status, _, told), (status_back, _, _) = run(*export), run(*back)
    assert (status, status_back) == (0, 0)
    assert Shelf().load("back").fingerprint == adapter.fingerprint
    assert "written to" in told


def in_mlx(tmp_path, base, adapter, make=None):
    """Logits of mlx-lm; with `make`, on an adapter that it first made and saved."""
    python = Path(os.environ.get("KAMELEON_MLX_PYTHON", Path.home() / ".cache/kameleon-mlx/bin/python"))
    if not python.exists():
        pytest.skip('there is no mlx-lm here: KAMELEON_MLX_PYTHON, a Python with "mlx[cpu]" and mlx-lm')
    (tmp_path / "run.py").write_text(PROGRAM)
    command = [str(python), str(tmp_path / "run.py"), str(base), str(adapter), str(tmp_path / "out.npy")]
    ran = subprocess.run([*command, json.dumps(make)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return torch.from_numpy(np.load(tmp_path / "out.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
def test_mlx_lm_says_the_same_with_our_file(dora, tiny, tiny_folder, tmp_path):
    adapter = mixed_adapter(tiny.base, dora=dora)
    write_mlx_adapter(adapter, tiny.base, tmp_path / "mlx")
    theirs, ours = in_mlx(tmp_path, tiny_folder, tmp_path / "mlx"), our_logits(tiny.base, adapter)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_their_file_says_the_same_here(kind, tiny, tiny_folder, tmp_path):
    settings = {"rank": 3, "scale": 5.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]}
    make = {"fine_tune_type": kind, "num_layers": 2, "lora_parameters": settings}
    theirs = in_mlx(tmp_path, tiny_folder, tmp_path / "mlx", make)
    adapter = read_mlx_adapter(tmp_path / "mlx", "theirs")
    assert len(adapter.modules) == 4
    ours = our_logits(tiny.base, adapter)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
