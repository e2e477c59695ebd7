"""kameleon chat: adapters are switched and compared in the conversation."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fakes import random_adapter

from kameleon.adapters import Shelf
from kameleon.cli.line_editing import line_editing
from kameleon.generation import Piece
from kameleon.home import home
from kameleon.text import ChatTemplate

FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "2", "--learning-rate", "0.01")


def test_chat_switches_and_compares(on_tiny, rows, monkeypatch):
    on_tiny("train", "--data", rows, "--name", "count", *FAST)
    lines = iter(["/adapters", "hello", "/use count", "hello", "/compare hello", "/use nobody", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    status, out, err = on_tiny("chat", "--max-tokens", "3")
    assert status == 0
    assert "count, in" in err
    assert "base: " in out
    assert "no adapter 'nobody'" in err
    assert "/compare TEXT" in err


def test_ctrl_c_cuts_what_chat_is_doing_and_not_the_conversation(on_tiny, monkeypatch):
    lines = iter(["/compare hello", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kameleon.api.LoadedBase.generate", interrupted)
    status, _, err = on_tiny("chat")
    assert status == 0
    assert "stopped" in err and "/compare TEXT" in err


def test_chat_takes_an_adapter_that_is_called_base(on_tiny, tiny, monkeypatch):
    lines = iter(["/use none", "/quit", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert "the plain base, in" in on_tiny("chat", "--adapter", "base")[2]
    Shelf().save(random_adapter(tiny.base, "base"))
    assert "base, in" in on_tiny("chat", "--adapter", "base")[2].replace("the plain base, in", "")


@pytest.fixture
def talk(on_tiny, monkeypatch):
    """Say these lines in a chat; a KeyboardInterrupt is Ctrl-C at the prompt. Returns status, answers and the rest."""

    def say(*lines, words=(), base=True):
        said = iter(lines)

        def typed(prompt):
            line = next(said, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", typed)
        return on_tiny("chat", "--max-tokens", "3", "--seed", "1", "--compute", "fp32", *words, base=base)

    return say


def test_standard_output_holds_the_answers_and_nothing_else(talk, tiny):
    Shelf().save(random_adapter(tiny.base, "law"))
    status, out, err = talk("hello", "/use law", "/adapters", "/system", "/set", "/help", "/reset", "exit")
    (answer,) = tiny.generate(["hello"], sampling=replace(tiny.base.sampling, max_tokens=3, seed=1))
    assert (status, out) == (0, answer.text.lstrip() + "\n")
    assert "law  (resident)" in err


@pytest.mark.parametrize("word", ["/bye", "/quit", "/exit", "exit", "quit"])
def test_a_word_to_leave_leaves(talk, word):
    assert talk(word, "hello")[:2] == (0, "")


def test_commands_without_their_word_explain_themselves_and_change_nothing(talk, tiny):
    Shelf().save(random_adapter(tiny.base, "law"))
    _, out, err = talk("/use law", "/use", "/compare")
    assert out == ""
    assert "adapter law answers now; /use NAME switches, /use none is the plain base; on the shelf: law" in err
    assert "/compare TEXT asks the plain base, law; /use NAME adds an adapter" in err


def test_an_unknown_command_lists_those_that_there_are(talk):
    assert "no command /sett; did you mean '/set'? all are /use, /adapters, /compare, " in talk("/sett")[2]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/set temperature 0.7", "temperature is 0.7"),
        ("/set max-tokens 5", "max_tokens is 5"),
        ("/set seed none", "seed is None"),
        ("/set stop END", "stop is ('END',)"),
        ("/set top_p", "top_p 0.9: Sample only from the most likely tokens"),
        ("/set", "repetition_penalty 1.0: Above 1"),
        ("/set temperature hot", "temperature is 'hot'; it must be a number, or default"),
        ("/set top_k 1.5", "top_k is '1.5'; it must be a whole number"),
        ("/set temperature -1", "temperature is -1.0; it must be from 0 (greedy) to"),
        ("/set temprature 1", "no setting temprature; did you mean 'temperature'? all are temperature, top_p"),
    ],
)
def test_sampling_is_changed_in_the_conversation(talk, line, told):
    assert told in talk(line)[2]


def test_what_was_set_holds_until_it_is_default_again(talk, monkeypatch):
    used = []
    monkeypatch.setattr("kameleon.api.LoadedBase.stream", lambda *_, sampling, **__: used.append(sampling) or iter(()))
    talk("/set temperature 1.5", "hello", "/set temperature default", "hello")
    assert [sampling.temperature for sampling in used] == [1.5, 0.2]


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_a_second_one_leaves(talk):
    status, out, err = talk(KeyboardInterrupt(), "/help", KeyboardInterrupt(), KeyboardInterrupt(), "/set")
    assert (status, out) == (0, "")
    assert err.count("a second Ctrl-C") == 2 and "temperature 0.2:" not in err


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(talk, monkeypatch):
    def stream(*_, **__):
        yield Piece(0, "Once")
        raise KeyboardInterrupt

    monkeypatch.setattr("kameleon.api.LoadedBase.stream", stream)
    status, out, err = talk("hello", "/help")
    assert (status, out) == (0, "Once\n")
    assert "/compare TEXT" in err


def test_an_adapter_that_is_absent_or_does_not_fit_is_told_before_the_base_is_loaded(talk, tiny, monkeypatch):
    adapter = random_adapter(tiny.base, "wide")
    (name, factors), *_ = adapter.modules.items()
    Shelf().save(replace(adapter, modules={name: replace(factors, a=torch.zeros(4, 96))}))
    monkeypatch.setattr("kameleon.api.load", lambda *_, **__: pytest.fail("the base is loaded"))
    assert "error: no adapter 'wise' on the shelf" in talk("hello", words=("--adapter", "wise"))[2]
    assert "error: adapter 'wide' does not fit" in talk("hello", words=("--adapter", "wide"))[2]


def test_the_base_is_that_of_the_adapter(talk, tiny):
    Shelf().save(random_adapter(tiny.base, "law"))
    status, _, err = talk("/bye", words=("--adapter", "law"), base=False)
    assert status == 0 and f"base {tiny.base.name}" in err


def test_a_base_without_a_template_is_told_at_the_start(talk, tiny, monkeypatch):
    class Without(ChatTemplate):
        def __init__(self, tokenizer):
            super().__init__(tokenizer)
            self.source = None

    monkeypatch.setattr("kameleon.bases.base.ChatTemplate", Without)
    status, out, err = talk("hello")
    assert (status, out) == (2, "")
    assert "has no chat template, so it cannot hold a conversation; " in err and "kameleon ask --raw" in err


def test_lines_are_kept_for_the_next_conversation_where_only_their_owner_reads_them(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    readline = pytest.importorskip("readline")
    with line_editing():
        readline.add_history("What is a contract?")
    kept = home() / "chat_history"
    assert "What is a contract?" in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    readline.clear_history()
    with line_editing():
        assert readline.get_history_item(1) == "What is a contract?"
