"""Real files of mixed kinds, and pages of one file in several processes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny import save_gguf

from kameleon.bases import locate
from kameleon.model import open_gguf
from kameleon.ops import StoredMatrix

KINDS = {"smollm2": {"Q4_1", "Q8_0", "F32"}, "gemma3-270m": {"Q4_K", "Q6_K", "Q5_0", "Q8_0", "F32"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_matrix_of_a_real_file_unpacks_to_the_bits_of_the_gguf_package(name):
    path = locate(name).path
    if path.suffix != ".gguf":
        pytest.skip("the hub delivered safetensors")
    weights, reader = open_gguf(path), gguf.GGUFReader(path)
    seen = set()
    for stored in reader.tensors:
        wanted = torch.from_numpy(np.array(gguf.dequantize(stored.data, stored.tensor_type)))
        matrix = weights.tensor(weights.layout.hf_name(stored.name))
        if wanted.dim() == 2:
            matrix = weights.matrix(weights.layout.hf_name(stored.name), tuple(wanted.shape))
            # In the order of the file: how rows of q and k are put back is tested elsewhere.
            matrix = replace(matrix, half=0).dense() if isinstance(matrix, StoredMatrix) else matrix
        assert torch.equal(matrix.view(torch.int32), wanted.view(torch.int32)), stored.name
        seen.add(stored.tensor_type.name)
    assert seen == KINDS[name]


MAPPED = """
import json, sys, torch, kameleon
from kameleon.ops import Segments

base = kameleon.load(sys.argv[1], dtype=torch.float32).base
decoder = base.decoder
tokens = torch.arange(base.config.vocab_size)
decoder.logits(decoder.hidden(tokens[:20], Segments((20,))))
decoder.embedding.rows(tokens)
print("ready", flush=True)
sys.stdin.readline()  # until the other one has it too
sizes, inside = {}, False
for line in open("/proc/self/smaps"):
    words = line.split()
    if not words[0].endswith(":"):
        inside = line.rstrip().endswith(".gguf")
    elif inside and words[-1] == "kB":
        sizes[words[0]] = sizes.get(words[0], 0) + 1024 * int(words[1])
print(json.dumps(sizes), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads Linux's /proc")
def test_two_processes_share_the_pages_of_a_base(tmp_path):
    path = tmp_path / "base.gguf"
    save_gguf(path, "Q8_0")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", MAPPED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    told = []
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
        told.append(json.loads(one.stdout.readline()))
    for one in both:
        one.communicate("\n")
    for sizes in told:
        assert sizes["Rss:"] >= 0.9 * path.stat().st_size
        assert sizes["Pss:"] <= 0.6 * sizes["Rss:"]
        assert sizes["Private_Dirty:"] == sizes["Anonymous:"] == sizes["Swap:"] == 0
