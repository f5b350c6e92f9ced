"""The settings: which source wins, and what a bad one is told."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from localai.config import load
from localai.errors import ConfigError
from localai.lifecycle import make_folders


def _loaded(home: Path, file: str = "", flags: dict[str, Any] | None = None, **environment: str) -> Any:
    (home / "config.toml").write_text(file)
    return load(flags, {"LOCALAI_HOME": str(home), **environment})


@pytest.mark.parametrize(
    ("file", "environment", "flags", "port"),
    [
        ("", {}, {}, 8642),
        ("port = 1", {}, {}, 1),
        ("port = 1", {"LOCALAI_PORT": "2"}, {}, 2),
        ("port = 1", {"LOCALAI_PORT": "2"}, {"port": 3}, 3),
        ("port = 1", {}, {"port": None}, 1),
    ],
    ids=["default", "file", "environment", "flag", "flag not given"],
)
def test_the_nearer_source_wins(tmp_path: Path, file: str, environment: dict[str, str], flags: Any, port: int) -> None:
    assert _loaded(tmp_path, file, flags, **environment).port == port


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("ram", "4G", 4 * 2**30),
        ("ram", "1.5 GiB", 3 * 2**29),
        ("ram", "512mb", 512 * 2**20),
        ("ram", "1000", 1000),
        ("keep_alive", "-1", -1.0),
        ("keep_alive", "30", 30.0),
        ("keep_alive", "auto", "auto"),
        ("allowed_hosts", "a.example, b.example", ("a.example", "b.example")),
        ("allowed_hosts", "", ()),
        ("default_model", "mine", "mine"),
    ],
)
def test_the_environment_is_text(tmp_path: Path, key: str, text: str, value: object) -> None:
    assert getattr(_loaded(tmp_path, **{f"LOCALAI_{key.upper()}": text}), key) == value


@pytest.mark.parametrize(
    ("file", "key", "expected"),
    [
        ("port = 'many'", "port", "int"),
        ("port = 1.5", "port", "int"),
        ("port = true", "port", "int"),
        ("port = 70000", "port", "0 to 65535"),
        ("prot = 1", "prot", "known settings"),
        ("home = '/x'", "home", "known settings"),
        ("ram = '4X'", "ram", "a size such as 4G"),
        ("ram = -1", "ram", "expected 0"),
        ("max_body = 0", "max_body", "expected 1024"),
        ("keep_alive = nan", "keep_alive", "expected"),
        ("keep_alive = 'long'", "keep_alive", "float"),
        ("threads = -2", "threads", "expected 0"),
        ("host = 1", "host", "str"),
        ("kv_type = 'f64'", "kv_type", "f16"),
        ("log_level = 'loud'", "log_level", "warning"),
        ("allowed_hosts = [1]", "allowed_hosts", "tuple"),
        ("allowed_hosts = 1", "allowed_hosts", "tuple"),
        ("port = [", "config.toml", "mend or remove"),
    ],
)
def test_a_bad_setting_names_key_and_expectation(tmp_path: Path, file: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _loaded(tmp_path, file)
    assert key in caught.value.message
    assert expected in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [({"LOCALAI_PORT": "x"}, {}, "LOCALAI_PORT in the environment"), ({}, {"ram": "x"}, "--ram in the command line")],
    ids=["environment", "flag"],
)
def test_a_bad_setting_names_its_source(tmp_path: Path, environment: dict[str, str], flags: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        _loaded(tmp_path, "", flags, **environment)


def test_a_file_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"host = '\xff'")
    with pytest.raises(ConfigError, match=r"config\.toml cannot be read"):
        load({}, {"LOCALAI_HOME": str(tmp_path)})


def test_the_home_is_made_for_this_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    make_folders(home)
    assert {stat.S_IMODE(f.stat().st_mode) for f in (home, home / "run", home / "logs")} == {0o700}
