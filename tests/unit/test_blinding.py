"""What a person who judges in an open review can read over HTTP: no route shows whose answers they
judge, what others judged, or how far others agree."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx2 import Response
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from adapters.names import AdapterRef
from registry.cli import build, evidence
from registry.errors import StoreUnavailable
from registry.http.app import create_app
from registry.log.commits import commit_key
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.bases import RegisterBase
from registry.model.catalog import File, Grant
from registry.model.domains import ChangePolicy, CreateDomain
from registry.model.keys import IssueKey, RevokeKey
from registry.model.policies import Policy
from registry.model.reviewing import Item, Notes, order
from registry.model.reviews import CloseReview, EraseReview, OpenReview
from registry.model.versions import PublishVersion
from registry.model.webhooks import AddWebhook
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs, blob_key, content_digest
from tests.support.adapters import TINY, write_adapter
from tests.support.catalogs import FACTS, files

KEYS = {
    "meter": ("meter", "evaluate"),
    "ada": ("Ada", "review"),
    "ben": ("Ben", "review"),
    "cy": ("Cy", "review"),
    "cy-evaluates": ("  CY ", "evaluate"),
    "team": ("team", "publish"),
    "doc": ("doc", "review", "publish"),
    "domain-operator": ("dora", "operate"),
    "everything": ("eve", "review", "evaluate", "approve", "publish", "operate"),
}
ITEMS = [{"prompt": f"Question {i}?", "answers": [f"old {i}", f"new {i}"]} for i in range(8)]
HIDDEN = "a review in this domain is open, and its results are hidden until it is closed"
VERSIONS = "/api/v1/adapters/medical/coder/versions"
ALIAS = "/api/v1/adapters/medical/coder/aliases/production"


class Hospital:
    """A registry with four versions, of which two are reviewed, and keys of everybody's."""

    def __init__(self, store: LocalStore) -> None:
        operator = Registry.create(store, name="hospital", key_name="operator")
        self.operator = operator.id
        self.keys = {"operator": operator.text}
        self.ids = dict[str, str]()
        settings = RegistrySettings(store=str(store.root))
        self.client = TestClient(create_app(settings), raise_server_exceptions=False)
        self.registry: Registry = self.client.app.state.registry  # type: ignore[attr-defined]
        shapes = Blobs(store).put_bytes(msgspec.json.encode(TINY))
        self.do(RegisterBase(TINY.name, TINY.digest, shapes))
        for domain in ("medical", "legal"):
            self.do(CreateDomain(domain, Policy(guarded=())))
        for name, (holder, *roles) in KEYS.items():
            self.issue(name, holder, *(Grant(role, "medical") for role in roles))
        for seed in (1, 2, 3, 4):
            self.publish("medical", "coder", seed)
        self.do(MoveAlias("medical", "coder", "production", 4))
        self.do(ChangePolicy("medical", Policy(approvals=1), weaken=True))

    def do(self, command: Any) -> None:
        self.registry.refresh()
        self.registry.execute(command, self.operator)

    def issue(self, name: str, holder: str, *grants: Grant) -> None:
        secret = Secret.generate()
        self.do(IssueKey(secret.id, holder, secret.digest, grants))
        self.keys[name], self.ids[name] = secret.text, secret.id

    def publish(self, domain: str, adapter: str, seed: int) -> None:
        listed = files(seed)
        digest = content_digest(listed)
        self.do(PublishVersion(domain, adapter, digest, "tiny", listed, FACTS))

    def ask(self, who: str, method: str, path: str, **more: Any) -> Response:
        headers = {"Authorization": f"Bearer {self.keys[who]}"}
        return self.client.request(method, path, headers=headers, **more)

    def page(self, who: str, path: str, form: dict[str, Any] | None = None) -> Response:
        browser = TestClient(self.client.app, headers={"Origin": "http://testserver"})
        browser.post("/login", data={"key": self.keys[who]}, follow_redirects=False)
        if form is None:
            return browser.get(path)
        return browser.post(path, data=form, follow_redirects=False)

    def evaluate(self, version: int) -> str:
        """Record an evaluation of a version and tell its report's digest."""
        digest = self.registry.refresh().find(AdapterRef("medical", "coder", version)).digest
        body = {
            "digest": digest,
            "report": {"answers": [f"new {i}" for i in range(8)], "of": version},
            "results": [{"suite": "s", "digest": "a" * 64, "held_out": "b" * 64, "tallies": {}}],
        }
        answer = self.ask("meter", "POST", f"{VERSIONS}/{version}/evaluations", json=body)
        assert answer.status_code == 201, answer.text
        recorded: str = answer.json()["evaluations"][-1]["report"]
        return recorded

    def open(self, items: list[dict[str, Any]] = ITEMS) -> str:
        body = {"domain": "medical", "adapter": "coder", "versions": [1, 2], "title": "Eight",
                "items": items}  # fmt: skip
        answer = self.ask("meter", "POST", "/api/v1/reviews", json=body)
        assert answer.status_code == 201, answer.text
        review: str = answer.json()["id"]
        return review

    def close(self, review: str) -> None:
        assert self.ask("meter", "POST", f"/api/v1/reviews/{review}/closing").status_code == 200

    def next(self, who: str, review: str) -> dict[str, Any]:
        waiting: dict[str, Any] = self.ask(who, "GET", f"/api/v1/reviews/{review}/next").json()
        return waiting

    def judge(self, who: str, review: str, harmful: str = "", most: int = 100) -> list[str]:
        """Judge what waits, answers that begin with `harmful` as harmful; tells the items."""
        judged = list[str]()
        while len(judged) < most and (item := self.next(who, review)["item"]) is not None:
            verdicts = [
                "harmful" if harmful and text.startswith(harmful) else "correct"
                for text in item["answers"]
            ]
            body = {"item": item["id"], "verdicts": verdicts, "severity": 3,
                    "preferred": "neither"}  # fmt: skip
            path = f"/api/v1/reviews/{review}/judgements"
            assert self.ask(who, "POST", path, json=body).status_code == 201
            judged.append(item["id"])
        return judged

    def asked(self, who: str, version: int) -> list[dict[str, Any]]:
        answer = self.ask(who, "GET", f"{VERSIONS}/{version}/requirements")
        found: list[dict[str, Any]] = answer.json()["requirements"]
        return found


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    made = Hospital(LocalStore(tmp_path / "store"))
    with made.client:
        yield made


