"""Hostile uploads by every way in: answered with a 4xx that says what is wrong, never a 500."""

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from adapters.admission import PROVENANCE
from registry.http import create_app
from registry.model.domains import CreateDomain
from registry.model.policies import Policy
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.store import LocalStore
from registry.web.rendering import _card
from tests.support.adapters import TINY, config
from tests.support.uploads import CONFIG, README, configured, files

BASE = {"name": "tiny", "digest": TINY.digest, "modules": TINY.modules, "known_as": ["org/tiny"]}

FILE = {"path": "README.md", "size": 1, "sha256": "0" * 64}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A registry in this process, asked with its operator's key."""
    store = LocalStore(tmp_path_factory.mktemp("hostile") / "store")
    operator = Registry.create(store, name="hostile", key_name="operator")
    app = create_app(RegistrySettings(store=str(store.root)))
    registry: Registry = app.state.registry
    registry.execute(CreateDomain("medical", Policy()), operator.id)
    headers = {"Authorization": f"Bearer {operator.text}", "Origin": "http://testserver"}
    with TestClient(app, headers=headers, raise_server_exceptions=False) as opened:
        assert opened.post("/api/v1/bases", json=BASE).status_code == 201
        opened.post("/login", data={"key": operator.text})
        yield opened
    registry.close()


def by_api(client: TestClient, changes: dict[str, Any], base: str) -> tuple[int, str]:
    listed = []
    for name, file in files(changes).items():
        data = file.open().read()
        digest = hashlib.sha256(data).hexdigest()
        assert client.put(f"/api/v1/blobs/{digest}", content=data).status_code == 204
        listed.append({"path": name, "size": len(data), "sha256": digest})
    body = {"base": base, "files": listed}
    answer = client.post("/api/v1/adapters/medical/x/versions", json=body)
    return answer.status_code, answer.text


def by_hub(client: TestClient, changes: dict[str, Any], _base: str) -> tuple[int, str]:
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "x"}}]
    for name, file in files(changes).items():
        content = base64.b64encode(file.open().read()).decode()
        lines.append(
            {"key": "file", "value": {"path": name, "encoding": "base64", "content": content}}
        )
    answer = client.post(
        "/api/models/medical/x/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"Content-Type": "application/x-ndjson"},
    )
    return answer.status_code, answer.text


def by_page(client: TestClient, changes: dict[str, Any], _base: str) -> tuple[int, str]:
    sent = [("files", (name, file.open().read())) for name, file in files(changes).items()]
    form = {"domain": "medical", "adapter": "x"}
    answer = client.post("/upload", data=form, files=sent, follow_redirects=False)
    return answer.status_code, answer.text


WAYS = pytest.mark.parametrize("way", [by_api, by_hub, by_page])
HOSTILE = {
    "alpha of 400 digits": (configured(lora_alpha=10**400), "lora_alpha"),
    "alpha beyond any float": (
        {CONFIG: json.dumps(config(lora_alpha=1)).replace(": 1,", ": 1e999,").encode()},
        "lora_alpha",
    ),
    "UTF-16": ({CONFIG: json.dumps(config()).encode("utf-16")}, "UTF-8"),
    "half a surrogate in the base": (
        configured(base_model_name_or_path="\ud800"),
        "base_model_name_or_path",
    ),
    "half a surrogate as a key": (configured(**{"\ud800": 1}), "not understood"),
    "nested": ({CONFIG: b'{"a":' + b"[" * 100_000}, "JSON"),
    "tag in the card": ({README: b"---\na: !!bool abc\n---\n# x\n"}, "YAML tags"),
    "anchor in the card": ({README: b"---\na: &x 1\nb: *x\n---\n# x\n"}, "YAML anchors"),
    "provenance that is not UTF-8": (
        {PROVENANCE: b'{"lineage":{"data":"\xff"}}'},
        "It cannot be read",
    ),
    "date that is none": ({README: b"---\na: &2026-13-99\n---\n"}, "YAML anchors"),
}


