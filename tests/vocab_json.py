"""Writes a folder with the `tokenizer.json` that a GGUF's vocabulary amounts to, as a model's own folder would have it.

The splitting rules are llama.cpp's for the name in `tokenizer.ggml.pre`, in the spelling of the `tokenizers` library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.gguf_files import fields_of

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"\p{Lu}\p{Ll}\p{Lt}"
_WIDE = "[一-龥ࠀ-一가-\ud7ff]+"
RULES: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "mpt": (_GPT2,),
    "starcoder": (r"\p{N}", _GPT2),
    "refact": (r"\p{N}", _GPT2),
    "command-r": (r"\p{N}", _GPT2),
    "smollm": (r"\p{N}", _GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "llama-bpe": (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",),
    "qwen2": (rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}",),
    "qwen35": (
        rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}|"
        + _TAIL.replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]"),
    ),
    "deepseek-llm": (r"[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _WIDE, r"\p{N}+"),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _WIDE, r"\p{N}"),
    "": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
_UNKNOWN, _CONTROL, _USER = 2, 3, 4
_SPACE = "\u2581"


def write_tokenizer(source: Path, folder: Path) -> Path:
    """Make `folder` with tokenizer.json and tokenizer_config.json from the GGUF `source`."""
    values = {
        key.removeprefix("tokenizer."): field.contents()
        for key, field in fields_of(source).items()
        if "tokenizer" in key
    }
    names: list[str] = values["ggml.tokens"]
    kinds: list[int] = values.get("ggml.token_type") or [1] * len(names)
    tokenizer = _MAKERS[values["ggml.model"]](values)
    for kind in (_UNKNOWN, _CONTROL, _USER):
        chosen = [name for name, own in zip(names, kinds, strict=True) if own == kind]
        added = [AddedToken(name, special=kind != _USER, normalized=False) for name in chosen]
        (tokenizer.add_tokens if kind == _USER else tokenizer.add_special_tokens)(added)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"chat_template": values.get("chat_template")}
    for part in ("bos", "eos"):
        number = values.get(f"ggml.{part}_token_id")
        config[f"{part}_token"] = names[number] if number is not None else None
    config["add_bos_token"] = bool(values.get("ggml.add_bos_token", values["ggml.model"] == "llama"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _byte_level(values: dict[str, Any]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in values["ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=_numbered(values), merges=merges, ignore_merges=_ignores(values)))
    rules = RULES[values.get("ggml.pre") or ""]
    splits = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in rules]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _ignores(values: dict[str, Any]) -> bool:
    return values.get("ggml.pre") == "llama-bpe"


def _sentence_piece(values: dict[str, Any]) -> Tokenizer:
    """Merges by score, as the vocabulary itself has none; a space before the text, and bytes for what is unknown."""
    numbers, scores = _numbered(values), values["ggml.scores"]
    merges = [
        (name[:cut], name[cut:], number)
        for name, number in numbers.items()
        for cut in range(1, len(name))
        if name[:cut] in numbers and name[cut:] in numbers
    ]
    merges.sort(key=lambda merge: (-scores[merge[2]], merge[2], numbers[merge[0]], numbers[merge[1]]))
    pairs = [(left, right) for left, right, _ in merges]
    model = models.BPE(vocab=numbers, merges=pairs, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    prefix = [normalizers.Prepend(_SPACE)] if values.get("ggml.add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _spaced_merges(values: dict[str, Any]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in values["ggml.merges"]]
    model = models.BPE(vocab=_numbered(values), merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|\n+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _numbered(values: dict[str, Any]) -> dict[str, int]:
    return {name: number for number, name in enumerate(values["ggml.tokens"])}


_MAKERS = {"gpt2": _byte_level, "llama": _sentence_piece, "gemma4": _spaced_merges}
MODELS = tuple(_MAKERS)
