"""Everything that can go wrong at or below the engine border.

BackendError
├── ModelFileError      the file is missing, cut short, or not what it claims to be
├── UnsupportedModel    the file is sound, but this engine cannot run it
├── MissingExtra        a Python package that this engine needs is not installed
├── OutOfMemory         weights, KV cache or compute buffers do not fit
├── StorageFailed       the disk has no room for what a job keeps there, or fails
├── InvalidJob          a parameter, schema or grammar cannot be honoured
├── PromptTooLong       more prompt tokens than the served context holds
├── EngineBusy          the queue of this engine is full
├── DeadlineExceeded    the job's own deadline passed before it ended
└── EngineDied          the child process ended while it still owed an answer
"""

from __future__ import annotations

from typing import Literal

DeathStep = Literal["self-test", "load", "prefill", "decode"]


class BackendError(Exception):
    """Root of this package's errors: `message` says what is wrong, `hint` what to do about it."""

    retryable = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        return type(self).__name__


class ModelFileError(BackendError):
    """The model file is missing, unreadable, truncated or contradicts itself."""


class UnsupportedModel(BackendError):
    """The file is sound, but this engine lacks its architecture or tensor types."""


class MissingExtra(BackendError):
    """A package that this engine needs is not installed; the hint names the pip command."""


class OutOfMemory(BackendError):
    """Weights, KV cache or compute buffers do not fit in what the device has left."""


class StorageFailed(BackendError):
    """The disk fails, or has no room in the share that was granted, for what a running job keeps there."""


class InvalidJob(BackendError):
    """A sampling parameter, schema, regex or grammar of the job cannot be honoured."""


class PromptTooLong(BackendError):
    """The prompt needs more tokens than the served context holds."""

    def __init__(self, prompt_tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the served context holds {context}",
            "shorten the prompt, or load the model with a larger context (--ctx)",
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class EngineBusy(BackendError):
    """Too many jobs wait already."""

    retryable = True


class DeadlineExceeded(BackendError):
    """The job's deadline passed before it ended."""


class EngineDied(BackendError):
    """The engine process ended while it still owed an answer; the next request starts a new one.

    `cause` is the signal's name or the exit status, `step` what it was doing: self-test, load, prefill or decode.
    """

    retryable = True

    def __init__(self, message: str, hint: str = "", *, cause: str = "", step: DeathStep = "load") -> None:
        super().__init__(message, hint)
        self.cause = cause
        self.step: DeathStep = step


_KINDS: dict[str, type[BackendError]] = {
    cls.__name__: cls
    for cls in (
        BackendError,
        ModelFileError,
        UnsupportedModel,
        MissingExtra,
        OutOfMemory,
        StorageFailed,
        InvalidJob,
        EngineBusy,
        DeadlineExceeded,
        EngineDied,
    )
}


def rebuild(kind: str, message: str, hint: str, numbers: tuple[int, ...] = ()) -> BackendError:
    """Make the error again that the child described; the inverse of `kind`, `message` and `hint`."""
    if kind == "PromptTooLong" and len(numbers) == 2:
        return PromptTooLong(*numbers)
    return _KINDS.get(kind, BackendError)(message, hint)
