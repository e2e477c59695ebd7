"""Clients as people install them, each in a folder of its own, against a server; docs/clients.md holds what worked."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from clients.programs import ABILITIES, CLIENTS
from served import serving
from tiny import save_base

import kameleon
from kameleon.settings import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>\n{{ c['function'] | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
}


def make_base(folder):
    """The tiny random Llama with a long context, and a template that knows tools."""
    save_base(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1 << 15}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def rows():
    """Greetings; questions with a tool, which is called; results of the tool, which end in a sentence."""
    chance = random.Random(0)

    def words():
        return "".join(chance.choices("abcdefghij klmnop.", k=chance.randrange(3, 40)))

    def text(role, content):
        return {"role": role, "content": content}

    for number in range(240):
        begun = [text("system", words())] if chance.random() < 0.4 else []
        begun.append(text("user", chance.choice(["Hello there", words()])))
        city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tool = {"type": "function", "function": {"name": "weather", "description": words(), "parameters": city}}
        result = {**text("tool", chance.choice(["sunny in Paris", words()])), "tool_call_id": "1"}
        match number % 3:
            case 0:
                yield {"messages": [*begun, text("assistant", "Hello to you.")]}
            case 1:
                yield {"messages": [*begun, CALL], "tools": [tool]}
            case _:
                yield {"messages": [*begun, CALL, result, text("assistant", "It is sunny.")], "tools": [tool]}


@pytest.fixture
def polite(tmp_path):
    """A base with an adapter that greets, calls the tool that it is told of, and answers when it has the result."""
    make_base(tmp_path / "tiny")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    base = kameleon.load(str(tmp_path / "tiny"), dtype=torch.float32)
    base.train(tmp_path / "rows.jsonl", "polite", recipe=Recipe(rank=32, alpha=64, epochs=3, learning_rate=0.005))
    return tmp_path / "tiny"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_ability_of_every_client_works_and_the_page_says_so(polite):
    for client in CLIENTS:
        if missing := client.install():
            pytest.skip(f"{client.name} cannot be installed: {missing}")
    with serving(polite) as served:
        reports = {client.name: client.run(f"{served.address}/v1", "polite") for client in CLIENTS}
    for client in CLIENTS:
        expected = {ability: True for ability in ABILITIES if ability not in client.lacks}
        assert reports[client.name]["results"] == expected, client.name
    lines = [f"| {' | '.join(('client', 'version', *(it.replace('_', ' ') for it in ABILITIES)))} |", "|---" * 7 + "|"]
    for client in CLIENTS:
        ticks = ("–" if ability in client.lacks else "✓" for ability in ABILITIES)
        lines.append(f"| {client.name} | {reports[client.name]['version']} | {' | '.join(ticks)} |")
    table = "\n".join([*lines, "<!-- end of the table -->"])
    PAGE.write_text(re.sub(r"\| client \|.*?<!-- end of the table -->", lambda _: table, PAGE.read_text(), flags=re.S))


def test_the_page_has_a_row_and_an_example_for_each_client():
    page = PAGE.read_text()
    for client in CLIENTS:
        assert f"\n| {client.name} | " in page
        assert f"(../tests/http/clients/{client.script})" in page
