"""kameleon plan and train --memory, as a person or a script meets them."""

import json

import pytest

from kameleon.errors import SettingError
from kameleon.plan import COMMON_NAMES, Memory
from kameleon.settings import parse_bytes


@pytest.fixture
def run(run, tiny_folder):
    """Run a command on the tiny base; lines of standard error are joined."""

    def command(*words, base=tiny_folder):
        status, out, err = run(*words, "--base", base)
        return status, out, " ".join(err.split())

    return command


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    made = [{"prompt": f"What comes after {i}?", "completion": f"{i + 1}"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_a_plan_tells_memory_time_disk_counts_and_bases(run, rows, few_common_bases):
    status, out, _ = run("plan", "--data", rows, "--rank", "4", "--memory", "40GB", "--json")
    assert status == 0
    plan = json.loads(out)
    needed = {"peak_bytes", "minutes_per_epoch", "trainable_parameters", "adapter_bytes", "parts", "settings"}
    assert needed <= plan.keys()
    assert plan["parts"].keys() == Memory.__dataclass_fields__.keys()
    assert plan["peak_bytes"] == sum(plan["parts"].values())
    assert plan["settings"].keys() == {"micro_batch_tokens", "checkpoint_layers", "quantize"}
    assert plan["minutes_per_epoch"] > 0
    assert plan["fits"] is True
    assert plan["parameters_by_targets_and_rank"]["all-linear"]["4"] == plan["trainable_parameters"]
    fits = {one["name"]: one["fits"] for one in plan["bases"]}
    assert fits["SmolLM2 135M"]
    assert not fits["Qwen2.5 72B"]
    assert all(one["seconds_per_1000_tokens"] > 0 for one in plan["bases"])


@pytest.mark.parametrize("words", [("no-such.jsonl",), ("{rows}", "--held-out", "no-such.jsonl")])
def test_a_wrong_file_is_told_before_the_machine_is_measured(run, rows, words):
    status, _, err = run("plan", *(str(word).format(rows=rows) for word in words))
    assert status == 2 and "no-such.jsonl" in err and "measuring" not in err


def test_a_plan_for_a_person_names_the_parts_and_the_next_cheaper(run, few_common_bases):
    status, out, _ = run("plan")
    assert status == 0
    for said in ("1,000 rows of 512 tokens", "interpreter and libraries", "cheaper in memory", "Llama 3.1 8B"):
        assert said in out


def test_in_80_columns_the_table_of_bases_has_one_line_for_each(run, few_common_bases):
    _, out, _ = run("plan", "--memory", "2GB")
    table = out.split("common bases as Q4_K_M files")[1].rstrip().splitlines()
    assert [line[:14].rstrip() for line in table[-len(COMMON_NAMES) :]] == list(COMMON_NAMES)
    assert any(" layers" in line for line in table)


def test_names_of_projections_break_between_them_where_a_line_is_full(run, few_common_bases):
    assert "q_proj, k_proj, v_proj, o_proj" in run("plan")[1]


def test_a_base_of_the_table_is_planned_for_by_its_name(run, rows, few_common_bases):
    status, out, err = run("plan", "--json", base="SmolLM2 135M")
    assert status == 0, err
    plan = json.loads(out)
    assert plan["trainable_parameters"] == 4_884_480
    assert plan["disk_bytes"]["fetch"] == 0
    status, _, err = run("plan", "--data", rows, base="SmolLM2 135M")
    assert status == 2
    assert "SmolLM2 135M stands for a shape, without a tokenizer: leave the rows out" in err
    status, _, err = run("plan", "--quantize", "nf4", base="SmolLM2 135M")
    assert status == 2
    assert "leave quantize out" in err


def test_train_stays_inside_a_budget_or_says_what_would_do(run, rows):
    status, _, err = run("train", "--data", rows, "--name", "x", "--memory", "30MB")
    assert status == 2
    assert "error: 0.03 GB are not enough: the least that" in err
    status, out, err = run("train", "--data", rows, "--name", "x", "--memory", "40GB", "--rows-per-step", "8", "--json")
    assert status == 0
    assert "plan: peak" in err
    trained = json.loads(out)
    assert trained["predicted"].keys() == {"peak_bytes", "seconds"}
    assert trained["peak_bytes"] > 0


@pytest.mark.filterwarnings("ignore:30 of 30 held-out rows are also learned")
def test_rows_are_read_once_for_the_plan_and_the_run(run, rows, tmp_path, monkeypatch):
    from kameleon import unloaded
    from kameleon.data import read_corpus

    read = []

    def counted(source, *more, **named):
        read.append(str(source))
        return read_corpus(source, *more, **named)

    monkeypatch.setattr(unloaded, "read_corpus", counted)
    watched = tmp_path / "watched.jsonl"
    watched.write_text(rows.read_text())
    fast = ("--rank", "2", "--epochs", "0.5", "--memory", "40GB")
    assert run("train", "--data", rows, "--held-out", watched, "--name", "x", *fast)[0] == 0
    assert read == [str(rows), str(watched)]


def test_of_few_rows_the_plan_and_the_run_say_what_follows_and_what_is_too_few(run, rows, few_common_bases):
    plan = json.loads(run("plan", "--data", rows, "--json")[1])
    assert (plan["rows"], plan["rows_per_step"], plan["epochs"], plan["steps"]) == (30, 4, 10, 80)
    assert "rows_per_step 4 and epochs 10, from the number of rows: 30 make 80 steps" in plan["why"]
    assert plan["warnings"] == []
    few = "too few steps (8) to learn much: take fewer rows a step (rows_per_step is 4), more epochs (epochs is 1)"
    planned = run("plan", "--data", rows, "--epochs", "1")[1]
    assert few in " ".join(planned.split())


@pytest.mark.filterwarnings("default")
def test_training_warns_in_one_line_and_shows_settled_settings(run, rows):
    words = ("--held-out", rows, "--name", "x", "--epochs", "1", "--rank", "2", "--verbose")
    status, _, told = run("train", rows, *words)
    assert status == 0
    assert "epochs 1.0 you chose it" in told and "rows_per_step 4 Rows that one step" in told
    assert "plan: rows_per_step 4, from the number of rows: 30 make 8 steps" in told
    assert "warning: too few steps (8) to learn much" in told and "loaded_base.py" not in told
    assert "warning: 30 of 30 held-out rows are also learned" in told
    assert (
        run("train", "--data", rows, "--name", "y", "--epochs", "1", "--rank", "2")[1].count(
            "not measured; the adapter is that of the last step"
        )
        == 1
    )


def test_a_finished_run_is_compared_with_its_plan_in_one_line(run, rows):
    status, out, _ = run("train", "--data", rows, "--name", "x", "--rows-per-step", "8")
    assert status == 0
    assert "as planned" in out


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GB", 6e9),
        ("512 MiB", 2**29),
        ("1.5g", None),
        ("2.5gb", 2.5e9),
        ("7", 7e9),
        ("0.5", 5e8),
        ("7B", 7),
        ("-1GB", None),
        ("", None),
        ("0MB", None),
        ("8 potatoes", None),
        ("9" * 400, None),
    ],
)
def test_amounts_of_memory_are_read_with_their_units(text, size):
    if size is None:
        with pytest.raises(SettingError, match="is not an amount of memory"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == size


def test_a_number_of_bytes_without_a_unit_is_refused():
    with pytest.raises(SettingError, match="without a unit is GB, which no machine has; write it as 6000000000B"):
        parse_bytes("6000000000")


def test_a_budget_without_a_unit_is_told_as_gigabytes(run):
    assert "memory: 6 means 6 GB" in run("plan", "--memory", 6)[2]
