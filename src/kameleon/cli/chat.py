"""kameleon chat: a conversation, in which adapters can be switched and compared."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from kameleon.cli.console import AnyBase, BaseRef, Compute, Quantize, in_one_line, notes, open_base, results
from kameleon.cli.settings import sampling_words
from kameleon.errors import KameleonError, SettingError
from kameleon.settings import Sampling
from kameleon.terminal import printable

if TYPE_CHECKING:
    from kameleon.api import LoadedBase

_HELP = """/use NAME      answer with this adapter from now on (/use none: the plain base)
/adapters      the adapters on the shelf, and which are resident
/compare TEXT  one question, after what was said so far, to the base and all resident adapters, in one batch
/system        the system prompt, and where it comes from
/system TEXT   use this one (none: what the base's template puts there; adapter: that of the adapter again)
/new           forget the conversation
/quit          leave"""


class _Asked(Sampling):
    """Sampling with the fields that a person set in `given`. So a temperature of 0 that was asked for is kept, although
    0 is also the field's default."""

    given: dict[str, Any]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        object.__setattr__(self, "given", given)


def _told_default(default: Any) -> str | None:
    """A default as help shows it. Left out: values that change nothing, and those that the base decides."""
    return None if default in (None, (), 0, 1) else str(default)


def chat(
    *,
    adapter: Annotated[str | None, Parameter(help="Start with this adapter.")] = None,
    system: Annotated[
        str | None,
        Parameter(
            help="The system prompt; by default the one that the adapter was trained with. none: what the base's "
            "template puts there."
        ),
    ] = None,
    base: BaseRef = "smollm2",
    quantize: Quantize = None,
    compute: Compute = None,
    any_base: AnyBase = False,
    sampling: Annotated[_Asked, Parameter(name="*", show_default=_told_default)] = _Asked(),  # noqa: B008 (frozen)
) -> None:
    """Talk with the base or an adapter; /help lists the commands.

    Temperature, top-p, top-k, min-p and repetition-penalty are as the base's authors recommend unless you give them, or
    temperature 0.2 and top-p 0.9 where they say nothing.

    Try: kameleon chat --adapter law
    """
    loaded = open_base(base, quantize, compute=compute)
    wishes = replace(loaded.base.sampling, **sampling.given)
    limit = f"at most {wishes.max_tokens:,} tokens an answer (--max-tokens)"
    notes.print(f"sampling: {sampling_words(wishes)}; {limit}", highlight=False)
    talk = _Talk(loaded, wishes, any_base=any_base)
    if system is not None:
        talk.set_system(system)
    if adapter is not None:
        talk.use(adapter)
    results.print("Write, or /help.", style="dim")
    while (line := _read(f"{talk.adapter or 'base'}> ")) is not None:
        if line.strip():
            try:
                if not talk.say(line.strip()):
                    break
            except KeyboardInterrupt:  # ends the answer, not the conversation
                results.print()
            except KameleonError as error:
                results.print(printable(str(error)), style="red")


def _read(prompt: str) -> str | None:
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        return None


class _Talk:
    """One conversation: its messages stay when the adapter changes."""

    def __init__(self, loaded: LoadedBase, sampling: Sampling, *, any_base: bool) -> None:
        self.loaded, self.sampling, self.any_base = loaded, sampling, any_base
        self.adapter: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.system: str | None = None
        """The person's system prompt. None: the adapter's, or the template's own if `as_trained` is false."""
        self.as_trained = True

    def say(self, line: str) -> bool:
        """Answer a line, or run its command. False ends the conversation. Raises SettingError for another command."""
        word, _, rest = line.partition(" ")
        if word in ("/quit", "/exit"):
            return False
        commands = {
            "/use": self.use,
            "/adapters": lambda _: self.list_adapters(),
            "/compare": self.compare,
            "/system": self.tell_system,
            "/new": lambda _: self.messages.clear(),
            "/help": lambda _: results.print(_HELP, highlight=False),
        }
        if not word.startswith("/"):
            self.answer(line)
        elif word in commands:
            commands[word](rest.strip())
        else:
            raise SettingError(f"no command {word}: /help lists them")
        return True

    def list_adapters(self) -> None:
        """Print the names on the shelf, and which of them are resident."""
        resident = self.loaded.bank.names()
        for name in self.loaded.shelf.names():
            results.print(f"{name}{'  (resident)' if name in resident else ''}", highlight=False)

    def tell_system(self, text: str) -> None:
        """Take `text` as the system prompt, unless it is empty, and print the one that holds now."""
        if text:
            self.set_system(text)
        results.print(self.told_system(), highlight=False)

    def use(self, name: str) -> None:
        """Switch to an adapter, and load it first if it is not resident. "" or "none" is the plain base."""
        started = time.perf_counter()
        plain = not name or (name in ("none", "base") and not self.loaded.shelf.has(name))
        wanted = None if plain else name
        if wanted is not None and wanted not in self.loaded.bank.names():
            self.loaded.load_adapter(wanted, any_base=self.any_base)
        self.adapter = wanted
        took_ms = (time.perf_counter() - started) * 1000
        results.print(f"{wanted or 'the plain base'}, in {took_ms:.2f} ms", style="dim", highlight=False)
        if self.system is None and self.as_trained and (own := self.loaded.bank.system_prompt(wanted)) is not None:
            results.print(f"system prompt of the adapter: {in_one_line(own)}", style="dim", highlight=False)

    def set_system(self, text: str) -> None:
        """Use this system prompt from now on in place of each adapter's own."""
        self.system = None if text in ("none", "adapter") else text
        self.as_trained = text != "none"

    def told_system(self) -> str:
        """The system prompt of the next question, and where it comes from."""
        own = self.loaded.bank.system_prompt(self.adapter) if self.as_trained else None
        if self.system is not None:
            return f"system prompt, given by you: {printable(self.system)}"
        if own is not None:
            return f"system prompt of the adapter {self.adapter}: {printable(own)}"
        return "no system prompt: the base's template puts its own there, if it has one"

    def asked(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """The conversation with a new question, begun with the system prompt that the person gave."""
        from kameleon.text import with_system

        return with_system([*self.messages, question], self.system)

    def answer(self, text: str) -> None:
        """Stream an answer; Ctrl-C cuts it short."""
        question = {"role": "user", "content": text}
        said, finish = "", None
        try:
            asked = [self.asked(question)]
            for piece in self.loaded.stream(asked, [self.adapter], sampling=self.sampling, as_trained=self.as_trained):
                said += piece.text
                sys.stdout.write(piece.text if said.strip() != piece.text.strip() else piece.text.lstrip())
                sys.stdout.flush()
                finish = piece.completion and piece.completion.finish
        except KeyboardInterrupt:
            pass
        sys.stdout.write("\n")
        self.tell_cut(finish)
        self.messages += [question, {"role": "assistant", "content": said}]

    def compare(self, text: str) -> None:
        """Ask the base and all resident adapters the same question, in one mixed batch. Each has its own system prompt,
        unless the person gave one."""
        if not text:
            raise SettingError("/compare needs a question: /compare TEXT")
        names: list[str | None] = [None, *self.loaded.bank.names()]
        asked = [self.asked({"role": "user", "content": text})] * len(names)
        answers = self.loaded.generate(asked, names, sampling=self.sampling, as_trained=self.as_trained)
        for name, got in zip(names, answers, strict=True):
            results.print(f"{name or 'base'}: ", style="bold", end="")
            results.print(got.text.strip(), highlight=False)
            self.tell_cut(got.finish)

    def tell_cut(self, finish: str | None) -> None:
        """Print a note if the limit of tokens ended the answer."""
        if finish == "length":
            told = f"cut at {self.sampling.max_tokens:,} tokens or the end of the context (--max-tokens)"
            results.print(told, style="dim", highlight=False)