@WAYS
@pytest.mark.parametrize(("changes", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_upload_is_refused_with_its_reason(
    way: Any, changes: dict[str, Any], says: str, client: TestClient
) -> None:
    status, text = way(client, changes, "tiny")
    assert 400 <= status < 500, text
    assert says in text or says in json.dumps(text)


@pytest.mark.parametrize(
    "line",
    [
        b'{"key":"header","value":{"summary":"\xff"}}',
        b'{"\xff":1}',
        b'{"key":"header","value":' + b"[" * 50_000,
    ],
    ids=["no UTF-8", "no UTF-8 in a key", "nested"],
)
def test_a_line_of_a_commit_that_cannot_be_read_is_refused(line: bytes, client: TestClient) -> None:
    answer = client.post("/api/models/medical/x/commit/main", content=line)
    assert answer.status_code == 400
    assert "A line of the commit cannot be read" in answer.json()["error"]


def test_the_named_base_wins_over_a_path_on_the_trainers_machine(client: TestClient) -> None:
    changes = configured(base_model_name_or_path="/home/anna/models/tiny")
    status, text = by_api(client, changes, "org/tiny")
    assert status == 201, text
    assert json.loads(text)["base"] == "tiny"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ("# a" + " " * 60_000 + "b", 200),
        ("---\n" + "a: 1\n" * 2 + "---\n", 400),
        ("---\na: &x [1]\nb: *x\n---\n", 400),
        ('---\na: "see *x in quotes"\n---\n', 200),
        ("---\na: !!bool abc\n---\n", 400),
        ("---\na: " + "1" * 50_000 + "\n---\n", 400),
        ("---\na: 2026-99-99\n---\n", 200),
        ("\ud800", 400),
        ("", 200),
    ],
    ids=lambda value: str(value)[:30].encode("unicode_escape").decode(),
)
def test_the_metadata_of_a_card_is_judged(content: str, status: int, client: TestClient) -> None:
    body = json.dumps({"content": content})
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/validate-yaml", content=body, headers=headers)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("norm", ["NaN", "Infinity", "-1", "1e999", '"x"'])
def test_a_norm_that_is_none_is_refused(norm: str, client: TestClient) -> None:
    body = json.dumps({**BASE, "norms": {"q_proj": 123}}).replace("123", norm)
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/bases", content=body, headers=headers)
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/adapters/medical/neu..Name/versions", {"base": "tiny", "files": [FILE]}),
        ("GET", "/api/v1/resolve/medical/neu..Name@production", None),
        ("POST", "/api/repos/create", {"name": "neu..Name", "organization": "medical"}),
        ("POST", "/api/models/medical/neu..Name/preupload/main", {"files": []}),
        ("GET", "/medical/neu..Name/resolve/main/README.md", None),
        ("GET", "/adapters/medical/neu..Name", None),
    ],
)
def test_a_name_that_is_none_is_refused_with_one_that_is(
    method: str, path: str, body: object, client: TestClient
) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == 400
    assert "neu-name" in answer.text


def test_a_long_card_is_cut_where_it_is_rendered() -> None:
    assert len(_card("word " * 200_000)) < 100_000
    assert "README.md" in _card("word " * 200_000)
    assert "README.md" not in _card("word " * 10)


@pytest.mark.parametrize(
    "piece", ["[", "[[]", "![[", "[a](", "![a](", "**a", "*b ", "> ", "|a|b|\n|-|-|\n"]
)
def test_rendering_a_hostile_card_takes_calls_in_proportion_to_its_length(piece: str) -> None:
    text, calls = (piece * 65_000)[:65_000], 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        _card(text)
    finally:
        sys.setprofile(None)
    assert calls < 200 * len(text)


def test_a_card_shows_no_comments_and_of_an_image_its_description() -> None:
    card = "<!-- Say what it does. -->\n# Coder\n<!--\ntwo lines -->"
    card += "![Curve <b>](https://a.example/x.png) end <!-- open"
    shown = _card(card)
    assert "Say what" not in shown
    assert "two lines" not in shown
    assert "!" not in shown.replace("&lt;!-- open", "")
    assert "Curve &lt;b&gt; end" in shown
    assert "a.example" not in shown


def test_links_of_an_ordinary_card_are_rendered() -> None:
    text = "".join(f"- [paper {n}](https://arxiv.org/abs/{n})\n" for n in range(1_000))
    assert _card(text).count("<a href=") == 1_000
    assert "<li>" in _card("- a\n  - b\n    - c\n")
