"""What is learned of a dozen conversations on published templates, as tokens and marks that were written down once.

`python tests/text/test_golden_conversations.py` writes them anew; the difference is for a person to read.
"""

import datetime
import hashlib
import json
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from text.conversations import CONVERSATIONS, marked
from text.published_templates import PUBLISHED

from kameleon.data import Record, encode_records

FILE = Path(__file__).with_name("golden_conversations.json")


def encoded(name, conversation):
    """The examples of one conversation: their marked text and a hash of tokens and marks; or why it is refused."""
    messages, tools = conversation if isinstance(conversation, tuple) else (conversation, [])
    template = PUBLISHED[name].make().on(datetime.date(2026, 12, 1))
    found = encode_records([Record(1, {"messages": messages, "tools": tools})], template)
    if found.refused:
        return [f"refused: {fault.reason}" for fault in found.refused]
    return [
        {
            "text": marked(template, example.tokens, example.trained),
            "sha256": hashlib.sha256(json.dumps([example.tokens, example.trained]).encode()).hexdigest()[:16],
        }
        for example in found.examples
    ]


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_what_is_learned_of_a_conversation_does_not_change_by_accident(name):
    golden = json.loads(FILE.read_text("utf-8"))[name]
    assert {title: encoded(name, one) for title, one in CONVERSATIONS.items()} == golden


if __name__ == "__main__":
    every = {name: {title: encoded(name, one) for title, one in CONVERSATIONS.items()} for name in PUBLISHED}
    FILE.write_text(json.dumps(every, ensure_ascii=False, indent=1) + "\n", "utf-8")
