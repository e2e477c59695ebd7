"""One model of each kind, with targets of every kind that it has."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch_modules.models import SmallCnn, bert, bert_output, cnn_output, gpt2, gpt2_output

from kameleon.torch_modules import LoraConfig

SUBJECTS = {
    "cnn": (SmallCnn, ("stem", "depthwise", "grouped", "head"), cnn_output),
    "bert": (bert, ("all-linear", "word_embeddings"), bert_output),
    "gpt2": (gpt2, ("all-linear", "wpe"), gpt2_output),
    "gpt2-tied-embedding": (gpt2, ("wte",), gpt2_output),
    "gpt2-tied-head": (gpt2, ("lm_head",), gpt2_output),
}


class Subject(NamedTuple):
    model: nn.Module
    config: LoraConfig
    run: object


@pytest.fixture(params=SUBJECTS)
def subject(request):
    torch.manual_seed(0)
    make, targets, run = SUBJECTS[request.param]
    return Subject(make().eval(), LoraConfig(targets=targets, rank=3, alpha=6.0), run)
