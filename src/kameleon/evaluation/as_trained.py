"""Score each adapter with the system prompt that it was trained with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.data import fitting
from kameleon.evaluation.scores import Score, TestSet, evaluate, make_test_set


def evaluate_as_trained(
    base: Base,
    bank: Bank,
    adapters: Sequence[str | None],
    test: TestSet,
    *,
    on_rows: Callable[[int], None] | None = None,
) -> list[Score]:
    """Like `evaluate`, but rows without a system message get the system prompt of the adapter that is scored.

    Adapters that get the same tokens are scored together, so that layers below them run once. Raises DataError when the
    base's template refuses a system prompt, or rows get too long with it.
    """
    prompts = {name: bank.system_prompt(name) for name in adapters}
    encoded = {prompt: _encoded(base, test, prompt) for prompt in dict.fromkeys(prompts.values())}
    scores: dict[str | None, Score] = {}
    for one in {id(test): test for test in encoded.values()}.values():
        together = [name for name, prompt in prompts.items() if encoded[prompt] is one]
        found = evaluate(base, bank, together, one, on_rows=on_rows)
        scores |= dict(zip(together, found, strict=True))
    return [scores[name] for name in adapters]


def _encoded(base: Base, test: TestSet, system_prompt: str | None) -> TestSet:
    """The test's rows with this system prompt; the test itself where none changes."""
    if test.corpus is None:
        return test
    corpus = test.corpus.with_system_prompt(base.template, system_prompt)
    if corpus is test.corpus:
        return test
    corpus = fitting(corpus, base.config)
    return make_test_set(base, test.name, corpus.examples, corpus.alternatives)
