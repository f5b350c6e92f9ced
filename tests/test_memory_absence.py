"""Folders whose disk is not there: nothing that they said is lost, and what a person deletes is still forgotten."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memory_store.embed import StaticEmbedder
from memory_store.folder import Identity, identity, listing
from memory_store.ingest import Ingest, Ingested
from memory_store.presence import Presence
from memory_store.store import Store
from memory_store.watch import Watch, sync

EMBEDDER = StaticEmbedder()
NAMES = ("a.md", "b.md", "sub/c.md", "sub/d.md")
NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    filled(made)
    return made


def filled(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"The keeper of {name} is called Mr {name[-4].upper()}.")


def names(store: Store, root: Path) -> list[str]:
    return sorted(Path(memory.author.name).relative_to(root).as_posix() for memory in store.list())


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def elsewhere(of: Identity) -> Identity:
    """As it would be on another disk."""
    return Identity(of.device + 1, of.inode, of.filesystem + 1)


def remembered(root: Path, store: Store, *, moved: bool) -> Presence:
    parts = listing(root).parts
    return Presence(root, store.path, {name: elsewhere(of) if moved else of for name, of in parts.items()})


def test_an_empty_mount_point_takes_nothing_with_it(store: Store, ingest: Ingest, root: Path) -> None:
    list(sync(ingest, root))
    presence = remembered(root, store, moved=True)
    emptied(root)
    (root / "not-mounted.md").write_text("The disk is not there.")
    told = [one for one in sync(ingest, root, presence) if one.problem]
    assert "4 of 4 files are missing, as if their disk were not there" in told[0].problem
    assert "--gone" in told[0].hint
    assert names(store, root) == sorted(NAMES), "what is in the place of the folder is not read either"
    assert presence.absent
    assert not presence.parts[""].same(listing(root).parts[""]), "it is still known which disk it was"
    filled(root)
    assert not [one.problem for one in sync(ingest, root, presence) if one.problem]
    assert not presence.absent
    assert presence.parts == listing(root).parts
    assert names(store, root) == sorted((*NAMES, "not-mounted.md"))


def test_a_person_says_that_they_are_gone(store: Store, ingest: Ingest, root: Path) -> None:
    list(sync(ingest, root))
    presence = remembered(root, store, moved=True)
    emptied(root)
    list(sync(ingest, root, presence))
    presence.confirm()
    assert [one.removed for one in sync(ingest, root, presence)] == [4]
    assert names(store, root) == []
    assert not presence.absent


@pytest.mark.parametrize("left", [0, 1, 3])
def test_what_was_deleted_on_the_memorys_own_disk_is_gone(store: Store, ingest: Ingest, root: Path, left: int) -> None:
    list(sync(ingest, root))
    presence = remembered(root, store, moved=False)
    for name in NAMES[left:]:
        (root / name).unlink()
    assert not [one.problem for one in sync(ingest, root, presence) if one.problem]
    assert names(store, root) == sorted(NAMES[:left])


def test_a_disk_that_has_another_number_now_is_the_same_where_its_files_are(
    store: Store, ingest: Ingest, root: Path
) -> None:
    list(sync(ingest, root))
    presence = remembered(root, store, moved=True)
    (root / "a.md").unlink()
    assert not [one.problem for one in sync(ingest, root, presence) if one.problem]
    assert names(store, root) == sorted(NAMES[1:])


def test_a_disk_below_the_folder_that_is_away_takes_nothing_with_it(store: Store, ingest: Ingest, root: Path) -> None:
    list(sync(ingest, root))
    parts = listing(root).parts
    inner = identity(root / "sub")
    assert inner is not None
    presence = Presence(root, store.path, {**parts, "sub": elsewhere(inner)})
    emptied(root / "sub")
    (root / "a.md").unlink()
    (root / "e.md").write_text("The new keeper is Mrs Eve.")
    told = [one for one in sync(ingest, root, presence) if one.problem]
    assert [(one.path, "2 of 2" in one.problem) for one in told] == [(str(root / "sub"), True)]
    assert names(store, root) == ["b.md", "e.md", "sub/c.md", "sub/d.md"]
    assert not presence.absent
    assert presence.parts["sub"] == elsewhere(inner), "it is still known where they were"


def wait(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_seen_to_be_deleted_is_gone_on_any_disk(store: Store, ingest: Ingest, root: Path) -> None:
    told: list[Ingested] = []
    # The memory's own file seems to be elsewhere: the folder might be a disk that comes and goes.
    presence = Presence(root, Path("/proc/self/none"))
    watch = Watch(ingest, root, told.append, presence=presence, look_seconds=0.1)
    watch.start()
    try:
        wait(lambda: len(store.list()) == 4)
        wait(lambda: bool(presence.parts))
        emptied(root)
        wait(lambda: not store.list())
        assert not presence.absent
    finally:
        watch.close()


def test_a_folder_behind_a_link_is_followed(store: Store, ingest: Ingest, root: Path) -> None:
    link = root.with_name("link")
    link.symlink_to(root)
    watch = Watch(ingest, link, lambda _: None, presence=Presence(link, Path("/proc/self/none")))
    watch.start()
    try:
        wait(lambda: len(store.list()) == 4)
        wait(lambda: bool(watch.presence.parts))
        emptied(root)
        wait(lambda: not store.list())
    finally:
        watch.close()


def test_a_folder_that_is_away_is_looked_for(store: Store, ingest: Ingest, root: Path) -> None:
    list(sync(ingest, root))
    away = root.with_name("away")
    root.rename(away)
    root.mkdir()
    told: list[Ingested] = []
    presence = Presence(root, store.path, listing(away).parts)
    watch = Watch(ingest, root, told.append, presence=presence, look_seconds=0.1)
    watch.start()
    try:
        wait(lambda: presence.absent)
        (root / "x.md").write_text("It is not there.")
        (root / "x.md").unlink()
        root.rmdir()
        away.rename(root)
        wait(lambda: not presence.absent)
        assert names(store, root) == sorted(NAMES)
        shutil.rmtree(root)
        wait(lambda: "no folder" in told[-1].problem)
        watch.confirm()
        wait(lambda: not store.list())
    finally:
        watch.close()


@contextmanager
def nobody() -> Iterator[None]:
    """For root nothing is unreadable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o400], ids=["not listed", "not entered"])
def test_a_folder_that_cannot_be_looked_into_keeps_what_it_said(store: Store, ingest: Ingest, mode: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        root = Path(made)
        root.chmod(0o755)
        filled(root)
        list(sync(ingest, root))
        (root / "sub").chmod(mode)
        (root / "a.md").unlink()
        with nobody():
            found = listing(root)
        assert set(found.unread) == {root / "sub"}
        assert [path.name for path in found.files] == ["b.md"]
        known = [root / name for name in NAMES]
        verdict = Presence(root, store.path, found.parts).judge(found, known)
        assert (verdict.gone, verdict.doubts) == ((root / "a.md",), ())
        root.chmod(0)
        with nobody():
            assert set(listing(root).unread) == {root} if os.geteuid() else True
        root.chmod(0o755)
        (root / "sub").chmod(0o755)


def test_ignore_rules_that_cannot_be_read_let_nothing_in() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        root = Path(made)
        root.chmod(0o755)
        filled(root)
        (root / "sub" / ".gitignore").write_text("c.md\n")
        (root / "sub" / ".gitignore").chmod(0)
        with nobody():
            found = listing(root)
        assert [path.name for path in found.files] == ["a.md", "b.md"]
        assert set(found.unread) == {root / "sub"}
