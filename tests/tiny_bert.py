"""A small encoder of the BERT family with random weights, as a GGUF file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_WIDTH, _HEADS, _FFN, _CONTEXT = 32, 2, 64, 128
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?"


def tiny_bert(path: Path) -> Path:
    """Its tokens are single characters; its pooling is the mean."""
    pieces = [*_SPECIAL, *(f"\u2581{letter}" for letter in _LETTERS), *_LETTERS]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_FFN)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (len(pieces) - len(_SPECIAL)))
    writer.add_token_type_count(2)
    for add, at in ((writer.add_pad_token_id, 0), (writer.add_unk_token_id, 1), (writer.add_bos_token_id, 2)):
        add(at)
    writer.add_sep_token_id(3)
    _tensors(writer, len(pieces))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(writer: gguf.GGUFWriter, pieces: int) -> None:
    rng = np.random.default_rng(3)
    tables = {"token_embd": pieces, "position_embd": _CONTEXT, "token_types": 2}
    for name, rows in tables.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, (rows, _WIDTH)).astype(np.float32))
    wide = {"attn_q": (_WIDTH, _WIDTH), "attn_k": (_WIDTH, _WIDTH), "attn_v": (_WIDTH, _WIDTH)}
    wide |= {"attn_output": (_WIDTH, _WIDTH), "ffn_up": (_FFN, _WIDTH), "ffn_down": (_WIDTH, _FFN)}
    for name, shape in wide.items():
        writer.add_tensor(f"blk.0.{name}.weight", rng.normal(0, 0.2, shape).astype(np.float32))
        writer.add_tensor(f"blk.0.{name}.bias", np.zeros(shape[0], np.float32))
    for name in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(_WIDTH, np.float32))
