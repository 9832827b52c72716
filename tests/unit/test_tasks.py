"""Tasks in the registry: who writes them, which versions there are, and what a policy may name."""

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.testclient import TestClient

from adapters.errors import InvalidName
from adapters.tasks import InvalidTask
from registry import errors
from registry.http.app import create_app
from registry.maintain.collection import collect
from registry.maintain.verify import verify
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.catalog import Catalog, File, Grant
from registry.model.collection import CondemnBlobs, blobs_in_use
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.evaluations import RecordEvaluation
from registry.model.evidence import SuiteResult, SuiteRule, Tally
from registry.model.gates import requirements
from registry.model.keys import IssueKey
from registry.model.machine import decide
from registry.model.policies import Policy, weakened
from registry.model.tasks import MAX_BYTES, PublishTask, RetireTask, find
from registry.publish.tasks import publish_task
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs, content_digest
from tests.support.pushed_tasks import contents, stored, suite
from tests.unit.test_gates import ALICE, BOB, METER, NOW, OPERATOR, digest, do, start


def listed(seed: int) -> tuple[File, ...]:
    """A list of files that differs by seed."""
    return (File("items.jsonl", 9, f"{seed + 500:064x}"), File("task.yaml", 1, "d" * 64))


def version(number: int, **more: Any) -> PublishTask:
    """The command that makes it."""
    files = listed(number)
    command = PublishTask("medical", "modality", content_digest(files), files, (suite(number),))
    return replace(command, **more)


def rule(number: int, **more: Any) -> SuiteRule:
    """A policy's rule for a version of the task."""
    asked = suite(number)
    made = SuiteRule(
        suite=asked.suite, digest=asked.digest, held_out=asked.held_out,
        task=f"modality@{number}", floors={"accuracy": 0.6},
    )  # fmt: skip
    return replace(made, **more)


def with_two(policy: Policy | None = None) -> Catalog:
    """A domain whose task has two versions, and whose policy names the second."""
    catalog = start(Policy(approvals=0, guarded=("production",)))
    for number in (1, 2):
        catalog = do(catalog, version(number), METER)
    policy = policy or Policy(approvals=0, suites=(rule(2),))
    return do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)


def evaluated(catalog: Catalog, number: int, hits: int = 900, report: str = "e" * 64) -> Catalog:
    """Version 2 of the adapter, judged by that version of the task."""
    asked = suite(number)
    result = SuiteResult(
        suite=asked.suite, digest=asked.digest, held_out=asked.held_out,
        tallies={"accuracy": Tally(hits, 1000)},
    )  # fmt: skip
    return do(catalog, RecordEvaluation("medical", "coder", 2, digest(2), report, (result,)), METER)


def test_versions_are_numbered_and_the_newest_again_changes_nothing() -> None:
    catalog = with_two()
    task = catalog.tasks["medical/modality"]
    assert [(v.number, v.publisher, v.published) for v in task.versions] == [
        (1, METER, NOW), (2, METER, NOW),
    ]  # fmt: skip
    assert decide(catalog, version(2), METER, NOW) == ()
    assert decide(catalog, version(2, suites=(suite(9),)), METER, NOW), "scored otherwise since"
    assert do(catalog, version(1), METER).tasks["medical/modality"].versions[2].digest == (
        task.versions[0].digest
    )


def test_a_version_pushed_since_the_pusher_looked_is_not_passed_over() -> None:
    catalog = with_two()
    with pytest.raises(errors.VersionConflict, match="newest version of the task medical/modality"):
        decide(catalog, version(3, expected=1), METER, NOW)
    assert decide(catalog, version(3, expected=2), METER, NOW)


@pytest.mark.parametrize("who", [ALICE, BOB, OPERATOR])
def test_publishers_experts_and_operators_of_a_domain_write_no_task_without_the_role(
    who: str,
) -> None:
    catalog = start()
    only = {ALICE: "publish", BOB: "approve", OPERATOR: "operate"}[who]
    catalog = do(catalog, IssueKey("k", "k", "0" * 64, (Grant(only, "medical"),)), OPERATOR)
    with pytest.raises(errors.Forbidden, match="evaluate"):
        decide(catalog, version(1), "k", NOW)


