"""Which of the answers of a test set is taken: by first tokens, or by whole answers."""

import pytest
import torch
from fakes import random_adapter

from kameleon.data import Record, encode_row, make_row, pack_groups
from kameleon.evaluation import evaluate, make_test_set
from kameleon.ops import NO_ADAPTER, Segments


def encoded(base, prompt, answer, **more):
    return encode_row(make_row(Record(1, {"prompt": prompt, "completion": answer})), base.template, **more)


def make_set(base, rows, also=(), **more):
    """A test set of (prompt, answer) pairs, through the template; `also[i]` are other right answers to row i."""
    others = [[encoded(base, rows[i][0], answer) for answer in answers] for i, answers in enumerate(also)]
    others += [[] for _ in rows[len(others) :]]
    return make_test_set(base, "some", [encoded(base, *row, **more) for row in rows], others)


def logprobs_alone(loaded, adapter, prompt, answer):
    """log p(token | those before it) of the answer and its end, by a pass of the plain decoder over this row alone."""
    base, bank = loaded.base, loaded.bank
    example = encoded(base, prompt, answer)
    slot = bank.slot(adapter)
    hidden = base.decoder.hidden(torch.tensor(example.tokens), Segments((len(example.tokens),), (slot,)), bank)
    logits = base.decoder.logits(hidden, [slot] * len(hidden), bank).double().log_softmax(-1)
    return [float(logits[i - 1, example.tokens[i]]) for i, trained in enumerate(example.trained) if trained]


def share(taken, right):
    return sum(a == b for a, b in zip(taken, right, strict=True)) / len(right)


PROMPTS = [f"Is {n} the right one, or should we look for another?" for n in range(12)]
ONE_LENGTH = ("yes", "yet", "not", "now", "nod")
ONE_IN_ANOTHER = ("yes", "yes, but", "no", "not now", "nope")


