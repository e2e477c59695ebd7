"""The shortened templates of the tests render as the published ones, where llama.cpp's source is at hand."""

import copy
from pathlib import Path

import pytest
from text.conversations import CONVERSATIONS
from text.published_templates import PUBLISHED

from kameleon.errors import DataError
from kameleon.text import ChatTemplate

FOLDER = Path.home() / ".cache/kameleon-llama.cpp"
WITH_TOOLS_IN_OTHER_WORDS = ("Llama 3.2", "Qwen2.5", "Qwen3", "Mistral")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in PUBLISHED.items() if one.original])
def test_a_shortened_template_renders_as_the_original(name):
    made = PUBLISHED[name].make()
    sources = list(FOLDER.glob(f"**/models/templates/{PUBLISHED[name].original}.jinja"))
    if not sources:
        pytest.skip("llama.cpp's source is not in ~/.cache/kameleon-llama.cpp (see tests/README.md)")
    tokenizer = copy.deepcopy(made.tokenizer)
    tokenizer.chat_template = sources[0].read_text("utf-8")
    original = ChatTemplate(tokenizer)
    for title, one in CONVERSATIONS.items():
        messages, tools = one if isinstance(one, tuple) else (one, [])
        for count in range(1, len(messages) + 1):
            for with_prompt in (False, True):
                if not tools or name not in WITH_TOOLS_IN_OTHER_WORDS:
                    ours, theirs = (
                        _rendered(template, messages[:count], tools, with_prompt) for template in (made, original)
                    )
                    assert ours == theirs, (title, count)
                ours, theirs = (_rendered(template, messages[:count], [], with_prompt) for template in (made, original))
                assert ours == theirs, (title, count)


def _rendered(template, messages, tools, with_prompt):
    try:
        return template.render(messages, tools, add_generation_prompt=with_prompt)
    except DataError:
        return "refused"
