"""A base's chat template in Go's text/template, for Ollama's TEMPLATE.

A Jinja template is a program and cannot be translated in general. Most only put fixed text around each message.
Rendering marked conversations finds that text. A template that the found text does not reproduce is refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from kameleon.errors import DataError, SettingError
from kameleon.text.template import ChatTemplate, Message

_DATE = "Kmldate"
_SYSTEM, _USER, _ANSWER = "Kmlsystem", "Kmluser", "Kmlanswer"


@dataclass(frozen=True)
class _Around:
    """The text before and after each role's content, the text at the start of a conversation without a system message,
    and the text at the end.
    """

    preamble: str
    before: dict[str, str]
    after: dict[str, str]
    generation_prompt: str

    def render(self, messages: Sequence[Message]) -> str:
        has_system = any(message["role"] == "system" for message in messages)
        texts = (self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in messages)
        return ("" if has_system else self.preamble) + "".join(texts) + self.generation_prompt

    def as_go(self) -> str:
        """In Go's language; Ollama fills in `.System` and `.Messages`."""
        turns, word = "", "if"
        for role, before in self.before.items():
            turns += (
                f'{{{{ {word} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(self.after[role])}'
            )
            word = "else if"
        preamble = f"{{{{ if not .System }}}}{_literal(self.preamble)}{{{{ end }}}}" if self.preamble else ""
        loop = f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}"
        return f"{preamble}{loop}{_literal(self.generation_prompt)}"


def go_template(template: ChatTemplate) -> str:
    """The template for a conversation that ends with a user's message; for a base without a template the bare prompt.

    Where the base's template writes today's date, Ollama writes it too, in its own form (2026-11-30).
    Space around a message is kept, even if the base's own template would trim it. Tokens that the tokenizer puts before
    every text are left out, because llama.cpp and Ollama add them.
    Raises SettingError for a template that does more than put text around messages.
    """
    if template.hash is None:
        return "{{ .Prompt }}"
    try:
        around = _found(template)
        _require_same(around, template)
    except DataError as error:
        raise _too_much() from error
    return around.as_go()


def _require_same(around: _Around, template: ChatTemplate) -> None:
    takes_system = "system" in around.before
    for turns, system in itertools.product((1, 2, 4), (False, True) if takes_system else (False,)):
        messages: list[Message] = [{"role": "system", "content": "Be brief."}] if system else []
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Question {turn}\n\nwith two parts?"})
            messages.append({"role": "assistant", "content": f"Answer {turn}."})
        if around.render(messages[:-1]) != _rendered(template, messages[:-1]):
            raise _too_much()


def _found(template: ChatTemplate) -> _Around:
    user, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}
    head, to_answer, to_user, *_, tail = _pieces(_rendered(template, [user, answer, user, answer, user]))
    joints = [head, to_user]  # each ends with the text before a user's content
    try:
        opening, to_first, _ = _pieces(_rendered(template, [{"role": "system", "content": _SYSTEM}, user]))
        joints.append(to_first)
    except DataError:
        opening, to_first = None, ""
    before_user = _common_start(*(joint[::-1] for joint in joints))[::-1]
    after_user = _common_start(to_answer, tail)
    cut = len(before_user)
    before = {"user": before_user, "assistant": to_answer[len(after_user) :]}
    after = {"user": after_user, "assistant": to_user[: len(to_user) - cut]}
    if opening is not None:
        before, after = {"system": opening, **before}, {"system": to_first[: len(to_first) - cut], **after}
    return _Around(head[: len(head) - cut], before, after, tail[len(after_user) :])


def _rendered(template: ChatTemplate, messages: Sequence[Message]) -> str:
    opening = str(template.tokenizer.decode(list(template.opening)))
    return template.on(_DATE).render(messages, add_generation_prompt=True).removeprefix(opening)


def _pieces(text: str) -> list[str]:
    """The text between the marks; each mark must appear exactly once."""
    for mark in (_SYSTEM, _USER, _ANSWER):
        text = text.replace(mark, "\0")
    pieces = text.split("\0")
    if len(pieces) not in (3, 6):
        raise _too_much()
    return pieces


def _common_start(*texts: str) -> str:
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _too_much() -> SettingError:
    return SettingError(
        "the base's chat template does more than put text around messages, so it cannot be written for Ollama: "
        "export it as GGUF, and write TEMPLATE by hand"
    )


def _literal(text: str) -> str:
    """The text with Ollama's date in place of the mark; as Go strings where it would open an action or end the
    Modelfile's quotes."""
    quoted = "{{" in text or '"' in text
    pieces = (f"{{{{ {json.dumps(piece, ensure_ascii=False)} }}}}" if quoted else piece for piece in text.split(_DATE))
    return "{{ currentDate }}".join(pieces)
