"""kameleon chat samples as the base recommends, and as a person says where a person says something."""

import pytest

from kameleon.generation import Completion, Piece, Sampling

SAID = Completion("Hello", (), "stop")


@pytest.fixture
def chat(run, tiny_folder, monkeypatch):
    """Talk with these words on the command line; returns the sampling of the answers, and standard error."""

    def talk(*words, lines=("hello", "/compare hello", "/quit")):
        said, used = iter(lines), []
        monkeypatch.setattr("builtins.input", lambda prompt: next(said))
        streamed = Piece(0, SAID.text, completion=SAID)
        for name, got in (("stream", streamed), ("generate", SAID)):
            answers = lambda *_, sampling, got=got, **__: used.append(sampling) or [got]  # noqa: E731
            monkeypatch.setattr(f"kameleon.api.LoadedBase.{name}", answers)
        status, _, err = run("chat", "--base", tiny_folder, *words)
        return status, used, err

    return talk


@pytest.mark.parametrize(
    ("words", "expected", "told"),
    [
        ((), {"temperature": 0.2, "top_p": 0.9}, "sampling: temperature 0.2, top_p 0.9"),
        (("--temperature", "0"), {"temperature": 0.0, "top_p": 0.9}, "sampling: temperature 0, top_p 0.9"),
        (("--top-p", "1", "--top-k", "0"), {"temperature": 0.2}, "sampling: temperature 0.2; at most"),
        (
            ("--temperature", "1", "--max-tokens", "7", "--seed", "3"),
            {"temperature": 1.0, "top_p": 0.9, "max_tokens": 7, "seed": 3},
            "sampling: temperature 1, top_p 0.9",
        ),
    ],
)
def test_what_a_person_writes_is_honoured_and_the_rest_is_the_bases(chat, words, expected, told):
    status, used, err = chat(*words, lines=("hello", "/quit"))
    assert (status, used) == (0, [Sampling(**expected)])
    assert told in err


def test_comparing_samples_as_answering_does(chat):
    assert chat()[1] == [Sampling(temperature=0.2, top_p=0.9)] * 2


def test_a_value_that_cannot_be_is_refused_before_the_base_is_loaded(chat):
    status, used, err = chat("--temperature", "-1")
    assert (status, used) == (2, [])
    assert "temperature is -1.0; it must be from 0 (greedy) to" in err
    assert "base " not in err


@pytest.mark.parametrize("command", ["chat", "serve"])
def test_help_tells_the_defaults(run, command):
    text = " ".join(run(command, "--help")[1].replace("│", " ").split())
    assert "recommend" in text
    assert "or temperature 0.2 and top" in text
    assert ("[default: 256]" if command == "chat" else "[default: 512]") in text
    assert "[default: 0.0]" not in text


def test_the_limit_of_an_answer_is_told_at_the_start(chat):
    assert "at most 256 tokens an answer (--max-tokens)" in " ".join(chat()[2].split())


def test_an_answer_that_the_limit_cuts_is_told(run, tiny_folder, monkeypatch):
    said = iter(["hello", "/compare hello", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    status, _, err = run("chat", "--base", tiny_folder, "--max-tokens", "2", "--logit-bias", "65", "100")
    assert (status, err.count("cut at 2 tokens")) == (0, 2)


def test_a_command_that_does_not_exist_and_a_comparison_of_nothing_are_told(run, tiny_folder, monkeypatch):
    said = iter(["/reset", "/compare", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    status, _, err = run("chat", "--base", tiny_folder)
    assert status == 0
    assert "no command /reset; " in err and "all are /use, " in err
    assert "/compare needs a question" in err
