"""Loss, bits per byte, exact match and choice accuracy of a small set, computed by hand with a plain softmax."""

import math

import pytest
import torch
from fakes import random_adapter

from kameleon import Sampling
from kameleon.data import Example
from kameleon.evaluation import evaluate, make_test_set
from kameleon.ops import Segments

ANSWERS = ("yes", "no")


@pytest.fixture
def adapted(tiny):
    tiny.bank.add(random_adapter(tiny.base, "a"))
    return tiny


def logprobs(loaded, tokens, name):
    """log softmax at every position, [tokens, vocabulary], by one plain pass."""
    slot = loaded.bank.slot(name)
    with torch.inference_mode():
        hidden = loaded.base.decoder.hidden(torch.tensor(tokens), Segments((len(tokens),), (slot,)), loaded.bank)
        return loaded.base.decoder.logits(hidden, [slot] * len(tokens), loaded.bank).double().log_softmax(-1)


def example(loaded, row, prompt, answer):
    before = loaded.encode_prompt(prompt)
    after = tuple(loaded.base.template.encode_text(answer))
    return Example(row, (*before, *after), (False,) * len(before) + (True,) * len(after))


def greedy(loaded, prompt, name, count):
    """The first `count` tokens of a greedy answer, as generation gives them."""
    made = loaded.generate([prompt], [name], sampling=Sampling(max_tokens=count, temperature=0))[0]
    return made.tokens


@pytest.mark.parametrize("name", [None, "a"])
def test_each_score_is_that_of_a_plain_softmax(adapted, name):
    prompts = ["Is it so?", "Is it not?", "Is it now?", "Why?"]
    rows = [example(adapted, i, prompt, ANSWERS[i % 2]) for i, prompt in enumerate(prompts)]
    own = greedy(adapted, "And?", name, 3)  # one row whose answer is the greedy one
    before = adapted.encode_prompt("And?")
    rows.append(Example(4, (*before, *own), (False,) * len(before) + (True,) * len(own)))
    test = make_test_set(adapted.base, "by hand", rows, [()] * len(rows))
    (score,) = evaluate(adapted.base, adapted.bank, [name], test)

    loss, trained, text_bytes, exact = 0.0, 0, 0, 0
    for row in rows:
        table = logprobs(adapted, row.tokens, name)
        answer = [(i, token) for i, token in enumerate(row.tokens) if row.trained[i]]
        loss -= sum(float(table[i - 1, token]) for i, token in answer)
        trained += len(answer)
        exact += all(int(table[i - 1].argmax()) == token for i, token in answer)
        told = adapted.base.tokenizer.decode([token for _, token in answer], skip_special_tokens=True)
        text_bytes += len(told.encode())
    assert score.loss == pytest.approx(loss / trained, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(loss / math.log(2) / text_bytes, rel=1e-5)
    assert score.exact_match == exact / len(rows) and exact >= 1
    assert score.rows == len(rows)


@pytest.mark.parametrize("name", [None, "a"])
def test_choice_accuracy_is_the_share_of_rows_whose_right_answer_is_the_likelier_one(adapted, name):
    prompts = [f"Is {i} even?" for i in range(12)]
    wanted = [int(i % 4 == 0) for i in range(12)]  # uneven, so that a constant answer is not half right
    rows = [example(adapted, i, prompt, ANSWERS[wanted[i]]) for i, prompt in enumerate(prompts)]
    test = make_test_set(adapted.base, "choices", rows, [()] * len(rows))
    (score,) = evaluate(adapted.base, adapted.bank, [name], test)
    firsts = [adapted.base.template.encode_text(answer)[0] for answer in ANSWERS]
    right = 0
    for i, prompt in enumerate(prompts):
        table = logprobs(adapted, adapted.encode_prompt(prompt), name)[-1]
        right += int(table[firsts[wanted[i]]] > table[firsts[1 - wanted[i]]])
    assert score.choice_by == "first_token"
    assert score.choice_accuracy == right / len(prompts)


@pytest.mark.parametrize("name", [None, "a"])
def test_exact_match_is_what_greedy_generation_says(adapted, name):
    prompts = [f"Count to {i}." for i in range(6)]
    rows, same = [], 0
    for i, prompt in enumerate(prompts):
        said = greedy(adapted, prompt, name, 2)
        wanted = said if i % 2 else tuple((token + 1) % 250 for token in said)
        same += i % 2
        before = adapted.encode_prompt(prompt)
        rows.append(Example(i, (*before, *wanted), (False,) * len(before) + (True,) * len(wanted)))
    test = make_test_set(adapted.base, "greedy", rows, [()] * len(rows))
    (score,) = evaluate(adapted.base, adapted.bank, [name], test)
    assert score.exact_match == same / len(rows)
