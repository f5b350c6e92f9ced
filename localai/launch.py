"""How each editor and agent is told to use this daemon: variables, a command, or lines for its own settings file.

The daemon's address and a model enter, a `Recipe` leaves. Pure; `launch_files` writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from localai.errors import NotFound


@dataclass(frozen=True, slots=True)
class Recipe:
    """`command` starts the program with `variables` set; `lines` belong into `file`. Either part may be empty.

    Where the settings can be written, they are the file at `path`: `merge` goes into its JSON, or `block` between two
    marks that begin with `comment`; a line that begins with `key` must not be there already. `start` is what starts the
    program with settings that were written, where its name alone does not.
    """

    variables: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    file: str = ""
    lines: str = ""
    path: str = ""
    merge: dict[str, Any] = field(default_factory=dict)
    block: str = ""
    comment: str = ""
    key: str = ""
    start: str = ""


def recipe(tool: str, url: str, model: str, n_ctx: int) -> Recipe:
    """What `tool` needs; `url` is the daemon's, without a path. Raises NotFound for a tool that is not known."""
    if tool not in TOOLS:
        raise NotFound(f"no recipe for {tool!r}", f"known: {', '.join(TOOLS)}")
    return TOOLS[tool](url, model, n_ctx)


def _folder(variable: str, usual: str) -> str:
    """Where a program keeps its settings: where its own variable says, as it reads that itself."""
    return os.environ.get(variable) or usual


def _claude_code(url: str, model: str, n_ctx: int) -> Recipe:
    roles = ("OPUS", "SONNET", "HAIKU")
    variables = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "localai",
        "ANTHROPIC_MODEL": model,
        **{f"ANTHROPIC_DEFAULT_{role}_MODEL": model for role in roles},
        "CLAUDE_CODE_SUBAGENT_MODEL": model,
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(n_ctx),
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    path = f"{_folder('CLAUDE_CONFIG_DIR', '~/.claude')}/settings.json"
    return Recipe(variables, ("claude",), path=path, merge={"env": variables})


def _codex(url: str, model: str, n_ctx: int) -> Recipe:
    provider = f'{{name="localai", base_url="{url}/v1", wire_api="responses"}}'
    settings = (
        "model_provider=localai",
        f"model_providers.localai={provider}",
        f"model={json.dumps(model)}",
        f"model_context_window={n_ctx}",
    )
    # A profile is a file of its own; Codex refuses to start where config.toml has a table of that name.
    block = (
        f'model_provider = "localai"\nmodel = {json.dumps(model)}\nmodel_context_window = {n_ctx}\n\n'
        f'[model_providers.localai]\nname = "localai"\nbase_url = "{url}/v1"\nwire_api = "responses"'
    )
    return Recipe(
        command=("codex", *(part for setting in settings for part in ("-c", setting))),
        path=f"{_folder('CODEX_HOME', '~/.codex')}/localai.config.toml",
        block=block,
        comment="#",
        key="model",
        start="codex --profile localai",
    )


def _aider(url: str, model: str, _: int) -> Recipe:
    variables = {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "localai"}
    block = f"model: openai/{model}\nopenai-api-base: {url}/v1\nopenai-api-key: localai"
    return Recipe(
        variables,
        ("aider", "--model", f"openai/{model}"),
        path="~/.aider.conf.yml",
        block=block,
        comment="#",
        key="model:",
    )


def _opencode(url: str, model: str, n_ctx: int) -> Recipe:
    served = {model: {"name": model, "limit": {"context": n_ctx, "output": n_ctx // 4}}}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"{url}/v1"}, "models": served}
    settings = {"provider": {"localai": provider}, "model": f"localai/{model}"}
    variables = {"OPENCODE_CONFIG_CONTENT": json.dumps(settings)}
    path = f"{_folder('XDG_CONFIG_HOME', '~/.config')}/opencode/opencode.json"
    return Recipe(variables, ("opencode",), path=path, merge=settings)


def _open_webui(url: str, _: str, __: int) -> Recipe:
    variables = {"OPENAI_API_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "localai", "OLLAMA_BASE_URL": url}
    return Recipe(variables, ("open-webui", "serve"))


def _llm_folder() -> str:
    """Where the program keeps its settings, as it finds that itself."""
    import click

    return os.environ.get("LLM_USER_PATH") or click.get_app_dir("io.datasette.llm")


def _llm(url: str, model: str, _: int) -> Recipe:
    lines = f"- model_id: localai\n  model_name: {model}\n  api_base: {url}/v1"
    return Recipe(
        command=("llm", "-m", "localai"),
        file="extra-openai-models.yaml in the folder of `llm logs path`",
        lines=lines,
        path=f"{_llm_folder()}/extra-openai-models.yaml",
        block=lines,
        comment="#",
        key="- model_id: localai",
        start="llm -m localai",
    )


def _continue(url: str, model: str, n_ctx: int) -> Recipe:
    lines = (
        "models:\n"
        f"  - name: localai\n    provider: ollama\n    model: {model}\n    apiBase: {url}\n"
        "    roles: [chat, edit, autocomplete]\n"
        f"    defaultCompletionOptions:\n      contextLength: {n_ctx}"
    )
    # Another list of models cannot be told apart from this one, so it is written only where there is none.
    block = f"name: localai\nversion: 1.0.0\nschema: v1\n{lines}"
    path = "~/.continue/config.yaml"
    return Recipe(file=path, lines=lines, path=path, block=block, comment="#", key="models:")


def _cline(url: str, model: str, n_ctx: int) -> Recipe:
    lines = f"API Provider: Ollama\nBase URL: {url}\nModel: {model}\nContext window: {n_ctx}"
    return Recipe(file="Cline's settings, API Configuration", lines=lines)


def _zed(url: str, model: str, n_ctx: int) -> Recipe:
    served: dict[str, Any] = {"name": model, "display_name": model, "max_tokens": n_ctx}
    settings = {"language_models": {"ollama": {"api_url": url, "available_models": [served]}}}
    path = f"{_folder('XDG_CONFIG_HOME', '~/.config')}/zed/settings.json"
    return Recipe(file=path, lines=json.dumps(settings, indent=2), path=path, merge=settings)


def _llama_vim(url: str, model: str, _: int) -> Recipe:
    lines = f"let g:llama_config = {{ 'endpoint_fim': '{url}/infill', 'model_fim': '{model}' }}"
    return Recipe(file="~/.vimrc", lines=lines, path="~/.vimrc", block=lines, comment='"', key="let g:llama_config")


def _codecompanion(url: str, model: str, _: int) -> Recipe:
    lines = (
        "adapters = { http = { localai = function()\n"
        '  return require("codecompanion.adapters").extend("ollama", {\n'
        f'    env = {{ url = "{url}" }}, schema = {{ model = {{ default = "{model}" }} }},\n'
        "  })\nend } }"
    )
    return Recipe(file='require("codecompanion").setup({ ... })', lines=lines)


def _gptel(url: str, model: str, _: int) -> Recipe:
    host = url.removeprefix("http://")
    made = f'(gptel-make-ollama "localai" :host "{host}" :stream t :models \'({model}))'
    lines = f"(setq gptel-model '{model}\n      gptel-backend {made})"
    return Recipe(file="your Emacs init file", lines=lines)


TOOLS: dict[str, Callable[[str, str, int], Recipe]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "aider": _aider,
    "opencode": _opencode,
    "open-webui": _open_webui,
    "llm": _llm,
    "continue": _continue,
    "cline": _cline,
    "zed": _zed,
    "llama.vim": _llama_vim,
    "codecompanion": _codecompanion,
    "gptel": _gptel,
}
