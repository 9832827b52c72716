"""What `lorary verify` notices in a log that somebody with write access to the store changed."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry.cli import build
from registry.errors import BadRequest, BrokenChain, DigestMismatch, StoreUnavailable
from registry.log import checkpoints
from registry.log.commits import CommitLog, Confirmation, commit_key, decode, follow
from registry.log.layout import LAYOUT
from registry.maintain import witness
from registry.maintain.verify import verify
from registry.model.access import Secret
from registry.model.aliases import AliasMoved, MoveAlias
from registry.model.base import Event
from registry.model.canary import AliasSplit
from registry.model.catalog import Catalog, File, Grant
from registry.model.collection import blobs_in_use
from registry.model.creation import RegistryCreated
from registry.model.domains import CreateDomain, DomainCreated
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import SuiteResult, Tally
from registry.model.feedback import FeedbackGiven
from registry.model.index import Index
from registry.model.keys import IssueKey, KeyIssued, KeyRevoked, RevokeKey
from registry.model.machine import commands, events
from registry.model.policies import Policy
from registry.model.reviews import JudgeItem, OpenReview, ReviewClosed, ReviewOpened
from registry.model.versions import (
    ApproveVersion,
    PublishVersion,
    VersionApproved,
    VersionPublished,
)
from registry.registry import Registry
from registry.store import LocalStore
from registry.store.blobs import Blobs, blob_key, content_digest
from tests.support.catalogs import FACTS, files, publish_bytes
from tests.support.commits import append, rewrite
from tests.unit.test_old_data import LOG, write

DIGEST = content_digest(files(1))


@pytest.fixture
def operator(local_store: LocalStore) -> Secret:
    return Registry.create(local_store, name="test", key_name="operator")


@pytest.fixture
def store(local_store: LocalStore, operator: Secret) -> LocalStore:
    """A guarded domain with a version that an expert approved, an evaluation and a review."""
    registry = Registry(local_store)
    registry.execute(CreateDomain("medical", Policy(approvals=1)), operator.id)
    for name, *roles in (
        ("publisher", "publish", "approve"),
        ("expert", "approve", "evaluate"),
        ("leaver", "publish", "operate"),
        ("judge", "review"),
    ):
        grants = tuple(Grant(role, "medical") for role in roles)
        registry.execute(IssueKey(name, name, "0" * 64, grants), operator.id)
    publish_bytes(registry, operator.id, "medical", "other", 2)
    blobs, before = Blobs(local_store), registry.refresh().sequence
    blobs.put_bytes(b"weights 1")
    published = PublishVersion("medical", "coder", DIGEST, "tiny", files(1), FACTS, before)
    registry.execute(published, "publisher")
    result = SuiteResult(
        suite="s", digest="1" * 64, held_out="2" * 64, tallies={"accuracy": Tally(1, 2)}
    )
    report, content = blobs.put_bytes(b'{"report":1}'), blobs.put_bytes(b'[{"id":"i"}]')
    evaluated = RecordEvaluation("medical", "coder", 1, DIGEST, report, (result,), read_at=before)
    registry.execute(evaluated, "expert")
    opened = OpenReview("r1", "medical", "coder", (1,), "t", ("i",), content, None, before)
    registry.execute(opened, "expert")
    notes = blobs.put_bytes(b'{"rationale":"r"}')
    registry.execute(JudgeItem("r1", "i", ("correct",), notes=notes, read_at=before), "judge")
    registry.execute(RevokeKey("leaver", "left"), operator.id)
    registry.close()
    found = verify(local_store)
    assert (found.findings, found.unread, found.remarks) == ((), (), ())
    return local_store


def moved(version: int = 1) -> AliasMoved:
    return AliasMoved(
        domain="medical", adapter="coder", alias="production", version=version, previous=None
    )


def published(version: int, domain: str = "medical") -> VersionPublished:
    return VersionPublished(
        domain=domain, adapter="coder", version=version, digest=DIGEST, base="tiny",
        files=files(1), facts=FACTS,
    )  # fmt: skip


APPROVED = VersionApproved(domain="medical", adapter="coder", version=1, digest=DIGEST)
GHOST = KeyIssued(
    key="ghost", name="ghost", secret_sha256="0" * 64, grants=(Grant("operate", "*"),)
)


@pytest.mark.parametrize(
    ("event", "actor", "said"),
    [
        (moved(), "nobody-at-all", "AliasMoved by nobody-at-all: That key is not known"),
        (moved(), "publisher", "AliasMoved by publisher: 'production' is guarded.*approval"),
        (moved(), "leaver", "AliasMoved by leaver: That key was revoked"),
        (APPROVED, "publisher", "VersionApproved by publisher: publisher published"),
        (GHOST, "publisher", "KeyIssued by publisher: .*no role 'operate' in all domains"),
        (GHOST, "bootstrap", "KeyIssued by bootstrap: That key is not known"),
        (GHOST, "leaver", "KeyIssued by leaver: That key was revoked"),
        (RegistryCreated(registry="x"), "bootstrap", "only the first commit"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_an_event_that_the_registry_would_never_have_written_is_named(
    store: LocalStore, event: Event, actor: str, said: str
) -> None:
    sequence = append(store, event, actor=actor)
    report = verify(store)
    assert not report.sound
    [finding] = report.findings
    assert finding.startswith(f"commit {sequence}: ")
    assert re.search(said, finding), finding


@pytest.mark.parametrize(
    "event",
    [
        KeyRevoked(key="nobody", reason="x"),
        VersionApproved(domain="medical", adapter="coder", version=9, digest=DIGEST),
        VersionApproved(domain="medical", adapter="coder", version=0, digest=DIGEST),
        moved(9),
        moved(0),
        AliasSplit(domain="medical", adapter="coder", alias="beta", candidate=9, percent=5),
        published(9),
        published(1),
        published(1, domain="unknown"),
        FeedbackGiven(
            domain="medical",
            adapter="coder",
            version=0,
            response="r",
            answered=1,
            asker="expert",
            rating="positive",
        ),
        ReviewOpened(
            review="r2",
            domain="medical",
            adapter="coder",
            versions=(0,),
            title="t",
            items=("i",),
            content="0" * 64,
        ),
        ReviewClosed(review="none"),
    ],
    ids=lambda event: f"{type(event).__name__}-{getattr(event, 'version', '')}",
)
def test_an_event_that_contradicts_the_state_breaks_the_chain(
    store: LocalStore, event: Event
) -> None:
    sequence = append(store, event)
    with pytest.raises(BrokenChain, match=f"Commit {sequence} contradicts the state"):
        checkpoints.load(store)
    [finding] = verify(store).findings
    assert finding.startswith(f"Commit {sequence} contradicts the state")


def test_a_commit_that_is_dated_back_so_that_a_key_has_not_expired_is_found(
    store: LocalStore,
) -> None:
    made = operator_of(store)
    start = checkpoints.load(store).time
    expiring = KeyIssued(
        key="temp", name="temp", secret_sha256="0" * 64, grants=(Grant("operate", "*"),),
        expires="2030-06-01T00:00:00Z",
    )  # fmt: skip
    append(store, expiring, actor=made)
    legal = DomainCreated(domain="legal", policy=Policy())
    append(store, legal, actor=made, time="2031-01-01T00:00:00Z")
    tax = DomainCreated(domain="tax", policy=Policy())
    sequence = append(store, tax, actor="temp", time=start)
    [finding] = verify(store).findings
    assert finding.startswith(f"commit {sequence} is dated {start}, before the commit")


def test_a_commit_without_a_time_is_found(store: LocalStore) -> None:
    tax = DomainCreated(domain="tax", policy=Policy())
    sequence = append(store, tax, actor=operator_of(store), time="tomorrow")
    [finding] = verify(store).findings
    assert f"commit {sequence} contradicts the state" in finding
    assert "tomorrow" in finding


def test_a_commit_damaged_in_any_byte_is_a_finding(store: LocalStore) -> None:
    first, data = (store.get(commit_key(sequence)) for sequence in (1, 2))
    begun, following = follow(Catalog(), decode(first, 1)), CommitLog(store).read(3)
    assert following is not None
    for place in range(len(data)):
        for harm in (b"\xff", b"\xc3", bytes((data[place] ^ 1,))):
            damaged = data[:place] + harm + data[place + 1 :]
            with pytest.raises(BrokenChain):
                follow(follow(begun, decode(damaged, 2)), following)
    store.put(commit_key(2), damaged, "overwrite")
    assert not verify(store).sound


def test_a_digest_that_is_none_is_a_missing_blob(store: LocalStore) -> None:
    opened = ReviewOpened(
        review="r2", domain="medical", adapter="coder", versions=(1,), title="t", items=("i",),
        content="../../log",
    )  # fmt: skip
    append(store, opened, actor="expert")
    assert "review r2: blob ../../log is missing" in verify(store).findings


def test_what_was_earned_is_no_finding(store: LocalStore) -> None:
    registry = Registry(store)
    registry.execute(ApproveVersion("medical", "coder", 1, DIGEST), "expert")
    registry.execute(MoveAlias("medical", "coder", "production", 1), "publisher")
    registry.close()
    report = verify(store)
    assert report.sound
    assert report.remarks == ()


def test_a_rule_that_became_stricter_is_a_remark_and_no_finding(store: LocalStore) -> None:
    append(store, DomainCreated(domain="static", policy=Policy()), actor=operator_of(store))
    report = verify(store)
    assert report.sound
    assert len(report.remarks) == 1
    assert "part of an address" in report.remarks[0]


def operator_of(store: LocalStore) -> str:
    keys = checkpoints.load(store).keys.values()
    return next(key.id for key in keys if key.name == "operator")


def test_a_log_of_an_older_version_is_sound(local_store: LocalStore) -> None:
    write(local_store, LOG.read_bytes().splitlines())
    report = verify(local_store)
    assert [finding for finding in report.findings if "blob" not in finding] == []
    # Rules that are stricter today: whose feedback ends a canary, and that weakening is confirmed.
    assert [remark.partition(" by ")[0] for remark in report.remarks] == [
        "commit 29: SplitRolledBack",
        "commit 45: PolicyChanged",
    ]


def test_a_log_is_verified_with_one_index_that_grows_with_it(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One made at each event that asks for it would read every version there was each time."""
    whole, made = Index.of, list[int]()

    def counted(catalog: Catalog) -> Index:
        made.append(catalog.sequence)
        return whole(catalog)

    monkeypatch.setattr(Index, "of", counted)
    assert verify(store).sound
    assert made == [0]


