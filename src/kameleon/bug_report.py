"""A file for a bug report: versions, machine, settings, sizes and the place of the last error, and nothing private.

Texts of errors may quote rows, prompts and paths, so only the class of an error and the lines of code that it passed
are kept. What still names this machine or its user is taken out of the finished text.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import socket
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from kameleon.errors import SettingError
from kameleon.home import atomic_write, cache_dir, home, is_current

_SETTINGS = {
    "plain": ("KAMELEON_NATIVE", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "HF_HUB_OFFLINE"),
    "set or not": ("KAMELEON_HOME", "HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY"),
}
_PACKAGE = Path(__file__).parent


def note_error(command: str, error: BaseException) -> None:
    """Keep the class of a command's error and where in the code it arose, for the next report."""
    frames = traceback.extract_tb(error.__traceback__)
    noted = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "error": type(error).__name__,
        "cause": type(error.__cause__).__name__ if error.__cause__ else None,
        "passed": [f"{_in_package(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames],
    }
    with suppress(OSError, SettingError):
        if is_current():
            with atomic_write(_last_error()) as file:
                file.write(json.dumps(noted, indent=1).encode())


def bug_report(found: Mapping[str, Any]) -> str:
    """The report as JSON text; `found` is what the doctor found."""
    try:
        last_error = json.loads(_last_error().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last_error = None
    settings = {name: os.environ.get(name) for name in _SETTINGS["plain"]}
    settings |= {name: "set" if os.environ.get(name) else None for name in _SETTINGS["set or not"]}
    document = {
        "kameleon": version("kameleon"),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": _versions(),
        "settings": settings,
        "doctor": dict(found),
        "last_error": last_error,
    }
    return _without_names(json.dumps(document, indent=1)) + "\n"


def _last_error() -> Path:
    return cache_dir() / "last-error.json"


def _in_package(file: str) -> str:
    """A file of Kameleon by its place in the package, any other by its name."""
    path = Path(file)
    return str(path.relative_to(_PACKAGE)) if path.is_relative_to(_PACKAGE) else path.name


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for requirement in requires("kameleon") or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _without_names(text: str) -> str:
    """The text without the folders, the name and the user of this machine."""
    folders = {str(home()), str(Path.home()), str(_PACKAGE), sys.prefix, os.getcwd()}
    for folder in sorted(folders - {"/"}, key=len, reverse=True):
        text = text.replace(json.dumps(folder)[1:-1], "<folder>")
    names = {socket.gethostname(), platform.node()}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    for name in names - {"", "localhost", "root"}:
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", text)
    return text
