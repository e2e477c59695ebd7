"""A grammar compiled by the llguidance library. Run as a program, this file is the process in which grammars are tried.

It imports no torch, so that the process starts in a quarter of a second and is small.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from typing import Any, NamedTuple

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

_LIMITS = LLParserLimits(
    # Of one mask: the library's own 200,000 take 160 ms in the thread that computes, and real forms need under 25,000.
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    verbose_errors=False,
)
_NICE = 10  # a form that is compiled leaves the cores to answers that are computed


class Compiled(NamedTuple):
    """A grammar at its beginning, and the first mask: a byte for each token, 0 where it may not come."""

    matcher: LLMatcher
    mask: bytes


class Spelled:
    """What the library asks of a tokenizer; text becomes tokens of single bytes."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], end_tokens: list[int]) -> None:
        self.tokens, self.special_token_ids, self.end_tokens = tokens, special_token_ids, end_tokens
        self.eos_token_id = min(end_tokens)
        self._single = {one: token for token, one in reversed([*enumerate(tokens)]) if len(one) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """A token for each byte that has one."""
        return [self._single[text[at : at + 1]] for at in range(len(text)) if text[at : at + 1] in self._single]


def vocabulary(words: Any) -> LLTokenizer:
    """The vocabulary as the library takes it; a large one takes it a second. `words` has all that `Spelled` has."""
    return LLTokenizer(TokenizerWrapper(words), n_vocab=len(words.tokens), eos_token=words.end_tokens)


def compiled(kind: str, text: str, words: LLTokenizer) -> Compiled:
    """The grammar of a form. Raises ValueError with the library's reason for one that cannot be followed."""
    if kind == "json_schema":
        # Without space between the parts: a small model can fill its answer with nothing else.
        grammar = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False})
    else:
        grammar = LLMatcher.grammar_from_regex(text)
    matcher = LLMatcher(words, grammar, log_level=0, limits=_LIMITS)
    return Compiled(matcher, next_mask(matcher))


def next_mask(matcher: LLMatcher) -> bytes:
    """A byte for each token, 0 where it may not come. Raises ValueError with the library's reason if there is none."""
    mask = matcher.compute_logit_bias()
    if matcher.is_error():
        raise ValueError(matcher.get_error().strip())
    if not any(mask):
        raise ValueError("no token of this base can come next")
    return mask


def main() -> None:
    """Try one form after the other until standard input ends.

    In, pickled, for each: what `Spelled` takes, or None for the same as before; the limits, in bytes of memory and
    seconds of CPU; its kind and text. Out: a line of JSON, the reason why it cannot be followed, or null. A try beyond
    its limits ends the process.
    """
    if sys.platform != "win32":
        os.nice(_NICE)
    words = None
    while True:
        try:
            spelled, memory_bytes, cpu_s, kind, text = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if words is None or spelled is not None:
            words = _with_memory(memory_bytes, spelled)
        _end_after(cpu_s)
        reason = None
        try:
            compiled(kind, text, words)
        except ValueError as error:
            reason = str(error)
        _end_after(0)
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()


def _end_after(cpu_s: float) -> None:
    """End this process after so many seconds of CPU time; 0: do not. Windows has no such limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, cpu_s)


def _with_memory(memory_bytes: int, spelled: tuple[list[bytes], list[int], list[int]]) -> LLTokenizer:
    """The vocabulary; from now on this process takes at most `memory_bytes` more than it has. Only Linux says how much
    that is."""
    if sys.platform != "linux":
        return vocabulary(Spelled(*spelled))
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    words = vocabulary(Spelled(*spelled))
    with open("/proc/self/statm") as counts:
        held = int(counts.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_bytes, most))
    return words


if __name__ == "__main__":
    main()
