"""Control tokens that a person spells in a message are text, and no turn ends there.

Before a template is rendered, each spelled control token is replaced by a word, its stand-in. The rendered text then
tells the template's own control tokens from those of the person.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from kameleon.errors import DataError
from kameleon.text.token_bytes import special_ids_of

_STAND_IN = "kmlSpelled{}x"
_CONTROL = re.compile(r"..[<>\[\]|｜]")  # some tokenizers call "!" special, which people write
_THOUGHT = ("<think>", "</think>")  # people write thoughts into an answer so, also where these are control tokens


class ControlTokens:
    """The control tokens of a tokenizer (those that it calls special), without the tags around thoughts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.ids = special_ids_of(tokenizer)
        """Token ids, with those of the tags around thoughts."""
        named = {str(tokenizer.convert_ids_to_tokens(token)) for token in self.ids}
        spelled_out = (text for text in named - {*_THOUGHT} if _CONTROL.search(text))
        self._texts = sorted(spelled_out, key=lambda text: (-len(text), text))
        self._stand_ins = {text: _STAND_IN.format(place) for place, text in enumerate(self._texts)}

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._texts)) or r"(?!)")  # (?!) matches nothing

    @cached_property
    def _stood_in(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._stand_ins.values())) or r"(?!)")

    def spelled_in(self, value: Any) -> list[str]:
        """The control tokens that are spelled in a value's texts, each once."""
        return list(dict.fromkeys(found for text in _texts(value) for found in self._spelled.findall(text)))

    def protect(self, value: Any) -> Any:
        """The value (text, or lists and dicts of texts) with a stand-in for each spelled control token."""
        if not any(self._spelled.search(text) for text in _texts(value)):
            return value
        return self._protected(value)

    def _protected(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._spelled.sub(lambda found: self._stand_ins[found[0]], value)
        if isinstance(value, Mapping):
            return {self._protected(key): self._protected(one) for key, one in value.items()}
        return [self._protected(one) for one in value] if isinstance(value, list | tuple) else value

    def restore(self, text: str) -> str:
        """The text with the spelled control tokens in place of their stand-ins."""
        names = {stand_in: spelled for spelled, stand_in in self._stand_ins.items()}
        return self._stood_in.sub(lambda found: names[found[0]], text)

    def since_last(self, text: str) -> str:
        """The end of the text, from its last control token on. No earlier text changes the tokens of what follows."""
        places = [found.start() for found in self._spelled.finditer(text)]
        return text[places[-1] :] if places else text

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered text: the template's control tokens are tokens, spelled ones are encoded as text."""
        if not self._stood_in.search(text):
            return self._tokenizer.encode(text, add_special_tokens=False)
        twin, names = self._twin
        renamed = self._spelled.sub(lambda found: names[found[0]], text)
        return twin.encode(self.restore(renamed), add_special_tokens=False).ids

    @cached_property
    def _twin(self) -> tuple[Tokenizer, dict[str, str]]:
        """The same tokenizer with other names for its control tokens, and these names. No text can spell them."""
        secret = secrets.token_hex(16)
        names = {text: f"\ue000{secret}{place}\ue001" for place, text in enumerate(self._texts)}
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise DataError(
                "this base's tokenizer is not a fast one, so it cannot take a spelled control token as text"
            )
        described = json.loads(backend.to_str())
        for token in described["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = described["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): token for piece, token in model["vocab"].items()}
        else:  # Unigram has a list of pieces and scores
            model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        described["post_processor"] = None  # it would look for the old names, and only adds what is not asked for
        return Tokenizer.from_str(json.dumps(described)), names


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