def test_every_event_can_be_decided_again() -> None:
    caused = [command.event for command in commands().values()]
    assert sorted(kind.__name__ for kind in caused) == sorted(events())


def test_an_object_that_is_no_commit_is_passed_over(store: LocalStore) -> None:
    for name in ("\u00b2.json", ".DS_Store", "x/y"):  # a superscript two is a digit to str.isdigit
        (store.root / "log" / name).parent.mkdir(exist_ok=True)
        (store.root / "log" / name).write_bytes(b"x")
    assert verify(store).sound


# Against a witness


def seen(store: LocalStore) -> dict[int, str]:
    report = verify(store)
    assert report.sound
    assert report.head
    return {report.commits: report.head}


def test_rewritten_history_shows_against_a_witness_and_not_without(store: LocalStore) -> None:
    known = seen(store)
    rewrite(store, 2, b'"approvals":1', b'"approvals":0')
    assert verify(store).sound, "stated in the documentation: this cannot be noticed from here"
    report = verify(store, witness=known)
    assert "history was rewritten" in report.findings[0]


def test_removed_commits_show_against_a_witness_and_not_without(store: LocalStore) -> None:
    known = seen(store)
    [last] = known
    store.delete(commit_key(last))
    assert verify(store).sound
    report = verify(store, witness=known)
    assert f"the witness saw commit {last}, but the log ends at {last - 1}" in report.findings[0]