def test_a_version_is_retired_by_operators_only_and_not_while_the_policy_names_it() -> None:
    catalog = with_two()
    with pytest.raises(errors.Forbidden, match="operate"):
        decide(catalog, RetireTask("medical", "modality", 1, "wrong"), METER, NOW)
    with pytest.raises(errors.Conflict, match="names modality@2"):
        decide(catalog, RetireTask("medical", "modality", 2, "wrong"), OPERATOR, NOW)
    with pytest.raises(errors.BadRequest, match="Give a reason"):
        decide(catalog, RetireTask("medical", "modality", 1, " "), OPERATOR, NOW)
    only = {file.sha256 for file in listed(1)} - {file.sha256 for file in listed(2)}
    assert only <= blobs_in_use(catalog)
    retire = RetireTask("medical", "modality", 1, "wrong")
    catalog = do(catalog, retire, OPERATOR)
    assert find(catalog, "medical", "modality", 1).retired == "wrong"
    assert not only & blobs_in_use(catalog)
    assert decide(catalog, retire, OPERATOR, NOW) == ()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((File("../task.yaml", 1, "d" * 64),), "no name of a task's file"),
        ((File(".hidden", 1, "d" * 64),), "no name of a task's file"),
        ((File("a/b", 1, "d" * 64),), "no name of a task's file"),
        ((File("task.yaml", 1, "d" * 64), File("TASK.yaml", 1, "c" * 64)), "listed twice"),
        ((File("items.jsonl", MAX_BYTES + 1, "d" * 64),), "at most"),
        ((), "files"),
        (tuple(File(f"f{n}", 1, "d" * 64) for n in range(21)), "files"),
    ],
)
def test_files_that_no_task_may_have_are_refused(files: tuple[File, ...], said: str) -> None:
    with pytest.raises(errors.BadRequest, match=said):
        decide(start(), version(1, files=files), METER, NOW)


def test_names_are_well_formed_and_differ_by_more_than_case() -> None:
    catalog = with_two()
    with pytest.raises(errors.Conflict, match="case only"):
        decide(catalog, version(1, task="Modality"), METER, NOW)
    with pytest.raises(InvalidName, match="not a task name"):
        decide(catalog, version(1, task="a b"), METER, NOW)
    with pytest.raises(errors.BadRequest, match="suite occurs twice"):
        decide(catalog, version(3, suites=(suite(1), suite(2))), METER, NOW)


def test_files_that_are_being_removed_as_garbage_are_not_published() -> None:
    catalog = do(start(), CondemnBlobs(("d" * 64,)), OPERATOR)
    with pytest.raises(errors.BeingCollected):
        decide(catalog, version(1), METER, NOW)


@pytest.mark.parametrize(
    ("named", "kind", "said"),
    [
        (rule(2, task="modality@3"), errors.UnknownVersion, "modality@2"),
        (rule(2, task="modalities@2"), errors.UnknownTask, "Did you mean medical/modality"),
        (rule(2, task="modality"), InvalidName, "has no version"),
        (rule(1, task="modality@2"), errors.BadRequest, "has no suite"),
        (rule(2, held_out="f" * 64), errors.BadRequest, "lorary suite policy medical --task"),
        (rule(1), errors.BadRequest, "retired: wrong"),
    ],
)
def test_a_policy_names_only_versions_that_there_are_by_their_own_digests(
    named: SuiteRule, kind: type[Exception], said: str
) -> None:
    catalog = do(with_two(), RetireTask("medical", "modality", 1, "wrong"), OPERATOR)
    with pytest.raises(kind, match=said):
        decide(
            catalog, ChangePolicy("medical", Policy(suites=(named,)), weaken=True), OPERATOR, NOW
        )
    other = Policy(suites=(replace(rule(2), task="modality@2"),))
    with pytest.raises(errors.UnknownDomain, match="legal"):
        decide(catalog, CreateDomain("legal", other), OPERATOR, NOW)


