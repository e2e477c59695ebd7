"""Programs that people point at such a server, run against it as they come: lm-eval, schemathesis."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kameleon.ops import Segments

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(command, folder, words, **environment):
    """Run a client program; skips where it is not installed."""
    path = Path(sys.executable).with_name(command)
    if not path.exists():
        pytest.skip(f"{command} is not installed: pip install --require-hashes --no-deps -r locks/clients.txt")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder), **environment}
    ended = subprocess.run([path, *map(str, words)], capture_output=True, text=True, env=env, cwd=folder)
    assert ended.returncode == 0, (ended.stdout[-3000:], ended.stderr[-3000:])
    return ended.stdout


def test_lm_eval_scores_generated_answers(address, tmp_path, tiny_folder):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": f"say {i}", "a": str(i)}) + "\n" for i in range(4)))
    (tmp_path / "say.yaml").write_text(
        f"task: say\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.jsonl}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "generation_kwargs: {until: ['\\n'], max_gen_toks: 6, temperature: 0}\n"
        "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    )
    model = f"model=law,base_url={address}/v1/completions,tokenizer={tiny_folder},num_concurrent=2,max_length=200"
    words = ["--model", "local-completions", "--model_args", model, "--tasks", "say", "--include_path", tmp_path]
    run("lm_eval", tmp_path, [*words, "--output_path", tmp_path / "out", "--log_samples"])
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert "exact_match,none" in json.loads(result.read_text())["results"]["say"]
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    answers = [json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines()]
    assert len(answers) == 4
    assert any(answers)


def test_lm_eval_compares_the_probabilities_of_answers(address, tmp_path, tiny, tiny_folder):
    """A multiple choice task: its loglikelihoods are those that the base and adapter have, computed here."""
    rows = [{"q": f"say {i}:", "choices": [str(i), "nothing at all"], "gold": 0} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pick.yaml").write_text(
        f"task: pick\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: gold\nmetric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    model = f"model=law,base_url={address}/v1/completions,tokenizer={tiny_folder},max_length=200"
    words = ["--model", "local-completions", "--model_args", model, "--tasks", "pick", "--include_path", tmp_path]
    run("lm_eval", tmp_path, [*words, "--batch_size", "3", "--output_path", tmp_path / "out", "--log_samples"])
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert "acc,none" in json.loads(result.read_text())["results"]["pick"]
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    slot, seen = tiny.bank.add(tiny.shelf.load("law")), 0
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        for choice, ((got, greedy),) in zip(sample["doc"]["choices"], sample["resps"], strict=True):
            context, whole = (
                tiny.base.tokenizer.encode(text, add_special_tokens=False)
                for text in (sample["doc"]["q"], f"{sample['doc']['q']} {choice}")
            )
            with torch.inference_mode():
                hidden = tiny.base.decoder.hidden(torch.tensor(whole), Segments((len(whole),), (slot,)), tiny.bank)
                rows_ = tiny.base.decoder.logits(hidden, [slot] * len(whole), tiny.bank).log_softmax(-1)
            places = range(len(context), len(whole))
            assert float(got) == pytest.approx(sum(float(rows_[at - 1, whole[at]]) for at in places), abs=1e-2)
            assert str(greedy) == str(all(int(rows_[at - 1].argmax()) == whole[at] for at in places))
            seen += 1
    assert seen == 8


def test_no_request_that_the_schema_allows_or_forbids_is_a_server_error(address, tmp_path):
    words = ["run", f"{address}/openapi.json", "--checks", "not_a_server_error", "--max-examples", "25"]
    out = run("schemathesis", tmp_path, [*words, "--mode", "all", "--seed", "1", "--request-timeout", "60"])
    assert "Test cases" in out or "No issues found" in out
