"""kameleon adapter: the commands on adapters that are on the shelf."""

import io
import json
from dataclasses import replace

import pytest
import torch
from fakes import random_adapter

from kameleon.adapters import EndChange, LoraFactors, Shelf
from kameleon.adapters.arithmetic import METHODS
from kameleon.adapters.formats import write_adapter
from kameleon.weights import HEAD


@pytest.fixture
def shelf(tiny):
    """A shelf with two adapters of the tiny base."""
    shelf = Shelf()
    for seed, name in enumerate(("law", "code")):
        shelf.save(random_adapter(tiny.base, name, seed=seed))
    return shelf


def document(answer):
    status, out, err = answer
    assert status == 0, err
    return json.loads(out)


def test_combine_puts_a_new_adapter_with_its_parents_on_the_shelf(run, shelf):
    found = document(run("adapter", "combine", "law=0.5", "code=-2", "--name", "both", "--json"))
    assert found["ranks"] == [8]
    parents = shelf.load("both").card.parents
    assert [(p.name, p.weight, p.method) for p in parents] == [("law", 0.5, "combine cat"), ("code", -2, "combine cat")]
    status, _, err = run("adapter", "combine", "law", "--name", "both")
    assert status == 2
    assert "--overwrite" in err
    assert run("adapter", "combine", "law", "--name", "both", "--overwrite")[0] == 0
    for spec in ("law=x", "law="):
        status, _, err = run("adapter", "combine", spec, "--name", "other")
        assert status == 2
        assert "must be a number" in err


def test_every_method_of_the_function_is_one_of_the_command():
    from kameleon.cli import arithmetic

    assert set(arithmetic.Method.__args__) == set(METHODS)


def test_resize_reports_the_error_of_each_module(run, shelf):
    found = document(run("adapter", "resize", "law", "--rank", "2", "--name", "small", "--json"))
    assert found["ranks"] == [2]
    assert 0 < found["error"] < 1
    assert found["kept"].keys() == shelf.load("law").modules.keys()


def test_extract_from_a_full_fine_tune(run, tmp_path, tiny_folder, tiny):
    from tiny import reference_model

    model = reference_model("llama tied")
    model.model.layers[0].mlp.up_proj.weight.data[:, 0] += 1
    model.model.norm.weight.data += 1
    model.save_pretrained(tmp_path / "tuned")
    words = ("extract", tmp_path / "tuned", "--base", tiny_folder, "--error", "0.01", "--name", "got", "--json")
    answer = run("adapter", *words)
    found = document(answer)
    assert found["ranks"] == [1]
    assert found["left_out"].keys() == {"model.norm.weight"}
    assert "not in the adapter: model.norm.weight" in answer[2]


def test_diff_compares_module_by_module(run, shelf, monkeypatch):
    found = document(run("adapter", "diff", "law", "code", "--json"))
    assert found.keys() == shelf.load("law").modules.keys()
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run("adapter", "diff", "law", "law")
    assert status == 0
    assert len(out.splitlines()) == 2 + len(found), "a line for each module, below two of headings"
    assert "0–0°" in out


def test_show_tells_the_rank_that_holds_the_change_and_draws_it(run, shelf, tmp_path):
    found = document(run("adapter", "show", "law", "--picture", tmp_path / "law.png", "--json"))
    assert found["ranks"] == [4]
    assert found["effective_rank"] == 4
    assert len(found["spectra"]["model.layers.0.mlp.up_proj"]["singular_values"]) == 4
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
    _, out, _ = run("adapter", "show", "law")
    assert "rank 4 trained, 90 % of the change lies in rank 4" in out
    assert "█" in out


def test_show_counts_the_embedding_and_the_head_in(run, tiny, tmp_path):
    law = random_adapter(tiny.base, "law")
    head = LoraFactors(torch.randn(3, 64), torch.randn(320, 3), 3.0)
    Shelf().save(replace(law, name="head", modules={}, ends={HEAD: EndChange(factors=head)}))
    found = document(run("adapter", "show", "head", "--picture", tmp_path / "head.png", "--json"))
    assert (found["ranks"], found["effective_rank"], [*found["spectra"]]) == ([3], 3, [HEAD])
    assert "rank 3 trained" in run("adapter", "show", "head")[1]


@pytest.mark.parametrize("base_id", ["[/x]", "llama[v1]", "org:x:base"])
def test_a_base_whose_name_looks_like_markup_is_shown_as_it_is(base_id, run, tiny):
    law = random_adapter(tiny.base, "law")
    Shelf().save(replace(law, card=replace(law.card, base_id=base_id)))
    for words in (("list",), ("show", "law")):
        status, out, _ = run("adapter", *words)
        assert (status, base_id in out) == (0, True)


@pytest.mark.parametrize("odd", [{"scores": {"eval_loss": "low"}}, {"base_id": "base-\ud800"}])
def test_a_card_with_odd_words_is_listed_like_any_other(odd, run, tiny):
    law = random_adapter(tiny.base, "law")
    Shelf().save(replace(law, card=replace(law.card, **odd)))
    for words in (("list",), ("history", "law"), ("show", "law")):
        assert run("adapter", *words)[0] == 0
        found = document(run("adapter", *words, "--json"))
        card = (found if isinstance(found, dict) else found[0])["card"]
        assert odd.items() <= card.items()