def test_a_guarded_alias_moves_only_with_evidence_on_the_version_that_the_policy_names() -> None:
    move = MoveAlias("medical", "coder", "production", 2)
    catalog = with_two()
    with pytest.raises(errors.PromotionNotEarned, match="task modality@2: report"):
        decide(catalog, move, ALICE, NOW)
    older = evaluated(catalog, 1)
    with pytest.raises(
        errors.PromotionNotEarned, match="task modality@2: report: the report is on"
    ):
        decide(older, move, ALICE, NOW)
    weak = evaluated(older, 2, hits=500, report="f" * 64)
    said = "task modality@2: accuracy at least 60 %: 500 of 1000"
    with pytest.raises(errors.PromotionNotEarned, match=said):
        decide(weak, move, ALICE, NOW)
    assert decide(evaluated(older, 2, report="f" * 64), move, ALICE, NOW)


def test_a_requirement_names_the_suite_too_where_it_is_called_otherwise() -> None:
    catalog = start(Policy(approvals=0))
    asked = replace(suite(1), suite="chest")
    catalog = do(catalog, version(1, suites=(asked, suite(2))), METER)
    policy = Policy(approvals=0, suites=(rule(1, suite="chest"),))
    catalog = do(catalog, ChangePolicy("medical", policy, weaken=True), OPERATOR)
    adapter = catalog.adapters["medical/coder"].versions[1]
    (found,) = requirements(adapter, policy, catalog, now=NOW)
    assert found.name == "chest of task modality@1: report"


def test_another_version_of_a_task_is_another_exam_and_its_name_alone_is_none() -> None:
    old = Policy(suites=(rule(1),))
    assert weakened(old, Policy(suites=(rule(2),))) == ("suites",)
    assert weakened(old, Policy(suites=(rule(1, task=""),))) == ()


class Desk:
    """A registry's service, and keys of one role each."""

    def __init__(self, client: TestClient, registry: Registry, operator: Secret) -> None:
        self.client, self.registry, self.operator = client, registry, operator

    def key(self, role: str, domain: str = "radiology") -> dict[str, str]:
        """The header of a new key."""
        secret = Secret.generate()
        command = IssueKey(secret.id, secret.id, secret.digest, (Grant(role, domain),))
        self.registry.execute(command, self.operator.id)
        return {"Authorization": f"Bearer {secret.text}"}

    def push(self, files: dict[str, bytes], task: str = "modality", number: int = 1) -> Any:
        """A version from the service's own inside."""
        return publish_task(
            self.registry, domain="radiology", task=task, files=stored(self.registry, files),
            suites=(suite(number, task),), actor=self.operator.id,
        )  # fmt: skip


@pytest.fixture
def desk(local_store: LocalStore) -> Iterator[Desk]:
    operator = Registry.create(local_store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(local_store.root)))
    with TestClient(app, headers={"Origin": "http://testserver"}) as client:
        made = Desk(client, app.state.registry, operator)
        for domain in ("radiology", "other"):
            made.registry.execute(CreateDomain(domain, Policy()), operator.id)
        yield made


def test_what_a_version_says_of_itself_is_read_from_its_files(desk: Desk) -> None:
    version = desk.push(contents(about="X-ray or ultrasound"))
    assert (version.about, version.licence) == ("X-ray or ultrasound", "CC0-1.0")
    assert desk.push(contents(about="X-ray or ultrasound")).number == 1
    assert desk.push(contents(n=8), number=2).number == 2
    assert verify(desk.registry.store).sound


def test_files_that_make_no_task_or_another_one_are_refused_with_every_problem(desk: Desk) -> None:
    broken = contents() | {"items.jsonl": b'{"text": "a", "target": "mri"}\n{\n'}
    del broken["card.md"]
    with pytest.raises(InvalidTask) as refused:
        desk.push(broken)
    assert {problem.file for problem in refused.value.problems} == {"items.jsonl", "card.md"}
    with pytest.raises(InvalidTask, match="names the task 'modality', and this is 'other'"):
        desk.push(contents(), task="other")
    with pytest.raises(InvalidTask, match="above the limit"):
        desk.push(contents() | {"run.py": b"print()"})
    listed = stored(desk.registry, contents())
    gone = replace(listed[0], sha256="a" * 64)
    with pytest.raises(errors.ContentMissing, match="not stored"):
        publish_task(
            desk.registry, domain="radiology", task="modality", files=(gone, *listed[1:]),
            suites=(suite(),), actor=desk.operator.id,
        )  # fmt: skip
    assert desk.registry.refresh().tasks == {}


