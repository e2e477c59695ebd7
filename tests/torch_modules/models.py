"""Models that nobody here wrote, made small: a convolutional net, BERT and GPT-2 built from configs."""

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from kameleon.torch_modules import layers

TOKENS = torch.arange(24).view(2, 12) % 50
PICTURES = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8)


class SmallCnn(nn.Module):
    """In the manner of torchvision: strided, dilated and grouped convolutions, norms, a linear head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4, padding_mode="reflect")
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.grouped(self.depthwise(x)))
        return self.head(x.mean((-2, -1)))


def bert():
    return BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                intermediate_size=48, max_position_embeddings=32)).eval()  # fmt: skip


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32)).eval()


def mixtral():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(vocab_size=50, hidden_size=32, intermediate_size=48, **sizes)).eval()


def mamba():
    return MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8)).eval()


def bert_output(model):
    got = model(TOKENS)
    return torch.cat([got.last_hidden_state.flatten(), got.pooler_output.flatten()])


def gpt2_output(model):
    return model(TOKENS).logits


def cnn_output(model):
    return model(PICTURES)


def disturb(model, std=0.1):
    """Both factors random, as after training."""
    torch.manual_seed(1)
    for _, layer in layers(model):
        nn.init.normal_(layer.lora_a, std=std)
        nn.init.normal_(layer.lora_b, std=std)
    return model


def snapshot(model):
    """Copies of everything the model holds, buffers too."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