def test_reports_are_read_by_evaluators_and_operators_alone(hospital: Hospital) -> None:
    path = f"{VERSIONS}/2/evaluations/{hospital.evaluate(2)}"
    found = {who: hospital.ask(who, "GET", path).status_code for who in hospital.keys}
    assert {who for who, status in found.items() if status == 200} == {
        "meter", "cy-evaluates", "domain-operator", "everything", "operator"
    }  # fmt: skip
    assert {status for status in found.values() if status != 200} == {403}


def test_whoever_may_judge_reads_no_report_of_the_domain_while_a_review_is_open(
    hospital: Hospital,
) -> None:
    """Of no version: a refusal for those under review alone would name them."""
    paths = [f"{VERSIONS}/{n}/evaluations/{hospital.evaluate(n)}" for n in (1, 2, 3)]
    review = hospital.open()
    for path in paths:
        assert hospital.ask("meter", "GET", path).status_code == 200
        for who in ("cy-evaluates", "everything", "domain-operator"):
            refused = hospital.ask(who, "GET", path)
            assert refused.status_code == 409
            assert "new 1" not in refused.text
        assert hospital.ask("ada", "GET", path).status_code == 403
    hospital.close(review)
    for path in paths:
        assert hospital.ask("cy-evaluates", "GET", path).status_code == 200


def test_only_the_reports_of_a_versions_evaluations_are_read_as_such(hospital: Hospital) -> None:
    """Reports, what reviews ask and what experts write are blobs alike."""
    mine, other = hospital.evaluate(1), hospital.evaluate(2)
    review = hospital.open()
    content = hospital.registry.refresh().reviews[review].content
    status = {
        digest: hospital.ask("meter", "GET", f"{VERSIONS}/1/evaluations/{digest}").status_code
        for digest in (mine, other, content)
    }
    assert status == {mine: 200, other: 404, content: 404}


def test_what_an_expert_wrote_cannot_be_published_as_a_file(
    hospital: Hospital, tmp_path: Path
) -> None:
    review = hospital.open()
    item = hospital.next("ada", review)["item"]
    body = {"item": item["id"], "verdicts": ["correct", "correct"], "preferred": "neither",
            "rationale": "as in the guideline"}  # fmt: skip
    path = f"/api/v1/reviews/{review}/judgements"
    assert hospital.ask("ada", "POST", path, json=body).status_code == 201
    (judgement,) = hospital.registry.refresh().reviews[review].judgements
    assert judgement.notes is not None
    blobs = Blobs(hospital.registry.store)
    listed = [
        File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
        for path in write_adapter(tmp_path / "adapter", seed=9).iterdir()
        if path.name != "README.md"
    ]
    notes = File("README.md", len(blobs.get(judgement.notes)), judgement.notes)
    sent = {"base": TINY.name, "files": msgspec.to_builtins([*listed, notes])}
    refused = hospital.ask("team", "POST", VERSIONS, json=sent)
    assert refused.status_code == 422
    assert "It is a report or a review of this registry" in refused.text


