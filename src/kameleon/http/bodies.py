"""The bodies of requests, with OpenAI's names of fields and vLLM's. A field that is not known is refused.

A field that is null says nothing. Fields for OpenAI's own service (`store`, `metadata` …) are accepted and ignored.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kameleon.errors import SettingError
from kameleon.generation.json_schema import closed
from kameleon.http.elsewhere import unknown_field
from kameleon.http.errors import ApiError
from kameleon.settings import Sampling
from kameleon.settings.generation import MOST_BIASES, MOST_STOP_CHARACTERS, MOST_STOPS
from kameleon.text import Effort

MOST_ANSWERS = 64
_TOLD = 5  # unknown fields of one object
UNKNOWN_FIELDS = "unknown_fields"
"""The type of the validation error of fields that a body does not have; `told` has a sentence for each."""
_Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Stop = Annotated[str, Field(max_length=MOST_STOP_CHARACTERS)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class Body(BaseModel):
    """Strict: no unknown field, and no text in place of a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """The fields that are not null. Raises PydanticCustomError with a sentence for each that is not known."""
        if not isinstance(given, dict):
            return given
        said = {name: value for name, value in given.items() if value is not None}
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := [name for name in said if name not in known]:
            routes = _ROUTES if cls in _BODIES.values() else {}
            told = {name: unknown_field(name, known, routes) for name in unknown[:_TOLD]}  # a hint takes its time
            raise PydanticCustomError(UNKNOWN_FIELDS, "unknown fields", {"told": told})
        return said


class JsonSchema(Body):
    """The schema of a structured answer. It always holds; under `strict` its objects have no other properties."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Body):
    """The form that the answer must have. `regex` is not one of OpenAI's."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    regex: str | None = None

    def constraints(self) -> dict[str, str]:
        """The fields of `Sampling` that give the answer this form. Raises ApiError if its definition is missing."""
        match self.type:
            case "text":
                return {}
            case "json_object":
                return {"json_schema": '{"type": "object"}'}
            case "json_schema" if self.json_schema is not None:
                schema = self.json_schema.schema_
                return {"json_schema": json.dumps(closed(schema) if self.json_schema.strict else schema)}
            case "regex" if self.regex is not None:
                return {"regex": self.regex}
        raise ApiError(
            400, f"response_format of type {self.type} needs {self.type}", code="invalid_value", param="response_format"
        )


class StreamOptions(Body):
    """`include_usage` asks for one more event with the counts of tokens."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generating(Body):
    """The fields that both kinds of generating requests share. A field that is null has its default."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MOST_BIASES)] | None = None
    seed: _Seed | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MOST_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    ignore_eos: bool | None = None
    """vLLM's: go on past end tokens, for measurements."""
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def answers(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def samplings(self, start: Sampling, end_tokens: frozenset[int]) -> list[Sampling]:
        """One `Sampling` for each of the `n` answers; with a seed, the seeds that follow it. Raises SettingError.

        `start` holds where the request says nothing: what the base recommends, where OpenAI's temperature would be 1.
        """
        bias = {_token_number(token): value for token, value in (self.logit_bias or {}).items()}
        if self.ignore_eos:
            bias |= dict.fromkeys(end_tokens, -100.0)
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0 if self.top_k == -1 else self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        one = replace(start, logit_bias=tuple(bias.items()), stop=tuple(stop), **fields)
        if self.seed is None:
            return [one] * self.answers
        return [replace(one, seed=(self.seed + i) % 2**63) for i in range(self.answers)]


class TextPart(Body):
    """A part of a message. Text is the only kind that bases here read."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """A function that an assistant called; its arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """One call in an assistant's message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Body):
    """One message. A message of this server's answers can be sent back unchanged."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool: a function."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """The one tool that the answer must call."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(Generating):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    modalities: list[Literal["text"]] | None = None


class CompletionBody(Generating):
    """POST /v1/completions: text or tokens that the answer continues.

    With `echo` and `logprobs` the prompt's tokens are scored too, and `max_tokens` may be 0.
    """

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_ANSWERS)]
        | Annotated[list[_Token], Field(min_length=1)]
        | Annotated[list[list[_Token]], Field(min_length=1, max_length=MOST_ANSWERS)]
    )
    max_tokens: _Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or several."""
        return _several(self.prompt)


class EmbeddingBody(Body):
    """POST /v1/embeddings"""

    model: str
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[_Token], Field(min_length=1)]
        | Annotated[list[list[_Token]], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None

    def inputs(self) -> list[str] | list[list[int]]:
        """The texts, one or several."""
        return _several(self.input)


class LoadLora(Body):
    """POST /v1/load_lora_adapter, vLLM's way. `lora_path` may only name what is on the shelf."""

    lora_name: str
    lora_path: str | None = None
    load_inplace: bool | None = None


class UnloadLora(Body):
    """POST /v1/unload_lora_adapter, vLLM's way."""

    lora_name: str
    lora_int_id: int | None = None


_BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingBody,
}
_ROUTES = {path: frozenset(body.model_fields) for path, body in _BODIES.items()}


def _several(given: Any) -> Any:
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


def _token_number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise SettingError(f"logit_bias has {text[:40]!r}; its keys are numbers of tokens")
    return int(text)
