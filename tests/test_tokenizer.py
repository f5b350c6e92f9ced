"""The same text has the same ids through a GGUF's vocabulary and through the `tokenizer.json` that it amounts to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, processors

from backends.constrain import Constraints
from backends.contract import Grammar, Sampling
from backends.errors import ModelFileError
from backends.sampling import Sampler
from backends.tokenizer import Vocabulary, open_tokenizer
from tests.engine_runs import STARTER
from tests.vocab_json import MODELS, write_tokenizer

LLAMA_SRC = os.environ.get("LOCALAI_LLAMA_SRC", "")
TEXT = (
    Path(__file__).read_text(encoding="utf-8")
    + """
Hello, World! I'll say it's 3.14159 and 1234567, don't WE'RE "quotes" … 1st 2nd x1y2
  indented   by    runs \t\ttabs\n\n\n   \n\r\n x = [i for i in range(10)]; // a[i]->b::c
你好，世界！今天天气很好。日本語のテキスト、カタカナ。한국어 문장입니다. 12月３１日
مرحبا بالعالم، كيف حالك؟ שלום עולם हिन्दी में नमस्ते ไทย ภาษา Ελληνικά Привет
😀😃👨‍👩‍👧‍👦🏳️‍🌈 e\u0301 é \ufb01 Ⅻ ½ ℃ \u200b\ufeff \u00a0nbsp\u3000wide \x00\x07
<|im_start|>user<|im_end|></s><s><unk><|endoftext|><|begin_of_text|><|eot_id|><tool_call> [INST] <0x41> <｜fim▁hole｜>
"""
)


def texts() -> list[str]:
    return [TEXT, TEXT * 4, *TEXT.splitlines(), "", " ", "  leading", "trailing  ", "\n"]


def differing(one: Vocabulary, other: Vocabulary) -> list[str]:
    """The texts whose ids differ, with and without control tokens."""
    return [
        text
        for text in texts()
        for special in (True, False)
        if one.encode(text, special=special, add_bos=False) != other.encode(text, special=special, add_bos=False)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(STARTER, tmp_path_factory.mktemp("starter"))


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Vocabulary, Vocabulary]:
    return open_tokenizer(STARTER), open_tokenizer(folder)


def test_both_paths_give_the_same_ids_and_pieces(pair: tuple[Vocabulary, Vocabulary]) -> None:
    gguf, folder = pair
    assert differing(gguf, folder) == []
    every = range(gguf.n_vocab)
    assert [gguf.piece(token) for token in every] == [folder.piece(token) for token in every]
    assert [gguf.raw_piece(token) for token in every] == [folder.raw_piece(token) for token in every]


@pytest.mark.parametrize("name", ["n_vocab", "eog", "add_bos", "bos", "eos", "chat_template"])
def test_both_paths_describe_the_vocabulary_alike(pair: tuple[Vocabulary, Vocabulary], name: str) -> None:
    gguf, folder = pair
    assert getattr(gguf, name) == getattr(folder, name)


def test_both_paths_know_the_same_markers(pair: tuple[Vocabulary, Vocabulary]) -> None:
    gguf, folder = pair
    assert gguf.control_tokens() == folder.control_tokens()
    assert gguf.fim_tokens() == folder.fim_tokens()


@pytest.mark.parametrize("which", [0, 1], ids=["gguf", "folder"])
def test_control_tokens_count_only_where_they_may(pair: tuple[Vocabulary, Vocabulary], which: int) -> None:
    vocabulary = pair[which]
    marker = vocabulary.control_tokens()["<|im_end|>"]
    assert vocabulary.encode("<|im_end|>", special=True, add_bos=False) == [marker]
    spelt = vocabulary.encode("<|im_end|>", special=False, add_bos=False)
    assert marker not in spelt
    assert b"".join(map(vocabulary.piece, spelt)) == b"<|im_end|>"
    assert (vocabulary.piece(marker), vocabulary.raw_piece(marker)) == (b"", b"<|im_end|>")


@pytest.mark.parametrize("which", [0, 1], ids=["gguf", "folder"])
def test_text_that_is_no_utf8_becomes_a_replacement(pair: tuple[Vocabulary, Vocabulary], which: int) -> None:
    ids = pair[which].encode("a\ud800b", special=False, add_bos=False)
    assert b"".join(map(pair[which].raw_piece, ids)) == b"a?b"
    assert pair[which].piece(10**9) == b""


def test_a_grammar_masks_alike(pair: tuple[Vocabulary, Vocabulary]) -> None:
    masks = []
    for vocabulary in pair:
        matcher = Constraints(vocabulary).compile(Grammar("regex", r"[0-9]{2}(é|世)"))
        rows = []
        for token in [None, *vocabulary.encode("47", special=False, add_bos=False)]:
            if token is not None:
                matcher.accept(token)
            rows.append(np.isfinite(matcher.mask(np.zeros(vocabulary.n_vocab, np.float32))))
        masks.append(rows)
    assert all(np.array_equal(one, other) for one, other in zip(*masks, strict=True))
    assert 0 < masks[0][0].sum() < 200


@pytest.mark.parametrize(
    ("text", "breakers", "repeated"),
    [
        pytest.param("cat: the cat: the", ("\n",), False, id="none in the text"),
        pytest.param("cat: the cat: the", (":",), True, id="one character"),
        pytest.param("dog: the cat: the cat", (": the",), True, id="over two tokens"),
        pytest.param("dog: the cat: the cat", (": tha",), False, id="almost"),
    ],
)
def test_dry_reads_a_folder_like_a_file(
    pair: tuple[Vocabulary, Vocabulary], text: str, breakers: tuple[str, ...], repeated: bool
) -> None:
    settings = Sampling(temperature=0.0, dry_multiplier=2.0, dry_allowed_length=1, dry_sequence_breakers=breakers)
    for vocabulary in pair:
        *tokens, repeat = vocabulary.encode(text, special=False, add_bos=False)
        sampler = Sampler(settings, vocabulary.pointer, vocabulary.n_vocab, 4096)
        sampler.accept_prompt(tokens)
        logits = np.zeros(vocabulary.n_vocab, np.float32)
        logits[repeat] = 0.5
        assert (sampler.sample(logits) == repeat) is repeated


@pytest.mark.skipif(not LLAMA_SRC, reason="LOCALAI_LLAMA_SRC names no checkout of llama.cpp")
@pytest.mark.parametrize("path", sorted(Path(LLAMA_SRC).glob("models/ggml-vocab-*.gguf")), ids=lambda p: p.stem[11:])
def test_vocabularies_of_other_families(path: Path, tmp_path: Path) -> None:
    try:
        folder = write_tokenizer(path, tmp_path / "model")
    except KeyError:
        pytest.skip(f"a vocabulary of another kind than {', '.join(MODELS)}: for encoders, which llama.cpp serves")
    one, other = open_tokenizer(path), open_tokenizer(folder)
    assert differing(one, other) == []
    assert (one.eog, one.fim_tokens(), one.bos, one.eos) == (other.eog, other.fim_tokens(), other.bos, other.eos)


# -- small folders


def small(folder: Path, **config: Any) -> Path:
    """A SentencePiece-like vocabulary with bytes, as older Llama folders have it."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "\u2581a"]
    model = models.BPE({name: n for n, name in enumerate(names)}, [("\u2581", "a")], byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    if config.pop("adds_bos", False):
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return folder


def test_bytes_and_spaces_of_sentence_pieces(tmp_path: Path) -> None:
    vocabulary = open_tokenizer(small(tmp_path), 300)
    ids = vocabulary.encode("a\u2581aé", special=False, add_bos=True)
    assert b"".join(map(vocabulary.piece, ids)) == "a aé".encode()
    assert [vocabulary.raw_piece(token) for token in (1, 259, 299)] == [b"<s>", b" ", b""]
    assert (vocabulary.n_vocab, vocabulary.eog) == (300, {2})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, False, id="nothing said"),
        pytest.param({"add_bos_token": True}, True, id="configured"),
        pytest.param({"adds_bos": True}, True, id="by the template of the tokenizer"),
        pytest.param({"adds_bos": True, "add_bos_token": False}, False, id="configured against the template"),
        pytest.param({"add_bos_token": True, "bos_token": None}, False, id="no such token"),
    ],
)
def test_the_beginning_of_text(tmp_path: Path, config: dict[str, Any], expected: bool) -> None:
    vocabulary = open_tokenizer(small(tmp_path, **config))
    assert vocabulary.add_bos is expected
    assert vocabulary.encode("a", special=False, add_bos=True) == ([1] if expected else []) + [260]
    assert vocabulary.encode("a", special=False, add_bos=False) == [260]


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        pytest.param({"chat_template": "one"}, None, "one", id="configured"),
        pytest.param({"chat_template": "one"}, "two", "two", id="a file of its own"),
        pytest.param(
            {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]},
            None,
            "y",
            id="the default of several",
        ),
        pytest.param({}, None, None, id="none"),
    ],
)
def test_where_the_chat_template_stands(
    tmp_path: Path, config: dict[str, Any], file: str | None, expected: str | None
) -> None:
    small(tmp_path, **config)
    if file is not None:
        (tmp_path / "chat_template.jinja").write_text(file, encoding="utf-8")
    assert open_tokenizer(tmp_path).chat_template == expected


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", [7, [2, 7]], ids=["one", "several"])
def test_ends_named_by_other_files(tmp_path: Path, name: str, value: int | list[int]) -> None:
    (small(tmp_path) / name).write_text(json.dumps({"eos_token_id": value}), encoding="utf-8")
    assert open_tokenizer(tmp_path).eog == {2, 7}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("tokenizer.json", None, id="missing"),
        pytest.param("tokenizer.json", "{", id="broken"),
        pytest.param("tokenizer.json", '{"model": {"type": "Unheard"}}', id="of an unknown kind"),
        pytest.param("tokenizer_config.json", "{", id="broken configuration"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    model = tmp_path / "some-model"
    model.mkdir()
    small(model)
    (model / name).unlink()
    if content is not None:
        (model / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelFileError) as caught:
        open_tokenizer(model)
    assert name in caught.value.message
    assert "some-model" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


def test_a_tokenizer_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="262 tokens, the model 100"):
        open_tokenizer(small(tmp_path), 100)


def test_a_gguf_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelFileError, match=r"x\.gguf"):
        open_tokenizer(tmp_path / "x.gguf")
