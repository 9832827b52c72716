"""Recipes say what is wrong with them, and every shipped one is sound."""

import re
from pathlib import Path

import pytest

from adapters import recipes
from adapters.packs import PACKS, TASKS
from adapters.recipe import STAGES, BadRecipe, Dpo, Online, Sft, parse_recipe
from adapters.training.data import part

SFT = "stage: sft\nadapter: medical/coder\ndata: medical\n"


@pytest.mark.parametrize("name", recipes.SHIPPED)
def test_every_shipped_recipe_can_be_read_and_names_what_exists(name: str) -> None:
    recipe = recipes.load(name)
    assert {part(source)[0] for source in recipe.data} <= set(TASKS)
    made = {recipes.load(other).adapter for other in recipes.SHIPPED}
    for needed in (recipe.start, recipe.reward if isinstance(recipe, Online) else ""):
        assert needed in (*made, "", "verifiable"), "a shipped recipe makes what it starts from"


def test_every_stage_has_a_shipped_recipe() -> None:
    assert {recipes.load(name).stage for name in recipes.SHIPPED} == set(STAGES)


@pytest.mark.parametrize("domain", PACKS)
def test_preferences_are_about_what_fine_tuning_has_not_seen(domain: str) -> None:
    tuned = recipes.load(f"{domain}-sft")
    _, seen = part(tuned.data[0])
    units = {item.unit for item in PACKS[domain].load().train}
    for stage in ("dpo", "reward", "ppo"):
        recipe = recipes.load(f"{domain}-{stage}")
        assert recipe.start == tuned.adapter
        name, preferred = part(recipe.data[0])
        assert name == domain
        assert all(seen(unit) != preferred(unit) for unit in units)


def test_the_demonstration_trains_what_it_always_has() -> None:
    recipe = recipes.load("medical")
    assert recipe == Sft(adapter="medical/icd10-coder", data=("medical",))
    assert (recipe.rank, recipe.alpha, recipe.steps, recipe.batch) == (16, 32, 70, 16)


def test_a_recipe_changes_by_assignment_and_its_digest_with_it() -> None:
    recipe = parse_recipe(SFT)
    changed = recipe.changed(["steps=5", "learning_rate=2e-4", "target_modules=q_proj,v_proj"])
    assert (changed.steps, changed.learning_rate) == (5, 2e-4)
    assert changed.target_modules == ("q_proj", "v_proj")
    assert changed.digest != recipe.digest


def test_another_stage_is_another_kind_of_recipe() -> None:
    recipe = parse_recipe(SFT.replace("sft", "dpo") + "beta: 0.3\n")
    assert isinstance(recipe, Dpo)
    assert recipe.beta == 0.3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "map of keys"),
        ("[", "not valid YAML"),
        (SFT.replace("sft", "stf"), "stage is 'stf'; set it to one of sft, classify, reward"),
        (SFT + "stpes: 3", "no key 'stpes', perhaps steps"),
        (SFT + "beta: 0.1", "'sft' has no key 'beta'"),
        (SFT + "steps: many", "steps"),
        (SFT + "steps: 0", "steps"),
        (SFT + "method: lara", "method"),
        (SFT.replace("sft", "dpo") + "method: prefix", "'dpo' trains lora, rslora, dora, qlora"),
        (SFT + "accumulate: 3", r"batch \(16\) must be a multiple of accumulate"),
        (SFT + "evaluate_every: 5", "validation=0.1"),
        (SFT + "patience: 5", "evaluate_every"),
        (SFT + "replay: 0.1", "replay_data"),
        (SFT + "method: full\nstart: x", "continues a LoRA"),
        (SFT.replace("medical/coder", "medical"), "DOMAIN/ADAPTER"),
        (SFT.replace("medical/coder", "Medical/Coder"), "not a domain name"),
        (SFT.replace("sft", "grpo") + "generations: 5", "multiple of generations"),
        (SFT.replace("sft", "ppo") + "validation: 0.1", "no held-out loss"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_key_and_what_to_do(text: str, told: str) -> None:
    with pytest.raises(BadRecipe, match=told):
        parse_recipe(text)


def test_a_wrong_assignment_names_the_nearest_key() -> None:
    with pytest.raises(BadRecipe, match="'stesp=5': write KEY=VALUE, perhaps steps"):
        parse_recipe(SFT).changed(["stesp=5"])


def test_an_unknown_recipe_names_the_nearest_and_the_error_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=re.escape("Did you mean medical?")):
        recipes.load("medcal")
    path = tmp_path / "mine.yaml"
    path.write_text(SFT + "stpes: 3")
    with pytest.raises(BadRecipe, match=r"mine\.yaml: .*stpes"):
        recipes.load(str(path))
