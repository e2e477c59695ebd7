"""Chat templates are strangers' programs: each ends in limited time and memory, and then others are rendered."""

import datetime
import os

import pytest
from data.chat_templates import CHATML, make_tokenizer

from kameleon.errors import DataError, TemplateLimitError
from kameleon.text import ChatTemplate, rendering
from kameleon.text.rendering import render

HI = [{"role": "user", "content": "Hi"}]
LOOP = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
TWICE = "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(99) }}"
NESTED = "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|tojson }}"
TOO_LONG = {
    "nested loops": LOOP,
    "loops over one list": "{% set l = range(99999)|list %}" + "{% for i in l %}" * 4 + "{% endfor %}" * 4,
    "a macro that calls itself twice": TWICE,
    "a power": "{{ 7 ** (10 ** 9) }}",
    "a power of a variable": "{{ messages|length ** (10 ** 9) ~ 3 ** (10 ** messages|length * 9 ** 9) }}",
    "a rounded number": "{{ (5|round(10 ** 9, 'ceil')) }}",
}
TOO_LARGE = {
    "text multiplied": "{{ 'a' * 10 ** 10 }}",
    "a list multiplied": "{{ ([1] * 10 ** 10)|length }}",
    "text doubled": "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "lists in lists": NESTED,
    "centred": "{{ 'a'|center(10 ** 10) }}",
    "filled": "{{ 'a'.ljust(10 ** 10) }}",
    "formatted": "{{ '%5000000000d'|format(1) }}",
    "formatted by a method": "{{ '{:>5000000000}'.format(1) }}",
    "replaced": "{{ ('a' * 10 ** 6)|replace('a', 'a' * 10 ** 6) }}",
    "joined": "{{ range(99999)|join('a' * 10 ** 6) }}",
    "indented": "{{ 'a\n' * 9|indent(10 ** 10) }}{{ ('a\nb')|indent(10 ** 10) }}",
    "blind text": "{{ lipsum(n=10 ** 6, min=10 ** 3, max=10 ** 4) }}" * 9,
    "bytes": "{{ (1).to_bytes(10 ** 10, 'big')|length }}",
    "written": "{% set t = 'a' * 10 ** 6 %}{% for i in range(99999) %}{{ t }}{% endfor %}",
    "more than is taken": "{{ 'a' * 10 ** 8 }}",
}
REFUSED = {
    "a macro without an end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a long range": "{{ range(10 ** 9)|list }}",
    "deep brackets": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "Python's inside": "{{ ''.__class__.__mro__ }}{% set n = namespace() %}{% set n.__class__ = 1 %}",
    "an error of Python": "{{ 1 / 0 }}",
    "no template": "{% for %}",
}


@pytest.fixture
def impatient(monkeypatch):
    """Templates have a second in place of five."""
    monkeypatch.setattr(rendering, "_CPU_S", 0)
    rendering._end_all()
    yield
    rendering._end_all()


def give(source):
    return render(source, {"messages": HI}, date=None)


def test_a_template_without_an_end_is_stopped_once_and_the_next_conversation_is_rendered(impatient):
    template = ChatTemplate(make_tokenizer("{% if messages|length > 1 %}" + LOOP + "{% endif %}" + CHATML))
    whole = template.render(HI)
    with pytest.raises(TemplateLimitError, match="takes more than 0 s"):  # once, not for each form of the messages
        template.render(HI * 2)
    assert template.render(HI) == whole


@pytest.mark.parametrize("name", ["text multiplied", "centred", "formatted"])
def test_a_template_that_takes_all_memory_is_stopped(name):
    with pytest.raises(TemplateLimitError, match="MiB of memory"):
        give(TOO_LARGE[name])
    assert give("{{ messages[0].content }}") == "Hi"


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_raises_is_its_refusal(name):
    with pytest.raises(DataError, match="refuses these messages"):
        give(REFUSED[name])


@pytest.mark.slow
@pytest.mark.parametrize("source", [*TOO_LONG.values(), *TOO_LARGE.values()], ids=[*TOO_LONG, *TOO_LARGE])
def test_every_way_to_take_time_or_memory_ends_in_an_error(source, impatient):
    with pytest.raises((TemplateLimitError, DataError)):
        give(source)
    assert give("{{ messages[0].content }}") == "Hi"


def test_a_template_sees_values_as_they_came():
    values = {"a": ["ż\ud800", 1.5, None, True, {"b": "<&'\""}], "day": datetime.date(2024, 1, 2)}
    source = "{% generation %}{{ a[4]|tojson }}{% endgeneration %}{{ a }}{{ day }}"
    assert render(source, values, date=None) == '{"b": "<&\'\\""}' + str(values["a"]) + "<date>"


def test_a_fork_renders_with_a_process_of_its_own():
    give("a")
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if [give(f"{i}") for i in range(100)] == [str(i) for i in range(100)] else 1)
        finally:
            os._exit(2)
    assert [give(f"b{i}") for i in range(100)] == [f"b{i}" for i in range(100)]
    assert os.waitpid(child, 0)[1] == 0
