"""Calls that list and fetch."""

import time
from pathlib import Path
from typing import Any

from tests.support.hub_calls.calls import Absent, Scene, call, method

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]


@call("whoami")
def whoami(api: Any, scene: Scene) -> None:
    assert api.whoami()["type"] == "user"


@call("list_models(author, search, limit)")
def list_models(api: Any, scene: Scene) -> None:
    found = [m.id for m in api.list_models(author=scene.domain, search="KEPT")]
    assert found == [scene.repo("kept")], found
    assert len(list(api.list_models(author=scene.domain, limit=1))) == 1


@call("list_models(sort=...)")
def list_sorted(api: Any, scene: Scene) -> None:
    for sort in ("last_modified", "created_at"):
        models = list(api.list_models(author=scene.domain, sort=sort))
        times = [getattr(model, sort) for model in models]
        assert len(times) > 1
        assert None not in times
        assert times == sorted(times, reverse=True), (sort, times)
    first = next(iter(api.list_models(author=scene.domain, sort="last_modified", limit=1)))
    assert first.id == models_by_change(api, scene)[0]


def models_by_change(api: Any, scene: Scene) -> list[str]:
    """Every adapter of the domain, that which changed last first."""
    models = api.list_models(author=scene.domain)
    return [m.id for m in sorted(models, key=lambda m: m.last_modified, reverse=True)]


@call("list_models(filter=...)")
def list_filtered(api: Any, scene: Scene) -> None:
    tagged = [m.id for m in api.list_models(author=scene.domain, filter="base_model:tiny")]
    assert scene.repo("kept") in tagged


@call("model_info")
def model_info(api: Any, scene: Scene) -> None:
    info = api.model_info(scene.repo("kept"), revision="1", files_metadata=True)
    assert (info.id, info.sha) == (scene.repo("kept"), scene.commits[0])
    assert sorted(s.rfilename for s in info.siblings) == FILES
    assert all(s.size for s in info.siblings)
    assert api.model_info(scene.repo("kept")).sha == scene.commits[1]


@call("model_info(...).card_data")
def card_data(api: Any, scene: Scene) -> None:
    data = api.model_info(scene.repo("kept"), revision="1").card_data
    assert data is not None
    assert data.license == "apache-2.0"


@call("model_info(expand=...)")
def model_info_expanded(api: Any, scene: Scene) -> None:
    info = api.model_info(scene.repo("kept"), expand=["sha", "siblings", "tags", "cardData"])
    assert info.sha == scene.commits[1]


@call("repo_info, repo_exists, revision_exists, file_exists")
def exists(api: Any, scene: Scene) -> None:
    kept = scene.repo("kept")
    assert api.repo_info(kept).sha == scene.commits[1]
    assert (api.repo_exists(kept), api.repo_exists(scene.repo("none"))) == (True, False)
    assert not api.repo_exists(kept, repo_type="dataset")
    assert (api.revision_exists(kept, "2"), api.revision_exists(kept, "99")) == (True, False)
    assert api.file_exists(kept, "README.md")
    assert not api.file_exists(kept, "README.txt")


@call("list_repo_files")
def list_repo_files(api: Any, scene: Scene) -> None:
    assert sorted(api.list_repo_files(scene.repo("kept"))) == FILES


@call("list_repo_tree(expand=True)")
def list_repo_tree(api: Any, scene: Scene) -> None:
    entries = list(api.list_repo_tree(scene.repo("kept"), expand=True, recursive=True))
    assert sorted(entry.path for entry in entries) == FILES
    assert all(entry.last_commit is not None for entry in entries)


@call("list_repo_refs")
def list_repo_refs(api: Any, scene: Scene) -> None:
    refs = api.list_repo_refs(scene.repo("kept"))
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    assert (tags["live"], tags["production"]) == (scene.commits[0], scene.commits[1])
    assert {branch.name for branch in refs.branches} == {"main"}


@call("list_repo_commits")
def list_repo_commits(api: Any, scene: Scene) -> None:
    ids = [commit.commit_id for commit in api.list_repo_commits(scene.repo("kept"))]
    assert ids[-3:] == scene.commits[::-1]
    until = api.list_repo_commits(scene.repo("kept"), revision="2", formatted=True)
    assert [commit.commit_id for commit in until] == scene.commits[1::-1]


