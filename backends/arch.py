"""What a llama, qwen2 or qwen3 graph is made of: the sizes, the variants, and the tensors by role.

A GGUF header or a `config.json` enters; a frozen Arch leaves, or UnsupportedModel with the one reason. The converters
build their graphs from it and nothing else. Reads no tensor values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import pi
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_args

from backends.errors import ModelFileError, UnsupportedModel
from backends.gguf_header import GgufHeader, TensorInfo

Family = Literal["llama", "qwen2", "qwen3"]
Role = Literal["attn_norm", "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm"]
MlpRole = Literal["ffn_norm", "gate", "up", "down"]
TopRole = Literal["embedding", "output_norm", "output", "rope_freqs"]

_FAMILIES: tuple[Family, ...] = get_args(Family)
_LAYER: Mapping[Role | MlpRole, str] = MappingProxyType(
    {
        "attn_norm": "attn_norm.weight",
        "q": "attn_q.weight",
        "k": "attn_k.weight",
        "v": "attn_v.weight",
        "o": "attn_output.weight",
        "q_bias": "attn_q.bias",
        "k_bias": "attn_k.bias",
        "v_bias": "attn_v.bias",
        "q_norm": "attn_q_norm.weight",
        "k_norm": "attn_k_norm.weight",
        "ffn_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
    }
)
_TOP: Mapping[TopRole, str] = MappingProxyType(
    {
        "embedding": "token_embd.weight",
        "output_norm": "output_norm.weight",
        "output": "output.weight",
        "rope_freqs": "rope_freqs.weight",
    }
)
_GGUF_HINT = "llama.cpp serves it: choose that backend (-B llama.cpp)"
_CONFIG_HINT = "llama.cpp serves a GGUF of this model: pull one, and choose that backend (-B llama.cpp)"
_DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Arch:
    """One causal decoder: pre-norm attention with rotary positions and grouped heads, then a gated SiLU MLP.

    A head turns by `position / rope_scale * rope_theta ** (-2i / head_dim) / rope_factors[i]`; no factors are all ones.
    With `rope_interleaved` the rows of q and k are stored so that elements 2i and 2i + 1 turn together, else i and
    i + head_dim / 2. `frequency_tensor` says that the factors are in the file's tensor of the role `rope_freqs`.
    """

    family: Family
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    n_ctx_train: int
    eps: float
    rope_theta: float
    rope_scale: float
    rope_factors: tuple[float, ...]
    rope_interleaved: bool
    frequency_tensor: bool
    qkv_bias: bool
    qk_norm: bool
    tied: bool

    @property
    def kv_width(self) -> int:
        """Elements that one token adds to the keys of one layer, and to its values."""
        return self.kv_heads * self.head_dim

    def inverse_frequencies(self, factors: Sequence[float] = ()) -> list[float]:
        """Radians per position of each of the head_dim / 2 pairs; `factors` are those of `frequency_tensor`."""
        given = factors or self.rope_factors or (1.0,) * (self.head_dim // 2)
        return [
            self.rope_theta ** (-2 * i / self.head_dim) / factor / self.rope_scale for i, factor in enumerate(given)
        ]

    def top(self) -> dict[TopRole, str]:
        """GGUF names of the tensors outside the layers, by role."""
        left_out = {"output"} if self.tied else set()
        return {r: n for r, n in _TOP.items() if r not in left_out and (r != "rope_freqs" or self.frequency_tensor)}

    def layer(self, index: int) -> dict[Role | MlpRole, str]:
        """GGUF names of the tensors of layer `index`, by role."""
        return {role: f"blk.{index}.{_LAYER[role]}" for role in self.shapes()}

    def shapes(self) -> dict[Role | MlpRole, tuple[int, ...]]:
        """Shapes of a layer's tensors by role, as GGUF says them: input width first, then output width."""
        queries = self.heads * self.head_dim
        shapes: dict[Role | MlpRole, tuple[int, ...]] = {
            "attn_norm": (self.width,),
            "q": (self.width, queries),
            "k": (self.width, self.kv_width),
            "v": (self.width, self.kv_width),
            "o": (queries, self.width),
        }
        if self.qkv_bias:
            shapes |= {"q_bias": (queries,), "k_bias": (self.kv_width,), "v_bias": (self.kv_width,)}
        if self.qk_norm:
            shapes |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        mlp: dict[Role | MlpRole, tuple[int, ...]] = {
            "ffn_norm": (self.width,),
            "gate": (self.width, self.ffn),
            "up": (self.width, self.ffn),
            "down": (self.ffn, self.width),
        }
        return shapes | mlp

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """All GGUF names with their shapes."""
        tops: dict[TopRole, tuple[int, ...]] = {
            "embedding": (self.width, self.vocab),
            "output_norm": (self.width,),
            "output": (self.width, self.vocab),
            "rope_freqs": (self.head_dim // 2,),
        }
        names = {name: tops[role] for role, name in self.top().items()}
        shapes = self.shapes()
        for index in range(self.layers):
            names |= {name: shapes[role] for role, name in self.layer(index).items()}
        return names


# -- from a GGUF header


def arch_of_gguf(name: str, headers: Sequence[GgufHeader]) -> Arch:
    """Describe the model in the file `name`, of which `headers` are all parts, in order.

    Raises UnsupportedModel for everything that the three families do not have, ModelFileError where it contradicts
    itself.
    """
    header = headers[0]
    tensors = {tensor.name: tensor for part in headers for tensor in part.tensors}
    family = _family(name, header.architecture, _GGUF_HINT)
    _refuse_variants(name, header)
    width, heads, head_dim = _heads(name, header)
    stored = tensors.get("token_embd.weight")
    arch = Arch(
        family=family,
        layers=_needed(name, "block_count", header.n_layer),
        width=width,
        heads=heads,
        kv_heads=header.n_head_kv or heads,
        head_dim=head_dim,
        ffn=_needed(name, "feed_forward_length", header.number("feed_forward_length")),
        vocab=stored.shape[1] if stored is not None and len(stored.shape) == 2 else header.n_vocab or 0,
        n_ctx_train=header.n_ctx_train or 0,
        eps=_real(header, "attention.layer_norm_rms_epsilon", 0.0),
        rope_theta=_real(header, "rope.freq_base", _DEFAULT_THETA),
        rope_scale=_linear_scale(name, header),
        rope_factors=(),
        rope_interleaved=family == "llama",
        frequency_tensor="rope_freqs.weight" in tensors,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied="output.weight" not in tensors,
    )
    _check_numbers(name, arch)
    _check_tensors(name, arch, tensors)
    return arch


def _refuse_variants(name: str, header: GgufHeader) -> None:
    if header.kind != "model":
        raise UnsupportedModel(f"{name} holds no model but: {header.kind}", "give the model's own file")
    if header.pooling is not None:
        _refuse(name, "it is an embedding model with a pooling of its own", _GGUF_HINT)
    if header.number("expert_count"):
        _refuse(name, "its layers are mixtures of experts", _GGUF_HINT)
    if header.metadata.get(f"{header.architecture}.attention.causal") is False:
        _refuse(name, "its attention is not causal", _GGUF_HINT)
    window = header.number("attention.sliding_window") or 0
    if 0 < window < (header.n_ctx_train or 0):
        _refuse(name, f"its attention slides over {window} tokens", _GGUF_HINT)
    for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        if len(set(header.per_layer(key))) > 1:
            _refuse(name, f"its layers differ in {key}", _GGUF_HINT)


def _heads(name: str, header: GgufHeader) -> tuple[int, int, int]:
    width = _needed(name, "embedding_length", header.n_embd)
    heads = _needed(name, "attention.head_count", header.n_head)
    head_dim = header.number("attention.key_length") or width // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        other = header.number(key) or head_dim
        if other != head_dim:
            _refuse(name, f"its {key} is {other}, its heads are {head_dim} wide", _GGUF_HINT)
    return width, heads, head_dim


def _linear_scale(name: str, header: GgufHeader) -> float:
    kind = header.text(f"{header.architecture}.rope.scaling.type") or "linear"
    if kind not in ("none", "linear"):
        _refuse(name, f"it stretches rotary positions by {kind!r}", _GGUF_HINT)
    old = _real(header, "rope.scale_linear", 1.0)
    return (_real(header, "rope.scaling.factor", old) or 1.0) if kind == "linear" else 1.0


def _real(header: GgufHeader, key: str, default: float) -> float:
    value = header.metadata.get(f"{header.architecture}.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelFileError(f"{header.architecture}.{key} should be a number", "use another conversion of this model")
    return float(value)


def _check_tensors(name: str, arch: Arch, tensors: Mapping[str, TensorInfo]) -> None:
    expected = arch.tensors()
    missing = [tensor for tensor in expected if tensor not in tensors]
    if missing:
        raise ModelFileError(f"{name} lacks {_some(missing)}", "download it again or use another conversion")
    foreign = [tensor for tensor in tensors if tensor not in expected]
    if foreign:
        _refuse(name, f"it has tensors beyond the {arch.family} graph: {_some(foreign)}", _GGUF_HINT)
    for tensor, shape in expected.items():
        if tensors[tensor].shape != shape:
            raise ModelFileError(
                f"{name}: {tensor} has shape {tensors[tensor].shape}, its header asks for {shape}",
                "download it again or use another conversion",
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- from a config.json


def arch_of_config(name: str, config: Mapping[str, Any]) -> Arch:
    """Describe the model of the folder `name` by its parsed `config.json`. Raises UnsupportedModel, ModelFileError."""
    family = _family(name, str(config.get("model_type", "")), _CONFIG_HINT)
    width, heads = _count(name, config, "hidden_size"), _count(name, config, "num_attention_heads")
    biased = config.get("attention_bias", family == "qwen2")
    if biased != (family == "qwen2") or config.get("mlp_bias"):
        _refuse(name, "its linear layers have biases that the family lacks", _CONFIG_HINT)
    if config.get("hidden_act", "silu") != "silu":
        _refuse(name, f"its activation is {config['hidden_act']!r}", _CONFIG_HINT)
    if config.get("use_sliding_window"):
        _refuse(name, "its attention slides", _CONFIG_HINT)
    head_dim = int(config.get("head_dim") or width // heads)
    theta, scale, factors = _config_rope(name, config, head_dim)
    arch = Arch(
        family=family,
        layers=_count(name, config, "num_hidden_layers"),
        width=width,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        ffn=_count(name, config, "intermediate_size"),
        vocab=_count(name, config, "vocab_size"),
        n_ctx_train=int(config.get("max_position_embeddings") or 0),
        eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scale=scale,
        rope_factors=factors,
        rope_interleaved=False,
        frequency_tensor=False,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    _check_numbers(name, arch)
    return arch


def _config_rope(name: str, config: Mapping[str, Any], head_dim: int) -> tuple[float, float, tuple[float, ...]]:
    """Theta, linear scale and factors; newer files keep the theta beside the scaling."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or _DEFAULT_THETA)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, 1.0, ()
    if kind == "linear":
        return theta, float(scaling["factor"]), ()
    if kind == "llama3":
        return theta, 1.0, tuple(_llama3_factors(theta, head_dim, scaling))
    _refuse(name, f"it stretches rotary positions by {kind!r}", _CONFIG_HINT)


def _llama3_factors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> Iterable[float]:
    """Llama 3's smoothing: short waves stay, long ones are stretched by `factor`, those between in proportion."""
    factor, trained = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    for i in range(head_dim // 2):
        turns = trained * theta ** (-2 * i / head_dim) / (2 * pi)
        smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
        yield 1.0 / ((1.0 - smooth) / factor + smooth)


def _count(name: str, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    return _needed(name, key, value if isinstance(value, int) and not isinstance(value, bool) else None)


# -- both


def _family(name: str, architecture: str, hint: str) -> Family:
    if architecture not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        _refuse(name, f"its architecture is {architecture!r}, this backend knows {known}", hint)
    return architecture


def _needed(name: str, key: str, value: int | None) -> int:
    if not value or value < 1:
        raise ModelFileError(f"{name} does not say its {key}", "download it again or use another conversion")
    return value


def _check_numbers(name: str, arch: Arch) -> None:
    sound = (
        arch.heads % arch.kv_heads == 0
        and arch.head_dim % 2 == 0
        and arch.head_dim > 0
        and arch.eps > 0
        and arch.rope_theta > 0
        and arch.rope_scale > 0
        and arch.vocab > 0
    )
    if not sound:
        raise ModelFileError(f"{name}: its sizes contradict each other", "download it again or use another conversion")


def _refuse(name: str, reason: str, hint: str) -> NoReturn:
    raise UnsupportedModel(f"{name}: {reason}", hint)
