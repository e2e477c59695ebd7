"""Child processes that are killed at the k-th change that they make to the disk, or at a moment."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")


def killed_at(number: int, folder: str, work: Callable[[], object]) -> bool:
    """Do the work in a child that dies before its change `number`, from 1 on, to something in the folder or below it.

    False if the work was done before that many changes.
    """
    return _ended(_child(work, lambda seen: seen == number and os.kill(os.getpid(), signal.SIGKILL), folder))


def changes_of(folder: str, work: Callable[[], object]) -> int:
    """Do the work in a child, and count its changes in the folder."""
    reading, writing = os.pipe()
    killed = _ended(_child(work, lambda _: os.write(writing, b"."), folder))
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        count = len(file.read())
    assert not killed
    return count


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed after that time. False if the work was done before."""
    child = _child(work, lambda _: None, "/")
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return _ended(child)


def _child(work: Callable[[], object], at_change: Callable[[int], object], folder: str) -> int:
    child = os.fork()
    if child:
        return child
    status, seen = 1, 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in _CHANGES or opened) and not isinstance(arguments[0], int):
            path = os.fsdecode(arguments[0])
            if path.startswith(folder) or not os.path.isabs(path):  # relative: of `shutil.rmtree`
                seen += 1
                at_change(seen)

    try:
        sys.addaudithook(hook)
        work()
        status = 0
    except SystemExit as end:
        status = int(bool(end.code))
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def _ended(child: int) -> bool:
    """Wait for the child; whether it was killed."""
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"exit status {os.waitstatus_to_exitcode(status)}"
    return status != 0