def test_listings_hold_nothing_of_domains_that_the_caller_may_not_see(hospital: Hospital) -> None:
    hospital.publish("legal", "brief", 9)
    hospital.do(AddWebhook("w1", "https://legal.example/x", "legal"))
    hospital.do(OpenReview("r1", "legal", "brief", (1,), "About legal", ("i1",), "d" * 64))
    routes = ("adapters", "domains", "reviews", "webhooks")
    for path in (*(f"/api/v1/{route}" for route in routes), "/api/models", "/api/whoami-v2"):
        assert "legal" in hospital.ask("operator", "GET", path).text, path
        assert "legal" not in hospital.ask("everything", "GET", path).text, path
    for path in ("/", "/reviews"):
        assert "legal" in hospital.page("operator", path).text.lower(), path
        assert "legal" not in hospital.page("everything", path).text.lower(), path


def test_a_report_cannot_be_published_as_a_file_to_download_it(
    hospital: Hospital, tmp_path: Path
) -> None:
    """Its digest stands in the version, and publishing lists files by their digests."""
    report = hospital.evaluate(2)
    blobs = Blobs(hospital.registry.store)
    listed = []
    for file in write_adapter(tmp_path / "adapter", seed=9).iterdir():
        data = file.read_bytes()
        listed.append({"path": file.name, "size": len(data), "sha256": blobs.put_bytes(data)})
    others = [file for file in listed if file["path"] != "README.md"]
    stolen = {"path": "README.md", "size": len(blobs.get(report)), "sha256": report}
    body = {"base": TINY.name, "files": [*others, stolen]}
    refused = hospital.ask("team", "POST", VERSIONS, json=body)
    assert refused.status_code == 422
    assert "It is a report or a review of this registry" in refused.text
    body["files"] = listed
    assert hospital.ask("team", "POST", VERSIONS, json=body).status_code == 201


def test_what_a_review_asked_is_no_file_of_a_version_once_it_is_erased(
    hospital: Hospital, tmp_path: Path
) -> None:
    """Its blob is stored until it is collected, and a version that lists it would keep it."""
    review = hospital.open()
    content = hospital.registry.refresh().reviews[review].content
    assert content is not None
    hospital.close(review)
    hospital.do(EraseReview(review))
    blobs = Blobs(hospital.registry.store)
    others = [
        File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
        for path in write_adapter(tmp_path / "adapter", seed=9).iterdir()
        if path.name != "README.md"
    ]
    stolen = File("README.md", len(blobs.get(content)), content)
    body = {"base": TINY.name, "files": msgspec.to_builtins([*others, stolen])}
    refused = hospital.ask("team", "POST", VERSIONS, json=body)
    assert refused.status_code == 422
    assert "It is a report or a review of this registry" in refused.text


@pytest.mark.parametrize("route", ["alias", "split", "page"])
def test_a_refused_promotion_tells_the_blind_nothing_of_an_open_review(
    hospital: Hospital, route: str
) -> None:
    review = hospital.open()
    hospital.publish("legal", "coder", 1)

    def refusals(who: str) -> dict[int, str]:
        found = {}
        for version in (1, 2, 3):
            if route == "alias":
                answer = hospital.ask(who, "PUT", ALIAS, json={"version": version})
            elif route == "split":
                body = {"candidate": version, "percent": 5}
                answer = hospital.ask(who, "PUT", f"{ALIAS}/split", json=body)
            else:
                form = {"alias": "production", "version": version, "seen": "production=4"}
                answer = hospital.page(who, "/adapters/medical/coder/aliases", form)
            assert answer.status_code == 409, answer.text
            # Around it stands the navigation, with the viewer's own name.
            said = re.sub(r"(?s)^.*<main|</main>.*$", "", answer.text)
            found[version] = said.replace(f"coder@{version}", "coder@N")
        return found

    before = refusals("doc")
    assert HIDDEN in before[1]
    assert len(set(before.values())) == 1
    hospital.judge("ada", review, "old")
    assert refusals("doc") == refusals("team") == before
    hospital.judge("ben", review, "old")
    assert refusals("doc") == refusals("everything") == before
    hospital.close(review)
    after = refusals("doc")
    assert "experts judged 8 answer(s) harmful" in after[1]
    assert "harm" not in after[2]


def test_requirements_look_alike_for_every_version_while_a_review_is_open(
    hospital: Hospital,
) -> None:
    hospital.publish("medical", "other", 2)
    without = {version: hospital.asked("ada", version) for version in (1, 2, 3, 4)}
    review = hospital.open()
    before = {version: hospital.asked("ada", version) for version in (1, 2, 3, 4)}
    hospital.judge("ada", review, "old")
    hospital.judge("ben", review)
    for who in ("ada", "doc", "team", "everything", "cy-evaluates"):
        assert {version: hospital.asked(who, version) for version in (1, 2, 3, 4)} == before
    for asked in before.values():
        assert [r["evidence"] for r in asked if r["name"] in ("harm", "expert review")] == [HIDDEN]
    pages = [hospital.page("ada", f"/adapters/medical/coder/versions/{n}").text for n in (1, 2, 3)]
    assert all(HIDDEN in page for page in pages)
    assert any(r["name"] == "harm" for r in hospital.asked("meter", 1))
    assert not any(r["name"] == "harm" for r in hospital.asked("meter", 3))
    hospital.close(review)
    assert hospital.asked("ada", 3) == without[3]


