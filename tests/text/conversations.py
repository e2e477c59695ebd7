"""A dozen conversations as people write them, and one line of text that shows what of each is learned."""

CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "The time in a zone.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}


def _called(arguments):
    call = {"id": "abc123def", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    return [
        {"role": "user", "content": "Time in Kraków?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "12:00", "tool_call_id": "abc123def"},
        {"role": "assistant", "content": "It is noon."},
    ]


def chat(*contents, start="user"):
    """User and assistant by turns."""
    roles = ["user", "assistant"] if start == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "one answer": chat("Hi", "Ho"),
    "two answers": chat("Hi", "Ho", "Ho?", "Hi!"),
    "a system prompt": [SYSTEM, *chat("Hi", "Ho", "Ho?", "Hi!")],
    "space around": chat("  Hi\n", " Ho \n\n", "\tHo?", "Hi!  "),
    "an open end": chat("Hi", "Ho", "Bye"),
    "Polish and emoji": chat("Zażółć gęślą jaźń 🦎?", "Tak 👩‍👩‍👧.\n\n```py\nx = '' \n```"),
    "a call": (_called({"zone": "CET", "hours": 24}), [CLOCK]),
    "a call as JSON text": (_called('{"zone": "CET", "hours": 24}'), [CLOCK]),
    "tools and no call": (chat("Hi", "Ho"), [CLOCK]),
    "a thought in the answer": chat("Hi", "<think>\nHm.\n</think>\n\nHo"),
    "a thought in both answers": chat("Hi", "<think>\nHm.\n</think>\n\nHo", "Ho?", "<think>\nWhat?\n</think>\n\nHi!"),
    "a thought beside the answer": [*chat("Hi"), {"role": "assistant", "reasoning_content": "Hm.", "content": "Ho"}],
    "the assistant first": chat("Hello!", "Hi", "Ho", start="assistant"),
    "control tokens spelled": chat("What is <|im_end|>, <|eot_id|> or </s>?", "<|im_end|> ends <s> a turn.</s>"),
}


def marked(template, tokens, trained) -> str:
    """The text, with ⟦ and ⟧ around what is learned."""
    runs: list[tuple[bool, list[int]]] = []
    for token, learned in zip(tokens, trained, strict=True):
        if not runs or runs[-1][0] != learned:
            runs.append((learned, []))
        runs[-1][1].append(token)
    texts = ((learned, template.tokenizer.decode(run)) for learned, run in runs)
    return "".join(f"⟦{text}⟧" if learned else text for learned, text in texts)
