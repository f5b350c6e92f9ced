"""What can go wrong, each with a sentence for the person, a hint, an HTTP status and an exit code.

LocalaiError
├── BadRequest             400  a field is wrong, or cannot be honoured by this model
│   └── ContextExceeded    400  prompt longer than the served context; carries both numbers
├── Unauthorized           401  a token is needed, or the one given is not known
├── Forbidden              403  this way in may not do that (Host, Origin, scope)
├── NotFound               404  no such conversation or route object
│   └── UnknownModel       404  no such model; names the nearest
├── TooSlow                408  the body took too long to arrive
├── Conflict               409  the thing is in use, or exists already
├── TooLarge               413  the body is over the limit
├── ModelBroken            422  the model's file or template is damaged, or no engine runs it
├── TooBusy                429  the queue is full
├── EngineFailed           502  the engine died or misbehaved; a retry starts a new one
├── UpstreamFailed         502  another machine does not answer, or not as it should
├── Unavailable            503  stopping, or the breaker is open
├── OutOfResources         507  memory or disk does not suffice
├── MemoryUnusable         500  the file of the memory is damaged, locked, or from a newer version
├── DeadlinePassed         504  the request's own deadline
├── EnergyBudgetSpent      429  the day's joules are spent
├── SensorFault                 an energy sensor cannot be read; figures become null
├── DaemonUnreachable           no daemon answers, or it did not start
├── ConfigError                 a setting is wrong; exit code 2
└── DownloadFailed         502  the hub, the network or a digest
"""

from __future__ import annotations

from backends import errors as backend
from memory_store import errors as memory


class LocalaiError(Exception):
    """Root of the tree. `code` is the machine-readable name in API errors."""

    status = 500
    exit_code = 1
    code = "internal_error"
    type = "server_error"
    retry_after: int | None = None

    def __init__(self, message: str, hint: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param


class BadRequest(LocalaiError):
    status = 400
    exit_code = 2
    code = "invalid_request"
    type = "invalid_request_error"


class ContextExceeded(BadRequest):
    exit_code = 1
    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int) -> None:
        error = backend.PromptTooLong(prompt_tokens, context)
        super().__init__(error.message, error.hint, param="messages")
        self.prompt_tokens = prompt_tokens
        self.context = context


class Unauthorized(LocalaiError):
    status = 401
    code = "unauthorized"
    type = "authentication_error"


class Forbidden(LocalaiError):
    status = 403
    code = "forbidden"
    type = "permission_error"


class NotFound(LocalaiError):
    status = 404
    code = "not_found"
    type = "invalid_request_error"


class UnknownModel(NotFound):
    code = "model_not_found"

    def __init__(self, name: str, nearest: str | None) -> None:
        hint = f"did you mean {nearest!r}? " if nearest else ""
        super().__init__(f"no model named {name!r}", hint + "`localai models list` shows all", param="model")


class Conflict(LocalaiError):
    status = 409
    code = "conflict"
    type = "invalid_request_error"


class TooSlow(LocalaiError):
    status = 408
    code = "body_too_slow"
    type = "invalid_request_error"


class TooLarge(LocalaiError):
    status = 413
    code = "body_too_large"
    type = "invalid_request_error"


class ModelBroken(LocalaiError):
    status = 422
    code = "model_broken"
    type = "invalid_request_error"


class TooBusy(LocalaiError):
    status = 429
    code = "too_busy"
    type = "rate_limit_error"
    retry_after = 1


class EngineFailed(LocalaiError):
    status = 502
    code = "engine_failed"


class UpstreamFailed(LocalaiError):
    status = 502
    code = "upstream_failed"


class Unavailable(LocalaiError):
    status = 503
    code = "unavailable"
    type = "unavailable_error"
    retry_after = 5


class OutOfResources(LocalaiError):
    status = 507
    code = "out_of_resources"


class MemoryUnusable(LocalaiError):
    code = "memory_unusable"


class DeadlinePassed(LocalaiError):
    status = 504
    code = "deadline_passed"


class EnergyBudgetSpent(LocalaiError):
    status = 429
    code = "energy_budget_spent"
    type = "rate_limit_error"


class SensorFault(LocalaiError):
    code = "sensor_fault"


class DaemonUnreachable(LocalaiError):
    code = "daemon_unreachable"


class ConfigError(LocalaiError):
    exit_code = 2
    code = "bad_config"


class DownloadFailed(LocalaiError):
    status = 502
    code = "download_failed"


_FROM_BACKEND: dict[type[backend.BackendError], type[LocalaiError]] = {
    backend.ModelFileError: ModelBroken,
    backend.UnsupportedModel: ModelBroken,
    backend.MissingExtra: BadRequest,
    backend.OutOfMemory: OutOfResources,
    backend.StorageFailed: OutOfResources,
    backend.InvalidJob: BadRequest,
    backend.EngineBusy: TooBusy,
    backend.DeadlineExceeded: DeadlinePassed,
    backend.EngineDied: EngineFailed,
}


def from_backend(error: backend.BackendError) -> LocalaiError:
    """The one seam where engine errors become the daemon's."""
    if isinstance(error, backend.PromptTooLong):
        return ContextExceeded(error.prompt_tokens, error.context)
    return _FROM_BACKEND.get(type(error), EngineFailed)(error.message, error.hint)


_FROM_MEMORY: dict[type[memory.MemoryStoreError], type[LocalaiError]] = {
    memory.InvalidMemory: BadRequest,
    memory.NoSuchMemory: NotFound,
    memory.WriteRefused: Forbidden,
    memory.StoreBusy: Unavailable,
    memory.DiskFull: OutOfResources,
}


def from_memory(error: memory.MemoryStoreError) -> LocalaiError:
    """The one seam where the memory's errors become the daemon's."""
    return _FROM_MEMORY.get(type(error), MemoryUnusable)(error.message, error.hint)
