"""Downloads from a hub on loopback: choice, resume, digests, redirects, refusals, full disks; imports and removal."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from localai import errors
from localai.catalog import Catalog
from localai.foreign_stores import Stores
from localai.hub import check_redirect
from localai.imports import import_file, remove
from localai.library import Library
from localai.pull import Puller
from localai.transfer import PullCancelled, PullProgress
from tests.gguf_files import LLAMA, gguf_bytes, split_gguf
from tests.hub_server import HubServer, serving

REPO = "me/Tiny-GGUF"
FILE = "Tiny-Q8_0.gguf"
RAW = gguf_bytes(tensors=[("w", (256, 4000), 8)])
SHA256 = hashlib.sha256(RAW).hexdigest()
TOKEN = "hf_secret_of_the_tests"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving(HubServer(files={REPO: {FILE: RAW, "README.md": b"# Tiny"}})) as server:
        yield server


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a token; the tests bring their own."""
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home", Catalog.load(tmp_path / "home"), Stores())


def puller(library: Library, hub: HubServer, *, token: str | None = None, retries: int = 3) -> Puller:
    return Puller(library, endpoint=hub.url, token=token, retries=retries, pause_s=0.01, margin_bytes=0)


def leftovers(library: Library) -> list[str]:
    return sorted(path.name for path in library.store.root.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_pulled_model_is_verified_and_usable(hub: HubServer, library: Library) -> None:
    seen: list[PullProgress] = []
    model = puller(library, hub).pull(f"hf:{REPO}", seen.append)
    assert (model.id, model.origin, model.digest) == (f"hf:{REPO}:Q8_0", "pulled", SHA256)
    assert model.path.read_bytes() == RAW
    assert model.path.is_relative_to(library.home / "models")
    assert seen[-1] == PullProgress(model.id, FILE, "done", len(RAW), len(RAW), seen[-1].rate, seen[-1].eta_s)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert library.resolve(f"hf:{REPO}").id == library.resolve("hf:ME/tiny-gguf:q8_0").id == model.id
    assert leftovers(library) == [FILE, "manifest.json"]


def test_pulling_again_fetches_nothing(hub: HubServer, library: Library) -> None:
    first = puller(library, hub).pull(f"hf:{REPO}")
    hub.commit = "beef" * 10
    assert puller(library, hub).pull(f"hf:{REPO}") == first
    assert len(hub.gets()) == 1
    manifest = library.store.manifest(first.id)
    assert manifest is not None
    assert manifest.revision == "beef" * 10


def test_a_changed_file_replaces_the_old_one(hub: HubServer, library: Library) -> None:
    puller(library, hub).pull(f"hf:{REPO}")
    changed = RAW[:-1] + b"\2"
    hub.files[REPO][FILE] = changed
    model = puller(library, hub).pull(f"hf:{REPO}")
    assert model.path.read_bytes() == changed
    assert model.digest == hashlib.sha256(changed).hexdigest()


def test_a_crash_before_the_manifest_costs_no_download(hub: HubServer, library: Library) -> None:
    model = puller(library, hub).pull(f"hf:{REPO}")
    library.store.withdraw(model.id)
    assert puller(library, hub).pull(f"hf:{REPO}") == model
    assert len(hub.gets()) == 1


def test_a_cut_connection_is_resumed_within_a_pull(hub: HubServer, library: Library) -> None:
    hub.cuts = [100_000, 0, 300_000]
    model = puller(library, hub).pull(f"hf:{REPO}")
    assert model.path.read_bytes() == RAW
    assert [get.headers.get("range") for get in hub.gets()] == [
        None,
        "bytes=100000-",
        "bytes=100000-",
        "bytes=400000-",
    ]


def test_a_dead_connection_is_resumed_by_the_next_pull(hub: HubServer, library: Library) -> None:
    hub.cuts = [100_000, 0, 0]
    with pytest.raises(errors.DownloadFailed, match="stopped at 100000 of") as caught:
        puller(library, hub, retries=1).pull(f"hf:{REPO}")
    assert "resumes" in caught.value.hint
    assert library.list() == [library.resolve("starter")]
    hub.cuts = []
    assert puller(library, hub).pull(f"hf:{REPO}").digest == SHA256
    assert hub.gets()[-1].headers["range"] == "bytes=100000-"


def test_a_hub_without_ranges_starts_over(hub: HubServer, library: Library) -> None:
    hub.cuts = [100_000, 50_000]
    hub.ignore_ranges = True
    assert puller(library, hub).pull(f"hf:{REPO}").digest == SHA256


def test_a_busy_hub_is_asked_again(hub: HubServer, library: Library) -> None:
    hub.statuses = [503, 429]
    assert puller(library, hub).pull(f"hf:{REPO}").digest == SHA256


@pytest.mark.parametrize("place", ["etag", "both", "bytes", "longer"])
def test_what_is_not_as_announced_is_refused(hub: HubServer, library: Library, place: str) -> None:
    other = "ab" * 32
    if place in ("etag", "both"):
        hub.etag_sha256[FILE] = other
    if place == "both":
        hub.listed_sha256[FILE] = other
    if place == "bytes":
        hub.listed_sha256[FILE] = hub.etag_sha256[FILE] = other
    if place == "longer":
        hub.extra_bytes = b"more"
    with pytest.raises(errors.DownloadFailed) as caught:
        puller(library, hub, retries=1).pull(f"hf:{REPO}")
    said = {"etag": "two digests", "both": "it was removed", "bytes": "it was removed", "longer": "sends more"}[place]
    assert said in caught.value.message
    assert not [name for name in leftovers(library) if name.endswith(".gguf") or name == "manifest.json"]


def test_a_hub_without_digests_is_refused(hub: HubServer, library: Library) -> None:
    hub.lfs = False
    with pytest.raises(errors.DownloadFailed, match="no size or SHA-256"):
        puller(library, hub).pull(f"hf:{REPO}")


def test_a_file_that_is_no_model_is_removed(hub: HubServer, library: Library) -> None:
    hub.files[REPO][FILE] = RAW[:-500]
    with pytest.raises(errors.ModelBroken, match="truncated"):
        puller(library, hub).pull(f"hf:{REPO}")
    assert leftovers(library) == []


def test_a_redirect_carries_the_bytes_but_never_the_token(hub: HubServer, library: Library) -> None:
    with serving(HubServer(files=hub.files)) as cdn:
        hub.token, hub.redirect = TOKEN, cdn.url
        model = puller(library, hub, token=TOKEN).pull(f"hf:{REPO}")
        assert model.digest == SHA256
        assert all(request.headers.get("authorization") == f"Bearer {TOKEN}" for request in hub.asked)
        assert cdn.gets()
        assert not [header for request in cdn.asked for header in request.headers.values() if TOKEN in header]


def test_a_redirect_to_an_unsafe_place_is_not_followed(hub: HubServer, library: Library) -> None:
    hub.redirect = "http://192.0.2.1"
    with pytest.raises(errors.DownloadFailed, match=r"redirects to http://192\.0\.2\.1"):
        puller(library, hub, token=TOKEN).pull(f"hf:{REPO}")


@pytest.mark.parametrize(
    ("source", "target", "safe"),
    [
        ("https://hub.example/a", "https://cdn.example/b", True),
        ("https://hub.example/a", "http://cdn.example/b", False),
        ("https://hub.example/a", "http://hub.example/b", False),
        ("https://hub.example/a", "http://127.0.0.1/b", False),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b", True),
        ("http://127.0.0.1:1/a", "http://[::1]:2/b", True),
        ("http://localhost:1/a", "https://cdn.example/b", True),
        ("http://nas.local:1/a", "http://nas.local:2/b", True),
        ("http://nas.local:1/a", "http://other.local/b", False),
        ("http://127.0.0.1:1/a", "file:///etc/passwd", False),
    ],
)
def test_redirect_rules(source: str, target: str, safe: bool) -> None:
    if safe:
        check_redirect(source, target)
        return
    with pytest.raises(errors.DownloadFailed):
        check_redirect(source, target)


@pytest.mark.parametrize(
    ("ref", "error", "said"),
    [
        ("hf:me/Absent-GGUF", errors.NotFound, "no repository me/Absent-GGUF"),
        (f"hf:{REPO}:Q2_K", errors.NotFound, "has no Q2_K"),
        ("hf:me/Empty", errors.NotFound, "no GGUF files"),
        ("hf:me/Twins", errors.BadRequest, "a-Q8_0.gguf, b-Q8_0.gguf"),
        ("hf:me/Cut", errors.DownloadFailed, "lacks parts"),
        ("hf:me/Evil", errors.BadRequest, "no file name"),
        ("hf:../../etc", errors.UnknownModel, "no model named"),
        ("hf:me/--", errors.BadRequest, "no repository name"),
        ("qwen3-8", errors.UnknownModel, "no model named"),
        ("own.gguf", errors.BadRequest, "is a file"),
    ],
)
def test_references_that_lead_nowhere(
    hub: HubServer, library: Library, ref: str, error: type[errors.LocalaiError], said: str
) -> None:
    hub.files["me/Empty"] = {"model.safetensors": b"1"}
    hub.files["me/Twins"] = {"a-Q8_0.gguf": RAW, "b-Q8_0.gguf": RAW}
    hub.files["me/Cut"] = {"a-Q8_0-00001-of-00002.gguf": RAW}
    hub.files["me/Evil"] = {"..\\..\\x-Q8_0.gguf": RAW}
    with pytest.raises(error) as caught:
        puller(library, hub).pull(ref)
    assert type(caught.value) is error
    assert said in caught.value.message
    assert caught.value.hint
    assert not hub.gets()


@pytest.mark.parametrize("token", [None, "hf_wrong"], ids=["401", "403"])
def test_gated_repositories_say_what_to_do(hub: HubServer, library: Library, token: str | None) -> None:
    hub.token, hub.gated = TOKEN, True
    with pytest.raises(errors.Unauthorized, match="is gated") as caught:
        puller(library, hub, token=token).pull(f"hf:{REPO}")
    assert "HF_TOKEN" in caught.value.hint


def test_an_unreachable_hub(library: Library) -> None:
    with serving() as gone:
        pass
    with pytest.raises(errors.DownloadFailed, match="cannot be reached"):
        puller(library, gone).pull(f"hf:{REPO}")


def test_split_models_come_whole(hub: HubServer, library: Library) -> None:
    parts = split_gguf(3)
    names = [f"Q8_0/big-Q8_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    hub.files["me/Big-GGUF"] = dict(zip(names, parts, strict=True))
    seen: list[PullProgress] = []
    model = puller(library, hub).pull("hf:me/Big-GGUF:q8_0", seen.append)
    assert [path.name for path in model.files] == [Path(name).name for name in names]
    assert model.size_bytes == seen[-1].total == sum(map(len, parts))
    assert model.header is not None
    assert model.header.parameters == 64 * (4 + 5 + 6)


@pytest.mark.parametrize(
    ("ref", "model_id"),
    [("tiny", "tiny"), ("tiny:Q4_0", "tiny:Q4_0"), ("TINY", "tiny"), (f"hf:{REPO}", f"hf:{REPO}:Q4_0")],
)
def test_the_catalogue_says_what_to_pull(hub: HubServer, library: Library, ref: str, model_id: str) -> None:
    catalogue(library, SHA256)
    hub.files[REPO]["Tiny-Q4_0.gguf"] = RAW
    model = puller(library, hub).pull(ref)
    assert model.id == model_id
    assert model.spec is not None
    assert model.spec.id == "tiny"
    assert library.resolve("tiny").id == model_id


def test_the_catalogues_digest_is_held_against_the_hub(hub: HubServer, library: Library) -> None:
    catalogue(library, "cd" * 32)
    with pytest.raises(errors.DownloadFailed, match="not the file that the catalogue describes"):
        puller(library, hub).pull("tiny")
    assert not hub.gets()


def catalogue(library: Library, sha256: str) -> None:
    library.home.mkdir(exist_ok=True)
    (library.home / "models.toml").write_text(
        f"""
[[models]]
id = "tiny"
name = "Tiny"
family = "llama"
parameters = 5
licence = "MIT"
context = 512
capabilities = ["chat"]
default_quant = "Q8_0"
gguf = {{ repo = "{REPO}", quants = {{ Q8_0 = {{ file = "{FILE}", sha256 = "{sha256}" }} }} }}
"""
    )
    library.catalog = Catalog.load(library.home)


def test_the_starter_needs_no_hub(library: Library) -> None:
    with serving() as hub:
        assert puller(library, hub).pull("starter").origin == "starter"
        assert not hub.asked


def test_too_little_space_is_seen_before_anything_is_fetched(hub: HubServer, library: Library) -> None:
    hub.listed_bytes[FILE] = 1 << 60
    with pytest.raises(errors.OutOfResources, match="GB free"):
        puller(library, hub).pull(f"hf:{REPO}")
    assert not hub.gets()


def test_cancelling_keeps_what_has_arrived(hub: HubServer, library: Library) -> None:
    cancel = threading.Event()

    def stop(progress: PullProgress) -> None:
        if progress.stage == "downloading":
            cancel.set()

    with pytest.raises(PullCancelled):
        puller(library, hub).pull(f"hf:{REPO}", stop, cancel)
    part = next(library.store.root.rglob("*.part"))
    assert 0 < part.stat().st_size < len(RAW)
    assert puller(library, hub).pull(f"hf:{REPO}").digest == SHA256
    assert hub.gets()[-1].headers["range"].startswith("bytes=")


def test_two_pulls_of_one_model_do_not_fight(hub: HubServer, library: Library) -> None:
    hub.gate = threading.Event()
    results: list[str | None] = []
    thread = threading.Thread(target=lambda: results.append(puller(library, hub).pull(f"hf:{REPO}").digest))
    thread.start()
    while not hub.gets():
        thread.join(0.01)
    with pytest.raises(errors.Conflict, match="right now"):
        puller(library, hub).pull(f"hf:{REPO}")
    hub.gate.set()
    thread.join(120)
    assert results == [SHA256]


IN_CHILD = """
import resource, sys
from pathlib import Path
from localai.catalog import Catalog
from localai.errors import LocalaiError
from localai.foreign_stores import Stores
from localai.library import Library
from localai.pull import Puller

home, ref, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(Puller(Library(home, Catalog.load(home), Stores()), margin_bytes=0).pull(ref).digest)
except LocalaiError as error:
    print(type(error).__name__, error.message, error.hint, sep="|")
"""


def in_child(library: Library, ref: str, environment: dict[str, str], *, limit: int = 0) -> str:
    """Pull in another process, with its own environment and largest file size."""
    done = subprocess.run(
        [sys.executable, "-c", IN_CHILD, str(library.home), ref, str(limit)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_full_disk_keeps_what_has_arrived(hub: HubServer, library: Library) -> None:
    said = in_child(library, f"hf:{REPO}", {"HF_ENDPOINT": hub.url}, limit=200_000)
    assert said.startswith("OutOfResources|the disk is full|what has arrived is kept")
    part = next(library.store.root.rglob("*.part"))
    assert part.stat().st_size == 200_000
    assert puller(library, hub).pull(f"hf:{REPO}").digest == SHA256
    assert hub.gets()[-1].headers["range"] == "bytes=200000-"


def test_endpoint_and_token_come_from_the_environment(hub: HubServer, library: Library) -> None:
    hub.token = TOKEN
    assert in_child(library, f"hf:{REPO}", {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}) == SHA256


def test_offline_nothing_is_asked(hub: HubServer, library: Library) -> None:
    offline = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    said = in_child(library, f"hf:{REPO}", offline)
    assert said.startswith(f"DownloadFailed|hf:{REPO} is not here and the hub is not asked: HF_HUB_OFFLINE is set|")
    assert not hub.asked
    puller(library, hub).pull(f"hf:{REPO}")
    heard = len(hub.asked)
    assert in_child(library, f"hf:{REPO}", offline) == SHA256
    assert len(hub.asked) == heard


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_import(library: Library, tmp_path: Path, link: bool) -> None:
    source = tmp_path / "own.gguf"
    source.write_bytes(RAW)
    seen: list[PullProgress] = []
    model = import_file(library, source, "mine", link=link, progress=seen.append)
    assert (model.id, model.origin, model.path.read_bytes()) == ("mine", "imported", RAW)
    assert model.path.samefile(source) == link
    assert model.digest == (None if link else SHA256)
    assert seen[-1].stage == "done"
    with pytest.raises(errors.Conflict, match="exists"):
        import_file(library, source, "mine")
    assert remove(library, "mine") > len(RAW)
    assert source.read_bytes() == RAW
    assert "mine" not in [known.id for known in library.list()]


def test_split_models_are_imported_whole(library: Library, tmp_path: Path) -> None:
    paths = [tmp_path / f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    for path, raw in zip(paths, split_gguf(2), strict=True):
        path.write_bytes(raw)
    assert len(import_file(library, paths[1], "big").files) == 2


@pytest.mark.parametrize(
    ("raw", "name", "error"),
    [
        (RAW[:-1], "mine", errors.ModelBroken),
        (b"no model", "mine", errors.ModelBroken),
        (gguf_bytes(LLAMA, []), "mine", errors.ModelBroken),
        (None, "mine", errors.ModelBroken),
        (RAW, "starter", errors.Conflict),
        (RAW, "../mine", errors.BadRequest),
        (RAW, "", errors.BadRequest),
    ],
    ids=["truncated", "text", "vocabulary", "absent", "catalogue-name", "path-name", "no-name"],
)
def test_imports_that_are_refused_leave_nothing(
    library: Library, tmp_path: Path, raw: bytes | None, name: str, error: type[errors.LocalaiError]
) -> None:
    source = tmp_path / "own.gguf"
    if raw is not None:
        source.write_bytes(raw)
    with pytest.raises(error):
        import_file(library, source, name)
    assert leftovers(library) == []


def test_a_cancelled_import_leaves_nothing(library: Library, tmp_path: Path) -> None:
    source = tmp_path / "own.gguf"
    source.write_bytes(RAW)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(PullCancelled):
        import_file(library, source, "mine", cancel=cancel)
    assert leftovers(library) == []


def test_only_our_own_models_are_removed(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "lm" / "me" / "Tiny" / "t.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(RAW)
    shared = Library(library.home, library.catalog, Stores(lmstudio=(tmp_path / "lm",)))
    for name, owner in (("lmstudio:me/Tiny/t", "LM Studio"), ("starter", "pip"), (str(path), "another folder")):
        with pytest.raises(errors.Conflict) as caught:
            remove(shared, name)
        assert owner in caught.value.message
    assert path.exists()
    with pytest.raises(errors.UnknownModel):
        remove(shared, "nothing")


def test_a_broken_model_can_be_removed(hub: HubServer, library: Library) -> None:
    model = puller(library, hub).pull(f"hf:{REPO}")
    model.path.write_bytes(b"x")
    with pytest.raises(errors.ModelBroken):
        library.resolve(model.id)
    remove(library, model.id)
    assert leftovers(library) == []
