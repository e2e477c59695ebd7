"""/v1/adapters: list, load, pin, unload and upload adapters; vLLM's two paths as well.

A name from a request is compared with the names that exist, or checked to be a plain name. No path from a request
reaches the file system.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import PlainTextResponse, Response

from kameleon.adapters import Adapter, Proof, ShelfEntry, check_name, prove
from kameleon.adapters.formats import read_adapter
from kameleon.errors import AdapterError, AdapterNotFoundError, SettingError
from kameleon.home import cache_dir
from kameleon.http.bodies import LoadLora, UnloadLora
from kameleon.http.errors import ApiError, json_response
from kameleon.http.keys import EVERYBODY, key_of
from kameleon.http.route import Route
from kameleon.http.service import Service, service_of
from kameleon.scratch import scratch_folder
from kameleon.serving.state import AdapterState

_FILES = ("adapter_config.json", "adapter_model.safetensors", "kameleon.json", "README.md")
_COPY_BYTES = 1 << 20


class _AdminRoute(Route):
    def refuse(self, request: Request) -> None:
        """Raise ApiError 403 for a key that is no admin's, 400 for an upload under a name that no adapter can have."""
        if not key_of(request).is_admin:
            message = "this API key may not manage adapters; its line in the key file needs role=admin for that"
            raise ApiError(403, message, code="key_limited")
        if request.method == "PUT":
            try:
                check_name(request.path_params["name"])
            except AdapterError as error:
                raise ApiError(400, str(error), code="invalid_name", param="name") from error
        super().refuse(request)


router = APIRouter(route_class=_AdminRoute)


@router.get("/v1/adapters")
def adapters(request: Request) -> Response:
    """Every adapter: whether it is on the shelf, and which version of it is in memory."""
    service = service_of(request)
    return json_response({"object": "list", "data": _overview(service)})


@router.post("/v1/adapters/{name}/load")
async def load(name: str, request: Request) -> Response:
    """Load an adapter of the shelf into memory before the first request for it."""
    service = service_of(request)
    return await _waiting(request, lambda: _changed(service, name, service.adapters.load))


@router.post("/v1/adapters/{name}/pin")
async def pin(name: str, request: Request) -> Response:
    """Keep an adapter in memory, even if others need its room."""
    service = service_of(request)
    return await _waiting(request, lambda: _changed(service, name, service.adapters.pin))


@router.post("/v1/adapters/{name}/unpin")
def unpin(name: str, request: Request) -> Response:
    """Let an adapter be evicted again when others need its room."""
    service = service_of(request)
    return _changed(service, name, service.adapters.unpin)


@router.post("/v1/adapters/{name}/unload")
def unload(name: str, request: Request) -> Response:
    """Take an adapter out of memory as soon as its running requests have ended. It stays on the shelf."""
    service = service_of(request)
    return _changed(service, name, service.adapters.unload)


@router.put("/v1/adapters/{name}")
async def upload(
    name: str,
    request: Request,
    files: Annotated[list[UploadFile], File(description=f"{', '.join(_FILES)}; the last one may be missing")],
    *,
    overwrite: Annotated[bool, Form(description="Make it a new version of an adapter that is there.")] = False,
) -> Response:
    """Prove an adapter in PEFT's format on the base, then put it on the shelf and into memory.

    curl -X PUT …/v1/adapters/law -F files=@adapter_config.json -F files=@adapter_model.safetensors
    """
    service = service_of(request)
    return await _waiting(request, lambda: _take_in(service, name, files, overwrite=overwrite))


def _take_in(service: Service, name: str, files: list[UploadFile], *, overwrite: bool) -> Response:
    adapter = _read(name, files)
    proof = prove(service.base, adapter, any_base=service.any_base)
    try:
        service.shelf.save(adapter, overwrite=overwrite)
    except SettingError as error:
        message = f"adapter {name!r} is on the shelf already; pick another name, or send overwrite=true"
        raise ApiError(409, message, code="adapter_exists", param="name") from error
    service.adapters.load(name)
    return json_response({**_described(service, name), "proof": _told(proof)}, 201)


@router.post("/v1/load_lora_adapter")
async def load_lora_adapter(body: LoadLora, request: Request) -> Response:
    """vLLM's way to load an adapter. Its path must be that of the shelf, or the adapter's own name."""
    service = service_of(request)
    return await _waiting(request, lambda: _load_lora(service, body))


