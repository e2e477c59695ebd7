"""POST /v1/completions: text or tokens are continued, without the chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kameleon.generation import Completion
from kameleon.generation import Request as Prompt
from kameleon.http.answers import Answers, unless_client_leaves
from kameleon.http.bodies import MOST_ANSWERS, CompletionBody
from kameleon.http.errors import ApiError, json_response
from kameleon.http.events import Events, event_stream
from kameleon.http.keys import key_of
from kameleon.http.logprobs import Offsets
from kameleon.http.request_log import entry_of
from kameleon.http.route import Route
from kameleon.http.service import Service, client_of, service_of
from kameleon.http.usage import Label, usage_of

_DEFAULT_TOKENS = 16  # OpenAI's

router = APIRouter(route_class=Route)


@router.post("/v1/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    """Continue one prompt or several; `model` is the base's name, an adapter's, or base:adapter."""
    entry_of(request).model = body.model
    work = _Continuation(service_of(request), body, request)
    if body.stream:
        return await event_stream(request, work.events())
    return json_response(await unless_client_leaves(request, work.whole()))


class _Continuation:
    """One request for completions. The n answers to the first prompt come first, then those to the second."""

    def __init__(self, service: Service, body: CompletionBody, request: Request) -> None:
        if body.suffix:
            raise ApiError(
                400, "suffix is not served: bases here only continue a prompt", code="invalid_value", param="suffix"
            )
        if body.best_of not in (None, body.answers):
            raise ApiError(
                400, "best_of other than n is not served; ask for n and choose", code="invalid_value", param="best_of"
            )
        prompts = body.prompts()
        if len(prompts) * body.answers > MOST_ANSWERS:
            raise ApiError(
                400, f"at most {MOST_ANSWERS} answers a request: prompts × n", code="invalid_value", param="n"
            )
        self._service, self._body, self._prompts = service, body, prompts
        self._key, self._client = key_of(request), client_of(request, body.user)
        self._entry = entry_of(request)
        self._label: Label | None = None
        self._encoded: list[list[int]] = []

    def _prepare(self) -> Sequence[Prompt]:
        service, body = self._service, self._body
        adapter = service.adapter_of(body.model, self._key)
        self._label = service.label("cmpl", "text_completion", adapter=adapter)
        self._encoded = [service.prompts.of_text(prompt) for prompt in self._prompts]
        self._entry.prompt_tokens = sum(map(len, self._encoded))
        form = body.response_format.constraints() if body.response_format else {}
        max_tokens = _DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
        start = replace(service.base.sampling, max_tokens=max_tokens, logprobs=body.logprobs, **form)
        wishes = body.samplings(start, service.base.stop_token_ids)
        scored = bool(body.echo) and body.logprobs is not None
        return [
            Prompt(tuple(tokens), adapter, wish, score_prompt=scored) for tokens in self._encoded for wish in wishes
        ]

    async def whole(self) -> dict[str, Any]:
        """The answer as one document."""
        async with Answers(self._service, client=self._client, entry=self._entry) as answers:
            await answers.ask(self._prepare)
            done = await answers.completions()
        return {
            **self._head(),
            "choices": [self._choice(i, one) for i, one in enumerate(done)],
            "usage": usage_of(done, self._body.answers),
        }

    async def events(self) -> Events:
        """The answers as events, one for each piece."""
        done: dict[int, Completion] = {}
        offsets: dict[int, Offsets] = {}  # of each answer that has begun
        async with Answers(self._service, client=self._client, entry=self._entry) as answers:
            await answers.ask(self._prepare)
            async for index, piece in answers.pieces():
                echo, prompt = ("", ()) if index in offsets else (self._echo(index), self._encoded_of(index))
                offsets.setdefault(index, Offsets(len(echo)))
                finish = piece.completion.finish if piece.completion else None
                logprobs = None
                if self._body.logprobs is not None:
                    logprobs = self._service.texts.completion(
                        piece.scores,
                        offsets[index],
                        prompt=prompt,
                        prompt_scores=piece.prompt_scores,
                        prompt_characters=len(echo),
                    )
                choice = {"index": index, "text": echo + piece.text, "logprobs": logprobs, "finish_reason": finish}
                yield {**self._head(), "choices": [choice], **({"usage": None} if self._body.wants_usage else {})}
                if piece.completion is not None:
                    done[index] = piece.completion
        if self._body.wants_usage:
            usage = usage_of([done[index] for index in sorted(done)], self._body.answers)
            yield {**self._head(), "choices": [], "usage": usage}

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        echo, logprobs = self._echo(index), None
        if self._body.logprobs is not None:
            logprobs = self._service.texts.completion(
                completion.scores,
                Offsets(len(echo)),
                prompt=self._encoded_of(index),
                prompt_scores=completion.prompt_scores,
                prompt_characters=len(echo),
            )
        text = echo + completion.text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": completion.finish}

    def _encoded_of(self, index: int) -> Sequence[int]:
        """The tokens of an answer's prompt if they are echoed, else none."""
        return self._encoded[index // self._body.answers] if self._body.echo else ()

    def _echo(self, index: int) -> str:
        """The text of an answer's prompt if it is echoed, else none."""
        if not self._body.echo:
            return ""
        at = index // self._body.answers
        given = self._prompts[at]
        return given if isinstance(given, str) else self._service.texts.joined(self._encoded[at])

    def _head(self) -> dict[str, Any]:
        assert self._label is not None
        return self._label.head()
