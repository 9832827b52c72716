"""The Hub's protocol without its clients: what is answered, kept and refused."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry import errors
from registry.http.app import create_app
from registry.hub import committing
from registry.hub.not_offered import not_offered
from registry.model.access import Secret
from registry.model.aliases import MoveAlias
from registry.model.catalog import File, Grant
from registry.model.domains import CreateDomain
from registry.model.keys import IssueKey
from registry.model.policies import Policy
from registry.model.versions import RevokeVersion, TombstoneVersion
from registry.publish.publishing import publish, register_base
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.store.blobs import Blobs
from tests.support.adapters import CARD, TINY, write_adapter

KEPT = "/api/models/medical/coder"


class Hub:
    """A registry asked over HTTP, by default as an operator."""

    def __init__(self, client: TestClient, registry: Registry, operator: Secret) -> None:
        self.client, self.registry, self.operator = client, registry, operator

    def publish(self, directory: Path, adapter: str = "coder") -> None:
        blobs = Blobs(self.registry.store)
        publish(
            self.registry,
            domain="medical",
            adapter=adapter,
            base="tiny",
            files=[
                File(path.name, path.stat().st_size, blobs.put_bytes(path.read_bytes()))
                for path in sorted(directory.iterdir())
            ],
            actor=self.operator.id,
        )

    def alias(self, name: str, version: int, adapter: str = "coder") -> None:
        self.registry.execute(MoveAlias("medical", adapter, name, version), self.operator.id)

    def key(self, *grants: Grant) -> dict[str, str]:
        """The header of a key with these grants."""
        secret = Secret.generate()
        command = IssueKey(secret.id, "somebody", secret.digest, grants)
        self.registry.execute(command, self.operator.id)
        return {"Authorization": f"Bearer {secret.text}"}

    def get(self, path: str, **more: Any) -> Any:
        answer = self.client.get(path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def commit(
        self,
        adapter: str = "coder",
        deleted: tuple[str, ...] = (),
        header: Any = None,
        **files: Any,
    ) -> Any:
        """A commit of files, `__` in their names standing for a dot."""
        lines: list[dict[str, Any]] = [{"key": "header", "value": header or {"summary": "x"}}]
        for name, content in files.items():
            text = base64.b64encode(content).decode()
            value = {"path": name.replace("__", "."), "encoding": "base64", "content": text}
            lines.append({"key": "file", "value": value})
        lines += [{"key": "deletedFile", "value": {"path": path}} for path in deleted]
        body = "\n".join(json.dumps(line) for line in lines)
        return self.client.post(f"/api/models/medical/{adapter}/commit/main", content=body)


@pytest.fixture
def hub(local_store: LocalStore, tmp_path: Path) -> Iterator[Hub]:
    operator = Registry.create(local_store, name="test", key_name="operator")
    app = create_app(RegistrySettings(store=str(local_store.root)))
    headers = {"Authorization": f"Bearer {operator.text}"}
    with TestClient(app, headers=headers) as client:
        made = Hub(client, app.state.registry, operator)
        register_base(made.registry, TINY, operator.id)
        policy = Policy(guarded=("approved",))
        made.registry.execute(CreateDomain("medical", policy), operator.id)
        made.publish(write_adapter(tmp_path / "a", seed=1))
        made.publish(write_adapter(tmp_path / "b", seed=2))
        yield made


@pytest.mark.parametrize(
    ("method", "path", "kind", "words"),
    [
        ("POST", "/api/models/a/b/branch/dev", errors.NotOffered, "Commit to main"),
        ("DELETE", "/api/models/a/b/tag/live", errors.NotOffered, "lorary alias set"),
        ("POST", "/api/models/a/b/super-squash/main", errors.NotOffered, "immutable"),
        ("DELETE", "/api/repos/delete", errors.NotOffered, "lorary revoke"),
        ("POST", "/api/repos/move", errors.NotOffered, "lorary push"),
        ("PUT", "/api/models/a/b/settings", errors.NotOffered, "lorary key issue"),
        ("GET", "/api/models/a/b/discussions", errors.NotOffered, "pull requests"),
        ("POST", "/api/models/a/b/discussions/3/merge", errors.NotOffered, "pull requests"),
        ("POST", "/api/jobs/a", errors.NotOffered, "POST /api/jobs/a"),
        ("GET", "/api/datasets", errors.NotOffered, "not offered"),
        ("GET", "/api/datasets/a/b", errors.NotFound, "adapters only"),
        ("HEAD", "/datasets/a/b/resolve/main/x.csv", errors.NotFound, "adapters only"),
        ("GET", "/api/models/gpt2", errors.NotFound, "DOMAIN/ADAPTER"),
        ("HEAD", "/gpt2/resolve/main/config.json", errors.NotFound, "DOMAIN/ADAPTER"),
    ],
)
def test_what_is_not_offered_says_what_to_do_instead(
    method: str, path: str, kind: type[Exception], words: str
) -> None:
    error = not_offered(method, path)
    assert type(error) is kind
    assert words in error.message


def test_a_request_that_is_not_offered_is_no_missing_repository(hub: Hub) -> None:
    answer = hub.client.put(f"{KEPT}/settings", json={"gated": "auto"})
    assert answer.status_code == 400
    assert "not offered" in answer.json()["error"]
    assert "not offered" in answer.headers["x-error-message"]
    assert "x-error-code" not in answer.headers


def test_paths_are_asked_about_as_json_and_as_a_form(hub: Hub) -> None:
    paths = ["README.md", "none.md"]
    as_json = hub.client.post(f"{KEPT}/paths-info/2", json={"paths": paths, "expand": True})
    as_form = hub.client.post(f"{KEPT}/paths-info/2", data={"paths": paths, "expand": "true"})
    assert as_form.status_code == 200, as_form.text
    assert as_form.json() == as_json.json()
    (found,) = as_form.json()
    assert found["path"] == "README.md"
    assert found["lastCommit"]["title"] == "medical/coder@1"


def test_a_tag_is_a_new_alias_and_no_tag_moves_one(hub: Hub) -> None:
    assert hub.client.post(f"{KEPT}/tag/1", json={"tag": "live"}).status_code == 200
    assert hub.registry.refresh().adapters["medical/coder"].aliases == {"live": 1}
    again = hub.client.post(f"{KEPT}/tag/2", json={"tag": "live"})
    assert again.status_code == 409
    assert "names version 1" in again.json()["error"]
    assert hub.registry.refresh().adapters["medical/coder"].aliases == {"live": 1}
    assert hub.client.post(f"{KEPT}/tag/2", json={"tag": "main"}).status_code == 409


def test_a_tag_that_is_not_earned_is_not_taken_for_one_that_exists(hub: Hub) -> None:
    """Clients take a 409 for success where they say `exist_ok`."""
    answer = hub.client.post(f"{KEPT}/tag/1", json={"tag": "approved"})
    assert answer.status_code == 403
    assert "is guarded" in answer.json()["error"]


def test_only_publishers_see_what_a_commit_to_main_builds_on(hub: Hub) -> None:
    assert {file["path"] for file in hub.get(f"{KEPT}/tree/main")} >= {"README.md"}
    assert hub.get("/api/models/medical/new/tree/main") == []
    reader = hub.key(Grant("infer", "medical"))
    assert hub.client.get(f"{KEPT}/tree/main", headers=reader).status_code == 404
    assert hub.client.get("/medical/coder/resolve/main/README.md").status_code == 404


def test_clients_that_ask_for_xet_before_they_publish_are_answered(hub: Hub) -> None:
    """huggingface_hub 0.30 to 0.35 ask it of `main`, and publish nothing after a 404."""
    for adapter in ("coder", "new"):  # neither has anything in production
        path = f"/api/models/medical/{adapter}/revision/main"
        assert hub.get(f"{path}?expand=xetEnabled")["xetEnabled"] is False
        assert hub.client.get(path).status_code == 404
        reader = hub.key(Grant("infer", "medical"))
        asked = hub.client.get(f"{path}?expand=xetEnabled", headers=reader)
        assert asked.status_code == 404


def test_what_trainers_push_beside_an_adapter_is_to_be_left_out(hub: Hub) -> None:
    left_out = [
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "training_args.bin",
        "checkpoint-10/optimizer.pt", "runs/1/events.out.tfevents.1", ".gitattributes",
    ]  # fmt: skip
    sent = ["README.md", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    files = [{"path": path, "size": 1, "sample": ""} for path in (*left_out, *sent)]
    answer = hub.client.post(f"{KEPT}/preupload/main", json={"files": files})
    assert answer.status_code == 200, answer.text
    assert [file["path"] for file in answer.json()["files"] if file["shouldIgnore"]] == left_out


def test_a_commit_to_another_revision_is_not_offered(hub: Hub) -> None:
    for path in ("commit", "preupload"):
        body: dict[str, Any] = {"files": []} if path == "preupload" else {}
        answer = hub.client.post(f"{KEPT}/{path}/v2", json=body)
        assert answer.status_code == 400
        assert "'v2' is not offered" in answer.json()["error"]


def test_the_branch_main_exists_and_no_other(hub: Hub) -> None:
    assert hub.client.post(f"{KEPT}/branch/main", json={}).status_code == 409
    assert hub.client.post(f"{KEPT}/branch/dev", json={}).status_code == 400


def test_deleting_a_file_that_is_not_there_is_refused(hub: Hub) -> None:
    answer = hub.commit(deleted=("LICENSE",))
    assert answer.status_code == 404
    assert "has no file 'LICENSE'" in answer.json()["error"]
    assert hub.commit(LICENSE__md=b"MIT\n", deleted=("LICENSE",)).status_code == 200


def test_a_commits_message_is_kept_and_shown(hub: Hub, tmp_path: Path) -> None:
    header = {"summary": "Shorter answers", "description": "After review 3.\nSee ticket 7."}
    assert hub.commit(README__md=CARD.encode() + b"\nMore.\n", header=header).status_code == 200
    first, second, _ = hub.get(f"{KEPT}/commits/main")
    assert (first["title"], first["message"]) == ("Shorter answers", header["description"])
    assert (second["title"], second["message"]) == ("medical/coder@2", "")
    assert hub.get("/api/v1/resolve/medical/coder@3")["message"].startswith("Shorter answers\n")
    page = {"key": hub.operator.text}
    hub.client.post("/login", data=page, headers={"Origin": "http://testserver"})
    assert "See ticket 7." in hub.client.get("/adapters/medical/coder/versions/3").text
    assert "Shorter answers" in hub.client.get("/adapters/medical/coder").text


@pytest.mark.parametrize("text", ["x" * 10_000, "\x00\x1b[31m", None, 7])
def test_any_message_is_kept_within_its_bound(hub: Hub, text: Any) -> None:
    header = {"summary": text, "description": text}
    answer = hub.commit(README__md=CARD.encode() + b"\nMore.\n", header=header)
    assert answer.status_code == 200, answer.text
    message = hub.registry.refresh().adapters["medical/coder"].versions[-1].message
    assert len(message) <= committing.MESSAGE
    message.encode()


@pytest.mark.parametrize("summary", ["content", '"content": "x"', "content:"])
def test_a_message_that_is_named_as_a_field_loses_nothing(hub: Hub, summary: str) -> None:
    header = {"summary": summary, "description": "A long story."}
    answer = hub.commit(README__md=CARD.encode() + b"\nMore.\n", header=header)
    assert answer.status_code == 200, answer.text
    [newest, *_] = hub.get("/api/models/medical/coder/commits/main")
    assert (newest["title"], newest["message"]) == (summary, header["description"])


@pytest.mark.parametrize("content", [None, 7, {}, ["QQ=="]])
def test_a_file_whose_content_is_no_text_is_refused(hub: Hub, content: Any) -> None:
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "file", "value": {"content": content, "path": "README.md", "encoding": "base64"}},
    ]
    body = "\n".join(map(json.dumps, lines))
    answer = hub.client.post("/api/models/medical/coder/commit/main", content=body)
    assert answer.status_code == 400, answer.text


LARGE = {"summary": committing.LARGE_FOLDER}


def test_a_large_folders_refused_names_are_left_out_with_a_warning(
    hub: Hub, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "c", seed=3)
    files: dict[str, Any] = {
        path.name.replace(".", "__"): path.read_bytes() for path in folder.iterdir()
    }
    refused = hub.commit("large", **files, adapter_model__bin=b"a pickle")
    assert "can run code" in refused.json()["error"]
    done = hub.commit("large", header=LARGE, **files, adapter_model__bin=b"a pickle")
    assert done.status_code == 200, done.text
    assert "adapter_model.bin" in done.headers["x-hf-warning"]
    listed = {file["path"] for file in hub.get("/api/models/medical/large/tree/1")}
    assert listed == {path.name for path in folder.iterdir()}


def test_a_large_folders_refused_commit_is_answered_late(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client repeats it at once and for ever."""
    monkeypatch.setattr(committing, "PAUSE", 0.5)
    began = time.monotonic()
    assert hub.commit(header=LARGE, adapter_config__json=b"{").status_code >= 400
    assert time.monotonic() - began >= 0.5


