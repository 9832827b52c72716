"""What is trained here says the same in unmodified PEFT and in vLLM, whatever stage made it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters import recipes
from adapters.home import SMALL_MODEL, default_model
from adapters.packs import PACKS
from adapters.training.converting import convert
from adapters.training.run import train
from eval.served import engine_of
from registry.client import RegistryClient
from tests.journeys.conftest import Site

ROUNDING = 0.25
"""Nats by which bfloat16 arithmetic may differ between engines."""
QUESTIONS = 3
MADE = ("rslora", "qlora", "dpo", "kto", "dora-converted")
"""Beside the demonstration's own adapters, which `site` serves: plain LoRAs of stage `sft`."""


@pytest.fixture(scope="module")
def base_model(site: Site) -> Any:
    """The base as PEFT loads it, in the type that the server computes in."""
    dtype = getattr(torch, engine_of(f"{site.api}/v1", site.app, SMALL_MODEL).dtype)
    return AutoModelForCausalLM.from_pretrained(default_model(), dtype=dtype).eval()


@pytest.fixture(scope="module")
def made(
    site: Site, trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, Path]]:
    """The served name and the directory of an adapter of each kind, barely trained."""
    folder = tmp_path_factory.mktemp("made")
    site.lorary("domain", "create", "kinds", "--no-guard")
    found = {domain: (domain, directory) for domain, directory in trained.items()}
    with RegistryClient(site.registry, site.operator) as registry:
        for kind in MADE:
            directory = make(kind, folder, trained["legal"])
            version = registry.push(directory, f"kinds/{kind}")
            found[kind] = (version["ref"], directory)
    return found


def make(kind: str, folder: Path, start: Path) -> Path:
    """Two steps of a stage or a method on the legal task."""
    name = kind.removesuffix("-converted")
    changes = ["data=legal", "steps=2", "batch=2", "warmup_steps=0", "forgetting=false"]
    changes.append(f"adapter=kinds/{name}")
    if kind.endswith("converted"):  # a decomposition of each module takes a sixth of a second
        changes.append("target_modules=q_proj,v_proj")
    if kind in ("dpo", "kto"):
        recipe = recipes.load(f"medical-{kind}").changed([*changes, f"start={start}"])
    else:
        recipe = recipes.load("legal").changed([*changes, f"method={name}"])
    train(recipe, default_model(), folder / name, progress=lambda *_: None)
    if not kind.endswith("converted"):
        return folder / name
    convert(folder / name, default_model(), folder / kind, rank=16)
    return folder / kind


@pytest.mark.parametrize("kind", [*PACKS, *MADE])
def test_greedy_tokens_are_the_same_in_peft_and_in_vllm(
    kind: str, site: Site, made: dict[str, tuple[str, Path]], base_model: Any
) -> None:
    served, directory = made[kind]
    pack = PACKS.get(kind, PACKS["legal"])
    tokenizer = AutoTokenizer.from_pretrained(default_model())
    model = PeftModel.from_pretrained(base_model, directory)
    try:
        for item in pack.load().held_out[:QUESTIONS]:
            messages = [{"role": "user", "content": pack.question(item)}]
            ours = by_peft(model, tokenizer, messages)
            theirs, top = by_vllm(site, served, messages)
            if ours != theirs:
                at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
                near = top[at].get(ours[at])
                assert near is not None, (kind, ours, theirs)
                assert abs(near - top[at][theirs[at]]) <= ROUNDING, (kind, ours, theirs)
    finally:
        model.unload()


def by_peft(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> list[str]:
    """Twelve greedy tokens by plain PEFT and transformers."""
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(
        **ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.eos_token_id
    )
    new = said[0, ids["input_ids"].shape[1] :].tolist()
    return [tokenizer.decode([token]) for token in new if token != tokenizer.eos_token_id]


def by_vllm(site: Site, served: str, messages: Any) -> tuple[list[str], list[dict[str, float]]]:
    """The same through the gate, with the likeliest tokens of each position."""
    reply = site.client().chat.completions.create(
        model=served, messages=messages, temperature=0, max_tokens=12, logprobs=True, top_logprobs=5
    )
    assert reply.model != SMALL_MODEL
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    positions = [p for p in logprobs.content or [] if p.token not in ("<|im_end|>", "")]
    return (
        [position.token for position in positions],
        [{top.token: top.logprob for top in position.top_logprobs} for position in positions],
    )