def test_a_commit_that_is_missing_before_others_is_a_finding(store: LocalStore) -> None:
    last = verify(store).commits
    store.delete(commit_key(last - 2))
    report = verify(store)
    assert not report.sound
    assert f"commit {last - 2} is missing, but 2 commit(s) lie after it" in report.findings


def test_a_log_that_grew_agrees_with_its_witness(store: LocalStore, operator: Secret) -> None:
    known = seen(store)
    registry = Registry(store)
    registry.execute(CreateDomain("legal", Policy()), operator.id)
    registry.close()
    assert verify(store, witness=known).sound


def test_the_command_compares_with_a_witness_and_notes_what_it_saw(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORARY_STORE", str(store.root))
    file = tmp_path / "witness"
    arguments = ["verify", "--witness", str(file), "--json"]
    for _ in range(2):
        assert CliRunner().invoke(build(), arguments).exit_code == 0
    report = verify(store)
    assert witness.read(file) == {report.commits: report.head}
    store.delete(commit_key(report.commits))
    assert CliRunner().invoke(build(), arguments).exit_code == 1
    assert list(witness.read(file)) == [report.commits], "only what is sound is noted"


@pytest.mark.parametrize("text", ["x", "1", "1 abc", f"1 {'0' * 64}\n1 {'1' * 64}", "\xff"])
def test_a_witness_that_cannot_be_read_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "witness").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadRequest, match="Restore the file"):
        witness.read(tmp_path / "witness")