def test_models_are_sorted_by_their_last_change_page_by_page(hub: Hub, tmp_path: Path) -> None:
    for number, name in enumerate(("zeta", "alpha", "mid")):
        hub.publish(write_adapter(tmp_path / name, seed=10 + number), name)
    by_name = [model["id"] for model in hub.get("/api/models?author=medical")]
    assert by_name == sorted(by_name)
    for sort, query in (("lastModified", ""), ("createdAt", ""), ("createdAt", "&direction=1")):
        path, found = f"/api/models?sort={sort}&limit=2{query}", []
        while path:
            answer = hub.client.get(path)
            found += answer.json()
            path = answer.links.get("next", {}).get("url", "")
        assert sorted(model["id"] for model in found) == by_name
        times = [model[sort] for model in found]
        assert times == sorted(times, reverse=not query)


def test_models_are_not_selected_by_what_is_not_known(hub: Hub) -> None:
    answer = hub.client.get("/api/models?pipeline_tag=text-generation")
    assert answer.status_code == 400
    assert "pipeline_tag is not offered" in answer.json()["error"]


def test_a_cards_metadata_is_shown_whatever_yaml_it_holds(hub: Hub) -> None:
    assert hub.get(f"{KEPT}/revision/1")["cardData"] == {"license": "apache-2.0"}
    odd = b"---\nlicense: mit\nx: .nan\n2024-01-02: 2024-01-02\n---\n\n# Tiny\n"
    assert hub.commit(README__md=odd).status_code == 200
    assert hub.client.get(f"{KEPT}/revision/3").status_code == 200
    assert "cardData" not in hub.get(f"{KEPT}/revision/1?expand=sha")


