"""The README's table of settings, made from `Config`'s own docstrings; run as a module, it writes the README."""

from __future__ import annotations

import ast
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from localai import config as module
from localai.config import Config

README = Path(__file__).parent.parent / "README.md"


def settings_table() -> str:
    """One row per setting: name, default, what it means."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Config").body
    texts: dict[str, str] = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            texts[node.target.id] = str(ast.literal_eval(after.value))
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in fields(Config):
        if field.name != "home":
            rows.append(f"| `{field.name}` | `{_default(field.default)}` | {texts[field.name]} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    head, rest = text.split("<!-- settings -->")
    tail = rest.split("<!-- /settings -->")[1]
    README.write_text(f"{head}<!-- settings -->\n{settings_table()}\n<!-- /settings -->{tail}", encoding="utf-8")
