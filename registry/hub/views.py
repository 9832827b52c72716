"""Adapters and versions in the shapes that the Hub's clients parse."""

from typing import Any

from registry.hub.revisions import commit_id, newest
from registry.model.catalog import Adapter, File, Version

_POINTER_SIZE = 134
"""Bytes of a Git LFS pointer file, which clients expect to be told."""


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
        "tags": ["peft", "lora", "safetensors", f"domain:{adapter.domain}"],
    }
    if shown is None:
        return view
    view["tags"] += [f"base_model:{shown.base}", f"base_model:adapter:{shown.base}"]
    return {
        **view,
        "sha": commit_id(shown),
        "lastModified": time_of(shown.published),
        "createdAt": time_of(adapter.versions[0].published),
        "usedStorage": sum(v.size for v in adapter.versions if v.tombstone is None),
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
    """Branches and tags: `main` where production is set, a tag for each version and alias."""
    kept = {v.number: v for v in adapter.versions if v.tombstone is None}
    tags = {str(number): version for number, version in kept.items()}
    tags |= {alias: kept[number] for alias, number in adapter.aliases.items() if number in kept}
    production = tags.get("production")
    main = [] if production is None else [_ref("heads", "main", production)]
    return {
        "branches": main,
        "converts": [],
        "tags": [_ref("tags", name, version) for name, version in tags.items()],
        "pullRequests": [],
    }


def _ref(kind: str, name: str, version: Version) -> dict[str, Any]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit_id(version)}


def commits_view(adapter: Adapter, until: Version | None) -> list[dict[str, Any]]:
    """The versions up to `until`, or all, the newest first, as commits."""
    versions = adapter.versions[: until.number] if until else adapter.versions
    return [commit_view(version) for version in reversed(versions)]


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