def test_commits_end_with_their_revision_and_are_counted(hub: Hub) -> None:
    assert [commit["title"] for commit in hub.get(f"{KEPT}/commits/1")] == ["medical/coder@1"]
    assert hub.client.get(f"{KEPT}/commits/main").headers["x-total-count"] == "2"


def test_commits_come_in_pages_the_newest_first(hub: Hub) -> None:
    assert hub.commit(README__md=b"# three\n").status_code == 200
    whole = [commit["id"] for commit in hub.get(f"{KEPT}/commits/main")]
    url, found = f"{KEPT}/commits/main?limit=2", list[list[str]]()
    while url:
        answer = hub.client.get(url)
        assert answer.headers["x-total-count"] == "3"
        found.append([commit["id"] for commit in answer.json()])
        url = answer.links.get("next", {}).get("url", "")
    assert found == [whole[:2], whole[2:]]
    assert hub.get(f"{KEPT}/commits/main?p=9") == []


def test_a_stale_parent_learns_which_files_changed(hub: Hub) -> None:
    old = hub.get(f"{KEPT}/commits/1")[0]["id"]
    answer = hub.commit(README__md=b"# x\n", header={"parentCommit": old})
    assert answer.status_code == 412
    changed = "Changed since medical/coder@1: adapter_model.safetensors."
    assert changed in answer.json()["error"]
    files = hub.get("/api/v1/resolve/medical/coder@1")["files"]
    body = {"base": "tiny", "files": files, "expected": 1}
    pushed = hub.client.post("/api/v1/adapters/medical/coder/versions", json=body)
    assert pushed.status_code == 412
    assert changed in pushed.json()["error"]["message"]


