"""Where prompts are rendered: short ones at once, what takes longer in a thread, and either way to the same text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from backends.contract import EngineInfo, Load
from backends.echo import EchoEngine
from localai.errors import ModelBroken
from localai.messages import Message, TurnRequest
from localai.rendering import is_brief, rendered

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
SLOW = "{% for i in range(30000) %}{% set x = i * i %}{% endfor %}" + PLAIN
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}{% endfor %}" + PLAIN


@pytest.fixture
def info(tmp_path: Path) -> EngineInfo:
    (tmp_path / "echo.txt").write_text("0\n")
    order = Load(backend="echo", path=str(tmp_path / "echo.txt"), n_ctx=512, n_seq=2, threads=1)
    return EchoEngine(order, lambda *_: None).info()


@pytest.mark.parametrize(
    ("source", "words", "brief"),
    [(PLAIN, 1, True), (PLAIN, 5000, True), (SLOW, 1, False)],
    ids=["short", "long", "slow"],
)
async def test_either_way_leads_to_the_same_text(info: EngineInfo, source: str, words: int, brief: bool) -> None:
    """A template that was slow once is never tried at once again."""
    request = TurnRequest(kind="chat", model="m", messages=(Message("user", "word " * words),))
    info = msgspec.structs.replace(info, chat_template=f"{source}{{# {words} #}}")
    assert await is_brief(info)
    for _ in range(2):
        _, pieces = await rendered(request, (), info, "be brief")
        assert "".join(piece.text for piece in pieces) == f"<system>be brief<user>{'word ' * words}"
        assert await is_brief(info) is brief


async def test_an_endless_template_ends_in_an_error(info: EngineInfo) -> None:
    request = TurnRequest(kind="chat", model="m", messages=(Message("user", "a"),))
    with pytest.raises(ModelBroken):
        await rendered(request, (), msgspec.structs.replace(info, chat_template=ENDLESS), None)
