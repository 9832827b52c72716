"""The recipes that come with Lorary, by name, and any other by its path."""

import difflib
from pathlib import Path

from adapters.recipe import AnyRecipe, BadRecipe, parse_recipe

SHIPPED = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def load(name: str) -> AnyRecipe:
    """The recipe in the file `name`, or the shipped one of that name. Raises `BadRecipe`."""
    path = SHIPPED.get(name, Path(name))
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(name, SHIPPED, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BadRecipe(
            f"There is no recipe {name!r}.{hint} Name a YAML file or one of {', '.join(SHIPPED)}."
        ) from error
    try:
        return parse_recipe(text)
    except BadRecipe as error:
        raise BadRecipe(f"{path.name}: {error.message}") from error