def test_javascript_clients_find_files_and_the_default_revision(hub: Hub) -> None:
    hub.alias("production", 2)
    assert hub.client.head("/medical/coder/raw/main/README.md").status_code == 200
    assert hub.client.head("/medical/coder/raw/main/none.md").status_code == 404
    assert hub.get(f"{KEPT}/revision/HEAD")["sha"] == hub.get(f"{KEPT}/revision/2")["sha"]


def test_a_key_may_begin_as_the_hubs_tokens_do(hub: Hub) -> None:
    headers = {"Authorization": f"Bearer hf_{hub.operator.text}"}
    assert hub.client.get("/api/whoami-v2", headers=headers).status_code == 200
    with pytest.raises(errors.Unauthenticated):
        Secret.parse("hf_abc")


def test_a_revoked_version_is_served_by_none_of_its_names(hub: Hub) -> None:
    hub.alias("live", 2)
    commit = hub.registry.catalog.adapters["medical/coder"].versions[1].digest[:40]
    hub.registry.execute(RevokeVersion("medical", "coder", 2, "wrong"), hub.operator.id)
    for revision in ("2", "live", commit):
        for path in (f"/medical/coder/resolve/{revision}/README.md", f"{KEPT}/tree/{revision}"):
            assert hub.client.get(path).status_code == 410, path


