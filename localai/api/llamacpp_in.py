"""llama-server's own request bodies to `TurnRequest`. Unknown fields are ignored, known ones checked; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from localai.api.caller import Caller
from localai.api.openai_in import Count, ModelName, SamplingBody, plain_grammar
from localai.api.schemas import schema_grammar
from localai.errors import BadRequest
from localai.messages import TurnRequest

_MOST_NEIGHBOURS = 256
_MOST_PROMPTS = 64


class ExtraBody(BaseModel):
    """A file beside the one that is edited, or a part of it."""

    filename: str = ""
    text: str = ""


class CompletionBody(SamplingBody):
    """POST /completion."""

    prompt: str | list[Count | str] | list[list[Count]] = ""
    n_predict: int | None = None
    json_schema: dict[str, Any] | None = None
    n_probs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_fields: list[str] | None = None

    def each(self) -> list[CompletionBody]:
        """One body per prompt: a list of texts, or of lists of tokens, is several."""
        several = isinstance(self.prompt, list) and len(self.prompt) > 1
        if not several or any(isinstance(part, int) for part in self.prompt):
            return [self]
        if len(self.prompt) > _MOST_PROMPTS:
            message = f"`prompt` has {len(self.prompt)} entries"
            raise BadRequest(message, f"send at most {_MOST_PROMPTS}", param="prompt")
        return [self.model_copy(update={"prompt": part}) for part in self.prompt]

    def limit(self) -> int | None:
        """Tokens to predict; a negative number is no limit."""
        given = self.n_predict if self.n_predict is not None else self.max_tokens
        return given if given is not None and given >= 0 else None


class InfillBody(CompletionBody):
    """POST /infill. `prompt` is what was typed since the prefix."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: list[ExtraBody] = Field(default_factory=list)
    prompt: str = ""


class TokenizeBody(BaseModel):
    model: ModelName = ""
    content: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(BaseModel):
    model: ModelName = ""
    tokens: list[Count] = Field(default_factory=list)


class EmbeddingBody(BaseModel):
    """POST /embedding: a text, or a list of texts."""

    model: ModelName = ""
    content: str | Annotated[list[str], Field(min_length=1, max_length=2048)] = Field(
        validation_alias=AliasChoices("content", "input")
    )


class RerankBody(BaseModel):
    """POST /v1/rerank."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: ModelName = ""
    query: str
    documents: Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=2048)] = Field(
        validation_alias=AliasChoices("documents", "texts")
    )
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False

    def texts(self) -> list[str]:
        """The documents as texts. Raises BadRequest for one without."""
        found = [d if isinstance(d, str) else d.get("text") for d in self.documents]
        if any(not isinstance(text, str) for text in found):
            raise BadRequest("a document has no text", "send texts, or objects with `text`", param="documents")
        return [str(text) for text in found]


def completion_request(body: CompletionBody, caller: Caller) -> TurnRequest:
    """Continue a text, or tokens."""
    common: dict[str, Any] = body.common() | {"max_tokens": body.limit(), "n": 1}
    grammar = schema_grammar(body.json_schema) if body.json_schema else plain_grammar(body)
    logprobs = body.n_probs or None
    asked = TurnRequest(
        kind="completion", grammar=grammar, logprobs=logprobs, app=caller.app, trusted=caller.trusted, **common
    )
    if isinstance(body.prompt, str):
        return replace(asked, prompt=body.prompt)
    tokens = tuple(part for part in body.prompt if isinstance(part, int))
    if len(tokens) == len(body.prompt):
        return replace(asked, prompt_tokens=tokens)
    if len(body.prompt) == 1:
        return completion_request(body.model_copy(update={"prompt": body.prompt[0]}), caller)
    raise BadRequest("`prompt` mixes texts and tokens", "send texts, or tokens alone", param="prompt")


def infill_request(body: InfillBody, caller: Caller) -> TurnRequest:
    """Fill the middle, before anything that is not typed right now."""
    if len(body.input_extra) > _MOST_NEIGHBOURS:
        message = f"`input_extra` has {len(body.input_extra)} entries"
        raise BadRequest(message, f"send at most {_MOST_NEIGHBOURS}", param="input_extra")
    return replace(
        completion_request(body, caller),
        prompt=body.input_prefix + body.prompt,
        suffix=body.input_suffix,
        neighbours=tuple((extra.filename or "snippet", extra.text) for extra in body.input_extra),
        priority=body.priority or "interactive",
    )
