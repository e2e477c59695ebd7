"""Everything Kameleon raises on purpose, as one tree.

    KameleonError
    ├── SettingError (ValueError)         a setting that is unknown, out of range, or contradicts another
    │   ├── WrongTypeError (TypeError)    an argument of another type than expected, or with an unknown name
    │   └── ContextLengthError            a prompt and its answer are longer than the base's context, or the cache
    ├── DataError (ValueError)            rows that cannot be read or that would teach nothing
    │   └── RewrittenTurnsError           the template changes earlier turns of a conversation when later ones follow
    ├── MissingExtraError (ImportError)   an optional library is needed; the message holds the install command
    ├── BaseModelError                    about the frozen base
    │   ├── UnsupportedArchitectureError (NotImplementedError)
    │   ├── TemplateLimitError            the chat template takes too much time or memory for a conversation
    │   ├── WeightsError (ValueError)     a weight file that is damaged, incomplete or of an unknown kind
    │   └── FetchError (OSError)          no source could deliver the base
    ├── AdapterError                      about an adapter
    │   ├── AdapterNotFoundError (LookupError)
    │   ├── AdapterFileError (ValueError) files that are missing or damaged, or hold something that cannot be applied
    │   ├── AdapterMismatchError (ValueError)  keys or shapes that do not fit the base, or each other
    │   └── WrongBaseError (ValueError)   trained on a base with another fingerprint
    ├── KernelError (RuntimeError)        the compiled kernels do not belong to this version, or cannot take a tensor
    ├── RequestFaultError (RuntimeError)  a fault of Kameleon's own that met one request; the others go on
    ├── QueueFullError                    the server's queue is full; the error says when to try again
    ├── ContenderError (RuntimeError)     one side of a benchmark ended before it was done
    ├── LoraError (ValueError)            a LoRA operation on a torch module that cannot be done correctly
    └── TrainingError
        ├── NonFiniteLossError (ArithmeticError)
        ├── RunInterruptedError           stopped by Ctrl-C or SIGTERM, with everything saved
        └── CheckpointError (OSError)     a checkpoint that cannot be written or read

A class in brackets is Python's own, which is inherited too. A message says what was found, what was expected and what
to do next. A command prints any of these errors in one line on standard error, and its exit status is 2.
"""

import shlex
import sys
from importlib.util import find_spec

from kameleon.terminal import printable


class KameleonError(Exception):
    """Root of the tree: catch this to catch everything Kameleon raises on purpose.

    A message may quote a file of a stranger: its control codes are shown as escapes.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class SettingError(KameleonError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class WrongTypeError(SettingError, TypeError):
    """An argument or a setting is of another type than expected, or has an unknown name."""


class ContextLengthError(SettingError):
    """A prompt and its answer are longer than the base's context, or than the cache.

    The message begins as OpenAI's does, because clients look for its words. `found` goes on after "However, ".
    """

    def __init__(self, limit_tokens: int, found: str) -> None:
        super().__init__(f"This model's maximum context length is {limit_tokens} tokens. However, {found}")


class DataError(KameleonError, ValueError):
    """Rows cannot be read, or would teach nothing."""


class RewrittenTurnsError(DataError):
    """The base's chat template changes earlier turns of this conversation when later ones follow."""


class MissingExtraError(KameleonError, ImportError):
    """An optional library is needed: `what` cannot be done without it. The message holds a command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """A command that installs an extra beside this Kameleon, from any folder, whether its environment is active or not.

    Environments of uv have no pip.
    """
    python = shlex.quote(sys.executable or "python")
    if find_spec("pip") is None:
        return f'uv pip install --python {python} "kameleon[{extra}]"'
    return f'{python} -m pip install "kameleon[{extra}]"'


class BaseModelError(KameleonError):
    """About the frozen base."""


class UnsupportedArchitectureError(BaseModelError, NotImplementedError):
    """The base is of a family, or uses a feature, that the decoder does not compute."""


class TemplateLimitError(BaseModelError):
    """The base's chat template takes too much time or memory for a conversation, so it was stopped."""


class WeightsError(BaseModelError, ValueError):
    """A weight file is damaged, incomplete or of an unknown kind."""


class FetchError(BaseModelError, OSError):
    """No source could deliver the base."""


class AdapterError(KameleonError):
    """About an adapter."""


class AdapterNotFoundError(AdapterError, LookupError):
    """No adapter of that name is on the shelf."""


class AdapterFileError(AdapterError, ValueError):
    """Adapter files are missing or damaged, or hold something that cannot be applied."""


class AdapterMismatchError(AdapterError, ValueError):
    """Keys or shapes of an adapter do not fit the base, or another adapter."""


class WrongBaseError(AdapterError, ValueError):
    """The adapter was trained on a base with another fingerprint."""


class KernelError(KameleonError, RuntimeError):
    """The compiled kernels do not belong to this version, or cannot take a tensor."""


class RequestFaultError(KameleonError, RuntimeError):
    """A fault of Kameleon's own met one request; the others go on. `__cause__` is the exception."""


class QueueFullError(KameleonError):
    """The server's queue is full, or a request waited too long. Try again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ContenderError(KameleonError, RuntimeError):
    """One side of a benchmark ended before it was done; its own words are on standard error."""


class LoraError(KameleonError, ValueError):
    """A LoRA operation on a torch module cannot be done correctly."""


class TrainingError(KameleonError):
    """A training run cannot start or go on."""


class NonFiniteLossError(TrainingError, ArithmeticError):
    """The loss became NaN or infinite."""


class RunInterruptedError(TrainingError):
    """A run was stopped by Ctrl-C or SIGTERM; its state is saved."""


class CheckpointError(TrainingError, OSError):
    """A checkpoint cannot be written or read."""