def test_files_that_were_given_up_leave_by_no_door(hub: Hub) -> None:
    command = TombstoneVersion("medical", "coder", 2, "withdrawn records")
    hub.registry.execute(command, hub.operator.id)
    login = {"key": hub.operator.text}
    hub.client.post("/login", data=login, headers={"Origin": "http://testserver"})
    for path in (
        "/api/v1/files/medical/coder@2?path=README.md",
        "/medical/coder/resolve/2/README.md",
        "/adapters/medical/coder/versions/2/files/README.md",
    ):
        assert hub.client.get(path).status_code == 410, path
        assert hub.client.get(path.replace("2", "1")).status_code == 200


def test_a_commit_builds_on_the_newest_version_that_is_kept(hub: Hub) -> None:
    first = hub.registry.catalog.adapters["medical/coder"].versions[0]
    command = TombstoneVersion("medical", "coder", 2, "withdrawn records")
    hub.registry.execute(command, hub.operator.id)
    answer = hub.commit(README__md=CARD.encode() + b"More.")
    assert answer.status_code == 200, answer.text
    made = hub.registry.refresh().adapters["medical/coder"].versions[-1]
    assert made.number == 3
    assert made.same_weights(first)


def test_a_repository_is_created_once(hub: Hub) -> None:
    for name, status in (("coder", 409), ("Coder", 409), ("new", 200)):
        body = {"name": name, "organization": "medical", "type": "model"}
        answer = hub.client.post("/api/repos/create", json=body)
        assert answer.status_code == status
        assert (name == "Coder") == ("medical/coder exists" in answer.text)
