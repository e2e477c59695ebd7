"""POST /v1/embeddings: the mean of the last hidden states over a text's tokens, scaled to length 1."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from torch import Tensor
from torch.nn.functional import normalize

from kameleon.generation import Completion
from kameleon.generation import Request as Prompt
from kameleon.http.answers import Answers, unless_client_leaves
from kameleon.http.bodies import EmbeddingBody
from kameleon.http.errors import ApiError, json_response
from kameleon.http.keys import key_of
from kameleon.http.request_log import entry_of
from kameleon.http.route import Route
from kameleon.http.service import client_of, service_of

_AT_ONCE = 32  # texts of one request are submitted at once; all of them could fill the queue

router = APIRouter(route_class=Route)


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingBody, request: Request) -> Response:
    """One vector for each text, from the base or an adapter."""
    return json_response(await unless_client_leaves(request, _embed(body, request)))


async def _embed(body: EmbeddingBody, request: Request) -> dict[str, Any]:
    service, entry = service_of(request), entry_of(request)
    client = client_of(request, body.user)
    entry.model = body.model
    size = service.base.config.hidden_size
    if body.dimensions not in (None, size):
        raise ApiError(
            400, f"vectors here have {size} dimensions, no other number", code="invalid_value", param="dimensions"
        )

    def prepare() -> tuple[str | None, Sequence[Prompt]]:
        adapter = service.adapter_of(body.model, key_of(request))
        return adapter, [Prompt(tuple(service.prompts.of_text(text)), adapter, embed=True) for text in body.inputs()]

    adapter, prompts = await service.preparing.run(prepare, key=client.key)
    entry.prompt_tokens = sum(len(prompt.prompt) for prompt in prompts)
    done: list[Completion] = []
    for start in range(0, len(prompts), _AT_ONCE):
        async with Answers(service, client=client, entry=entry) as answers:
            await answers.ask(lambda part=prompts[start : start + _AT_ONCE]: part)
            done += await answers.completions()
    tokens = sum(one.prompt_tokens for one in done)
    data = []
    for index, one in enumerate(done):
        if one.embedding is None:
            raise ApiError(503, "the time for this request was over before it was computed", code="timeout")
        vector = _encode(normalize(one.embedding, dim=0), body.encoding_format)
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return {
        "object": "list",
        "data": data,
        "model": service.model_of(adapter),
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encode(vector: Tensor, form: str | None) -> str | list[float]:
    """Numbers, or the bytes of little-endian fp32 in base64, as OpenAI's own client asks for them."""
    if form != "base64":
        return vector.tolist()
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