# Checkpoints


def test_a_commit_that_confirms_a_false_checkpoint_is_found(store: LocalStore) -> None:
    truth = checkpoints.load(store)
    event = DomainCreated(domain="legal", policy=Policy())
    false = Confirmation(LAYOUT, "0" * 64)
    append(store, event, actor=operator_of(store), checkpoint=false)
    report = verify(store)
    assert f"checkpoint of commit {truth.sequence} that does not say" in report.findings[0]


# Blobs


def of(store: LocalStore) -> dict[str, str]:
    """Digests by what needs them."""
    catalog = checkpoints.load(store)
    version = catalog.adapters["medical/coder"].versions[0]
    review = catalog.reviews["r1"]
    content, notes = review.content, review.judgements[0].notes
    assert content is not None
    assert notes is not None
    return {
        "weights": version.files[0].sha256,
        "report": version.evaluations[0].report,
        "review": content,
        "notes": notes,
        "base": catalog.bases["tiny"].shapes,
    }


@pytest.mark.parametrize("what", ["weights", "report", "review", "notes", "base"])
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_every_blob_that_something_needs_is_looked_at(
    store: LocalStore, what: str, harm: str
) -> None:
    digest = of(store)[what]
    if harm == "missing":
        store.delete(blob_key(digest))
    else:
        store.put(blob_key(digest), b"something else", "overwrite")
    report = verify(store)
    assert [digest[:12] in finding for finding in report.findings] == [True]
    assert harm in report.findings[0]


def test_every_blob_in_use_is_counted(store: LocalStore) -> None:
    assert verify(store).blobs == len(blobs_in_use(checkpoints.load(store)))


def test_what_cannot_be_read_now_is_neither_sound_nor_damaged(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = verify(AwayFor(store, of(store)["weights"]))
    assert report.findings == ()
    assert len(report.unread) == 1
    assert not report.sound
    monkeypatch.setattr("registry.cli.keeping.verify_store", lambda *_: report)
    monkeypatch.setenv("LORARY_STORE", str(store.root))
    done = CliRunner().invoke(build(), ["verify"])
    assert done.exit_code == 3
    assert "NOT FULLY READ" in done.output
    assert "NOT SOUND" not in done.output


class AwayFor(LocalStore):
    """Does not answer for one blob."""

    def __init__(self, store: LocalStore, digest: str) -> None:
        super().__init__(store.root)
        self.digest = digest

    def stream(self, key: str, *, start: int = 0, chunk: int = 1 << 20) -> Iterator[bytes]:
        if key.endswith(self.digest):
            raise StoreUnavailable("injected: away")
        return super().stream(key, start=start, chunk=chunk)


def test_a_version_whose_files_are_not_those_of_its_digest_is_not_called_sound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The registry that is asked may lie."""
    listed = [{"path": "README.md", "size": 1, "sha256": "0" * 64}]
    told: dict[str, object] = {"ref": "a/b@1", "digest": "1" * 64, "files": listed}

    class Lies:
        def pull(self, *_: object, **__: object) -> dict[str, object]:
            return told

    monkeypatch.setattr("registry.cli.keeping.client", lambda: nullcontext(Lies()))
    refused = CliRunner().invoke(build(), ["verify", "a/b@1"])
    assert isinstance(refused.exception, DigestMismatch)
    told["digest"] = content_digest([File("README.md", 1, "0" * 64)])
    assert CliRunner().invoke(build(), ["verify", "a/b@1"]).exit_code == 0


def test_a_version_whose_digest_is_not_that_of_its_files_is_a_finding(
    store: LocalStore, operator: Secret
) -> None:
    registry = Registry(store)
    before = registry.refresh().sequence
    false = PublishVersion("medical", "coder", "1" * 64, "tiny", files(1), FACTS, before)
    registry.execute(false, operator.id)
    registry.close()
    assert any("is not that of its list of files" in found for found in verify(store).findings)
