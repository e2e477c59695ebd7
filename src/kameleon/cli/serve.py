"""kameleon serve: the base and every adapter behind OpenAI's HTTP interface."""

from __future__ import annotations

import json as json_
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Group
from rich.text import Text

from kameleon.cli.console import AnyBase, BaseRef, Compute, Json, Quantize, megabytes, notes, open_base, results
from kameleon.cli.settings import sampling_words
from kameleon.settings import HttpSettings, Limits
from kameleon.words import first_few

if TYPE_CHECKING:
    from kameleon.http import Service

_SHOWN_ADAPTERS = 12


def serve(
    *,
    base: BaseRef = "smollm2",
    quantize: Quantize = None,
    compute: Compute = None,
    pin: Annotated[
        list[str] | None, Parameter(help="Load this adapter now and keep it in memory; may be given again.")
    ] = None,
    any_base: AnyBase = False,
    http: Annotated[HttpSettings, Parameter(name="*")] = HttpSettings(),  # noqa: B008 (frozen)
    limits: Annotated[Limits, Parameter(name="*")] = Limits(),  # noqa: B008 (frozen)
    json: Json = False,
) -> None:
    """Serve the base and all adapters of the shelf over HTTP, as OpenAI's clients expect it: model = adapter name.

    Requests with different adapters share a batch. An adapter is loaded when it is first asked for, and a new version
    of it is used without a restart.

    A request that does not set temperature, top_p, top_k, min_p or repetition_penalty gets what the base's authors
    recommend, or temperature 0.2 and top_p 0.9 where they say nothing. If it does not set max_tokens, a chat's answer
    ends after --default-max-tokens with finish_reason "length", and a completion's after 16, as with OpenAI.

    Paths: /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /v1/adapters (list, load, pin, unload,
    upload), /health, /ready, /metrics (Prometheus), /openapi.json.

    A line of --api-key-file is a key, then its models with commas (none: all models), then its role: KEY law,medicine
    role=use. The roles: use asks its models; train may do no more today; admin, the role of a line that is a KEY alone,
    also manages adapters and sees all figures and errors.

    Each request writes a line on standard error when it ends, without its texts: model, tokens of prompt + answer, ms.

    Ctrl-C or SIGTERM lets running answers end. With --json one line on standard output says when it is ready.

    Exit status 0 after a signal, 2 when it cannot start or the engine breaks.

    Try: kameleon serve; or kameleon serve --base qwen.gguf --pin law --port 9000
    """
    from kameleon.http import KeyRing, Runner, Service, create_app, open_socket
    from kameleon.serving import Engine, HotAdapters

    keys = None if http.api_key_file is None else KeyRing.read(http.api_key_file)
    with open_socket(http) as opened:
        loaded = open_base(base, quantize, compute=compute)
        runner = Runner(http)
        adapters = HotAdapters(loaded.base, loaded.shelf, any_base=any_base)
        engine = Engine(loaded.base, adapters, limits, on_failure=runner.failed)
        service = Service(loaded.base, engine, adapters=adapters, shelf=loaded.shelf, any_base=any_base)
        try:
            for name in pin or ():
                adapters.pin(name)
        except BaseException:
            engine.close(0)
            raise
        address = _address(http.host, opened.getsockname()[1])

        def on_ready() -> None:
            if json:
                sys.stdout.write(json_.dumps(_document(service, address)) + "\n")
                sys.stdout.flush()
            else:
                # soft_wrap: a command line that is broken up cannot be copied into a shell.
                results.print(_picture(service, address, with_key=keys is not None), soft_wrap=True)

        runner.run(create_app(service, http, keys=keys), opened, on_ready=on_ready)
    notes.print("ended", style="dim")


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _document(service: Service, address: str) -> dict[str, Any]:
    return {"address": address, "base": service.name, "adapters": service.adapter_names()}


def _picture(service: Service, address: str, *, with_key: bool) -> Group:
    names, limits, memory = service.adapter_names(), service.engine.limits, service.engine.memory
    shown = first_few(names, _SHOWN_ADAPTERS)
    model = names[0] if names else service.name
    body = json_.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    key = " -H 'Authorization: Bearer KEY'" if with_key else ""
    lines = (
        f"listening on {address}/v1",
        f"base {service.name}; adapters: {shown or 'none yet (kameleon train makes one)'}",
        f"memory: {megabytes(memory.kv_cache_bytes)} for keys and values, "
        f"{megabytes(memory.adapter_bytes)} for adapters",
        f"a prompt and its answer: at most {service.room_tokens:,} tokens",
        f"unless a request says otherwise: {sampling_words(service.base.sampling)}, "
        f"at most {limits.default_max_tokens:,} tokens a chat's answer (--default-max-tokens)",
        "",
        f"curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'",
    )
    return Group(*map(Text, lines))
