"""PEFT's adapter_config.json: which of its settings can be applied, and what they say about a module."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kameleon.errors import LoraError
from kameleon.torch_modules.expressions import Expression, Expressions, Match

APPLIED = (
    *("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)
"""Settings that `PeftSettings` applies."""

WITHOUT_EFFECT = (
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),  # where it comes from
    *("inference_mode", "lora_dropout", "runtime_config"),  # how it was trained
    *("eva_config", "lora_ga_config", "corda_config", "loftq_config"),  # read where init_lora_weights names them
    *("qalora_group_size", "megatron_core"),  # read beside use_qalora and megatron_config
    "ensure_weight_tying",  # the file holds both of what was tied
    "fan_in_fan_out",  # PEFT itself goes by the layer's class
)
"""Settings that change nothing in what a trained adapter computes."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "megatron_config": (None,),
    # All others (pissa, olora, corda, loftq, lora_ga) put factors in the place of a part of the base's own weights.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}
"""Settings that change what is computed, and the values with which they do not."""

_ALL_LINEAR = "all-linear"
_OFF = (None, False, [], {}, "")  # of a setting that is unknown here, the values that ask for nothing


class PeftSettings:
    """What the settings of one adapter say about each module, in the order and by the rules of PEFT.

    `applied` are further settings, which the caller applies itself. Raises LoraError that names every setting which is
    not applied, and for values of a wrong kind. Every method raises it for an expression that takes too long.
    """

    def __init__(self, config: Mapping[str, Any], *, applied: Collection[str] = ()) -> None:
        faults = [] if config.get("peft_type") == "LORA" else [f"peft_type = {config.get('peft_type')!r}"]
        faults += [
            f"{key[:40]} = {value!r}"[:120]
            for key, value in config.items()
            if key not in (*APPLIED, *WITHOUT_EFFECT, *applied) and value not in HARMLESS.get(key, _OFF)
        ]
        if faults:
            raise LoraError(f"the config asks for what is not applied here: {', '.join(faults[:8])}")
        self._expressions = Expressions()
        self._rank, self._alpha = _positive("r", config.get("r")), _positive("lora_alpha", config.get("lora_alpha"))
        self._rslora = bool(config.get("use_rslora"))
        self._ranks, self._alphas = self._pattern(config, "rank_pattern"), self._pattern(config, "alpha_pattern")
        targets, layers = _names(config, "target_modules"), config.get("layers_to_transform")
        # PEFT gives factors to what is tied to a target too, and writes "all-linear" as the names that it found.
        self._anything = targets in (None, _ALL_LINEAR) or bool(config.get("ensure_weight_tying"))
        self._targets, self._excluded = self._choice(targets), self._choice(_names(config, "exclude_modules"))
        self._layers = None if layers in (None, []) else _numbers(layers)
        lists = [rf"(?:^|.*?\.){name}" for name in _listed(_names(config, "layers_pattern"))] or [r".*?\.[^.]*"]
        self._layer = [self._expressions.compiled(rf"{name}\.(?P<layer>\d+)\.") for name in lists]
        whole = _listed(_names(config, "modules_to_save"))
        self._whole = [self._expressions.compiled(rf"(^|.*\.){name}($|\..*)") for name in whole]

    def rank(self, module: str) -> float:
        """The rank of the module's factors."""
        return self._by_pattern(self._ranks, module, self._rank)

    def alpha(self, module: str) -> float:
        """The alpha of the module's factors."""
        return self._by_pattern(self._alphas, module, self._alpha)

    def scaling(self, module: str) -> float:
        """alpha / rank, or alpha / √rank with rsLoRA."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self._rslora else rank)

    def targets(self, module: str) -> bool:
        """Whether PEFT puts a side path on the module; factors of any other are ignored there."""
        if self._chosen(self._excluded, module) or any(self._matches(one, module) for one in self._whole):
            return False
        if self._anything:
            return True
        if not self._chosen(self._targets, module):
            return False
        # A whole name counts in any layer.
        if self._layers is None or not isinstance(self._targets, set) or module in self._targets:
            return True
        found = next((match for one in self._layer if (match := self._matches(one, module))), None)
        return found is not None and int(found["layer"]) in self._layers

    def _pattern(self, config: Mapping[str, Any], key: str) -> list[tuple[Expression, float]]:
        values = config.get(key) or {}
        if not isinstance(values, dict):
            raise LoraError(f"{key} is {str(values)[:40]!r}; expected a number for each module")
        return [
            (self._expressions.compiled(rf"(.*\.)?({name})$"), _positive(f"{key} of {name[:80]!r}", value))
            for name, value in values.items()
        ]

    def _by_pattern(self, pattern: Iterable[tuple[Expression, float]], module: str, otherwise: float) -> float:
        return next((value for one, value in pattern if self._matches(one, module)), otherwise)

    def _choice(self, names: str | list[str] | None) -> Expression | set[str]:
        return self._expressions.compiled(rf"(?:{names})\Z") if isinstance(names, str) else set(names or ())

    def _chosen(self, choice: Expression | set[str], module: str) -> bool:
        """An expression fits the whole name; a name fits at its end, from a dot on."""
        if not isinstance(choice, set):
            return self._matches(choice, module) is not None
        parts = module.split(".")
        return any(".".join(parts[i:]) in choice for i in range(len(parts)))

    def _matches(self, expression: Expression, module: str) -> Match | None:
        return self._expressions.match(expression, module)


def _positive(what: str, number: object) -> float:
    if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < math.inf:
        raise LoraError(f"{what} is {number!r:.40}; expected a number above 0")
    return number


def _names(config: Mapping[str, Any], key: str) -> str | list[str] | None:
    names = config.get(key)
    if names is None or isinstance(names, str) or (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        return names
    raise LoraError(f"{key} is {str(names)[:40]!r}; expected a list of names, or an expression")


def _listed(names: str | list[str] | None) -> list[str]:
    return [name for name in ([names] if isinstance(names, str) else names or []) if name]


def _numbers(layers: object) -> set[int]:
    numbers = layers if isinstance(layers, list) else [layers]
    if any(not isinstance(number, int) for number in numbers):
        raise LoraError(f"layers_to_transform is {str(layers)[:40]!r}; expected the numbers of layers")
    return {number for number in numbers if isinstance(number, int)}
