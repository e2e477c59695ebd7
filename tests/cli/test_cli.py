"""The commands as a person or a script meets them: real files, real exit codes, JSON alone on standard output."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes import random_adapter

from kameleon.adapters import Card, Shelf
from kameleon.errors import SettingError
from kameleon.home import runs_dir
from kameleon.settings import Limits, Sampling


@pytest.fixture
def run(run, tiny_folder):
    """Run a command on the tiny base."""

    def command(*words, base=True):
        return run(*words, *(("--base", tiny_folder) if base else ()))

    return command


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"What comes after {i % 9}?", "completion": f"{i % 9 + 1}"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


FAST = ("--rank", "2", "--rows-per-step", "8", "--epochs", "2", "--learning-rate", "0.01")


def test_doctor_names_the_kernels_and_the_compute_type_with_reasons(run):
    status, out, _ = run("doctor", "--json", base=False)
    found = json.loads(out)
    assert status == (0 if found["kernels"] else 1)
    assert found["compute_type"] in ("bf16", "fp32")
    assert found["compute_reason"].startswith(found["compute_type"] + ": ")
    assert found["kernels_reason"]


def test_doctor_says_when_torch_is_a_cuda_build_and_how_to_get_the_one_for_cpus(run, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.__version__", "2.13.0+cu130")
    told = " ".join(run("doctor", base=False)[1].split())
    assert "a build for CUDA 13.0" in told
    assert "--no-deps --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 " in told
    assert json.loads(run("doctor", "--json", base=False)[1])["torch_cuda"] == "13.0"
    monkeypatch.setattr("torch.version.cuda", None)
    assert "CUDA" not in run("doctor", base=False)[1]


def test_a_warning_is_one_line_without_the_line_of_code(run, rows, monkeypatch):
    def warned(*_, **__):
        warnings.warn("the base is tired", stacklevel=1)
        raise SettingError("enough seen")

    monkeypatch.setattr("kameleon.api.load", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        err = run("eval", rows)[2]
    assert err.split("\n", 1)[0] == "warning: the base is tired"
    assert "warnings.warn" not in err


def test_train_then_list_show_verify_eval_and_remove(run, rows):
    status, out, err = run("train", "--data", rows, "--name", "count", *FAST, "--json")
    assert status == 0
    trained = json.loads(out)
    assert trained["steps"] == 8
    assert trained["curve"].endswith("loss.png")
    assert "you chose it" in err
    assert "then the best learning rate hardly depends on the rank" in " ".join(err.split())  # a default's reason
    listed = json.loads(run("adapter", "list", "--json", base=False)[1])
    assert [entry["name"] for entry in listed] == ["count"]
    assert json.loads(run("adapter", "show", "count", "--json", base=False)[1])["ranks"] == [2]
    status, out, _ = run("adapter", "verify", "count", "--json")
    assert status == 0
    assert json.loads(out)["live"] is True
    status, out, _ = run("eval", f"numbers={rows}", "--adapters", "count", "--json")
    document = json.loads(out)
    assert [(row["adapter"], row["testset"]) for row in document["rows"]] == [("base", "numbers"), ("count", "numbers")]
    assert {"loss", "exact_match", "choice_accuracy", "bits_per_byte"} <= document["rows"][0].keys()
    assert document["rows"][1]["loss"] < document["rows"][0]["loss"]
    assert set(document["forgetting"]) == {"count"}
    assert run("adapter", "remove", "count", "--yes", base=False)[0] == 0
    assert json.loads(run("adapter", "list", "--json", base=False)[1]) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("law/test.jsonl", "code/test.jsonl"), "'test' names several test sets; tell them apart as NAME=FILE"),
        (("a=law.jsonl", "a=code.jsonl"), "'a' names several test sets"),
        (("law.jsonl", "--rows", "-1"), "rows is -1; it must be 0 (all) or more"),
    ],
)
def test_eval_refuses_what_would_give_no_score_or_two_in_one_place(run, words, told):
    status, out, err = run("eval", *words)
    assert (status, out) == (2, "")
    assert told in err


def test_eval_compares_whole_answers_where_two_begin_alike_and_says_so(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{i}?", "completion": ("yes", "yes, but", "no")[i % 3]} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    (score,) = json.loads(run("eval", path, "--json")[1])["rows"]
    assert score["choice_by"] == "whole_answer"
    quoted = f"{score['choice_accuracy']:.3f} choice whole ({score['choice_accuracy_per_byte']:.3f}), "
    shown = " ".join(run("eval", path)[1].split())
    assert quoted in shown
    assert "choice whole: by the log-probability of whole answers, in brackets by that per byte" in shown


def test_a_curve_that_cannot_be_written_spoils_no_result(run, rows):
    curve = runs_dir() / "count" / "loss.png"
    curve.mkdir(parents=True)
    status, out, err = run("train", "--data", rows, "--name", "count", *FAST, "--json")
    assert status == 0
    assert json.loads(out)["curve"] is None
    assert "no loss curve: [Errno 21] Is a directory" in err


def test_settings_come_from_toml_and_flags_win(run, rows, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(f'[train]\ndata = "{rows}"\nname = "count"\nrank = 3\nepochs = 0.5\ncheckpoint_layers = 2\n')
    status, _, err = run("train", "--config", config, "--rank", "2", "--checkpoint-layers", "0")
    assert status == 0, err
    assert "checkpoint_layers 0" in " ".join(err.split())
    assert json.loads(run("adapter", "show", "count", "--json", base=False)[1])["ranks"] == [2]
    for text in ("rank = 3\n", "[trian]\nrank = 3\n"):
        config.write_text(text)
        status, _, err = run("train", "--config", config, "--data", rows, "--name", "other")
        assert status == 2
        assert "outside of its table [train]" in " ".join(err.split())
    config.write_text("[train]\nrnk = 3\n")
    for given in (["--config", config], [f"--config={config}"]):
        status, _, err = run("train", *given, "--data", rows, "--name", "other")
        assert status == 2
        assert "rnk" in err


@pytest.mark.parametrize("text", [None, "[train\n", "\xff"])
def test_a_config_that_cannot_be_read_is_one_line(run, rows, tmp_path, text):
    config = tmp_path / "run.toml"
    if text is not None:
        config.write_text(text, encoding="latin-1")
    status, out, err = run("train", "--config", config, "--data", rows, "--name", "other")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert "run.toml cannot be read: " in line
    assert "Traceback" not in err


def test_an_error_is_one_line_on_standard_error_and_status_2(run, rows):
    status, out, err = run("train", "--data", rows, "--name", "count", "--rank", "0")
    assert (status, out) == (2, "")
    assert err.strip().endswith("error: rank is 0; it must be from 1 to 4096")
    status, out, err = run("chat", "--adapter", "cout")
    assert status == 2
    assert "no adapter 'cout' on the shelf" in err
    status, _, err = run("base", "show", "smolm2", base=False)
    assert status == 2
    assert "did you mean 'smollm2'?" in err.replace("\n", " ")


@pytest.mark.parametrize("words", [["nosuch"], ["train", "--nosuch", "3"], ["train", "--rank", "x"], ["train"]])
def test_wrong_words_are_told_on_standard_error_with_status_2(run, words):
    status, out, err = run(*words, base=False)
    assert (status, out) == (2, "")
    assert err


@pytest.mark.parametrize("words", [["train", "--name", "x", "--data"], ["data", "check"]])
def test_rows_that_are_not_there_are_told_before_a_base_is_loaded(run, tmp_path, words):
    status, _, err = run(*words, tmp_path / "absent.jsonl", "--base", tmp_path / "no-base", base=False)
    assert status == 2
    assert "error: there is no file" in err


def test_eval_of_the_shelf_leaves_adapters_of_other_bases_out_and_says_so(run, rows, tiny):
    mine = random_adapter(tiny.base, "mine")
    Shelf().save(mine)
    Shelf().save(replace(mine, name="foreign", card=Card(base_id="other", base_fingerprint="sha256:0")))
    status, out, err = run("eval", rows, "--rows", "2", "--json")
    assert status == 0, err
    assert [score["adapter"] for score in json.loads(out)["rows"]] == ["base", "mine"]
    assert "left out: adapter 'foreign' was trained on other" in err
    status, out, err = run("eval", rows, "--adapters", "foreign")
    assert (status, out) == (2, "")
    assert "error: adapter 'foreign' was trained on other" in err


@pytest.mark.parametrize("words", [("train", "--data", "rows.jsonl"), ("adapter", "extract", "tuned")])
def test_a_name_that_is_taken_is_told_before_a_base_is_loaded(run, tiny, rows, tmp_path, monkeypatch, words):
    Shelf().save(random_adapter(tiny.base, "count"))
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*words, "--name", "count", "--base", "no-base", base=False)
    assert (status, out) == (2, "")
    assert err.startswith(
        "error: adapter 'count' is on the shelf already; pick another name, or replace it with --overwrite"
    )
    assert err.count("\n") == 1


def test_rows_that_stand_for_a_file_come_from_all_of_it(run, tmp_path, monkeypatch):
    from kameleon.api import LoadedBase

    path, sets = tmp_path / "sorted.jsonl", []
    made = [{"prompt": f"{'first' if i < 30 else 'second'} {i}", "completion": "yes"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    made_of = LoadedBase.test_set
    monkeypatch.setattr(LoadedBase, "test_set", lambda *args, **more: sets.append(args[2]) or made_of(*args, **more))
    assert run("eval", path, "--rows", "4")[0] == 0
    assert [example.row > 30 for example in sets[0].examples] == [False, False, True, True]
    shown = run("data", "check", path, "--rows", "4")[1]
    parts = [int(line.split()[1]) > 30 for line in shown.splitlines() if line.startswith("row ")]
    assert parts == [False, False, True, True]


def test_data_check_shows_the_mask_counts_and_names_bad_rows(run, rows):
    status, out, _ = run("data", "check", rows, "--json")
    assert status == 0
    document = json.loads(out)
    assert document["rows"] == 30
    assert {fault["reason"] for fault in document["faults"]} == {f"duplicate of row {n}" for n in range(1, 10)}
    with rows.open("a") as file:
        file.write('{"prompt": "x", "completion": ""}\n{"prompt": "cut')
    status, out, _ = run("data", "check", rows)
    assert status == 1
    assert "empty answer" in out
    assert "broken JSON" in out
    status, _, err = run("train", "--data", rows, "--name", "count")
    assert status == 2
    assert "row 31: empty answer" in " ".join(err.split())


def test_columns_with_other_names_are_told_once_and_what_to_do(run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\n" + "".join(f"q{n},a{n}\n" for n in range(60)))
    status, out, _ = run("data", "check", path)
    assert status == 1
    assert out.count("it has only") == 1
    status, _, err = run("train", "--data", path, "--name", "x")
    told = " ".join(err.split())
    assert status == 2
    assert "row 1, 2, 3 and 57 more: it has only question, answer;" in told
    assert told.count("it has only") == 1
    assert "rename its fields or columns" in told


def test_half_of_a_surrogate_pair_in_a_row_is_no_traceback(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"\\ud800": 1}\n')
    status, out, _ = run("data", "check", path, "--json")
    assert status == 1
    assert "it has only \ud800;" in json.loads(out.encode())["faults"][0]["reason"]


def test_data_check_names_the_row_of_another_answer_that_is_no_text(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "completion": "c", "also": ["\\ud800"]}\n')
    status, out, _ = run("data", "check", path, "--json")
    (fault,) = json.loads(out)["faults"]
    assert (status, fault["row"], fault["fatal"]) == (1, 2, True)
    status, _, err = run("train", "--data", path, "--name", "x")
    assert status == 2
    assert "row 2: it holds text that is not UTF-8" in " ".join(err.split())


def test_data_check_refuses_negative_numbers_and_names_the_broken_row_of_a_test_set(run, rows, tmp_path):
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "cut')
    for words, wanted in (
        (("--rows", "-1"), "rows is -1; it must be 0 (none) or more"),
        (("--max-row-tokens", "-1"), "max_row_tokens is -1; it must be at least 8"),
        (("--test", test), "test.jsonl: row 2: broken JSON"),
    ):
        status, out, err = run("data", "check", rows, *words)
        assert (status, out) == (2, "")
        assert wanted in err


@pytest.mark.parametrize(
    ("name", "held"), [("rows.jsonl", ""), ("rows.csv", "prompt,completion\n"), ("rows.json", "[]")]
)
def test_an_empty_file_is_told_as_empty_by_all_that_read_rows(run, tmp_path, rows, name, held):
    path = tmp_path / "none" / name
    path.parent.mkdir()
    path.write_text(held)
    status, out, err = run("data", "check", path, "--json")
    (told,) = json.loads(out)["observations"]
    assert (status, told["kind"], err) == (1, "empty", "")
    assert told["text"].startswith(f"{path} is empty: ")
    assert f"{name}isempty:" in "".join(run("data", "check", path)[1].split())  # a long path is folded
    commands = [("train", "--data", path, "--name", "x"), ("plan", "--data", path), ("eval", path)]
    for words in [*commands, ("data", "check", rows, "--test", path)]:
        status, out, err = run(*words)
        assert (status, out) == (2, "")
        assert err.splitlines()[-1] == f"error: {told['text']}"


def test_data_check_tells_what_the_file_says_as_a_whole(run, tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"{i % 8}?", "completion": "yes" if i else "no"} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    status, out, _ = run("data", "check", path, "--test", path, "--json")
    found = {one["kind"]: one for one in json.loads(out)["observations"]}
    assert status == 0
    assert set(found) == {"contradictory_rows", "dominant_answer", "test_overlap", "too_few"}
    assert found["contradictory_rows"]["rows"] == [1, 9]
    out = " ".join(run("data", "check", path, "--test", path)[1].split())
    section = out[out.index("about the file") :]
    assert "- 8 of 9 (89%) rows have the answer “yes”" in section
    assert "- 9 of 9 (100%) rows of the test set are learned" in section
    assert f"- {found['too_few']['text']}" in section
    path.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": f"{i}!"}) + "\n" for i in range(120)))
    assert json.loads(run("data", "check", path, "--json")[1])["observations"] == []


def test_data_check_tells_once_which_of_several_kinds_was_taken(run, tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": f"{i}?", "output": "Ho", "text": f"{i}? Ho"} for i in range(3)]))
    status, out, _ = run("data", "check", path)
    assert status == 0
    told = "3 rows are written in several ways: instruction was taken, text left aside"
    assert " ".join(out.split()).count(told) == 1


def test_chat_switches_and_compares(run, rows, monkeypatch):
    run("train", "--data", rows, "--name", "count", *FAST)
    lines = iter(["/adapters", "hello", "/use count", "hello", "/compare hello", "/use nobody", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    status, out, _ = run("chat", "--max-tokens", "3")
    assert status == 0
    assert "count, in" in out
    assert "base: " in out
    assert "no adapter 'nobody'" in out
    assert "/compare TEXT" in out


def test_ctrl_c_cuts_what_chat_is_doing_and_not_the_conversation(run, monkeypatch):
    lines = iter(["/compare hello", "/help", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kameleon.api.LoadedBase.generate", interrupted)
    status, out, _ = run("chat")
    assert status == 0
    assert "/compare TEXT" in out


def test_chat_takes_an_adapter_that_is_called_base(run, tiny, monkeypatch):
    lines = iter(["/use none", "/quit", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert "the plain base, in" in run("chat", "--adapter", "base")[1]
    Shelf().save(random_adapter(tiny.base, "base"))
    assert "base, in" in run("chat", "--adapter", "base")[1].replace("the plain base, in", "")


def test_serve_does_not_give_one_requests_room_as_that_of_the_whole_cache(capsys):
    from kameleon.cli.console import results
    from kameleon.cli.serve import _picture

    limits = Limits(kv_cache_bytes=2_000_000_000, adapter_bytes=1_000_000_000)
    engine = SimpleNamespace(limits=limits)
    base = SimpleNamespace(sampling=Sampling(temperature=0.6, top_k=20))
    service = SimpleNamespace(adapter_names=lambda: ["law"], engine=engine, base=base, name="tiny", room_tokens=8192)
    results.print(_picture(service, "http://here", with_key=False), soft_wrap=True)
    lines = capsys.readouterr().out.splitlines()
    assert "memory: 2,000.0 MB for keys and values, 1,000.0 MB for adapters" in lines
    assert "a prompt and its answer: at most 8,192 tokens" in lines
    told = "unless a request says otherwise: temperature 0.6, top_k 20, at most 512 tokens a chat's answer"
    assert told in " ".join(lines)


def test_base_show_has_the_fingerprint(run, tiny_folder):
    status, out, _ = run("base", "show", tiny_folder, "--json", base=False)
    document = json.loads(out)
    assert status == 0
    assert document["fingerprint"].startswith("sha256:")
    assert (document["family"], document["layers"]) == ("llama", 3)
    assert "smollm2" in run("base", "list", base=False)[1]


def test_base_list_has_the_catalogue_and_what_else_is_here(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "kameleon-home" / "bases" / "mine.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    listed = json.loads(run("base", "list", "--json", base=False)[1])
    assert [(entry["name"], entry["here"]) for entry in listed] == [
        ("smollm2", False),
        ("gemma3-270m", False),
        (str(path), True),
    ]
    assert "https://ai.google.dev/gemma/terms" in listed[1]["licence"]
    assert run("base", "list", base=False)[0] == 0


def test_help_teaches_every_setting(run):
    status, out, _ = run("train", "--help", base=False)
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    assert "Width of the side path. 16 has room for what some thousand rows teach" in text
    assert "kameleon train --data law.jsonl --name law" in text


@pytest.mark.parametrize("command", ["train", "plan", "serve", "chat", "eval"])
def test_help_shows_each_switch_once(run, command):
    out = run(command, "--help", base=False)[1]
    assert not any(word in out for word in ("--no-", "--empty-", "[default: False]", "[default: ()]"))


HELP = """
import contextlib, os, sys
from kameleon.cli import app
commands = "", "train", "eval", "chat", "data check", "base list", "adapter list", "lab", "doctor"
with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    for command in commands:
        with contextlib.suppress(SystemExit):
            app([*command.split(), "--help"])
print(sorted({"torch", "transformers", "huggingface_hub", "numpy"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_that_has_gone_ends_a_command_without_a_traceback(form):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from kameleon.cli import main; main()", "adapter", "list", *form]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("form", ["", "--json"])
@pytest.mark.parametrize(
    ("where", "told"),
    [
        (">/dev/full", "error: standard output cannot be written: [Errno 28] No space left on device"),
        (">&-", "error: standard output is closed, where results go; to have none of them give >/dev/null"),
    ],
)
def test_a_result_that_cannot_be_written_is_one_line_and_status_2(form, where, told):
    command = f"{sys.executable} -c 'from kameleon.cli import main; main()' adapter list {form} {where}"
    ended = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr.splitlines()) == (2, [told])


def test_help_answers_without_importing_torch():
    """In a process of its own, since this one has it already. Only `bench` computes its help."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_what_needs_torch_is_found_in_the_package_when_asked_for():
    import kameleon

    assert all(hasattr(kameleon, name) for name in kameleon.__all__)
    with pytest.raises(AttributeError, match="'kameleon' has no attribute 'lode'"):
        kameleon.lode  # noqa: B018