def _load_lora(service: Service, body: LoadLora) -> Response:
    name = _known(service, body.lora_name)
    if body.lora_path is not None and body.lora_path not in (name, str(service.shelf.folder(name))):
        raise ApiError(
            400,
            f"lora_path may only be {name!r}: adapters come from the shelf, not from paths in requests; "
            "kameleon adapter import puts a folder there, PUT /v1/adapters/NAME uploads one",
            code="invalid_value",
            param="lora_path",
        )
    service.adapters.load(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


@router.post("/v1/unload_lora_adapter")
def unload_lora_adapter(body: UnloadLora, request: Request) -> Response:
    """vLLM's way to take an adapter out of memory."""
    service = service_of(request)
    name = _known(service, body.lora_name)
    service.adapters.unload(name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _changed(service: Service, name: str, change: Callable[[str], None]) -> Response:
    """Apply `change` to the adapter of that name; the response says how it is afterwards."""
    name = _known(service, name)
    change(name)
    return json_response(_described(service, name))


async def _waiting(request: Request, work: Callable[[], Response]) -> Response:
    """Run `work`, which may wait long for room, in a thread of its own pool, so that other requests keep theirs."""
    return await to_thread.run_sync(work, limiter=request.app.state.loading)


def _known(service: Service, name: str) -> str:
    found = service.adapter_of(f"{service.name}:{name}", EVERYBODY)
    assert found is not None
    return found


def _described(service: Service, name: str) -> dict[str, Any]:
    """The adapter as it is now. It may just have been removed from the shelf."""
    try:
        entry = service.shelf.entry(name)
    except AdapterNotFoundError:
        entry = None
    return _listed(name, entry, _current_states(service).get(name))


def _overview(service: Service) -> list[dict[str, Any]]:
    entries: dict[str, ShelfEntry | None] = {entry.name: entry for entry in service.shelf.entries()}
    for name in service.adapters.names():
        entries.setdefault(name)
    states = _current_states(service)
    return [_listed(name, entry, states.get(name)) for name, entry in entries.items()]


def _current_states(service: Service) -> dict[str, AdapterState]:
    return {state.name: state for state in service.adapters.state() if state.current}


def _listed(name: str, entry: ShelfEntry | None, state: AdapterState | None) -> dict[str, Any]:
    """One adapter: its `entry` on the shelf and its `state` in memory; None where it is not there."""
    found: dict[str, Any] = {"name": name, "on_shelf": entry is not None}
    if entry is not None:
        found |= {
            "version": entry.version,
            "bytes": entry.bytes,
            "base": entry.card and entry.card.base_id,
            "created": entry.card and entry.card.created,
            "system_prompt": entry.card and entry.card.system_prompt,
            "fault": entry.fault,
        }
    return found | {
        "resident": state is not None and not state.loading,
        "resident_version": state and state.version,
        "resident_bytes": state.bytes if state else 0,
        "pinned": state is not None and state.pinned,
        "running": state.running if state else 0,
    }


def _read(name: str, files: list[UploadFile]) -> Adapter:
    """The adapter in an upload, under its new name. Raises ApiError, AdapterFileError."""
    given = [file.filename for file in files]
    unknown = [str(one)[:80] for one in given if one not in _FILES]
    if unknown or len(set(given)) < len(given):
        wanted = ", ".join(_FILES)
        told = f"{unknown[0]!r} is not" if unknown else "a file came twice; each must be"
        raise ApiError(
            400,
            f"{told} one of {wanted}: only safetensors in PEFT's format are read",
            code="invalid_file",
            param="files",
        )
    with scratch_folder(cache_dir()) as folder:
        for file in files:
            with (folder / str(file.filename)).open("wb") as copy:
                while part := file.file.read(_COPY_BYTES):
                    copy.write(part)
        return read_adapter(folder, name=name)


def _told(proof: Proof) -> dict[str, Any]:
    return {
        "live": proof.live,
        "matched_modules": proof.matched_modules,
        "dead_modules": len(proof.dead_modules),
        "logits_moved_max": proof.logits_moved_max,
        "template_equal": proof.template_equal,
    }
