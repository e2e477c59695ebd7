"""kameleon chat: a conversation, in which adapters can be switched and compared."""

from __future__ import annotations

from kameleon.cli.answering import AskedSampling, AskedSpeaker, Speaker, open_with, sampling_of
from kameleon.cli.console import notes
from kameleon.cli.flags import in_flags
from kameleon.cli.line_editing import line_editing, read_line
from kameleon.cli.settings import GivenSampling
from kameleon.cli.talk import Talk
from kameleon.errors import KameleonError


def chat(
    *,
    speaker: AskedSpeaker = Speaker(),  # noqa: B008 (frozen)
    sampling: AskedSampling = GivenSampling(),  # noqa: B008 (frozen)
) -> None:
    """Talk with the base or an adapter; /help lists the commands.

    Standard output gets the answers, standard error all else. Ctrl-C stops an answer, Ctrl-D leaves. The lines that you
    write are kept in KAMELEON_HOME/chat_history, for arrow up.

    Temperature, top-p, top-k, min-p and repetition-penalty are as the base's authors recommend unless you give them, or
    temperature 0.2 and top-p 0.9 where they say nothing.

    Try: kameleon chat --adapter law
    """
    loaded = open_with(speaker)
    talk = Talk(loaded, sampling_of(loaded, sampling), any_base=speaker.any_base)
    if speaker.system is not None:
        talk.set_system(speaker.system)
    if speaker.adapter is not None:
        talk.use(speaker.adapter)
    notes.print("Write, or /help; /bye or Ctrl-D leaves.", style="dim")
    with line_editing():
        _converse(talk)


def _converse(talk: Talk) -> None:
    """Answer lines until the person leaves: /bye, the end of the input, or Ctrl-C at two prompts in a row."""
    was_interrupted = False
    while True:
        try:
            line = read_line(f"{talk.adapter or 'base'}> ")
        except KeyboardInterrupt:
            notes.print()
            if was_interrupted:
                return
            was_interrupted = True
            notes.print("/bye or Ctrl-D leaves, and so does a second Ctrl-C", style="dim")
            continue
        was_interrupted = False
        if line is None:
            return
        try:
            if line.strip() and not talk.say(line.strip()):
                return
        except KeyboardInterrupt:  # ends what it was doing, not the conversation
            notes.print("stopped", style="dim")
        except KameleonError as error:
            notes.print(in_flags(str(error)), style="red", highlight=False)
