"""Makes every call and prints its outcome."""

import json
import os
import sys
from pathlib import Path

from tests.support.hub_calls import commands, governing, looking, publishing
from tests.support.hub_calls.calls import CALLS, Scene, outcome

PARTS = (looking, publishing, governing, commands)


def main(path: str, wanted: str = "", unwanted: str = "") -> None:
    """Make the calls whose names begin with `wanted` and do not begin with `unwanted`, if any."""
    import huggingface_hub as hub

    scene = Scene(**json.loads(Path(path).read_text()))
    print(json.dumps({"version": hub.__version__, "endpoint": os.environ["HF_ENDPOINT"]}))
    order = [part.__name__ for part in PARTS]
    for made in sorted(CALLS, key=lambda made: order.index(made.run.__module__)):
        skipped = unwanted and made.name.startswith(unwanted)
        if made.name.startswith(wanted) and not skipped:
            came, why = outcome(made, hub.HfApi(), scene)
            print(json.dumps({"call": made.name, "outcome": came, "why": why}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