@pytest.mark.parametrize("adapter", [None, "mine"])
@pytest.mark.parametrize("answers", [ONE_LENGTH, ONE_IN_ANOTHER])
def test_answers_that_share_their_first_token_are_compared_whole(tiny, adapter, answers):
    tiny.bank.add(random_adapter(tiny.base, "mine"))
    with torch.inference_mode():
        table = [{a: sum(logprobs_alone(tiny, adapter, prompt, a)) for a in answers} for prompt in PROMPTS]
    summed = [max(row, key=row.__getitem__) for row in table]
    per_byte = [max(row, key=lambda a: row[a] / len(a)) for row in table]
    assert (summed == per_byte) == (answers == ONE_LENGTH)
    # Half of the rows ask for the answer that the model takes, half for each answer in turn.
    right = [summed[i] if i % 2 else answers[i // 2 % 5] for i in range(12)]
    test = make_set(tiny.base, list(zip(PROMPTS, right, strict=True)))
    (score,) = evaluate(tiny.base, tiny.bank, [adapter], test, micro_batch_tokens=300)
    assert score.choice_by == "whole_answer"
    assert score.held_out == score.choice_accuracy == share(summed, right) >= 0.5
    assert score.choice_accuracy_per_byte == share(per_byte, right)
    told = sum(row[answer] for row, answer in zip(table, right, strict=True))
    assert score.loss == pytest.approx(-told / sum(len(a) + 1 for a in right), rel=1e-5)


def test_the_prompt_of_whole_answers_is_computed_once_a_row(tiny):
    test = make_set(tiny.base, [(prompt, ONE_LENGTH[i % 5]) for i, prompt in enumerate(PROMPTS)])
    assert len(test.sequences) == 12 * 5
    examples = [example for example, _ in test.sequences]
    groups = [[at for at, (_, row) in enumerate(test.sequences) if row == i] for i in range(12)]
    packs = pack_groups(examples, groups, max_tokens=300, adapter=NO_ADAPTER)
    assert sorted(span.row for one in packs for span in one.spans) == list(range(60))
    prompts = [len(example.tokens) - 5 for example in examples[:12]]  # behind an answer: its end and a line break
    # Each answer has the prompt's last token before it, and its end predicts nothing.
    assert sum(len(one.tokens) for one in packs) == sum(prompt - 1 for prompt in prompts) + 60 * (1 + 3)
    assert len(packs) > 1 and all(len(one.tokens) <= 300 for one in packs)


@pytest.mark.parametrize("adapter", [None, "mine"])
def test_answers_with_different_first_tokens_are_compared_by_these_alone(tiny, adapter):
    tiny.bank.add(random_adapter(tiny.base, "mine"))
    answers = ("yes", "no", "perhaps")
    with torch.inference_mode():
        table = [{a: logprobs_alone(tiny, adapter, prompt, a)[0] for a in answers} for prompt in PROMPTS]
    chosen = [max(row, key=row.__getitem__) for row in table]
    right = [chosen[i] if i % 2 else answers[i % 3] for i in range(12)]
    test = make_set(tiny.base, list(zip(PROMPTS, right, strict=True)))
    assert len(test.sequences) == 12, "nothing is computed for the choice"
    (score,) = evaluate(tiny.base, tiny.bank, [adapter], test)
    assert (score.choice_by, score.choice_accuracy_per_byte) == ("first_token", None)
    assert score.held_out == score.choice_accuracy == share(chosen, right)


@pytest.mark.parametrize("answers", [("yes", "no"), ("yes", "yet", "no")])
def test_each_right_answer_of_a_row_counts_as_the_right_choice(tiny, answers):
    """`also` makes every answer right here, whichever the model takes."""
    rows = [(prompt, answers[i % len(answers)]) for i, prompt in enumerate(PROMPTS)]
    (score,) = evaluate(tiny.base, tiny.bank, [None], make_set(tiny.base, rows, [answers] * 12))
    assert score.choice_accuracy == 1.0
    assert score.choice_by == ("first_token" if len(answers) == 2 else "whole_answer")


def test_of_answers_that_are_equally_likely_the_first_in_the_order_of_their_tokens_is_taken(tiny):
    choices = make_set(tiny.base, [(prompt, ONE_LENGTH[i % 5]) for i, prompt in enumerate(PROMPTS)]).choices
    assert choices is not None
    texts = [tiny.base.tokenizer.decode(answer[:-1]) for answer in choices.answers]
    assert texts == ["nod", "not", "now", "yes", "yet"]
    assert (
        choices.likeliest(lambda answer: -1.0) == choices.likeliest_per_byte(lambda answer: -1.0) == choices.answers[0]
    )


def test_an_answer_that_is_cut_is_no_choice_and_its_row_is_missed(tiny):
    """Else what is left of it, without its end, would be likelier than all that begin as it does."""
    rows = [(prompt, ("yes", "yet")[i % 2]) for i, prompt in enumerate(PROMPTS)]
    longest = max(len(encoded(tiny.base, *row).tokens) for row in rows)
    test = make_set(tiny.base, [*rows, (PROMPTS[-1] + "?", "yes and no")], max_tokens=longest)
    assert test.examples[-1].cut_tokens and test.choices is not None
    assert [tiny.base.tokenizer.decode(a[:-1]) for a in test.choices.answers] == ["yes", "yet"]
    (score,) = evaluate(tiny.base, tiny.bank, [None], test)
    assert score.choice_accuracy is not None and score.choice_accuracy <= 12 / 13


def test_long_answers_conversations_and_answers_that_do_not_fit_have_no_choice_score(tiny):
    """A row would cost many times its own answer; of several answers none could stand in another row's place."""
    long = make_set(tiny.base, [("a", f"yes {n % 11}" + "!" * 45) for n in range(24)])
    turns = [("user", "a"), ("assistant", "yes"), ("user", "b"), ("assistant", "yet")]
    chats = [[{"role": role, "content": text} for role, text in turns[: 2 + 2 * (i % 2)]] for i in range(9)]
    examples = [encode_row(make_row(Record(1, {"messages": chat})), tiny.base.template) for chat in chats]
    several = make_test_set(tiny.base, "chats", examples, [()] * 9)
    filled = [("a" * 205, "yes"), *[("b", "yet, but not now")] * 3]  # of the 256 tokens that this base takes
    for test in (long, several, make_set(tiny.base, filled)):
        assert test.choices is None
        assert len(test.sequences) == len(test.examples)
        (score,) = evaluate(tiny.base, tiny.bank, [None], test)
        assert (score.choice_accuracy, score.choice_by, score.held_out) == (None, None, score.exact_match)


def test_one_answer_alone_is_no_choice(tiny):
    """Nothing was chosen: without the exact match each model would have the full score."""
    [score] = evaluate(tiny.base, tiny.bank, [None], make_set(tiny.base, [(prompt, "yes") for prompt in PROMPTS]))
    assert (score.choice_by, score.choice_accuracy, score.held_out) == (None, None, score.exact_match)
