"""An export that is cut or changed is noticed, an import is whole or nothing, and both agree."""

import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapters.errors import LoraryError
from registry.cli import build
from registry.errors import (
    BadRequest,
    BrokenChain,
    Conflict,
    DigestMismatch,
    OutcomeUnknown,
    StoreUnavailable,
)
from registry.log import checkpoints, remains
from registry.log.commits import MAX_COMMIT, commit_key
from registry.maintain import archive
from registry.maintain.verify import verify
from registry.model.collection import BlobsCondemned, BlobsSwept, blobs_in_use
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.base import PutMode
from registry.store.blobs import blob_key
from tests.support.catalogs import publish_bytes
from tests.support.commits import append


@pytest.fixture
def source(local_store: LocalStore) -> LocalStore:
    """A registry with a domain and two versions."""
    operator = Registry.create(local_store, name="test", key_name="operator")
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy()), operator.id)
    for seed in (1, 2):
        publish_bytes(registry, operator.id, "medical", "coder", seed)
    registry.close()
    return local_store


@pytest.fixture
def good(source: LocalStore, tmp_path: Path) -> Path:
    archive.export(source, tmp_path / "good.tar")
    return tmp_path / "good.tar"


@pytest.fixture
def shorter(tmp_path: Path) -> Path:
    """The export of another registry, of one commit."""
    store = LocalStore(tmp_path / "shorter")
    Registry.create(store, name="other", key_name="operator")
    archive.export(store, tmp_path / "shorter.tar")
    return tmp_path / "shorter.tar"


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "target")


Entries = list[tuple[tarfile.TarInfo, bytes]]


def entries(path: Path) -> Entries:
    with tarfile.open(path) as opened:
        return [(entry, opened.extractfile(entry).read()) for entry in opened]  # type: ignore[union-attr]


def written(path: Path, listed: Entries) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as opened:
        for info, data in listed:
            opened.addfile(info, io.BytesIO(data))
    return path


def can_begin(store: LocalStore) -> bool:
    """Whether a registry can be begun and used in what is left."""
    operator = Registry.create(store, name="new", key_name="operator")
    registry = Registry(store)
    registry.execute(CreateDomain("legal", Policy()), operator.id)
    registry.close()
    return verify(store).sound


def test_an_export_cut_anywhere_is_refused_and_leaves_nothing(
    good: Path, target: LocalStore, tmp_path: Path
) -> None:
    whole, bad = entries(good), tmp_path / "bad.tar"
    for kept in range(len(whole)):
        with pytest.raises(BadRequest):
            archive.import_(target, written(bad, whole[:kept]))
    data = good.read_bytes()
    for length in (0, 100, 600, len(data) // 2, len(data) // 2 + 100):
        bad.write_bytes(data[:length])
        with pytest.raises(BadRequest):
            archive.import_(target, bad)
    assert list(target.list("")) == []
    archive.import_(target, good)
    assert verify(target).sound


def replaced(**changes: Any) -> Callable[[Entries], Entries]:
    def change(listed: Entries) -> Entries:
        info, data = listed[-1]
        new = json.dumps({**json.loads(data), **changes}).encode()
        info.size = len(new)
        return [*listed[:-1], (info, new)]

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda listed: [*listed[:-2], listed[-1]],
        lambda listed: [*listed[1:-1], listed[0], listed[-1]],
        lambda listed: [*listed[:-1], listed[-1], listed[-1]],
        lambda listed: [listed[0], *listed],
        replaced(commits=4),
        replaced(head="0" * 64),
        replaced(blobs=1),
        replaced(registry="another"),
        replaced(format=3),
        replaced(format="2"),
    ],
    ids=[
        "last commit left out", "another order", "something after the end", "an entry twice",
        "fewer commits", "another head", "fewer blobs", "another name", "newer format", "no number",
    ],
)  # fmt: skip
def test_a_changed_export_is_refused_even_where_consent_was_given(
    good: Path, target: LocalStore, tmp_path: Path, change: Callable[[Entries], Entries]
) -> None:
    bad = written(tmp_path / "bad.tar", change(entries(good)))
    with pytest.raises(BadRequest):
        archive.import_(target, bad, without_trailer=True)
    assert list(target.list("")) == []


