"""The frozen base: weights, tokenizer, chat template and fingerprint as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from kameleon.bases.catalogue import CATALOGUE
from kameleon.bases.fetch import BaseFiles, locate
from kameleon.bases.places import PACKED, note_place
from kameleon.bases.provenance import provenance_of
from kameleon.bases.sampling import recommended_sampling
from kameleon.model.config import DecoderConfig
from kameleon.model.decoder import Decoder, build_decoder
from kameleon.model.files import open_weights, read_config
from kameleon.model.layout import module_shapes
from kameleon.ops import choose_compute_type
from kameleon.settings import Sampling
from kameleon.text.template import ChatTemplate
from kameleon.text.tokenizer import load_tokenizer
from kameleon.weights import WeightFile
from kameleon.words import short_repr


@dataclass(frozen=True, eq=False)
class Base:
    """A model that never changes. It knows no adapter.

    `fingerprint` is a hash over every tensor's name, shape, type and stored bytes; adapters carry it.
    """

    name: str
    """Its name in the catalogue, its hub id, or the name of its file or folder; "NAME in nf4" if it was packed."""
    files: BaseFiles
    weights: WeightFile = field(repr=False)
    config: DecoderConfig = field(repr=False)
    decoder: Decoder = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    template: ChatTemplate = field(repr=False)
    fingerprint: str
    compute_dtype: torch.dtype
    compute_reason: str
    sampling: Sampling
    """The default sampling of the base and its adapters; `max_tokens` is no part of it."""
    quantize: str | None = None
    """How the matrices of its files were packed when it was loaded: "nf4", or None for as they are stored."""
    hub_id: str | None = None
    """The id under which PEFT and vLLM load it; None where its files do not say."""
    licence: str | None = None

    __repr__ = short_repr

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the config's end tokens, and those that end a turn in the template."""
        return self.config.stop_token_ids | self.template.end_token_ids

    @property
    def parameters(self) -> int:
        """The number of weights in projections, embedding and head, without norms and biases."""
        vocab = self.config.vocab_size * self.config.hidden_size
        inner = sum(rows * columns for rows, columns in module_shapes(self.config).values())
        return inner + vocab * (1 if self.config.tie_word_embeddings else 2)


def load_base(
    ref: str,
    dtype: torch.dtype | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    quantize: str | None = None,
) -> Base:
    """The base that `ref` names: a catalogue name, a folder in Hugging Face layout, a `.gguf` file or a hub id.

    `dtype` None chooses the type that this machine has units for. `on_progress(what, done, total)` reports fetching and
    loading. `quantize` "nf4" stores a folder's matrices in 4 bits; that is another base, with another fingerprint.
    Raises FetchError, UnsupportedArchitectureError, WeightsError or SettingError.
    """
    compute = choose_compute_type(dtype)
    files = locate(ref, on_progress=on_progress)
    weights = open_weights(files.path, quantize, on_progress=on_progress)
    config = read_config(files.path, weights)
    sampling = recommended_sampling(files.path, weights)

    def on_layer(done: int, total: int) -> None:
        if on_progress:
            on_progress("loading", done, total)

    decoder = build_decoder(config, weights, dtype=compute.dtype, on_layer=on_layer)
    tokenizer = load_tokenizer(files.path, weights)
    template, fingerprint = ChatTemplate(tokenizer), weights.fingerprint()
    known = provenance_of(ref, files.path, weights)
    if ref not in CATALOGUE and known.hub_id != ref:
        note_place(fingerprint, files.path)
    return Base(
        known.name if quantize is None else f"{known.name}{PACKED}{quantize}",
        files,
        weights,
        config,
        decoder,
        tokenizer,
        template,
        fingerprint,
        compute.dtype,
        compute.reason,
        sampling,
        quantize,
        known.hub_id,
        known.licence,
    )
