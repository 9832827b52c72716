"""An app passes on what its users thought of real answers, whole ones and streams."""

from typing import Any

import httpx

from adapters.packs import PACKS
from registry.client import RegistryClient
from tests.journeys.conftest import Site


def judge(site: Site, key: str, response: str, **opinion: str) -> httpx.Response:
    return httpx.post(
        f"{site.api}/v1/feedback",
        json={"id": response, **opinion},
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )


def negative_opinions(site: Site) -> float:
    """How many the server has counted."""
    headers = {"Authorization": f"Bearer {site.operator}"}
    lines = httpx.get(f"{site.api}/metrics", headers=headers).text.splitlines()
    (line,) = [ln for ln in lines if ln.startswith('lorary_feedback_total{rating="negative"}')]
    return float(line.split()[-1])


def test_the_id_of_a_real_answer_is_all_that_feedback_needs(site: Site) -> None:
    path = f"legal/{PACKS['legal'].adapter}"
    messages: Any = [{"role": "user", "content": "May I?"}]
    client, before = site.client(), negative_opinions(site)
    whole = client.chat.completions.create(model="legal", messages=messages, max_tokens=2)
    pieces = list(
        client.chat.completions.create(model="legal", messages=messages, max_tokens=2, stream=True)
    )
    completed = client.completions.create(model="legal", prompt="The law", max_tokens=2)
    other = client.responses.create(model="legal", input="May I?", max_output_tokens=16)
    (streamed,) = {piece.id for piece in pieces}
    for response in (whole.id, streamed, completed.id, other.id):
        kept = judge(site, site.app, response, rating="negative", category="incorrect")
        assert (kept.status_code, kept.json()["counted"]) == (200, True), kept.text
        assert kept.json()["model"] == f"{path}@1"
        assert not judge(site, site.app, response, rating="negative", category="incorrect").json()[
            "counted"
        ]
    assert judge(site, site.doctor, whole.id, rating="positive").status_code == 403
    assert judge(site, site.app, f"{whole.id}x", rating="positive").status_code == 404
    assert judge(site, site.app, streamed, rating="positive").json()["counted"]
    with RegistryClient(site.registry, site.operator) as registry:
        feedback = registry.resolve(f"{path}@1")["feedback"]
    assert (feedback["positive"], feedback["negative"]) == (1, 3)
    assert [c["response"] for c in feedback["complaints"]] == [whole.id, completed.id, other.id]
    assert negative_opinions(site) - before == 4