@call("get_paths_info")
def get_paths_info(api: Any, scene: Scene) -> None:
    for paths in (["README.md", "none.md"], "README.md"):
        (found,) = api.get_paths_info(scene.repo("kept"), paths, revision="1")
        assert (found.path, found.size) == ("README.md", len(scene.bytes("first", "README.md")))
    (found,) = api.get_paths_info(scene.repo("kept"), ["README.md"], expand=True)
    assert found.last_commit is not None


@call("hf_hub_download(revision=number, alias, commit, none)")
def download_file(api: Any, scene: Scene) -> None:
    wanted = {"1": "first", "live": "first", scene.commits[2]: "third", None: "second"}
    for revision, folder in wanted.items():
        path = api.hf_hub_download(
            scene.repo("kept"), "adapter_model.safetensors", revision=revision
        )
        assert Path(path).read_bytes() == scene.bytes(folder, "adapter_model.safetensors")


@call("snapshot_download(revision=number, alias, none)")
def download_snapshot(api: Any, scene: Scene) -> None:
    for revision, folder in {
        "3": "third",
        "live": "first",
        "main": "second",
        None: "second",
    }.items():
        path = Path(api.snapshot_download(scene.repo("kept"), revision=revision))
        assert sorted(p.name for p in path.iterdir()) == FILES
        got = (path / "adapter_model.safetensors").read_bytes()
        assert got == scene.bytes(folder, "adapter_model.safetensors")


@call("snapshot_download without production", "production")
def download_unapproved(api: Any, scene: Scene) -> None:
    api.snapshot_download(scene.repo("fresh"))


@call("hf_hub_download of a revision that is not there", "has no version 99")
def download_missing(api: Any, scene: Scene) -> None:
    api.hf_hub_download(scene.repo("kept"), "README.md", revision="99")


@call("HfFileSystem: ls, open, get_file, info")
def file_system(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    system = hub.HfFileSystem(skip_instance_cache=True)
    root = scene.repo("kept")
    assert sorted(str(p).rpartition("/")[2] for p in system.ls(root, detail=False)) == FILES
    with system.open(f"{root}@live/README.md", "rb") as file:
        assert file.read() == scene.bytes("first", "README.md")
    out = Path(scene.work, f"got-{time.time_ns()}")
    system.get_file(f"{root}@3/adapter_model.safetensors", str(out))
    assert out.read_bytes() == scene.bytes("third", "adapter_model.safetensors")
    assert system.info(f"{root}@1/README.md")["size"] == len(scene.bytes("first", "README.md"))
    assert system.modified(f"{root}@1/README.md") is not None


@call("HfFileSystem: writing")
def file_system_writes(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    system = hub.HfFileSystem(skip_instance_cache=True)
    card = scene.bytes("first", "README.md") + f"\n{time.time_ns()}\n".encode()
    with system.open(f"{scene.repo('kept')}/README.md", "wb") as file:
        file.write(card)


@call("get_safetensors_metadata")
def safetensors_metadata(api: Any, scene: Scene) -> None:
    parsed = method(api, "parse_safetensors_file_metadata")(
        scene.repo("kept"), "adapter_model.safetensors", revision="1"
    )
    assert any("lora_A" in name for name in parsed.tensors)


@call("auth_check")
def auth_check(api: Any, scene: Scene) -> None:
    method(api, "auth_check")(scene.repo("kept"))


@call("verify_repo_checksums")
def verify_checksums(api: Any, scene: Scene) -> None:
    verify = method(api, "verify_repo_checksums")
    folder = Path(api.snapshot_download(scene.repo("kept"), revision="1"))
    assert not verify(scene.repo("kept"), revision="1", local_dir=folder).mismatches


@call("list_lfs_files", "not offered")
def list_lfs_files(api: Any, scene: Scene) -> None:
    list(method(api, "list_lfs_files")(scene.repo("kept")))


@call("RepoCard.load")
def load_card(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    card = hub.ModelCard.load(scene.repo("kept"))
    assert card.data.license == "apache-2.0"


@call("list_datasets", "not offered")
def list_datasets(api: Any, scene: Scene) -> None:
    list(api.list_datasets(search="x", limit=1))


@call("inference: get_model_tags", "not offered")
def get_model_tags(api: Any, scene: Scene) -> None:
    if not hasattr(api, "get_model_tags"):
        raise Absent
    api.get_model_tags()
