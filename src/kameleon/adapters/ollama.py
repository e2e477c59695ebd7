"""An adapter for Ollama: a folder with a Modelfile and the adapter in llama.cpp's format beside it."""

from __future__ import annotations

import json
from pathlib import Path

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.gguf_adapter import write_gguf_adapter
from kameleon.errors import AdapterFileError
from kameleon.home import atomic_folder
from kameleon.model import Base, go_template


def write_ollama(adapter: Adapter, base: Base, folder: Path) -> None:
    """Write `Modelfile` and `NAME.gguf` into a new folder: `ollama create NAME -f folder/Modelfile` takes them.

    The Modelfile names the base's own file, the chat template of training, and the texts that end an answer.
    Raises SettingError for a template that cannot be written in Ollama's language, AdapterFileError.
    """
    text = modelfile(adapter, base)
    try:
        with atomic_folder(folder) as fresh:
            write_gguf_adapter(adapter, base, fresh / f"{adapter.name}.gguf")
            (fresh / "Modelfile").write_text(text, encoding="utf-8")
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {folder}: {error}") from error


def modelfile(adapter: Adapter, base: Base) -> str:
    """FROM, ADAPTER, TEMPLATE and the stop parameters, as they were in training."""
    ends = (str(base.tokenizer.decode([token])) for token in sorted(base.stop_token_ids))
    lines = [
        f"# {adapter.name}, an adapter of {base.name}",
        f"FROM {base.files.path.absolute()}",
        f"ADAPTER ./{adapter.name}.gguf",
        f'TEMPLATE """{go_template(base.template)}"""',
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
    ]
    return "\n".join(lines) + "\n"
