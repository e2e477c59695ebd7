"""POST /v1/chat/completions: one conversation, answered `n` times, whole or as events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kameleon.generation import Completion, Piece
from kameleon.generation import Request as Prompt
from kameleon.http.answers import Answers, unless_client_leaves
from kameleon.http.bodies import ChatBody
from kameleon.http.errors import ApiError, json_response
from kameleon.http.events import Events, event_stream
from kameleon.http.keys import key_of
from kameleon.http.request_log import entry_of
from kameleon.http.route import Route
from kameleon.http.service import Service, client_of, service_of
from kameleon.http.tools import Call, CallReader, ToolPlan, plan_tools
from kameleon.http.usage import Label, usage_of

router = APIRouter(route_class=Route)


@router.post("/v1/chat/completions")
async def chat(body: ChatBody, request: Request) -> Response:
    """Answer a conversation; `model` is the base's name, an adapter's, or base:adapter."""
    entry_of(request).model = body.model
    work = _Chat(service_of(request), body, request)
    if body.stream:
        return await event_stream(request, work.events())
    return json_response(await unless_client_leaves(request, work.whole()))


class _Chat:
    """One request for a chat completion."""

    def __init__(self, service: Service, body: ChatBody, request: Request) -> None:
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", code="invalid_value", param="top_logprobs")
        self._service, self._body = service, body
        self._key, self._client = key_of(request), client_of(request, body.user)
        self._entry = entry_of(request)
        self._plan = ToolPlan([])  # until it is prepared
        self._label: Label | None = None

    def _prepare(self) -> Sequence[Prompt]:
        service, body = self._service, self._body
        # In this thread and not on the event loop: 4 MB of tools take 3 s.
        self._plan = plan = plan_tools(body, service.base.template.tools_source)
        adapter = service.adapter_of(body.model, self._key)
        self._label = service.label("chatcmpl", "chat.completion", adapter=adapter)
        system_prompt = service.adapters.system_prompt(adapter)
        tokens = service.prompts.of_messages(
            body.messages,
            plan.rendered,
            opening=plan.opening,
            system_prompt=system_prompt,
            effort=body.reasoning_effort,
        )
        form = body.response_format.constraints() if body.response_format else {}
        self._entry.prompt_tokens = len(tokens)
        start = replace(
            service.base.sampling,
            max_tokens=body.max_completion_tokens or body.max_tokens or service.default_max_tokens(len(tokens)),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            **(plan.constraints or form),
        )
        wishes = body.samplings(start, service.base.stop_token_ids)
        return [Prompt(tuple(tokens), adapter, wish) for wish in wishes]

    async def whole(self) -> dict[str, Any]:
        """The answer as one document."""
        async with Answers(self._service, client=self._client, entry=self._entry) as answers:
            await answers.ask(self._prepare)
            completions = await answers.completions()
        return {
            **self._head(),
            "choices": [self._choice(index, one) for index, one in enumerate(completions)],
            "usage": usage_of(completions, len(completions)),
        }

    def _choice(self, index: int, completion: Completion) -> dict[str, Any]:
        reader = self._plan.reader()
        parts = reader.take(completion.text, finished=True)
        words = "".join(part for part in parts if isinstance(part, str))
        calls = [part.to_json() for part in parts if isinstance(part, Call)]
        message: dict[str, Any] = {"role": "assistant", "content": words or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": self._service.texts.chat(completion.scores) if self._body.logprobs else None,
            "finish_reason": _finish(completion, reader),
        }

    async def events(self) -> Events:
        """The answer as events: for each choice its role, its pieces and why it ended; then the counts if asked for."""
        completions: dict[int, Completion] = {}
        async with Answers(self._service, client=self._client, entry=self._entry) as answers:
            await answers.ask(self._prepare)
            readers: dict[int, CallReader] = {}
            async for index, piece in answers.pieces():
                if index not in readers:
                    readers[index] = self._plan.reader()
                    yield self._event(index, {"role": "assistant", "content": "", "refusal": None})
                for event in self._piece(index, piece, readers[index]):
                    yield event
                if piece.completion is not None:
                    completions[index] = piece.completion
        if self._body.wants_usage:
            usage = usage_of([completions[index] for index in sorted(completions)], len(completions))
            yield {**self._head(chunk=True), "choices": [], "usage": usage}

    def _piece(self, index: int, piece: Piece, reader: CallReader) -> list[dict[str, Any]]:
        scores = self._service.texts.chat(piece.scores) if self._body.logprobs and piece.scores else None
        called = reader.calls
        deltas: list[dict[str, Any]] = []
        for part in reader.take(piece.text, finished=piece.completion is not None):
            if isinstance(part, str):
                deltas.append({"content": part})
            else:
                deltas.append({"tool_calls": [{"index": called, **part.to_json()}]})
                called += 1
        if scores is not None and not deltas:
            deltas.append({"content": ""})
        events = [self._event(index, delta, logprobs=scores if not at else None) for at, delta in enumerate(deltas)]
        if piece.completion is not None:
            events.append(self._event(index, {}, finish=_finish(piece.completion, reader)))
        return events

    def _event(
        self, index: int, delta: dict[str, Any], *, logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._body.wants_usage else {}
        return {**self._head(chunk=True), "choices": [choice], **usage}

    def _head(self, *, chunk: bool = False) -> dict[str, Any]:
        assert self._label is not None
        return self._label.head(chunk=chunk)


def _finish(completion: Completion, reader: CallReader) -> str:
    return "tool_calls" if reader.calls and completion.finish == "stop" else completion.finish
