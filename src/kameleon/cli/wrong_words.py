"""What is wrong with the words of a command line, in one line that says what to do."""

from __future__ import annotations

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

_KINDS = {"into float": "into a number", "into int": "into a whole number"}


def told(error: CycloptsError) -> str:
    """The fault, and the command whose help shows what can be given."""
    command = " ".join(("kameleon", *(error.command_chain or ())))
    return f"{_fault(error, command)}; {command} --help shows what can be given"


def _fault(error: CycloptsError, command: str) -> str:
    argument = error.argument
    if isinstance(error, MissingArgumentError) and argument is not None and not argument.tokens:
        words = argument.names if argument.index is None else (argument.name.lstrip("-").upper(),)
        text = f"{command} needs {words[0]}: {argument.parameter.help or ''}"
        near = str(error).partition("Did you mean")[2]
        return f"{text.rstrip('. :')}" + (f" (did you mean{near.rstrip('.')})" if near else "")
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"{command} does not know what to do with {' '.join(error.unused_tokens)}"
    error.verbose = False
    text = " ".join(str(error).split())
    text = text if text.endswith("...") else text.rstrip(".")
    for kind, plain in _KINDS.items():
        text = text.replace(kind, plain)
    return f"{text[:1].lower()}{text[1:]}"
