"""A decoder's shape out of a GGUF file's metadata; keys as in the GGUF specification."""

from __future__ import annotations

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.config import DecoderConfig
from kameleon.model.families import family_of_gguf
from kameleon.model.family import QKV
from kameleon.model.rope_keys import rope_from_gguf
from kameleon.model.supported import count_layers, naming_families
from kameleon.weights import EMBEDDING, HEAD, GgufFile, Metadata, ModuleName


@naming_families()
def config_from_gguf(file: GgufFile) -> DecoderConfig:
    """The shape that the metadata and the names of the tensors give.

    Raises UnsupportedArchitectureError, and WeightsError where a value is missing or of another type than it must be.
    """
    metadata = file.metadata
    at = metadata.need("general.architecture", str)
    family = family_of_gguf(at)
    if family is None:
        raise UnsupportedArchitectureError(f"architecture {at} is not supported")
    heads, size = metadata.size(f"{at}.attention.head_count"), metadata.size(f"{at}.embedding_length")
    head_dim = metadata.size(f"{at}.attention.key_length", max(1, size // heads))
    _refuse_features(at, metadata, head_dim)
    names = set(file.names())
    biases = frozenset(m for m in file.layout.members.values() if ModuleName(0, m).bias in names)
    biases |= QKV if biases & QKV else frozenset()  # a file with one of the three only is incomplete
    if more := sorted(biases - QKV - family.biases):
        raise UnsupportedArchitectureError(f"a bias on {', '.join(more)} is not supported")
    layers, max_sequence_tokens = count_layers(metadata, f"{at}.block_count"), metadata.size(f"{at}.context_length")
    window = metadata.find(f"{at}.attention.sliding_window", int, 0)
    vocab = file.shape(f"{EMBEDDING}.weight")[0]
    plain = DecoderConfig(
        family=family.name,
        vocab_size=vocab,
        hidden_size=size,
        intermediate_size=metadata.size(f"{at}.feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=metadata.size(f"{at}.attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=metadata.need(f"{at}.attention.layer_norm_rms_epsilon", float),
        rope=rope_from_gguf(file, max_positions=max_sequence_tokens, head_dim=head_dim),
        tie_word_embeddings=f"{HEAD}.weight" not in names,
        max_sequence_tokens=max_sequence_tokens,
        stop_token_ids=_stops(metadata, vocab),
        biases=biases,
        qk_norm=ModuleName(0, "self_attn.q_norm").weight in names,
        norms=family.norms,
        windows=(window,) * layers if window > 0 else (),
        activation=family.activation,
    )
    return family.from_gguf(plain, metadata)


def _refuse_features(at: str, metadata: Metadata, head_dim: int) -> None:
    """Raise UnsupportedArchitectureError for features in the metadata that are not computed here."""
    if metadata.get(f"{at}.expert_count"):
        raise UnsupportedArchitectureError("a mixture of experts is not supported")
    if metadata.size(f"{at}.attention.value_length", head_dim) != head_dim:
        raise UnsupportedArchitectureError("values of another size than keys are not supported")
    if metadata.size(f"{at}.rope.dimension_count", head_dim) != head_dim:
        raise UnsupportedArchitectureError("partial rotary embedding is not supported")
    for key in (f"{at}.attn_logit_softcapping", f"{at}.final_logit_softcapping"):
        if metadata.get(key):
            raise UnsupportedArchitectureError(f"{key} = {metadata[key]!r} is not supported")


def _stops(metadata: Metadata, vocab: int) -> frozenset[int]:
    stops = set()
    for key in (f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot")):
        token = metadata.find(key, int, None)
        if token is not None:
            if not 0 <= token < vocab:
                raise WeightsError(f"{key} in {metadata.where} is {token}; there are only {vocab:,} tokens")
            stops.add(token)
    return frozenset(stops)
