"""An adapter for Ollama: a folder with a Modelfile, and beside it the adapter in llama.cpp's format and the base.

The Modelfile names both without a path, so the folder works wherever it is copied to. The base's files are linked
where the disk allows it, and take no room there.
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
import warnings
from pathlib import Path

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.formats.gguf import write_gguf_adapter
from kameleon.adapters.formats.model_card import adapter_readme, write_readme
from kameleon.bases import Base
from kameleon.errors import AdapterFileError, SettingError
from kameleon.home import atomic_folder
from kameleon.terminal import printable
from kameleon.text import go_template, with_system
from kameleon.weights.copies import check_space

_BASE = "base"  # the folder of the base's files, so that none of them has the adapter's name

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}
"""Ollama's words for the parts of the base's sampling: all of them, since what is left out is Ollama's own."""


def write_ollama(adapter: Adapter, base: Base, folder: Path) -> None:
    """Write `Modelfile`, `NAME.gguf` and the base's files into a new folder, for `ollama create NAME -f Modelfile`.

    The Modelfile names the base, its licence, the chat template and the system prompt of training, and the texts that
    end an answer. Raises SettingError for a template or a system prompt that cannot be written in Ollama's language,
    and where the base has to be copied and does not fit the disk; DataError for a template that refuses the system
    prompt; AdapterFileError.
    """
    text = modelfile(adapter, base)
    try:
        with atomic_folder(folder) as fresh:
            write_gguf_adapter(adapter, base, fresh / f"{adapter.name}.gguf")
            (fresh / "Modelfile").write_text(text, encoding="utf-8")
            write_readme(adapter_readme(adapter, "ollama"), fresh)
            _place_base(base, fresh)
    except OSError as error:
        raise AdapterFileError(f"adapter {adapter.name!r} cannot be written to {folder}: {error}") from error


def _place_base(base: Base, folder: Path) -> None:
    """Link the base's files into `base/`; copy them where the disk, or the rights of the files, allow no link."""
    (folder / _BASE).mkdir()
    for file in base.files.parts():
        if not file.name.isprintable():
            raise SettingError(f"the base's file {file.name!r} cannot be named in a Modelfile: rename it")
        copy = folder / _BASE / file.name
        try:
            if not os.access(file, os.W_OK):  # such a link could not be flushed to the disk
                raise PermissionError
            os.link(file.resolve(), copy)
        except OSError:
            check_space(copy, file.stat().st_size)
            shutil.copyfile(file, copy)


def modelfile(adapter: Adapter, base: Base) -> str:
    """FROM, ADAPTER, TEMPLATE, SYSTEM and the stop parameters, as they were in training; and the sampling that chat and
    the server use here, since Ollama's own is another (temperature 0.8)."""
    ends = (str(base.tokenizer.decode([token])) for token in sorted(base.stop_token_ids))
    lines = [
        f"# {adapter.name}, an adapter of {' '.join(printable(base.name).split())}",
        f"FROM ./{_BASE}{f'/{base.files.path.name}' if base.files.path.is_file() else ''}",
        f"ADAPTER ./{adapter.name}.gguf",
        f'TEMPLATE """{go_template(base.template)}"""',
        *_system_lines(adapter, base),
        *([f'LICENSE """{base.licence}"""'] if base.licence and '"""' not in base.licence else []),
        *(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}" for end in ends),
        *(f"PARAMETER {word} {getattr(base.sampling, name):g}" for name, word in _SAMPLING.items()),
    ]
    return "\n".join(lines) + "\n"


def _system_lines(adapter: Adapter, base: Base) -> list[str]:
    system_prompt = adapter.card.system_prompt
    if system_prompt is None:
        return []
    if not system_prompt:
        warnings.warn("Ollama takes an empty system prompt for none: its requests get the template's own", stacklevel=4)
    base.template.render(with_system([{"role": "user", "content": "?"}], system_prompt))
    return [f'SYSTEM """{_as_ollama_reads(system_prompt)}"""']


def _as_ollama_reads(text: str) -> str:
    """The text between the quotes, where Ollama knows no escapes: three quotes that end a line end the text too, and
    what Go calls unprintable is dropped, wide and unbreakable spaces among it (`ParseFile` in Ollama's parser)."""
    if any(line.rstrip(" \t").endswith('"""') for line in text.replace("\r", "\n").split("\n")[:-1]):
        raise SettingError(
            'the system prompt has a line that ends with """, which would end it in a Modelfile: export it as '
            "GGUF, and give Ollama the system prompt in each request"
        )
    kept = "".join(_as_ollama_prints(letter) for letter in text)
    if kept != text:
        changed = sorted({f"U+{ord(letter):04X}" for letter in text if _as_ollama_prints(letter) != letter})
        warnings.warn(
            f"a Modelfile cannot hold {', '.join(changed)} of the system prompt: such spaces became plain ones, the "
            "rest is left out",
            stacklevel=5,
        )
    return kept


def _as_ollama_prints(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Zs":
        return " "
    return letter if kind[0] in "LMNPS" or letter in "\n\r\t" else ""
