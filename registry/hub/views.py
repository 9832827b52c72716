"""Adapters and versions in the shapes that the Hub's clients parse."""

from typing import Any

from registry.http.views import SHOWN
from registry.hub.revisions import commit_id, newest
from registry.model.catalog import Adapter, File, Version

_POINTER_SIZE = 134
"""Bytes of a Git LFS pointer file, which clients expect."""


def time_of(text: str) -> str:
    """A time with milliseconds, which older clients insist on."""
    return text.removesuffix("Z") + ".000Z"


def file_view(file: File, changed: Version | None = None) -> dict[str, Any]:
    """An entry of a tree. Every file is shown as an LFS object: their ids are SHA-256.

    changed: the version that last changed the file, for clients that ask for it.
    """
    lfs = {"oid": file.sha256, "size": file.size, "pointerSize": _POINTER_SIZE}
    view: dict[str, Any] = {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "oid": file.sha256[:40],
        "lfs": lfs,
    }
    if changed is not None:
        commit = commit_view(changed)
        view["lastCommit"] = {name: commit[name] for name in ("id", "title", "date")}
    return view


def tags(adapter: Adapter, shown: Version | None) -> list[str]:
    """What models are filtered by."""
    found = ["peft", "lora", "safetensors", f"domain:{adapter.domain}"]
    if shown is not None:
        found += [f"base_model:{shown.base}", f"base_model:adapter:{shown.base}"]
    return found


def time_for(sort: str, adapter: Adapter) -> str:
    """What models are sorted by: `createdAt`, or when the newest version that is kept was made."""
    shown = newest(adapter)
    if shown is None:
        return ""
    return adapter.versions[0].published if sort == "createdAt" else shown.published


def model_view(adapter: Adapter, version: Version | None) -> dict[str, Any]:
    """A model; `version` is the one shown, if any."""
    shown = version or newest(adapter)
    path = f"{adapter.domain}/{adapter.name}"
    view: dict[str, Any] = {
        "_id": path,
        "id": path,
        "modelId": path,
        "author": adapter.domain,
        "private": True,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "library_name": "peft",
        "tags": tags(adapter, shown),
    }
    if shown is None:
        return view
    return {
        **view,
        "sha": commit_id(shown),
        "lastModified": time_of(shown.published),
        "createdAt": time_of(adapter.versions[0].published),
        "siblings": [
            {
                "rfilename": file.path,
                "size": file.size,
                "blobId": file.sha256[:40],
                "lfs": {
                    "sha256": file.sha256,
                    "size": file.size,
                    "pointerSize": _POINTER_SIZE,
                },
            }
            for file in shown.files
        ],
    }


def refs_view(adapter: Adapter) -> dict[str, Any]:
    """Branches and tags: `main` where production is set, a tag for each alias and each of the
    newest versions."""
    named = {str(version.number): version for version in adapter.versions[-SHOWN:]}
    named |= {alias: adapter.versions[number - 1] for alias, number in adapter.aliases.items()}
    kept = {name: version for name, version in named.items() if version.tombstone is None}
    production = kept.get("production")
    main = [] if production is None else [_ref("heads", "main", production)]
    return {
        "branches": main,
        "converts": [],
        "tags": [_ref("tags", name, version) for name, version in kept.items()],
        "pullRequests": [],
    }


def _ref(kind: str, name: str, version: Version) -> dict[str, Any]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit_id(version)}


def commit_view(version: Version) -> dict[str, Any]:
    """A version as a commit. Without a message its name is the title."""
    title, _, message = version.message.partition("\n")
    return {
        "id": commit_id(version),
        "title": title or str(version.ref),
        "message": message.strip(),
        "authors": [{"user": version.publisher}],
        "date": time_of(version.published),
    }
