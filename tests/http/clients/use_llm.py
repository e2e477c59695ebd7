"""llm, the command of that name."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import BASE_URL, ENOUGH, FEW, HELLO, MODEL, report

HOME = Path(tempfile.mkdtemp())
(HOME / "extra-openai-models.yaml").write_text(
    f"- {{model_id: here, model_name: {MODEL}, api_base: '{BASE_URL}', supports_tools: true, supports_schema: true}}\n"
)


def llm(*words, tokens=FEW):
    command = [Path(sys.executable).with_name("llm"), "-m", "here", "-o", "max_tokens", str(tokens), *words]
    env = {**os.environ, "LLM_USER_PATH": str(HOME), "OPENAI_API_KEY": "none"}
    ended = subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr[-500:]
    return ended.stdout


def chat():
    assert llm(HELLO, "--no-stream").strip()


def stream():
    assert llm(HELLO).strip()


def tools():
    function = "def weather(city: str) -> str:\n    '''The weather of a city'''\n    return 'sunny in ' + city\n"
    assert "It is sunny" in llm(HELLO, "--functions", function, "--no-stream", tokens=ENOUGH)


def structured_output():
    # llm's own short form ("sunny bool") leaves the object open, and a small base may add properties without end.
    form = {"type": "object", "properties": {"sunny": {"type": "boolean"}}, "required": ["sunny"]}
    schema = json.dumps({**form, "additionalProperties": False})
    assert set(json.loads(llm(HELLO, "--schema", schema, "--no-stream", tokens=ENOUGH))) == {"sunny"}


report("llm", chat=chat, stream=stream, tools=tools, structured_output=structured_output)
