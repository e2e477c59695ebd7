"""The peers, as their users run them: PEFT in a plain loop, the same compiled, and TRL's trainer with packing."""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kameleon.bench.cases import Rows
from kameleon.bench.turns import Job, Turns
from kameleon.model import open_weights, read_config
from kameleon.ops import IGNORE
from kameleon.text.tokenizer import load_tokenizer


def train_with_peft(job: Job, turns: Turns) -> None:
    """transformers + PEFT, eager, in the loop of PEFT's documentation."""
    _train_in_a_loop(_model(job), job, turns)


def train_with_compiled_peft(job: Job, turns: Turns) -> None:
    """The same after `torch.compile(model)`."""
    _train_in_a_loop(torch.compile(_model(job)), job, turns)


def train_with_nf4(job: Job, turns: Turns) -> None:
    """PEFT on random weights in the shape of the base, in bitsandbytes' NF4 with double quantisation."""
    _train_in_a_loop(_with_adapter(_nf4_model(job), job), job, turns)


def _nf4_model(job: Job) -> Any:
    """Build the model layer by layer: from_pretrained would hold a whole copy in bf16, many gigabytes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(job.base)
    config = read_config(path, open_weights(path))
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_sequence_tokens,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.family, **sizes), dtype=job.dtype)
    packed: dict[tuple[int, int, bool], torch.nn.Module] = {}  # quantising is slow: once for each shape, then copied
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            like = (module.out_features, module.in_features, module.bias is not None)
            packed[like] = deepcopy(packed[like]) if like in packed else _nf4_linear(module, job.dtype)
            model.set_submodule(name, packed[like])
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            value = torch.randn(parameter.shape).mul_(0.02) if parameter.dim() == 2 else torch.ones(parameter.shape)
            parent, _, own = name.rpartition(".")
            frozen = torch.nn.Parameter(value.to(job.dtype), requires_grad=False)
            model.get_submodule(parent).register_parameter(own, frozen)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its table was on the meta device
    model.is_loaded_in_4bit = True  # as from_pretrained marks it, for PEFT
    return model


def _nf4_linear(linear: torch.nn.Linear, dtype: torch.dtype) -> torch.nn.Module:
    bitsandbytes: Any = import_module("bitsandbytes")
    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None, dtype, quant_type="nf4"
    )
    random = torch.randn(linear.weight.shape).mul_(0.02)
    packed.weight = bitsandbytes.nn.Params4bit(random, requires_grad=False, quant_type="nf4").to("cpu")
    if linear.bias is not None:
        packed.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype), requires_grad=False)
    return packed


def _model(job: Job) -> Any:
    """The base in transformers with the adapter with which all contenders begin."""
    from transformers import AutoModelForCausalLM, GgufConfig, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(job.base)
    gguf = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)} if path.is_file() else {}
    base = AutoModelForCausalLM.from_pretrained(path.parent if path.is_file() else path, dtype=job.dtype, **gguf)
    base.config.quantization_config = None
    return _with_adapter(base, job)


def _with_adapter(base: Any, job: Job) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, job.adapter, is_trainable=True)
    if job.case.checkpoint:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model.train()


def _train_in_a_loop(model: Any, job: Job, turns: Turns) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.settings.learning_rate, weight_decay=job.settings.weight_decay)
    while (rows := turns.next()) is not None:
        loss = model(**padded(rows)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        turns.done(loss.item())


def padded(rows: Rows) -> dict[str, torch.Tensor]:
    """The rows as one batch, padded on the right to the longest; with a mask only where something is padded."""
    real = torch.tensor([len(row) for row in rows])[:, None] > torch.arange(max(map(len, rows)))
    tokens = torch.zeros(real.shape, dtype=torch.int64)
    tokens[real] = torch.tensor([token for row in rows for token in row])
    batch = {"input_ids": tokens, "labels": tokens.masked_fill(~real, IGNORE)}
    return batch if real.all() else {**batch, "attention_mask": real.long()}


def train_with_trl(job: Job, turns: Turns) -> None:
    """TRL's SFTTrainer with packing. It chooses the rows of a step by itself, so it reports the step's tokens.

    Activation checkpointing, TRL's default, is off as for the other contenders, which makes it faster.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    disable_progress_bars()
    case, path = job.case, Path(job.base)
    # A packed row of TRL has the length of a row of the case, or for chats that of a whole step.
    even = case.shortest_tokens is None
    length, batch = (case.tokens, case.rows) if even else (job.settings.micro_batch_tokens, 1)
    steps = case.warm_up_steps + job.settings.steps + 1
    rows = [row for step in range(2 * steps) for row in case.batch(step, job.vocab_size)]

    class OwnTurn(TrainerCallback):
        """Steps when it is its turn; the trainer's loop has to be stopped from inside."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if turns.next() is None:
                raise _NoMoreTurns

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.done(trainer.step_loss.item(), trainer.step_tokens)

    class Measured(SFTTrainer):
        """Keeps a step's loss and the number of its tokens."""

        step_loss: torch.Tensor
        step_tokens: int

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            self.step_tokens = inputs["input_ids"].numel()
            self.step_loss = super().training_step(model, inputs, num_items_in_batch)
            return self.step_loss

    config = SFTConfig(
        output_dir=str(Path(job.adapter).with_name("trl")),
        max_length=length,
        packing=True,
        per_device_train_batch_size=batch,
        max_steps=steps,
        learning_rate=job.settings.learning_rate,
        weight_decay=job.settings.weight_decay,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        gradient_checkpointing=case.checkpoint,
        bf16=job.dtype == torch.bfloat16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Measured(
        model=_model(job),
        args=config,
        train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
        processing_class=load_tokenizer(path, open_weights(path)),
        callbacks=[OwnTurn()],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train()
    except _NoMoreTurns:
        return


class _NoMoreTurns(Exception):
    """Leaves the trainer's loop."""
