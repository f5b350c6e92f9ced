"""One `[upstreams.NAME]` table of models.toml: where another machine answers, what it has, and with which key.

A table enters, a checked spec leaves; ConfigError names the entry. The key itself is looked up when it is needed.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from localai.errors import ConfigError

KEYRING_SERVICE = "localai upstream"

UpstreamName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
RemoteModel = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class UpstreamSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenAI-compatible server. Its models are called `NAME/MODEL`; with no `models`, it is asked for them.

    `fallback` is a model of this machine that answers where the upstream cannot. `timeout` is the longest silence in
    seconds. The key is in an environment variable of the daemon (`api_key_env`), in the OS keyring (`api_key_keyring`,
    the user name under the service "localai upstream"), or, for those who insist, here (`api_key_plaintext`).
    `share` lets programs use it that come over TCP, where an upstream with a key is otherwise for the Unix socket only.
    """

    name: UpstreamName
    url: str
    models: tuple[RemoteModel, ...] = ()
    fallback: str = ""
    timeout: Seconds = 120.0
    api_key_env: str = ""
    api_key_keyring: str = ""
    api_key_plaintext: str = ""
    share: bool = False

    @property
    def root(self) -> str:
        """The address that `/chat/completions` is appended to: as given, with `/v1` where it has no path."""
        bare = self.url.rstrip("/")
        return bare if urlsplit(bare).path else f"{bare}/v1"

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return urlsplit(self.url).netloc

    @property
    def key_source(self) -> str:
        """Where the key comes from, in words; '' where there is none. Never the key."""
        if self.api_key_env:
            return f"the environment variable {self.api_key_env}"
        if self.api_key_keyring:
            return f"the keyring entry {self.api_key_keyring!r}"
        return "models.toml, in plain text" if self.api_key_plaintext else ""

    @property
    def exposed(self) -> bool:
        """Whether what is sent crosses a network unencrypted."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def read_upstreams(label: str, tables: Any) -> list[UpstreamSpec]:
    """The specs of a file's `upstreams` table; `label` is the file's name. Raises ConfigError."""
    if not isinstance(tables, dict):
        raise ConfigError(
            f"{label}: upstreams must be tables", 'write [upstreams.NAME] and under it url = "http://..."'
        )
    specs = [_read(f"{label}: upstream {name!r}", name, entry) for name, entry in tables.items()]
    for spec in specs:
        away = spec.fallback.partition("/")[0] in tables and "/" in spec.fallback
        if away or spec.fallback in ("auto", "default"):
            raise ConfigError(
                f"{label}: upstream {spec.name!r}: the fallback {spec.fallback!r} is no model of this machine",
                "name one that `localai models list` shows as being here",
            )
    return specs


def _read(label: str, name: str, entry: Any) -> UpstreamSpec:
    if not isinstance(entry, dict):
        raise ConfigError(f"{label} is no table", 'write [upstreams.NAME] and under it url = "http://..."')
    if "api_key" in entry:
        hint = "use api_key_env or api_key_keyring; api_key_plaintext, if it must stand in the file"
        raise ConfigError(f"{label}: a key does not belong into this file", hint)
    try:
        spec = msgspec.convert({**entry, "name": name}, UpstreamSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{label}: {str(error)[:1].lower()}{str(error)[1:]}", "correct this entry") from error
    if sum(map(bool, (spec.api_key_env, spec.api_key_keyring, spec.api_key_plaintext))) > 1:
        raise ConfigError(f"{label} has more than one source for its key", "keep one of the api_key_* lines")
    _check_url(label, spec.url)
    return spec


def _check_url(label: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    # What else is wrong must not be quoted: a password may stand in it.
    if not sound or parts.username is not None or parts.query or parts.fragment or not url.isascii() or " " in url:
        hint = "write http://HOST:PORT or https://HOST/PATH, without user, query or fragment"
        raise ConfigError(f"{label}: its url cannot be used", hint)


def key_of(spec: UpstreamSpec, environment: Mapping[str, str] = os.environ) -> str:
    """The key, '' where the spec names none. Blocks while the keyring is asked. Raises ConfigError, without the key."""
    if spec.api_key_keyring:
        key = _from_keyring(spec)
    else:
        key = environment.get(spec.api_key_env, "") if spec.api_key_env else spec.api_key_plaintext
    if spec.key_source and not key:
        hint = "set it where the daemon is started, then `localai stop` and `localai start`"
        raise ConfigError(f"the upstream {spec.name!r} has no key: {spec.key_source} is empty", hint)
    if not all(33 <= ord(char) <= 126 for char in key):
        raise ConfigError(f"the key in {spec.key_source} is no key", "it must be printable ASCII without spaces")
    return key


def _from_keyring(spec: UpstreamSpec) -> str:
    try:
        import keyring
    except ImportError as error:
        hint = '`pip install "localai-daemon[encryption]"`, or use api_key_env'
        raise ConfigError(
            f"the upstream {spec.name!r} has its key in the keyring, and keyring is missing", hint
        ) from error
    try:
        return keyring.get_password(KEYRING_SERVICE, spec.api_key_keyring) or ""
    except keyring.errors.KeyringError as error:
        hint = "unlock it, or log in to the desktop session"
        raise ConfigError(f"the OS keyring cannot be reached for the upstream {spec.name!r}", hint) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
