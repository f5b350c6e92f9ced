"""One frozen Config: default < file (config.toml in the home) < environment (LOCALAI_*) < flag. Read only here."""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from localai.errors import ConfigError

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*$", re.IGNORECASE)
_SIZES = ("ram", "vram", "max_body", "kv_ram", "kv_ssd", "page_ram", "page_ssd")
_AUTO_OR_FLOAT = "float | str"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings. Durations are seconds, sizes bytes (in files and variables also "4G")."""

    home: Path
    """Folder of all state: settings, models, databases, KV cache, socket and logs."""
    host: str = "127.0.0.1"
    """Address of the TCP listener; a loopback name listens on 127.0.0.1 and ::1."""
    port: int = 8642
    """TCP port; 0 switches TCP off, so that only the Unix socket remains."""
    ollama_port: int = 0
    """A second TCP port for programs that expect Ollama at its usual one, 11434; 0 is none."""
    default_model: str = "starter"
    """Model of a request that names none."""
    system: str = ""
    """System prompt of `localai ask` and of new chats; where empty, what the catalogue or the model's template says."""
    model_aliases: tuple[str, ...] = ("claude-*=default",)
    """Other names of models, as NAME=MODEL; a * in NAME stands for anything."""
    backend: str = "auto"
    """llama.cpp, onnx, mlx (also as NAME:MODE), or auto: what the router finds best here."""
    policy: str = "balanced"
    """How auto chooses: fastest, balanced (close to the fastest, for less memory
    and without loading), or frugal (least joules)."""
    auto_least: float = 0.9
    """Model auto takes the cheapest model that should be right this often, as a share of the most accurate one's."""
    auto_samples: int = 2
    """Most further samples by which model auto checks a short answer of a model it is not sure of; 0 for no checks."""
    ctx: int = 0
    """Served context in tokens; 0 is min(trained, what fits, 32768)."""
    ram: int = 0
    """Memory that all engines together may take, in bytes; 0 is what is free less a margin."""
    vram: int = 0
    """GPU memory that an engine may take, in bytes; 0 is all there is."""
    paging: str = "auto"
    """auto: a model larger than the memory left is paged from disk; off: it is refused."""
    threads: int = 0
    """Most threads of an engine; 0 is the number of usable cores."""
    kv_type: str = "auto"
    """Type of the KV cache: f16, q8_0 or q4_0; auto is f16 where the wanted context fits so, else q8_0, else q4_0."""
    kv_loss: float = 2.0
    """Percent of perplexity that a KV type may cost to be taken by auto: q8_0 unless it was measured to cost more, q4_0
    only where it was measured to cost less."""
    kv_ram: int = 512 * 2**20
    """RAM for KV blocks outside the engines' own cells, of all engines together, in bytes; 0 keeps none there."""
    kv_ssd: int = 8 * 2**30
    """Disk space for KV blocks, at most half of what is free, in bytes; 0 keeps none there."""
    kv_trace: str = ""
    """File that records what prompts have in common, as salted hashes and without text, for judging what the KV cache
    keeps (which must be on); where empty, nothing is recorded."""
    speculation: str = "auto"
    """Who guesses tokens ahead, which the model then verifies: auto (whoever is measured to pay, where the text stays
    the same bit by bit), lookup (the text so far, wherever it repeats), draft (a draft model), or off."""
    repetition_stop: str = "on"
    """on ends an answer that has repeated the same few tokens, and nothing else, for 512 tokens, and says so; off lets
    it go on to its limit."""
    draft: str = ""
    """Small model of the same vocabulary that guesses for the default model; where empty, the catalogue's `draft`."""
    page_ram: int = 512 * 2**20
    """RAM for keys and values with `onnx:paged`, which keeps the rest of a long context on disk, in bytes."""
    page_ssd: int = 8 * 2**30
    """Disk space for that, at most half of what is free, in bytes."""
    page_tokens: int = 0
    """Tokens of a paged context that each new token attends to: 0 as many as fit page_ram, -1 all (exact, slow)."""
    gpu_layers: int = -1
    """Layers on the GPU where the engine has one; -1 is all."""
    rpc: tuple[str, ...] = ()
    """RPC workers of llama.cpp on other machines, as host:port, that every model on llama.cpp is spread over."""
    queue: int = 256
    """Requests that may be under way or wait for one model; more are answered with 429. One program may have half."""
    keep_alive: float | str = "auto"
    """Seconds that an idle model stays loaded; negative is for ever. auto learns it from the pauses between uses (five
    minutes until it knows some), and loads a model shortly before a use that can be foreseen."""
    calibrate: int = 1
    """1 measures every engine with each model in use, once per device, while nothing else runs; 0 leaves it."""
    cpu_watts: float = 0.0
    """Watts that one busy core takes beyond idle, where no sensor can say; 0 takes what is typical."""
    power_cap: float = 0.0
    """Watts beyond idle that engines may draw, by resting between steps; 0 for no cap."""
    on_battery: str = "same"
    """same, or frugal: on battery, least joules decide among engines."""
    battery_model: str = ""
    """On battery with frugal, the model of a request that names none; where empty, the default one."""
    battery_joules: float = 0.0
    """On battery with frugal, joules after which an answer ends; 0 for no limit."""
    max_joules_per_day: float = 0.0
    """Joules that answers may take from midnight to midnight; 0 for no limit."""
    tariff: float = 0.0
    """Price of a kilowatt-hour, for `localai energy`; 0 leaves cost out."""
    currency: str = ""
    """What the tariff is in, as EUR."""
    carbon: float = 0.0
    """Grams of CO2 per kilowatt-hour, for `localai energy`; 0 leaves CO2 out."""
    otlp: str = ""
    """Address of an OpenTelemetry collector (OTLP over HTTP) that gets one span per query, figures only; where empty,
    nothing is sent. Needs the extra `otel`."""
    memory: str = "default"
    """Namespace of the memory that `localai ask` and the chat recall from; where empty, they recall nothing."""
    memory_tokens: int = 512
    """Most tokens of recalled memories in one turn, and never more than a quarter of the context."""
    memory_embedder: str = ""
    """Embedding model of the memory; where empty, the small one that is built in. When it changes, vectors are made
    anew in the background; until then words find what has none."""
    memory_encrypted: int = 0
    """1 encrypts the memory's file, with a key in the OS keyring, and keeps its indexes off the disk; to be set before
    the first memory. Needs the extra `encryption`."""
    memory_tier: str = "int8"
    """int8, or binary: the vector index of more than 8,000 memories takes a third of the memory, six times the time."""
    answer_cache: str = "off"
    """off, greedy or always: answer a question that asks what was asked before from the answer given then; greedy does
    so at temperature 0 alone. It says so each time."""
    answer_cache_entries: int = 2000
    """Most answers that are kept for that."""
    max_body: int = 20 * 2**20
    """Largest request body in bytes."""
    body_timeout: float = 60.0
    """Seconds that the head of a request, and then its body, may take to arrive."""
    engine_timeout: float = 120.0
    """Seconds without any sign of life after which an engine that owes an answer is killed; 0 for never."""
    tokens: str = "optional"
    """optional or required: whether a program needs a token to come over TCP. Where `host` is not loopback, all do."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted beside the loopback ones."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins that may call the API, as https://example.org."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine reaches the TCP port."""
        return self.host in ("127.0.0.1", "localhost", "::1")

    @property
    def socket(self) -> Path:
        return self.home / "run" / "localai.sock"

    @property
    def kv_folder(self) -> Path:
        return self.home / "cache" / "kv"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def daemon_log(self) -> Path:
        return self.logs / "daemon.log"


