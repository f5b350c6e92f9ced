"""Encryption at rest, optional: SQLCipher pages through the package sqlcipher3, the key in the OS keyring.

A key enters, a connection with the interface of the stdlib driver leaves. Nothing here runs for a plain store.
"""

from __future__ import annotations

import importlib
import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from memory_store.errors import StoreLocked

SERVICE = "localai memory"
KEY_BYTES = 32
_HEADLESS = (
    "without a desktop start one (gnome-keyring-daemon in a `dbus-run-session`), or name one that is installed in "
    "PYTHON_KEYRING_BACKEND before the daemon starts (`keyring --list-backends`)"
)
_INSTALL = "pip install 'localai-daemon[encryption]'"


@dataclass(frozen=True, slots=True)
class Key:
    """256 bits, used as they are: drawn at random, so no passphrase stretching is needed. Never shown by repr."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise StoreLocked(f"a key has {KEY_BYTES} bytes, not {len(self.raw)}", "take it whole")


def new_key() -> Key:
    return Key(secrets.token_bytes(KEY_BYTES))


def key_from_keyring(name: str, *, create: bool = False) -> Key:
    """The key that the OS keyring holds for the store `name`; `create` draws and saves one where there is none.

    Raises StoreLocked where the keyring has none, cannot be reached, or the package keyring is not installed.
    """
    keyring = _package("keyring")
    try:
        saved = keyring.get_password(SERVICE, name)
        if saved is None and create:
            saved = new_key().raw.hex()
            keyring.set_password(SERVICE, name, saved)
    except keyring.errors.NoKeyringError as error:
        raise StoreLocked("there is no OS keyring here, where the memory's key is kept", _HEADLESS) from error
    except keyring.errors.KeyringError as error:
        raise StoreLocked("the OS keyring cannot be reached", "unlock it, or log in to the desktop session") from error
    if saved is None:
        hint = "restore the keyring's backup; without the key the file cannot be read: move it away to begin anew"
        raise StoreLocked(f"the OS keyring has no key for the memory {name!r}", hint)
    return Key(bytes.fromhex(saved))


def encrypted_connection(path: Path, key: Key, busy_seconds: float) -> sqlite3.Connection:
    """Connect through SQLCipher. A wrong key shows at the first read. Raises StoreLocked without the package."""
    driver = _package("sqlcipher3.dbapi2")
    connection = driver.connect(str(path), timeout=busy_seconds, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA key = \"x'{key.raw.hex()}'\"")
    # The driver follows the stdlib's interface call by call; only its classes have another root.
    return cast(sqlite3.Connection, connection)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StoreLocked(f"an encrypted memory needs the package {name.split('.')[0]}", _INSTALL) from error
