"""One error in the words of each dialect. The path that was asked for tells the dialect; pure."""

from __future__ import annotations

from typing import Any

from localai.errors import LocalaiError

_ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: LocalaiError, path: str = "") -> dict[str, Any]:
    """The JSON body of `error` for whoever asked for `path`; OpenAI's shape where no dialect has its own."""
    if path.startswith("/api/") and not path.startswith("/api/v0/"):
        return ollama(error)
    return anthropic(error) if path.startswith("/v1/messages") else openai(error)


def openai(error: LocalaiError) -> dict[str, Any]:
    """OpenAI's shape, with the hint beside the message and, for a long prompt, both numbers."""
    body: dict[str, Any] = {
        "message": sentence(error),
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "hint": error.hint,
    }
    for extra in ("prompt_tokens", "context"):
        if hasattr(error, extra):
            body[{"prompt_tokens": "n_prompt_tokens", "context": "n_ctx"}[extra]] = getattr(error, extra)
    return {"error": body}


def ollama(error: LocalaiError) -> dict[str, Any]:
    """Ollama's shape, in answers and as a line of a stream."""
    return {"error": sentence(error)}


def anthropic(error: LocalaiError) -> dict[str, Any]:
    """Anthropic's shape, in answers and as an event. Its clients know a long prompt by the words."""
    kind = _ANTHROPIC.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    message = sentence(error)
    if hasattr(error, "prompt_tokens") and hasattr(error, "context"):
        message = f"prompt is too long: {error.prompt_tokens} tokens > {error.context} maximum. {error.hint}"
    return {"type": "error", "error": {"type": kind, "message": message}}


def sentence(error: LocalaiError) -> str:
    """What is wrong and what to do: most clients show one text alone."""
    return f"{error.message}. {error.hint}" if error.hint else error.message