def default_home(environment: dict[str, str] | None = None) -> Path:
    """$LOCALAI_HOME, else the platform's folder for application data."""
    value = (os.environ if environment is None else environment).get("LOCALAI_HOME")
    if value:
        return Path(value).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("localai")


def load(flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> Config:
    """The effective settings. Raises ConfigError that names the source, the key and what was expected."""
    environment = dict(os.environ) if environment is None else environment
    config = Config(home=default_home(environment))
    file = config.home / "config.toml"
    if file.is_file():
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"config.toml cannot be read: {error}", "mend or remove config.toml") from error
        config = _apply(config, values, "config.toml", spelled="{}")
    prefixed = {k[8:].lower(): v for k, v in environment.items() if k.startswith("LOCALAI_")}
    known = {f.name for f in fields(Config)} - {"home"}
    config = _apply(config, {k: v for k, v in prefixed.items() if k in known}, "the environment", spelled="LOCALAI_{}")
    given = {k: v for k, v in (flags or {}).items() if v is not None}
    return _check(_apply(config, given, "the command line", spelled="--{}"))


def size_of(text: str) -> int | None:
    """Bytes of a size such as 4G or 512MiB; None where it is no size."""
    match = _SIZE.match(text)
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match else None


def _apply(config: Config, values: dict[str, Any], source: str, *, spelled: str) -> Config:
    kinds = {f.name: str(f.type) for f in fields(Config)}
    changed: dict[str, Any] = {}
    for key, value in values.items():
        name = spelled.format(key.upper() if source == "the environment" else key)
        if key not in kinds or key == "home":
            known = ", ".join(sorted(set(kinds) - {"home"}))
            raise ConfigError(f"{source} has an unknown setting {name!r}", f"known settings: {known}")
        changed[key] = _convert(value, kinds[key], name, source, size=key in _SIZES)
    return replace(config, **changed)