def test_a_report_is_not_read_by_way_of_a_task_that_lists_it(desk: Desk) -> None:
    report = Blobs(desk.registry.store).put_bytes(b"# who answered what\n")
    catalog = desk.registry.catalog
    desk.registry.refresh()
    index = catalog.index.plus([("report", report, "radiology/x@1")])
    catalog.__dict__["index"] = index
    files = stored(desk.registry, contents() | {"card.md": b"# who answered what\n"})
    with pytest.raises(InvalidTask, match=r"card\.md.*report or a review"):
        publish_task(
            desk.registry, domain="radiology", task="modality", files=files, suites=(suite(),),
            actor=desk.operator.id,
        )  # fmt: skip


def test_held_out_items_and_their_digests_are_shown_to_evaluators_and_auditors_alone(
    desk: Desk,
) -> None:
    desk.push(contents())
    place = "/api/v1/domains/radiology/tasks/modality/versions/1"
    for role in ("publish", "infer", "review", "approve"):
        header = desk.key(role)
        shown = desk.client.get(place, headers=header)
        assert shown.status_code == 200
        assert all("sha256" not in file for file in shown.json()["files"]), role
        assert desk.client.get(f"{place}/files?path=items.jsonl", headers=header).status_code == 403
        for listing in ("/api/v1/domains/radiology/tasks", place.removesuffix("/versions/1")):
            assert '"sha256"' not in desk.client.get(listing, headers=header).text
    for role in ("evaluate", "audit", "operate"):
        header = desk.key(role)
        assert all("sha256" in f for f in desk.client.get(place, headers=header).json()["files"])
        items = desk.client.get(f"{place}/files?path=items.jsonl", headers=header)
        assert items.content == contents()["items.jsonl"]
    assert desk.client.get(place, headers=desk.key("evaluate", "other")).status_code == 403


def test_a_retired_version_is_listed_and_its_files_are_gone(desk: Desk) -> None:
    desk.push(contents())
    operator = {"Authorization": f"Bearer {desk.operator.text}"}
    place = "/api/v1/domains/radiology/tasks/modality/versions/1"
    body = {"reason": "two wrong answers"}
    retired = desk.client.post(f"{place}/retirement", json=body, headers=operator)
    assert (retired.status_code, retired.json()["retired"]) == (200, "two wrong answers")
    gone = desk.client.get(f"{place}/files?path=task.yaml", headers=operator)
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "version_gone")
    listing = desk.client.get("/api/v1/domains/radiology/tasks", headers=operator).json()
    assert [v["retired"] for v in listing[0]["versions"]] == ["two wrong answers"]
    done = collect(desk.registry, desk.operator.id, apply=True, grace_seconds=0, clock=lambda: 2e9)
    assert done.blobs == 3
    assert verify(desk.registry.store).sound


def test_tasks_are_listed_in_pages(desk: Desk) -> None:
    for name in ("b", "a", "c"):
        desk.push(contents(name), task=name)
    header = desk.key("infer")
    place = "/api/v1/domains/radiology/tasks"
    first = desk.client.get(f"{place}?limit=2", headers=header).json()
    assert [task["name"] for task in first] == ["a", "b"]
    rest = desk.client.get(f"{place}?limit=2&after=b", headers=header).json()
    assert [task["path"] for task in rest] == ["radiology/c"]


def test_a_domains_page_lists_its_tasks_and_which_of_them_the_policy_names(desk: Desk) -> None:
    for number in (1, 2):
        desk.push(contents(about=f"<b>asks</b> {number}"), number=number)
    named = Policy(suites=(rule(2),))
    change = ChangePolicy("radiology", named, weaken=True)
    desk.registry.execute(change, desk.operator.id)
    desk.client.post("/login", data={"key": desk.operator.text})
    page = desk.client.get("/?domain=radiology").text
    assert "&lt;b&gt;asks&lt;/b&gt; 2" in page
    rows = page[page.index('id="tasks"') :].split("<tr>")[2:]
    assert ["modality@2" in rows[0], "in the policy" in rows[0]] == [True, True]
    assert ["modality@1" in rows[1], "not in the policy" in rows[1]] == [True, True]
    assert 'id="tasks"' not in desk.client.get("/").text
    log = desk.client.get("/log").text
    assert "TaskPublished" in log
