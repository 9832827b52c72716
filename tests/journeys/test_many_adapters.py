"""More adapters than fit: each answers as itself, disk and names stay bounded, and the engine holds
what the replica believes it to hold."""

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import openai
import pytest

from adapters.base_model import BaseModel
from adapters.home import SMALL_MODEL, default_model
from registry.client import RegistryClient
from serving.settings import ServingSettings
from tests.journeys.conftest import CACHE_BYTES, ENGINE_NAMES, Site
from tests.journeys.test_app import ROUNDING, chat, question
from tests.support.adapters import write_adapter

MANY = 8


@pytest.fixture(scope="module")
def many(site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Adapters of random weights, enough to fill the disk's bound more than once."""
    folder = tmp_path_factory.mktemp("many")
    base = BaseModel.from_directory(default_model(), SMALL_MODEL)
    site.lorary("domain", "create", "bulk", "--no-guard")
    names = []
    with RegistryClient(site.registry, site.operator) as registry:
        for number in range(MANY):
            directory = write_adapter(folder / str(number), base, rank=16, seed=number)
            version = registry.push(directory, f"bulk/a{number}")
            names.append(version["ref"])
    size = (folder / "0" / "adapter_model.safetensors").stat().st_size
    assert size * MANY > CACHE_BYTES > size * 2
    assert MANY > ENGINE_NAMES
    return names


def ask(client: openai.OpenAI, name: str) -> tuple[str, str]:
    """The version that answered by the headers, and what it said."""
    raw = client.completions.with_raw_response.create(
        model=name, prompt="A fever is", max_tokens=3, temperature=0
    )
    return raw.headers["x-lorary-adapter"], raw.parse().choices[0].text


def metric(site: Site, name: str) -> float:
    reply = httpx.get(f"{site.api}/metrics", headers={"Authorization": f"Bearer {site.operator}"})
    lines = [line for line in reply.text.splitlines() if line.startswith(f"{name} ")]
    return float(lines[0].split()[-1])


def on_disk(folder: Path) -> int:
    """Bytes of whole adapters; what is being brought or removed has another name."""
    return sum(
        file.stat().st_size
        for directory in folder.iterdir()
        if not directory.name.startswith(".")
        for file in directory.iterdir()
    )


def test_three_rounds_through_more_adapters_than_fit(site: Site, many: list[str]) -> None:
    client = site.client()
    alone = {name: ask(client, name)[1] for name in many}
    assert len(set(alone.values())) > 1
    for _ in range(2):
        for name in many:
            assert ask(client, name) == (name, alone[name])
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: ask(client, name), many))
    assert [answered for answered, _ in together] == many
    site.settle(lambda: on_disk(site.folder / "cache") <= CACHE_BYTES)
    site.settle(lambda: metric(site, "lorary_engine_names") <= ENGINE_NAMES)
    assert metric(site, "lorary_cache_bytes") <= CACHE_BYTES
    compared = metric(site, "lorary_residency_checks_total")
    site.settle(lambda: metric(site, "lorary_residency_checks_total") >= compared + 2)
    for kind in ("missing", "unexpected"):
        assert metric(site, f'lorary_residency_divergence_total{{kind="{kind}"}}') == 0
    assert 0 < metric(site, "lorary_engine_names") <= ENGINE_NAMES


def test_a_hint_spares_the_first_caller_the_cold_load(site: Site, many: list[str]) -> None:
    client = site.client()
    for name in many[1:]:
        ask(client, name)
    headers = {"Authorization": f"Bearer {site.app}"}
    url = f"{site.api}/v1/adapters/prefetch"
    hinted = httpx.post(url, json={"models": [many[0]]}, headers=headers)
    assert hinted.status_code == 202
    assert hinted.json()["adapters"][many[0]] in ("bucket", "disk")
    site.settle(
        lambda: (
            httpx.post(url, json={"models": [many[0]]}, headers=headers).json()["adapters"]
            == {many[0]: "engine"}
        )
    )
    assert ask(client, many[0])[0] == many[0]


def test_the_base_model_is_itself_beside_an_adapter_in_every_slot(
    site: Site, many: list[str], trained: dict[str, Path]
) -> None:
    slots = ServingSettings().max_loras
    with RegistryClient(site.registry, site.operator) as registry:
        names = [
            registry.push(trained["legal"], f"bulk/legal{number}")["ref"] for number in range(slots)
        ]
    client = site.client()

    def first(model: str) -> tuple[str, float]:
        """The likeliest first token and its log-probability."""
        reply = chat(site, model, question("legal"), max_tokens=1, logprobs=True).parse()
        token = reply.choices[0].logprobs.content[0]
        return token.token, token.logprob

    def write(name: str) -> None:
        client.completions.create(
            model=name, prompt="The law", max_tokens=60, extra_body={"ignore_eos": True}
        )

    token, alone = first(SMALL_MODEL)
    assert first(names[0])[0] != token, "the adapter changes the answer"
    for name in names:
        ask(client, name)  # each is in the engine
    beside = []
    with ThreadPoolExecutor(slots) as pool:
        writing = [pool.submit(write, name) for name in names]
        while wait(writing, timeout=0).not_done:
            beside.append(first(SMALL_MODEL))
        for each in writing:
            each.result()
    assert len(beside) > 1
    assert {said for said, _ in beside} == {token}
    assert [likely for _, likely in beside] == pytest.approx([alone] * len(beside), abs=ROUNDING)