def _convert(value: Any, kind: str, name: str, source: str, *, size: bool) -> Any:
    expected = "a size such as 4G" if size else kind.replace("| str", "or auto")
    error = ConfigError(f"{name} in {source} is {value!r}", f"expected {expected}")
    if size and isinstance(value, str):
        count = size_of(value)
        if count is None:
            raise error
        return count
    if kind.startswith("tuple"):
        items = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(v, str) for v in items):
            raise error
        return tuple(items)
    if kind == _AUTO_OR_FLOAT and value == "auto":
        return value
    kind = kind.partition(" ")[0]
    target: type = {"int": int, "float": float, "str": str}[kind]
    if isinstance(value, bool) or (not isinstance(value, str) and target is str):
        raise error
    try:
        return target(value) if not (target is int and isinstance(value, float)) else _reject(error)
    except (TypeError, ValueError) as cause:
        raise error from cause


def _reject(error: ConfigError) -> Any:
    raise error


def _check(config: Config) -> Config:
    for worker in config.rpc:
        host, _, port = worker.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"rpc has the worker {worker!r}", "expected host:port, as 192.168.1.20:50052")
    choices = {
        "kv_type": ("auto", "f16", "q8_0", "q4_0"),
        "repetition_stop": ("on", "off"),
        "speculation": ("auto", "off", "lookup", "draft"),
        "log_level": ("debug", "info", "warning", "error"),
        "policy": ("balanced", "fastest", "frugal"),
        "on_battery": ("same", "frugal"),
        "answer_cache": ("off", "greedy", "always"),
        "paging": ("auto", "off"),
        "tokens": ("optional", "required"),
        "memory_tier": ("int8", "binary"),
    }
    for key, allowed in choices.items():
        if getattr(config, key) not in allowed:
            raise ConfigError(f"{key} is {getattr(config, key)!r}", f"expected one of: {', '.join(allowed)}")
    limits = {
        "port": (0, 65535),
        "ollama_port": (0, 65535),
        "auto_least": (0.0, 1.0),
        "auto_samples": (0, 16),
        "ctx": (0, 2**24),
        "ram": (0, 2**50),
        "vram": (0, 2**50),
        "kv_ram": (0, 2**50),
        "kv_ssd": (0, 2**60),
        "kv_loss": (0.0, 1000.0),
        "page_ram": (2**20, 2**50),
        "page_ssd": (0, 2**60),
        "page_tokens": (-1, 2**24),
        "threads": (0, 1024),
        "gpu_layers": (-1, 10_000),
        "memory_tokens": (0, 2**20),
        "memory_encrypted": (0, 1),
        "answer_cache_entries": (1, 20_000),
        "queue": (2, 100_000),
        "keep_alive": (-math.inf, math.inf),  # NaN is in no range
        "cpu_watts": (0.0, 1000.0),
        "power_cap": (0.0, 1e5),
        "battery_joules": (0.0, 1e12),
        "max_joules_per_day": (0.0, 1e12),
        "tariff": (0.0, 1e6),
        "carbon": (0.0, 1e5),
        "max_body": (1024, 2**40),
        "body_timeout": (0.1, 86_400.0),
        "engine_timeout": (0.0, 86_400.0),
    }
    for key, (low, high) in limits.items():
        if getattr(config, key) != "auto" and not low <= getattr(config, key) <= high:
            raise ConfigError(f"{key} is {getattr(config, key)}", f"expected {low} to {high}")
    return config