@pytest.mark.parametrize("kind", ["sparse", "declared", "huge commit"])
def test_an_entry_cannot_have_more_bytes_than_the_file(
    target: LocalStore, tmp_path: Path, kind: str
) -> None:
    info = tarfile.TarInfo(f"blobs/sha256/00/{'0' * 64}")
    if kind == "sparse":
        info.pax_headers = {"GNU.sparse.map": f"0,1,{1 << 40},1", "GNU.sparse.size": str(1 << 40)}
        info.pax_headers["GNU.sparse.name"] = info.name
        written(tmp_path / "bad.tar", [(info, b"")])
    else:
        info.name = commit_key(1) if kind == "huge commit" else info.name
        info.size = 1 << 40
        (tmp_path / "bad.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(10_000))
    with pytest.raises(BadRequest):
        archive.import_(target, tmp_path / "bad.tar", without_trailer=True)
    assert list(target.list("")) == []


def header(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    """An entry of a kind that the tarfile module reads by itself."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


HEADERS = {
    "size that is no number": header(b"x", b"21 GNU.sparse.size=x\n"),
    "size for all that is no number": header(b"g", b"21 GNU.sparse.size=x\n"),
    "map that is none": header(b"x", b"24 GNU.sparse.map=a,b,c\n"),
    "charset that is no text": header(b"x", b"17 hdrcharset=\xff\xfe\n"),
    "chain of headers": header(b"x", b"11 mtime=1\n") * 3000,
    "longer than the file": header(b"x", b"", 1 << 40),
    "long name": header(b"L", b"n" * 5000),
}


@pytest.mark.parametrize("added", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_refused(
    good: Path, target: LocalStore, tmp_path: Path, added: bytes
) -> None:
    (tmp_path / "bad.tar").write_bytes(added + good.read_bytes())
    with pytest.raises(BadRequest):
        archive.import_(target, tmp_path / "bad.tar")
    assert list(target.list("")) == []


def test_a_header_is_not_read_into_memory_whatever_its_size(
    target: LocalStore, tmp_path: Path
) -> None:
    with (tmp_path / "bad.tar").open("wb") as file:
        file.write(header(b"x", b"", 200 << 20))
        file.truncate(201 << 20)
    tracemalloc.start()
    with pytest.raises(BadRequest, match="a header is too long"):
        archive.import_(target, tmp_path / "bad.tar")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("data", [b'{"x":' + b"[" * 60_000, b'{"registry":"\xff"}', b"", b"[]"])
def test_a_trailer_that_is_none_is_refused(
    good: Path, target: LocalStore, tmp_path: Path, data: bytes
) -> None:
    *listed, (info, _) = entries(good)
    info.size = len(data)
    with pytest.raises(BadRequest, match="trailer cannot be read"):
        archive.import_(target, written(tmp_path / "bad.tar", [*listed, (info, data)]))


@pytest.mark.parametrize("change", ["a blob is gone", "it is longer", "a commit is another"])
def test_an_export_that_is_replaced_while_it_is_read_is_not_imported(
    good: Path, source: LocalStore, target: LocalStore, tmp_path: Path, change: str
) -> None:
    other = tmp_path / "other.tar"
    if change == "it is longer":
        append(source, BlobsCondemned(digests=()))
        archive.export(source, other)
    elif change == "a commit is another":
        *before, (info, data), trailer = entries(good)
        info.size += 1
        written(other, [*before, (info, data + b" "), trailer])
    else:
        written(other, entries(good)[1:])

    def replace(what: str, done: int, _total: int) -> None:
        if (what, done) == ("checked", 1):
            other.replace(good)

    with pytest.raises(BadRequest, match="was changed while it was read"):
        archive.import_(target, good, replace)
    assert checkpoints.load(target).sequence == 0


class Breaking(LocalStore):
    """Fails for good after so many writes."""

    writes = 1 << 30

    def put(self, key: str, data: bytes, mode: PutMode) -> None:
        self._count()
        super().put(key, data, mode)

    def put_file(self, key: str, path: Path, *, sha256: str) -> None:
        self._count()
        super().put_file(key, path, sha256=sha256)

    def _count(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise StoreUnavailable("injected: away")


@pytest.mark.parametrize("then", ["init", "import", "import of another"])
def test_an_import_that_broke_off_anywhere_bricks_nothing(
    good: Path, shorter: Path, tmp_path: Path, then: str
) -> None:
    for writes in range(20):
        breaking = Breaking(tmp_path / str(writes))
        breaking.writes = writes
        try:
            archive.import_(breaking, good)
        except StoreUnavailable:
            store = LocalStore(breaking.root)
            assert checkpoints.load(store).sequence == 0, "nothing is visible before all of it"
            if then == "init":
                assert can_begin(store)
            else:
                archive.import_(store, good if then == "import" else shorter)
                assert verify(store).sound
            assert [info.key for info in store.list("import/")] == []
        else:
            assert writes > 5
            return
    raise AssertionError("the import never ended")


def test_what_an_earlier_version_left_of_the_same_import_is_completed(
    source: LocalStore, good: Path, target: LocalStore
) -> None:
    for sequence in (2, 3):
        target.put(commit_key(sequence), source.get(commit_key(sequence)), "create")
    with pytest.raises(Conflict, match="not the first"):
        Registry.create(target, name="new", key_name="operator")
    archive.import_(target, good)
    assert verify(target).sound


def test_a_log_that_lost_its_beginning_is_not_taken_for_remains(
    source: LocalStore, good: Path, tmp_path: Path
) -> None:
    other = LocalStore(tmp_path / "other")
    operator = Registry.create(other, name="other", key_name="operator")
    registry = Registry(other)
    registry.execute(CreateDomain("legal", Policy()), operator.id)
    registry.close()
    other.delete(commit_key(1))
    before = other.get(commit_key(2))
    for attempt in (
        lambda: Registry.create(other, name="new", key_name="operator"),
        lambda: archive.import_(other, good),
    ):
        with pytest.raises(Conflict, match="Restore log/ from a backup"):
            attempt()
    assert other.get(commit_key(2)) == before


@pytest.mark.parametrize("marked", [True, False])
def test_what_is_no_commit_stands_in_the_way_of_no_import_and_no_beginning(
    good: Path, tmp_path: Path, marked: bool
) -> None:
    for name in ("import", "init"):
        store = LocalStore(tmp_path / name)
        (store.root / "log").mkdir(parents=True)
        (store.root / "log" / ".DS_Store").write_bytes(b"x")
        if marked:
            remains.mark(store)
        if name == "import":
            archive.import_(store, good)
        else:
            can_begin(store)
        assert verify(store).sound
        assert (store.root / "log" / ".DS_Store").exists()


def test_a_lost_reply_ends_no_import(good: Path, target: LocalStore) -> None:
    class LosesReplies(LocalStore):
        puts = 0

        def put(self, key: str, data: bytes, mode: PutMode) -> None:
            super().put(key, data, mode)
            self.puts += 1
            if self.puts % 2 == 0 or mode == "create":
                raise OutcomeUnknown("no answer")

    archive.import_(LosesReplies(target.root), good)
    assert verify(target).sound


def test_an_import_in_a_store_with_a_registry_changes_nothing(
    source: LocalStore, good: Path
) -> None:
    before = {info.key: source.get(info.key) for info in source.list("")}
    with pytest.raises(Conflict, match="empty"):
        archive.import_(source, good)
    source.put(remains.MARKER, b"", "create")
    with pytest.raises(Conflict):
        Registry.create(source, name="new", key_name="operator")
    assert {info.key: source.get(info.key) for info in source.list("")} == before


def test_commits_as_large_as_older_versions_wrote_them_are_exported_and_imported(
    source: LocalStore, target: LocalStore, tmp_path: Path
) -> None:
    many = tuple(f"{number:064x}" for number in range(1_100_000))
    last = append(source, BlobsCondemned(digests=many))
    assert source.head(commit_key(last)).size > 64 << 20 > MAX_COMMIT
    append(source, BlobsSwept())
    archive.export(source, tmp_path / "large.tar")
    archive.import_(target, tmp_path / "large.tar")
    assert checkpoints.load(target) == checkpoints.load(source)


def test_the_command_warns_where_it_cannot_know(
    good: Path, target: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_STORE", str(target.root))
    old = written(tmp_path / "old.tar", entries(good)[:-1])
    refused = CliRunner().invoke(build(), ["import", str(old)])
    assert isinstance(refused.exception, LoraryError)
    done = CliRunner().invoke(build(), ["import", str(old), "--without-trailer", "--json"])
    assert done.exit_code == 0, done.output
    assert "has no trailer: commits after" in done.output
    assert '"complete": false' in done.output


def test_an_export_is_its_owners_alone_and_follows_no_link(
    source: LocalStore, good: Path, tmp_path: Path
) -> None:
    """It holds what the store keeps from others: held-out questions and what experts wrote."""
    assert good.stat().st_mode & 0o777 == 0o600
    (tmp_path / "another").write_text("kept")
    (tmp_path / ".again.tar.part").symlink_to(tmp_path / "another")
    archive.export(source, tmp_path / "again.tar")
    assert (tmp_path / "another").read_text() == "kept"
    assert not (tmp_path / "again.tar").is_symlink()
    assert sorted(path.name for path in tmp_path.glob("*.part")) == [".again.tar.part"]


def test_an_export_that_cannot_be_written_is_refused(source: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "x.tar", source.root / "log" / "a/b"):
        with pytest.raises(BadRequest, match=r"cannot be written.*Name another file"):
            archive.export(source, path)
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("harm", ["same size", "shorter", "longer", "empty"])
def test_a_damaged_blob_is_not_exported(source: LocalStore, tmp_path: Path, harm: str) -> None:
    for digest in sorted(blobs_in_use(checkpoints.load(source))):
        whole = source.get(blob_key(digest))
        damaged = {"same size": whole[:-1] + b"?", "shorter": whole[:-1], "longer": whole + b"?",
                   "empty": b""}[harm]  # fmt: skip
        source.put(blob_key(digest), damaged, "overwrite")
        with pytest.raises(DigestMismatch):
            archive.export(source, tmp_path / "bad.tar")
        assert list(tmp_path.glob("*bad.tar*")) == []
        source.put(blob_key(digest), whole, "overwrite")
    archive.export(source, tmp_path / "good.tar")


class Rewritten(LocalStore):
    """A store whose last commit is another one when it is read again."""

    read = 0

    def get(self, key: str) -> bytes:
        data = super().get(key)
        if key != commit_key(checkpoints.load(LocalStore(self.root)).sequence):
            return data
        self.read += 1
        return data if self.read == 1 else data + b" "


def test_a_log_that_changes_during_an_export_is_not_exported(
    source: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(BrokenChain, match="changed during the export"):
        archive.export(Rewritten(source.root), tmp_path / "bad.tar")
    assert list(tmp_path.glob("*bad.tar*")) == []


def test_an_export_ends_in_what_it_holds(good: Path, source: LocalStore) -> None:
    *listed, (last, data) = entries(good)
    assert last.name == archive.TRAILER
    trailer, catalog = json.loads(data), checkpoints.load(source)
    assert (trailer["commits"], trailer["head"]) == (catalog.sequence, catalog.head)
    assert trailer["bytes"] == sum(len(content) for _, content in listed)


def test_an_export_without_a_trailer_still_has_every_blob_that_its_log_needs(
    good: Path, target: LocalStore, tmp_path: Path
) -> None:
    listed = entries(good)[:-1]
    assert archive.examine(written(tmp_path / "old.tar", listed), without_trailer=True).blobs
    lacking = written(tmp_path / "lacking.tar", listed[1:])
    with pytest.raises(BadRequest, match=r"lacks 1 blob\(s\)"):
        archive.import_(target, lacking, without_trailer=True)
    assert list(target.list("")) == []
