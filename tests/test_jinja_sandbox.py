"""Hostile and broken chat templates: each ends in an error, soon, and tells nothing."""

from __future__ import annotations

import time
from datetime import date

import pytest

from localai.errors import BadRequest, ModelBroken
from localai.jinja_sandbox import Program, TemplateOverrun
from localai.templates import ChatTemplate

DAY = date(2025, 3, 14)

HOSTILE = {
    "class walk": "{{ ''.__class__.__mro__ }}",
    "class walk by filter": "{{ [''] | map(attribute='__class__.__mro__') | list }}",
    "globals of a class": "{{ namespace.__init__.__globals__ }}",
    "format reaches attributes": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format map": "{{ '{a.__class__.__mro__}'.format_map({'a': ''}) }}",
    "changes the messages": "{{ messages.append(1) }}",
    "method not offered": "{{ 'x'.encode() }}",
    "huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "range beyond a word": "{% for i in range(2**70) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "folded repetition": "{{ 'a' * 10**9 }}",
    "repeated list": "{{ ([0] * 10**9) | length }}",
    "power": "{{ 9**9**9**9 }}",
    "power by factors": "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "doubling": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "doubling by tilde": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "doubling by lists": "{% set n = namespace(s=1) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}",
    "doubling by dicts": "{% set n = namespace(s=1) %}{% for i in range(60) %}"
    "{% set n.s = dict(a=n.s, b=n.s) %}{% endfor %}",
    "center": "{{ 'a'.center(10**9) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "nested format width": "{{ '{:>{}}'.format(1, 10**9) }}",
    "indent filter": "{{ 'a' | indent(10**9) }}",
    "json indent": "{{ [1] | tojson(indent=10**9) }}",
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "join": "{{ (('a' * 100000) | list) | join('b' * 100000) }}",
    "join method": "{{ ('b' * 100000).join(('a' * 100000) | list) }}",
    "kept slices": "{% set n = namespace(l=[]) %}{% set s = 'a' * 1000000 %}"
    "{% for i in range(99999) %}{% set n.l = n.l + [s[1:]] %}{% endfor %}",
    "literal text in a loop": "{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}",
    "literal text in a macro": "{% macro m() %}{% for i in range(99999) %}"
    + "a" * 100_000
    + "{% endfor %}{% endmacro %}{{ m() | length }}",
    "endless macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
    "deep expression": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "long sum": "{{ 1" + "+1" * 40_000 + " }}",
}
BROKEN = {
    "syntax": "{% if %}",
    "unclosed": "{% for m in messages %}",
    "unknown filter": "{{ 'a' | center(4) }}",
    "includes a file": "{% include '/etc/passwd' %}",
    "huge number": "{{ " + "9" * 5000 + " }}",
    "division": "{{ 1 // 0 }}",
    "too many blocks": "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
    "too long": "a" * 200_000,
    "prints a function": "{{ range }}",
    "prints a namespace": "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
}


def run(source: str, **variables: object) -> str:
    return Program(source).run({"messages": [], **variables}, today=DAY, seconds=0.3)


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_template_is_stopped(source: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateOverrun) as caught:
        run(source)
    assert time.thread_time() - began < 2
    assert caught.value.hint


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN.keys())
def test_broken_template_is_named_so(source: str) -> None:
    with pytest.raises(ModelBroken, match="chat template"):
        run(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.__class__ }}",
        "{% macro m() %}{% endmacro %}{{ m._environment }}",
        "{{ ''['__class__'] }}",
    ],
)
def test_inner_attributes_are_undefined(source: str) -> None:
    assert run(source) == ""


def test_hostile_template_never_becomes_a_chat_template() -> None:
    began = time.thread_time()
    with pytest.raises(ModelBroken):
        ChatTemplate(HOSTILE["nested loops"], "", "")
    assert time.thread_time() - began < 2


def test_refusal_carries_the_templates_words() -> None:
    with pytest.raises(BadRequest, match="roles must alternate") as caught:
        run("{{ raise_exception('roles must alternate') }}")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1, 2] | tojson(separators=(',', ':')) }}", "[1,2]"),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}", '{\n  "a": 2,\n  "b": 1\n}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{{ '<b>' + ('<i>' | safe) }}", "<b><i>"),
        ("{{ '<b>' | e }}", "&lt;b&gt;"),
        ("{{ strftime_now('%d %b %Y %H:%M') }}", "14 Mar 2025 00:00"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% generation %}x{% endgeneration %}", "x"),
        (
            "{{ ['a', 1, none] | join('-') }}{{ 'ab'[::-1] }}{{ '%s!' % 'hi' }}{{ 'a {}'.format('b') }}",
            "a-1-Nonebahi!a b",
        ),
        ("{{ 'a\nb' | indent(2) }}|{{ 'a\nb\n' | indent(2, true) }}", "a\n  b|  a\n  b\n"),
        ("{{ items | selectattr('k', 'equalto', 1) | map(attribute='v') | list | tojson }}", '["x"]'),
        ("{{ items | map(attribute='v') | tojson }}", '["x", "y"]'),
    ],
)
def test_what_templates_rely_on(source: str, text: str) -> None:
    assert run(source, items=[{"k": 1, "v": "x"}, {"k": 2, "v": "y"}]) == text


def test_a_long_conversation_is_no_attack() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ '</' + m.role + '>' }}{% endfor %}"
    turns = [{"role": "user", "content": " lorem ipsum" * 400}] * 3000
    assert len(Program(source).run({"messages": turns}, today=DAY)) == 3000 * (400 * 12 - 1 + 13)
