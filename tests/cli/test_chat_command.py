"""kameleon chat: adapters are switched and compared in the conversation."""

from fakes import random_adapter

from kameleon.adapters import Shelf

FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "2", "--learning-rate", "0.01")


def test_chat_switches_and_compares(on_tiny, rows, monkeypatch):
    on_tiny("train", "--data", rows, "--name", "count", *FAST)
    lines = iter(["/adapters", "hello", "/use count", "hello", "/compare hello", "/use nobody", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    status, out, _ = on_tiny("chat", "--max-tokens", "3")
    assert status == 0
    assert "count, in" in out
    assert "base: " in out
    assert "no adapter 'nobody'" in out
    assert "/compare TEXT" in out


def test_ctrl_c_cuts_what_chat_is_doing_and_not_the_conversation(on_tiny, monkeypatch):
    lines = iter(["/compare hello", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kameleon.api.LoadedBase.generate", interrupted)
    status, out, _ = on_tiny("chat")
    assert status == 0
    assert "/compare TEXT" in out


def test_chat_takes_an_adapter_that_is_called_base(on_tiny, tiny, monkeypatch):
    lines = iter(["/use none", "/quit", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert "the plain base, in" in on_tiny("chat", "--adapter", "base")[1]
    Shelf().save(random_adapter(tiny.base, "base"))
    assert "base, in" in on_tiny("chat", "--adapter", "base")[1].replace("the plain base, in", "")
