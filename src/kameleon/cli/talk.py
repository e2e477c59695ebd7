"""The conversation of `kameleon chat`: its messages, and its commands, which begin with a slash."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kameleon.cli.answering import is_plain, tell_cut, write
from kameleon.cli.console import in_one_line, notes
from kameleon.cli.settings import explain
from kameleon.errors import SettingError
from kameleon.settings import Sampling
from kameleon.words import did_you_mean

if TYPE_CHECKING:
    from kameleon.api import LoadedBase

_HELP = """/use NAME      answer with this adapter from now on (/use none: the plain base)
/adapters      the adapters on the shelf, and which are resident
/compare TEXT  one question, after what was said so far, to the base and all resident adapters, in one batch
/system        the system prompt, and where it comes from
/system TEXT   use this one (none: what the base's template puts there; adapter: that of the adapter again)
/set           how answers are sampled: temperature, top_p, max_tokens, seed and others
/set NAME X    change one of these (/set temperature 0.7; X may be default)
/new           forget the conversation
/help          this list
/bye           leave, as do /quit, exit and Ctrl-D; Ctrl-C stops an answer"""

_LEAVING = ("/bye", "/quit", "/exit", "exit", "quit")
_SETTABLE = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "seed",
    "stop",
)
_WHOLE = ("top_k", "max_tokens", "seed")


class Talk:
    """One conversation: its messages stay when the adapter changes. Answers go to standard output, all else to standard
    error."""

    def __init__(self, loaded: LoadedBase, sampling: Sampling, *, any_base: bool) -> None:
        self.loaded, self.sampling, self.any_base = loaded, sampling, any_base
        self.began_with = sampling
        self.adapter: str | None = None
        self.messages: list[dict[str, Any]] = []
        self.system: str | None = None
        """The person's system prompt. None: the adapter's, or the template's own if `as_trained` is false."""
        self.as_trained = True

    def say(self, line: str) -> bool:
        """Answer a line, or run its command. False ends the conversation. Raises SettingError for another command."""
        word, _, rest = line.partition(" ")
        if line in _LEAVING:
            return False
        commands = {
            "/use": self.tell_use,
            "/adapters": lambda _: self.list_adapters(),
            "/compare": self.compare,
            "/system": self.tell_system,
            "/set": self.set,
            "/new": lambda _: self.forget(),
            "/help": lambda _: _tell(_HELP),
        }
        if not word.startswith("/"):
            self.answer(line)
        elif word in commands:
            commands[word](rest.strip())
        else:
            known = [*commands, "/bye"]
            near = did_you_mean(word, known)
            raise SettingError(f"no command {word}; {f'{near} ' if near else ''}all are {', '.join(known)}")
        return True

    def forget(self) -> None:
        """Forget the conversation."""
        self.messages.clear()
        _tell("the conversation begins anew", style="dim")

    def list_adapters(self) -> None:
        """Print the names on the shelf, and which of them are resident."""
        resident = self.loaded.bank.names()
        for name in self.loaded.shelf.names():
            _tell(f"{name}{'  (resident)' if name in resident else ''}")

    def tell_system(self, text: str) -> None:
        """Take `text` as the system prompt, unless it is empty, and print the one that holds now."""
        if text:
            self.set_system(text)
        _tell(self.told_system())

    def tell_use(self, name: str) -> None:
        """Switch to an adapter; without a name, print which one answers and how to switch."""
        if name:
            self.use(name)
            return
        names = ", ".join(self.loaded.shelf.names()) or "none yet"
        now = "the plain base" if self.adapter is None else f"adapter {self.adapter}"
        _tell(f"{now} answers now; /use NAME switches, /use none is the plain base; on the shelf: {names}")

    def use(self, name: str) -> None:
        """Switch to an adapter, and load it first if it is not resident. "none" is the plain base."""
        started = time.perf_counter()
        wanted = None if is_plain(name, self.loaded.shelf) else name
        if wanted is not None and wanted not in self.loaded.bank.names():
            self.loaded.load_adapter(wanted, any_base=self.any_base)
        self.adapter = wanted
        took_ms = (time.perf_counter() - started) * 1000
        _tell(f"{wanted or 'the plain base'}, in {took_ms:.2f} ms", style="dim")
        if self.system is None and self.as_trained and (own := self.loaded.bank.system_prompt(wanted)) is not None:
            _tell(f"system prompt of the adapter: {in_one_line(own)}", style="dim")

    def set_system(self, text: str) -> None:
        """Use this system prompt from now on in place of each adapter's own."""
        self.system = None if text in ("none", "adapter") else text
        self.as_trained = text != "none"

    def told_system(self) -> str:
        """The system prompt of the next question, and where it comes from."""
        own = self.loaded.bank.system_prompt(self.adapter) if self.as_trained else None
        if self.system is not None:
            return f"system prompt, given by you: {self.system}"
        if own is not None:
            return f"system prompt of the adapter {self.adapter}: {own}"
        return "no system prompt: the base's template puts its own there, if it has one"

    def set(self, text: str) -> None:
        """Change one setting of the answers ("temperature 0.7"), or print one, or all.

        Raises SettingError for an unknown name and for a value that cannot be.
        """
        word, _, value = text.partition(" ")
        name = word.replace("-", "_")
        if name and name not in _SETTABLE:
            near = did_you_mean(name, _SETTABLE)
            raise SettingError(f"no setting {word}; {f'{near} ' if near else ''}all are {', '.join(_SETTABLE)}")
        if value:
            self.sampling = replace(self.sampling, **{name: self._parsed(name, value.strip())})
            _tell(f"{name} is {getattr(self.sampling, name)}")
            return
        for setting in explain(self.sampling, Sampling()):
            if setting.name == name or (not name and setting.name in _SETTABLE):
                _tell(f"{setting.name} {setting.value}: {setting.reason}")

    def _parsed(self, name: str, value: str) -> Any:
        if value == "default":
            return getattr(self.began_with, name)
        if name == "stop":
            return (value,)
        if name == "seed" and value == "none":
            return None
        try:
            return int(value) if name in _WHOLE else float(value)
        except ValueError:
            kind = "a whole number" if name in _WHOLE else "a number"
            raise SettingError(f"{name} is {value!r}; it must be {kind}, or default") from None

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
                write(piece.text if said.strip() != piece.text.strip() else piece.text.lstrip())
                finish = piece.completion and piece.completion.finish
        except KeyboardInterrupt:
            finish = "stopped"
        write("\n")
        if finish == "stopped":
            _tell("stopped", style="dim")
        tell_cut(finish, self.sampling)
        self.messages += [question, {"role": "assistant", "content": said}]

    def compare(self, text: str) -> None:
        """Ask the base and all resident adapters the same question, in one mixed batch. Each has its own system prompt,
        unless the person gave one. Without a question, print how it is used."""
        names: list[str | None] = [None, *self.loaded.bank.names()]
        if not text:
            told = ", ".join(name or "the plain base" for name in names)
            _tell(f"/compare needs a question: /compare TEXT asks {told}; /use NAME adds an adapter")
            return
        asked = [self.asked({"role": "user", "content": text})] * len(names)
        answers = self.loaded.generate(asked, names, sampling=self.sampling, as_trained=self.as_trained)
        for name, got in zip(names, answers, strict=True):
            write(f"{name or 'base'}: {got.text.strip()}\n")
            tell_cut(got.finish, self.sampling)


def _tell(text: str, style: str | None = None) -> None:
    notes.print(text, style=style, highlight=False)
