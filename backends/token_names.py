"""Spellings of control tokens that llama.cpp knows without being told, so that every backend knows the same ones."""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

FIM_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "prefix": (
            *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>"),
            *("<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
        ),
        "suffix": (
            *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>"),
            *("<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
        ),
        "middle": (
            *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>"),
            *("<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
        ),
        "repo": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
        "file": ("<|file_sep|>",),
    }
)
"""Fill-in-the-middle markers by what they mark; the first that a vocabulary has counts."""

_FIM_PADS = ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")

_END_NAMES = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    *_FIM_PADS,
    *FIM_NAMES["repo"],
    *FIM_NAMES["file"],
)
_PLAIN_BESIDE = {"</s>": ("<|tool_response>", "<|plamo:eos|>")}
"""Names that are ordinary text in a vocabulary that has one of the others."""


def ends_in(vocabulary: Container[str]) -> list[str]:
    """Tokens that end a generation, whatever a configuration says; many name only one of their model's."""
    plain = {name for name, others in _PLAIN_BESIDE.items() if any(other in vocabulary for other in others)}
    return [name for name in _END_NAMES if name in vocabulary and name not in plain]


def controls_in(vocabulary: Container[str]) -> list[str]:
    """Tokens that are never text, whatever a file says."""
    markers = (name for part in ("prefix", "suffix", "middle") for name in FIM_NAMES[part])
    return ends_in(vocabulary) + [name for name in markers if name in vocabulary]