def test_the_gate_command_does_not_say_no_for_what_is_hidden(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking:
        def requirements(self, ref: str, alias: str) -> dict[str, Any]:
            path = f"{VERSIONS}/{ref.partition('@')[2]}/requirements"
            answer = hospital.ask("ada", "GET", path, params={"alias": alias}).json()
            return dict(answer)

    monkeypatch.setattr(evidence, "client", lambda: nullcontext(Asking()))

    def gate() -> Result:
        return CliRunner().invoke(build(), ["gate", "medical/coder@3"])

    undemanding = Policy(guarded=("production",), approvals=0)
    hospital.do(ChangePolicy("medical", undemanding, weaken=True))
    assert gate().exit_code == 0
    review = hospital.open()
    hidden = gate()
    assert hidden.exit_code == evidence.UNDECIDED
    assert "hidden   expert review" in hidden.output
    assert "may not" not in hidden.output
    page = hospital.page("ada", "/adapters/medical/coder/versions/3").text
    assert "not met" not in page
    assert "Whether medical/coder@3 may become production is hidden from you for now." in page
    hospital.do(ChangePolicy("medical", Policy(guarded=("production",), approvals=1)))
    lacking = gate()
    assert lacking.exit_code == 1
    assert "1 of 2 requirements not met, 1 hidden from you." in lacking.output
    hospital.close(review)


def test_an_expert_sees_one_order_by_whichever_of_their_keys(hospital: Hospital) -> None:
    """Seen by one key and judged by another, the verdicts would be swapped."""
    hospital.issue("ada at home", " ADA", Grant("review", "medical"))
    review = hospital.open()
    first, second = (hospital.next(who, review)["item"] for who in ("ada", "ada at home"))
    assert first == second
    seen = hospital.ask("ada", "GET", f"/api/v1/reviews/{review}/next").json()["item"]
    verdicts = ["harmful" if "old" in text else "correct" for text in seen["answers"]]
    body = {"item": seen["id"], "verdicts": verdicts, "severity": 3, "preferred": "neither"}
    path = f"/api/v1/reviews/{review}/judgements"
    assert hospital.ask("ada at home", "POST", path, json=body).status_code == 201
    found = hospital.registry.refresh().reviews[review].judgements[-1]
    assert found.verdicts == ("harmful", "correct")


def test_a_judgement_of_answers_seen_in_another_order_is_refused(hospital: Hospital) -> None:
    review = hospital.open()
    seen = hospital.next("ada", review)["item"]
    body = {"item": seen["id"], "verdicts": ["correct", "correct"], "preferred": "first"}
    other = hashlib.sha256(msgspec.json.encode(seen["answers"][::-1])).hexdigest()
    path = f"/api/v1/reviews/{review}/judgements"
    refused = hospital.ask("ada", "POST", path, json={**body, "shown": other})
    assert refused.status_code == 409
    assert "another order" in refused.text
    form = {"item": seen["id"], "verdict_1": "correct", "verdict_2": "correct",
            "preferred": "first", "shown": other}  # fmt: skip
    page = f"/reviews/{review}/items/{seen['id']}"
    assert hospital.page("ada", page, form).status_code == 409
    form["shown"] = seen["shown"]
    assert f'value="{seen["shown"]}"' in hospital.page("ada", page).text
    assert hospital.page("ada", page, form).status_code == 303


def test_what_closed_reviews_found_stays_shown_while_another_is_open(hospital: Hospital) -> None:
    first = hospital.open()
    hospital.judge("ada", first, "old")
    hospital.close(first)
    hospital.open()
    found = {r["name"]: r["evidence"] for r in hospital.asked("ada", 1)}
    items = hospital.registry.catalog.reviews[first].items[:3]
    named = "; ".join(
        f"review {first}, item {item}, version 1 (lifted by 0 of 1 people)" for item in items
    )
    assert found["harm"] == f"experts judged 8 answer(s) harmful: {named}; and 5 more"
    assert "harm" not in {r["name"] for r in hospital.asked("ada", 3)}


def test_a_second_key_of_the_same_person_sees_no_more(hospital: Hospital) -> None:
    review = hospital.open()
    hospital.judge("ada", review)
    shown = hospital.ask("cy-evaluates", "GET", f"/api/v1/reviews/{review}").json()
    hidden = {"adapter", "versions", "settled", "disputed", "agreement", "found"}
    assert not hidden & shown.keys()
    export = hospital.ask("cy-evaluates", "GET", f"/api/v1/reviews/{review}/export")
    assert export.status_code == 409
    listed = hospital.ask("cy-evaluates", "GET", "/api/v1/reviews").json()
    assert not hidden & listed[0].keys()
    # Somebody who cannot judge any more may look.
    hospital.do(RevokeKey(hospital.ids["cy"], "left the panel"))
    shown = hospital.ask("cy-evaluates", "GET", f"/api/v1/reviews/{review}").json()
    assert hidden <= shown.keys()


def test_an_export_of_an_earlier_review_is_hidden_while_another_is_open(
    hospital: Hospital,
) -> None:
    """The same questions may be asked again, and the export says which version gave each answer."""
    first = hospital.open()
    hospital.judge("ada", first)
    hospital.judge("ben", first)
    hospital.close(first)
    second = hospital.open()
    for what in ("label-studio", "sft", "preferences", "judgements"):
        path = f"/api/v1/reviews/{first}/export?what={what}"
        for who in ("cy-evaluates", "everything"):
            refused = hospital.ask(who, "GET", path)
            assert refused.status_code == 409
            assert "new 1" not in refused.text
        assert hospital.ask("meter", "GET", path).status_code == 200
    hospital.close(second)
    assert hospital.ask("cy-evaluates", "GET", path).status_code == 200


def test_an_open_review_of_another_domain_hides_no_texts_from_who_does_not_judge_there(
    hospital: Hospital,
) -> None:
    """They can neither close it nor ask its experts."""
    earlier = hospital.open()
    hospital.close(earlier)
    paths = [
        f"/api/v1/reviews/{earlier}/export",
        f"{VERSIONS}/1/evaluations/{hospital.evaluate(1)}",
    ]
    hospital.issue("mallory", "mallory", Grant("evaluate", "legal"))
    hospital.issue("lou", "Lou", Grant("evaluate", "medical"))
    hospital.issue("lou-judges", "lou", Grant("review", "legal"))
    hospital.publish("legal", "copy", 1)
    body = {"domain": "legal", "adapter": "copy", "versions": [1], "title": "Eight",
            "items": [{"prompt": "Question?", "answers": ["old 1"]}]}  # fmt: skip
    opened = hospital.ask("mallory", "POST", "/api/v1/reviews", json=body)
    assert opened.status_code == 201
    assert opened.json()["published_by_you"] == []
    for path in paths:
        asked = {who: hospital.ask(who, "GET", path).status_code for who in ("meter", "lou")}
        assert asked == {"meter": 200, "lou": 409}


def test_what_a_revoked_key_judged_is_shown_as_open(hospital: Hospital) -> None:
    review = hospital.open()
    hospital.judge("ada", review, "old")
    hospital.judge("ben", review, "old")
    assert hospital.next("cy", review)["waiting"] == 0

    def shown() -> tuple[int, int, int]:
        seen = hospital.ask("meter", "GET", f"/api/v1/reviews/{review}").json()
        path = f"/api/v1/reviews/{review}/export?what="
        exported = [
            len(hospital.ask("meter", "GET", path + what).json()) for what in ("sft", "judgements")
        ]
        return seen["settled"], *exported

    assert shown() == (8, 8, 16)
    hospital.do(RevokeKey(hospital.ids["ben"], "stolen"))
    assert shown() == (0, 0, 16)
    assert len(hospital.judge("cy", review, "old")) == len(ITEMS)
    assert shown() == (8, 8, 24)


def test_the_log_of_an_open_review_tells_neither_items_nor_notes(hospital: Hospital) -> None:
    review = hospital.open()
    item = hospital.next("ada", review)["item"]["id"]
    body = {"item": item, "verdicts": ["correct", "incorrect"], "severity": 0,
            "preferred": "first", "correction": "E11.9"}  # fmt: skip
    path = f"/api/v1/reviews/{review}/judgements"
    assert hospital.ask("ada", "POST", path, json=body).status_code == 201

    commits = hospital.ask("operator", "GET", "/api/v1/log").json()
    shown = commits[-1]["entries"][0]["event"]
    assert {*shown.values()} == {"ItemJudged", review, "hidden until the review is closed"}
    withdrawn = hospital.ask("ada", "DELETE", f"{path}/{item}")
    assert withdrawn.status_code == 200
    assert not {"versions", "adapter", "settled", "judgements"} & withdrawn.json().keys()
    commits = hospital.ask("operator", "GET", "/api/v1/log").json()
    shown = commits[-1]["entries"][0]["event"]
    assert {*shown.values()} == {"JudgementWithdrawn", review, "hidden until the review is closed"}
    hospital.do(CloseReview(review))
    commits = hospital.ask("operator", "GET", "/api/v1/log").json()
    assert [commits[place]["entries"][0]["event"]["item"] for place in (-3, -2)] == [item] * 2


def test_the_log_does_not_let_anybody_guess_a_judgement(hospital: Hospital) -> None:
    """A commit's digest confirms a guess to whoever knows all the rest of its bytes."""
    review = hospital.open()
    hospital.judge("ada", review, most=1)
    *_, shown = hospital.ask("operator", "GET", "/api/v1/log").json()
    data = hospital.registry.store.get(commit_key(shown["sequence"]))
    assert hashlib.sha256(data).hexdigest() == shown["digest"]
    assert json.loads(data)["id"] not in json.dumps(shown)


def test_nobody_can_ask_whether_an_expert_wrote_these_very_words(hospital: Hospital) -> None:
    """Publishers are told which blobs are stored, by digest."""
    review = hospital.open()
    for who in ("ada", "ben"):
        body = {"item": hospital.next(who, review)["item"]["id"],
                "verdicts": ["correct", "incorrect"], "severity": 0, "preferred": "first",
                "correction": "E11.9"}  # fmt: skip
        path = f"/api/v1/reviews/{review}/judgements"
        assert hospital.ask(who, "POST", path, json=body).status_code == 201
    said = hospital.registry.refresh().reviews[review].judgements
    digests = {judgement.notes for judgement in said}
    plain = hashlib.sha256(msgspec.json.encode(Notes(correction="E11.9"))).hexdigest()
    assert len(digests) == 2
    assert Blobs(hospital.registry.store).missing([plain])


def test_what_waits_does_not_tell_on_how_many_others_agreed(hospital: Hospital) -> None:
    review = hospital.open()
    hospital.judge("ada", review)
    hospital.judge("ben", review, "old", most=4)  # four disputed, four judged once

    def waiting(who: str) -> tuple[int, int]:
        shown = hospital.ask(who, "GET", f"/api/v1/reviews/{review}").json()
        assert hospital.next(who, review)["waiting"] == shown["waiting_for_you"]
        return shown["waiting_for_you"], shown["judged_by_you"]

    assert waiting("cy") == (8, 0)
    hospital.judge("doc", review, most=1)
    assert waiting("doc") == (7, 1)
    hospital.judge("ben", review)  # settles the rest
    assert waiting("cy") == (8, 0)
    page = hospital.page("cy", f"/reviews/{review}/judge").text
    assert "0 of 8" in page
    # Every disputed item still reaches the third expert, and nothing is left open.
    hospital.judge("cy", review)
    assert waiting("cy")[0] == 0
    counts = hospital.ask("meter", "GET", f"/api/v1/reviews/{review}").json()
    assert (counts["settled"], counts["disputed"]) == (8, 0)


def test_the_order_in_which_items_come_does_not_depend_on_what_others_judged(
    hospital: Hospital,
) -> None:
    review = hospital.open()
    before = hospital.next("cy", review)["item"]["id"]
    hospital.judge("ada", review)
    for _ in ITEMS:
        hospital.judge("ben", review, "old", most=1)  # disputed
        assert hospital.next("cy", review)["item"]["id"] == before
    assert len(hospital.judge("cy", review)) == len(ITEMS)


def test_neither_ids_nor_orders_follow_from_what_an_expert_can_read(hospital: Hospital) -> None:
    """Every review shows the same texts; the expert knows them and this code, but no secret."""
    ids, guessed = list[str](), list[bool]()
    for _ in range(4):
        review = hospital.open()
        known = hospital.registry.refresh().reviews[review]
        assert known.content is not None
        while (item := hospital.next("ada", review)["item"]) is not None:
            ids.append(item["id"])
            bare = Item(id=item["id"], prompt=item["prompt"], answers=tuple(item["answers"]))
            shown = tuple(("old", "new").index(text[:3]) for text in item["answers"])
            guessed.append(order(known, bare, hospital.ids["ada"]) == shown)
            hospital.judge("ada", review, most=1)
        # A question keeps its id as long as its text is stored.
        hospital.registry.store.delete(blob_key(known.content))
    assert len(set(ids)) == len(ids) == 4 * len(ITEMS)
    assert not all(guessed)


@pytest.mark.parametrize(
    ("left_out", "said"), [("severity", "severity is missing"), ("preferred", "preference is")]
)
def test_nothing_is_assumed_of_what_an_expert_leaves_out(
    hospital: Hospital, left_out: str, said: str
) -> None:
    review = hospital.open()
    item = hospital.next("ada", review)["item"]["id"]
    body = {"item": item, "verdicts": ["correct", "incorrect"], "severity": 2, "preferred": "first"}
    del body[left_out]
    answer = hospital.ask("ada", "POST", f"/api/v1/reviews/{review}/judgements", json=body)
    assert (answer.status_code, said in answer.text) == (400, True)
    body.pop("severity", None)
    form = {**body, "verdict_1": "correct", "verdict_2": "incorrect"}
    path = f"/reviews/{review}/items/{form['item']}"
    assert hospital.page("ada", path, form).status_code == 400
    assert hospital.next("ada", review)["waiting"] == len(ITEMS)


def test_a_judgement_sent_for_another_item_than_the_pages_is_refused(hospital: Hospital) -> None:
    """Back and Reload may put one item's form under another's address."""
    review = hospital.open()
    first, second = hospital.registry.refresh().reviews[review].items[:2]
    path = f"/reviews/{review}/items"
    html = hospital.page("ada", f"{path}/{second}").text
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', html))
    form |= {"verdict_1": "correct", "verdict_2": "correct", "preferred": "neither"}
    assert hospital.page("ada", f"{path}/{first}", form).status_code == 400
    assert hospital.registry.refresh().reviews[review].judgements == ()
    assert hospital.page("ada", f"{path}/{second}", form).status_code == 303


def test_what_an_expert_prefers_is_what_was_shown_there(hospital: Hospital) -> None:
    """Some items are shown in the review's order, others in reverse."""
    review, orders = hospital.open(), set[bool]()
    while (item := hospital.next("ada", review)["item"]) is not None:
        new = [answer.startswith("new") for answer in item["answers"]]
        body = {"item": item["id"], "severity": 1, "preferred": "first" if new[0] else "second",
                "verdicts": ["correct" if is_new else "incorrect" for is_new in new]}  # fmt: skip
        path = f"/api/v1/reviews/{review}/judgements"
        assert hospital.ask("ada", "POST", path, json=body).status_code == 201
        orders.add(new[0])
    judgements = hospital.registry.refresh().reviews[review].judgements
    assert {(said.verdicts, said.preferred) for said in judgements} == {
        (("incorrect", "correct"), "second")
    }
    assert len(judgements) == len(ITEMS)


CRITERIA = [{"says": "names the finding", "weight": 2}, {"says": "gives a code"},
            {"says": "invents something", "weight": -3}]  # fmt: skip
NEW, OLD = [True, True, False], [True, False, True]
"""What the answers of the two versions meet: all of the weights; 2 - 3 of 3."""


def test_of_a_rubrics_item_each_criterion_is_judged_and_the_verdict_follows(
    hospital: Hospital,
) -> None:
    review = hospital.open([item | {"criteria": CRITERIA, "passes": 0.6} for item in ITEMS])
    orders = set[bool]()
    path = f"/api/v1/reviews/{review}/judgements"
    while (item := hospital.next("ada", review)["item"]) is not None:
        assert [c["weight"] for c in item["criteria"]] == [2, 1, -3]
        new = [answer.startswith("new") for answer in item["answers"]]
        body = {"item": item["id"], "met": [NEW if is_new else OLD for is_new in new],
                "severity": 1, "preferred": "neither"}  # fmt: skip
        harmful = len(orders) == 2
        if harmful:
            body["verdicts"] = [None if is_new else "harmful" for is_new in new]
        orders.add(new[0])
        assert hospital.ask("ada", "POST", path, json=body).status_code == 201
        said = hospital.registry.refresh().reviews[review].judgements[-1]
        assert said.met == (tuple(OLD), tuple(NEW))
        assert said.verdicts == ("harmful" if harmful else "incorrect", "correct")
    assert orders == {True, False}
    log = hospital.ask("operator", "GET", "/api/v1/log").json()
    assert log[-1]["entries"][0]["event"]["met"] == "hidden until the review is closed"


def test_a_question_keeps_its_id_in_every_review_of_a_domain_so_that_its_answer_counts_once(
    hospital: Hospital,
) -> None:
    def ids(*items: dict[str, Any], **more: Any) -> dict[str, str]:
        body = {"domain": "medical", "adapter": "coder", "versions": [1, 2], "title": "x"}
        answer = hospital.ask(
            "meter", "POST", "/api/v1/reviews", json=body | {"items": items, **more}
        )
        assert answer.status_code == 201, answer.text
        content = hospital.registry.refresh().reviews[answer.json()["id"]].content
        assert content is not None
        found = msgspec.json.decode(Blobs(hospital.registry.store).get(content), type=list[Item])
        assert len({item.id for item in found}) == len(found)
        assert len({item.secret for item in found}) == len(found)
        return {item.prompt + "".join(item.answers): item.id for item in found}

    first = ids(*ITEMS[:3])
    assert ids(*ITEMS[2:0:-1], ITEMS[4]).items() >= dict(list(first.items())[1:]).items()
    hospital.publish("medical", "other", 5)
    once = {**ITEMS[0], "answers": ["other"]}
    # Of another adapter, too: an id says no more of whose answers they are than the question does.
    other = ids(once, {**once, "answers": ["another"]}, adapter="other", versions=[1])
    assert other["Question 0?other"] == first["Question 0?old 0new 0"]
    assert other["Question 0?another"] not in first.values()
    # Texts that are lost keep nobody from asking again.
    for review in hospital.registry.catalog.reviews.values():
        assert review.content is not None
        hospital.registry.store.delete(blob_key(review.content))
    assert set(ids(*ITEMS[:3])) == set(first)


def test_items_of_a_review_that_contradict_one_another_are_refused(hospital: Hospital) -> None:
    twice = [{"says": "gives a code"}, {"says": " gives  a code", "weight": -1}]
    for items, says in (
        ([ITEMS[0], ITEMS[0] | {"criteria": CRITERIA}], "other criteria"),
        ([ITEMS[0] | {"criteria": CRITERIA, "passes": p} for p in (0.5, 1)], "other criteria"),
        ([ITEMS[0] | {"criteria": twice}], "same criterion twice"),
        ([ITEMS[0] | {"criteria": [{"says": " \u200b\x00"}]}], "says nothing"),
    ):
        body = {"domain": "medical", "adapter": "coder", "versions": [1, 2], "title": "No",
                "items": items}  # fmt: skip
        refused = hospital.ask("meter", "POST", "/api/v1/reviews", json=body)
        assert (refused.status_code, says in refused.text) == (400, True), refused.text


def test_a_judgement_that_does_not_suit_the_items_criteria_is_refused(hospital: Hospital) -> None:
    review = hospital.open([ITEMS[0] | {"criteria": CRITERIA, "passes": 0.6}])
    item = hospital.next("ada", review)["item"]["id"]
    plain = hospital.open(ITEMS[1:2])
    other = hospital.next("ada", plain)["item"]["id"]
    path = "/api/v1/reviews/{}/judgements"
    common = {"severity": 1, "preferred": "neither"}
    for where, body, says in (
        (review, {"item": item, "verdicts": ["correct", "correct"]}, "has 3 criteria"),
        (review, {"item": item, "met": [NEW]}, "has 3 criteria"),
        (review, {"item": item, "met": [NEW, NEW[:2]]}, "has 3 criteria"),
        (review, {"item": item, "met": [NEW, NEW], "verdicts": ["correct", None]}, "follows from"),
        (review, {"item": item, "met": [NEW, NEW], "verdicts": ["harmful"]}, "follows from"),
        (review, {"item": item, "met": [NEW, [True] * 101]}, "at most 100"),
        (plain, {"item": other, "met": [NEW, NEW], "verdicts": ["correct"] * 2}, "no criteria"),
        (plain, {"item": other, "verdicts": ["correct", None]}, "A verdict is missing"),
        (plain, {"item": other}, "A verdict is missing"),
    ):
        refused = hospital.ask("ada", "POST", path.format(where), json=body | common)
        assert (refused.status_code, says in refused.text) == (400, True), (body, refused.text)
    body = {"domain": "medical", "adapter": "coder", "versions": [1, 2], "title": "None",
            "items": [ITEMS[0] | {"criteria": CRITERIA[2:]}]}  # fmt: skip
    refused = hospital.ask("meter", "POST", "/api/v1/reviews", json=body)
    assert "no criterion with a weight above 0" in refused.text
    # The page's form, with one criterion left open.
    shown = hospital.page("ada", f"/reviews/{review}/items/{item}").text
    # A criterion that is written from right to left turns no weight round.
    assert '<bdi>names the finding</bdi> <span class="hint">weight 2</span>' in shown
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', shown))
    form |= {f"met_{answer}_{n}": "yes" for answer in (1, 2) for n in range(3)}
    form |= {"verdict_1": "by-criteria", "verdict_2": "harmful", "severity": "3",
             "preferred": "first"}  # fmt: skip
    open_one = {name: value for name, value in form.items() if name != "met_2_1"}
    assert hospital.page("ada", f"/reviews/{review}/items/{item}", open_one).status_code == 400
    assert hospital.registry.refresh().reviews[review].judgements == ()
    assert hospital.page("ada", f"/reviews/{review}/items/{item}", form).status_code == 303
    (said,) = hospital.registry.refresh().reviews[review].judgements
    assert said.met == ((True,) * 3, (True,) * 3)
    assert sorted(said.verdicts) == ["harmful", "incorrect"]


def test_the_gate_command_does_not_say_no_where_nobody_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Away:
        def requirements(self, *_: str) -> None:
            raise StoreUnavailable("away")

    monkeypatch.setattr(evidence, "client", lambda: nullcontext(Away()))
    done = CliRunner().invoke(build(), ["gate", "medical/coder@3"])
    assert done.exit_code == evidence.UNDECIDED


def test_an_author_learns_at_once_that_their_review_is_no_evidence(hospital: Hospital) -> None:
    holder = hospital.registry.refresh().keys[hospital.operator].name
    hospital.issue("theirs", holder.upper(), Grant("evaluate", "medical"))  # one person's other key
    body = {"domain": "medical", "adapter": "coder", "versions": [1], "title": "Mine",
            "items": [{"prompt": "Question?", "answers": ["yes"]}]}  # fmt: skip
    opened = hospital.ask("theirs", "POST", "/api/v1/reviews", json=body).json()
    assert opened["published_by_you"] == ["medical/coder@1"]
