"""What a user of huggingface_hub does, run under whichever version is first on the path.

    python -m tests.support.hub_user ADAPTER_DIRECTORY WORK_DIRECTORY

HF_ENDPOINT and HF_TOKEN say where and who. Prints what it saw as JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(directory: str, work: str) -> None:
    """Publish twice, fetch in every way, look around, and meet the refusals."""
    import huggingface_hub as hub

    api = hub.HfApi()
    seen: dict[str, Any] = {"version": hub.__version__, "who": api.whoami()["fullname"]}
    seen["new"] = str(api.create_repo("medical/coder", exist_ok=True))
    first = api.upload_folder(repo_id="medical/coder", folder_path=directory)
    seen["first"] = first.oid
    card = Path(directory, "README.md").read_bytes() + b"\nA second edition.\n"
    second = api.upload_file(
        repo_id="medical/coder", path_or_fileobj=card, path_in_repo="README.md"
    )
    seen["second"] = second.oid
    snapshot = hub.snapshot_download("medical/coder", revision="1", cache_dir=f"{work}/cache")
    seen["snapshot"] = {p.name: len(p.read_bytes()) for p in Path(snapshot).iterdir()}
    named = hub.hf_hub_download(
        "medical/coder", "README.md", revision="live", local_dir=f"{work}/l"
    )
    seen["card by alias"] = Path(named).read_bytes().decode()
    info = api.model_info("medical/coder", revision="2", files_metadata=True)
    seen["info"] = [info.id, info.sha, sorted(s.rfilename for s in info.siblings or [])]
    seen["listed"] = [m.id for m in api.list_models(search="cod", author="medical")]
    seen["tagged"] = [m.id for m in api.list_models(filter="base_model:tiny")]
    seen["files"] = sorted(api.list_repo_files("medical/coder", revision="1"))
    seen["tags"] = sorted(tag.name for tag in api.list_repo_refs("medical/coder").tags)
    seen["exists"] = [
        api.file_exists("medical/coder", "README.md", revision="1"),
        api.file_exists("medical/coder", "none.md", revision="1"),
        api.repo_exists("medical/nothing"),
        api.revision_exists("medical/coder", "99"),
    ]
    seen["refusals"] = {}
    (Path(work) / "evil").mkdir()
    (Path(work) / "evil" / "adapter_model.bin").write_bytes(b"a pickle")
    attempts: dict[str, Callable[[], Any]] = {
        "pickle": lambda: api.upload_folder(repo_id="medical/coder", folder_path=f"{work}/evil"),
        "elsewhere": lambda: api.upload_folder(repo_id="legal/coder", folder_path=directory),
        "revision": lambda: hub.hf_hub_download("medical/coder", "README.md", revision="99"),
        "pull request": lambda: api.upload_folder(
            repo_id="medical/coder", folder_path=directory, create_pr=True
        ),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            seen["refusals"][name] = f"{type(error).__name__}: {error}"
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