@pytest.mark.parametrize("loss", [float("nan"), float("-inf")])
def test_a_number_that_json_does_not_know_is_null_there(loss, run, tiny):
    law = random_adapter(tiny.base, "law")
    Shelf().save(replace(law, card=replace(law.card, scores={"eval_loss": loss, "rows": 3})))
    for words in (("list",), ("history", "law"), ("show", "law")):
        out = run("adapter", *words, "--json")[1]
        found = json.loads(out, parse_constant=pytest.fail)
        assert (found if isinstance(found, dict) else found[0])["card"]["scores"] == {"eval_loss": None, "rows": 3}


def test_merge_writes_a_full_model_and_reports_the_gap(run, shelf, tmp_path, tiny_folder):
    found = document(run("adapter", "merge", "law", "--base", tiny_folder, "--out", tmp_path / "full", "--json"))
    assert found["survived"] > 0.99
    assert found["logit_gap_max"] < found["logits_moved_max"]
    assert (tmp_path / "full" / "model.safetensors").exists()
    status, out, _ = run("adapter", "merge", "law", "--base", tiny_folder, "--out", tmp_path / "other")
    assert (status, "survived of the change" in out) == (0, True)


def test_verify_lists_every_check_and_ends_with_its_answer(run, shelf, tiny, tiny_folder):
    found = document(run("adapter", "verify", "law", "--base", tiny_folder, "--json"))
    assert found["live"] is True
    assert {check["what"] for check in found["checks"]} >= {"names and shapes", "base untouched", "logits move"}
    dead = {m: replace(f, b=f.b * 0) for m, f in random_adapter(tiny.base, "dead").modules.items()}
    shelf.save(replace(random_adapter(tiny.base, "dead"), modules=dead))
    status, out, _ = run("adapter", "verify", "dead", "--base", tiny_folder)
    assert status == 1
    assert "model.layers.0.mlp.up_proj" in out
    (shelf.path("law") / "adapter_model.safetensors").write_bytes(b"")
    status, _, err = run("adapter", "verify", "law", "--base", tiny_folder)
    assert status == 2
    assert "damaged or was changed" in " ".join(err.split())


def test_history_rollback_and_remove_which_asks(run, shelf, tiny, monkeypatch):
    first = shelf.load("law").fingerprint
    shelf.save(random_adapter(tiny.base, "law", seed=5))
    found = document(run("adapter", "history", "law", "--json"))
    assert [(e["version"], e["current"]) for e in found] == [(1, False), (2, True)]
    assert run("adapter", "rollback", "law")[0] == 0
    assert shelf.load("law").fingerprint == first
    assert run("adapter", "rollback", "law", "2")[0] == 0
    assert run("adapter", "rollback", "law", "7")[0] == 2
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run("adapter", "remove", "law")[0] == 1
    assert shelf.has("law")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run("adapter", "remove", "law")[0] == 0
    assert not shelf.has("law")


def test_remove_where_nobody_can_answer_says_how_and_keeps_the_adapter(run, shelf, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    status, _, err = run("adapter", "remove", "law")
    assert (status, "--yes" in err, shelf.has("law")) == (2, True, True)
    status, out, err = run("adapter", "remove", "law", "--yes")
    assert (status, out, err) == (0, "", "law is deleted, with all its versions\n")
    assert not shelf.has("law")


def test_import_with_a_base_refuses_what_changes_nothing_on_it(run, shelf, tmp_path, tiny_folder):
    law = shelf.load("law")
    write_adapter(replace(law, modules={m: replace(f, b=f.b * 0) for m, f in law.modules.items()}), tmp_path / "fresh")
    status, _, err = run("adapter", "import", tmp_path / "fresh", "--name", "fresh", "--base", tiny_folder)
    assert (status, "changes nothing on" in err, shelf.has("fresh")) == (2, True, False)


@pytest.mark.parametrize("folder", ["my adapter", "prawo pracy", "x" * 100, "żółw", "v1."])
def test_import_takes_a_folder_of_any_name(folder, run, shelf, tmp_path):
    write_adapter(shelf.load("law"), tmp_path / folder)
    status, _, err = run("adapter", "import", tmp_path / folder, "--name", "back")
    assert status == 0, err
    assert shelf.load("back").fingerprint == shelf.load("law").fingerprint


@pytest.mark.parametrize(("to", "place"), [("peft", "law"), ("gguf", "law.gguf")])
def test_export_and_import_come_back_with_the_base_in_the_card(to, place, run, shelf, tmp_path, tiny, tiny_folder):
    words = ("--to", to, "--out", tmp_path / place, "--base", tiny_folder)
    assert run("adapter", "export", "law", *words)[0] == 0
    assert run("adapter", "export", "law", *words)[0] == 2  # there already
    status, _, err = run("adapter", "import", tmp_path / place, "--name", "back", "--base", tiny_folder)
    assert status == 0, err
    assert shelf.load("back").card.base_fingerprint == tiny.base.fingerprint
    assert run("adapter", "import", tmp_path / place, "--name", "back", "--base", tiny_folder)[0] == 2
    for name, factors in shelf.load("law").modules.items():
        torch.testing.assert_close(shelf.load("back").modules[name].delta(), factors.delta())
