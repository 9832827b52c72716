"""Calls that publish."""

from pathlib import Path
from typing import Any

from tests.support.hub_calls.calls import Scene, call, method


@call("create_repo")
def create_repo(api: Any, scene: Scene) -> None:
    assert scene.repo("new") in str(api.create_repo(scene.repo("new")))
    api.create_repo(scene.repo("kept"), private=True, exist_ok=True)


@call("create_repo(repo_type='dataset')", "adapters only")
def create_dataset(api: Any, scene: Scene) -> None:
    api.create_repo(scene.repo("rows"), repo_type="dataset")


@call("upload_folder to a new adapter")
def upload_folder(api: Any, scene: Scene) -> None:
    api.upload_folder(repo_id=scene.repo("new"), folder_path=scene.folders["first"])
    assert "README.md" in api.list_repo_files(scene.repo("new"), revision="1")


@call("upload_folder of what is published already")
def upload_folder_again(api: Any, scene: Scene) -> None:
    api.upload_folder(repo_id=scene.repo("new"), folder_path=scene.folders["first"])
    assert not api.revision_exists(scene.repo("new"), "2")


@call("upload_folder(delete_patterns=...) without production")
def upload_folder_deleting(api: Any, scene: Scene) -> None:
    api.upload_folder(
        repo_id=scene.repo("new"), folder_path=scene.folders["second"], delete_patterns="*"
    )
    assert api.revision_exists(scene.repo("new"), "2")


@call("upload_file")
def upload_file(api: Any, scene: Scene) -> None:
    card = scene.bytes("first", "README.md") + b"\nAnother edition.\n"
    api.upload_file(repo_id=scene.repo("new"), path_or_fileobj=card, path_in_repo="README.md")


@call("upload_large_folder to a new adapter")
def upload_large_folder(api: Any, scene: Scene) -> None:
    method(api, "upload_large_folder")(
        scene.repo("large"), scene.folders["third"], repo_type="model", num_workers=1
    )
    assert api.revision_exists(scene.repo("large"), "1")


@call("upload_folder of a pickle", "can run code")
def upload_pickle(api: Any, scene: Scene) -> None:
    api.upload_folder(repo_id=scene.repo("refused"), folder_path=scene.folders["pickled"])


@call("upload_folder to a domain without a role", "has no role 'publish' in domain 'elsewhere'")
def upload_elsewhere(api: Any, scene: Scene) -> None:
    api.upload_folder(repo_id="elsewhere/coder", folder_path=scene.folders["first"])


def _commit(api: Any, scene: Scene, text: str, parent: str | None = None) -> Any:
    import huggingface_hub as hub

    card = scene.bytes("first", "README.md") + text.encode()
    operation = hub.CommitOperationAdd("README.md", card)
    return api.create_commit(
        scene.repo("kept"),
        [operation],
        commit_message=f"Say {text!r}",
        commit_description="Because it was asked for.",
        parent_commit=parent,
    )


@call("create_commit without a parent")
def commit_without_parent(api: Any, scene: Scene) -> None:
    assert _commit(api, scene, "no parent").oid


@call("create_commit(parent_commit=the newest)")
def commit_on_newest(api: Any, scene: Scene) -> None:
    newest = api.list_repo_commits(scene.repo("kept"))[0].commit_id
    assert _commit(api, scene, "a right parent", newest).oid != newest


@call("create_commit(parent_commit=an older one)", "A commit has happened since")
def commit_on_older(api: Any, scene: Scene) -> None:
    _commit(api, scene, "a stale parent", scene.commits[0])


@call("list_repo_commits: the messages that were committed")
def commit_messages(api: Any, scene: Scene) -> None:
    commits = {c.title: c.message for c in api.list_repo_commits(scene.repo("kept"))}
    assert commits.get("Say 'a right parent'") == "Because it was asked for.", commits


@call("create_commit(create_pr=True)", "pull requests")
def commit_as_pull_request(api: Any, scene: Scene) -> None:
    api.upload_folder(
        repo_id=scene.repo("kept"), folder_path=scene.folders["first"], create_pr=True
    )


@call("upload_file(revision=an alias)", "not offered")
def commit_to_alias(api: Any, scene: Scene) -> None:
    api.upload_file(
        repo_id=scene.repo("kept"),
        path_or_fileobj=scene.bytes("first", "README.md"),
        path_in_repo="README.md",
        revision="live",
    )


@call("delete_file")
def delete_file(api: Any, scene: Scene) -> None:
    licensed = {"path_or_fileobj": b"MIT\n", "path_in_repo": "LICENSE"}
    api.upload_file(repo_id=scene.repo("new"), **licensed)
    api.delete_file("LICENSE", scene.repo("new"))
    newest = api.list_repo_commits(scene.repo("new"), revision="1") and _newest(api, scene, "new")
    assert "LICENSE" not in api.list_repo_files(scene.repo("new"), revision=newest)


@call("delete_files")
def delete_files(api: Any, scene: Scene) -> None:
    licensed = {"path_or_fileobj": b"MIT\n", "path_in_repo": "LICENSE.md"}
    api.upload_file(repo_id=scene.repo("kept"), **licensed)
    method(api, "delete_files")(scene.repo("kept"), ["LICENSE*"])


@call("delete_file of a file that an adapter needs", "adapter_config.json")
def delete_needed(api: Any, scene: Scene) -> None:
    api.delete_file("adapter_config.json", scene.repo("kept"))


@call("delete_file of a file that is not there", "has no file")
def delete_missing(api: Any, scene: Scene) -> None:
    api.delete_file("LICENSE.txt", scene.repo("kept"))


@call("delete_folder", "an adapter has files only")
def delete_folder(api: Any, scene: Scene) -> None:
    api.delete_folder("logs", scene.repo("kept"))


@call("ModelCard.push_to_hub")
def push_card(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    api.upload_folder(repo_id=scene.repo("card"), folder_path=scene.folders["second"])
    card = hub.ModelCard(scene.bytes("second", "README.md").decode() + "\nMore.\n")
    card.push_to_hub(scene.repo("card"))
    assert api.revision_exists(scene.repo("card"), "2")


@call("metadata_update")
def metadata_update(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    hub.metadata_update(scene.repo("kept"), {"license": "mit"}, overwrite=True)
    path = hub.hf_hub_download(
        scene.repo("kept"), "README.md", revision=_newest(api, scene, "kept")
    )
    assert "license: mit" in Path(path).read_text()


def _newest(api: Any, scene: Scene, name: str) -> str:
    numbers = (tag.name for tag in api.list_repo_refs(scene.repo(name)).tags)
    return str(max(int(number) for number in numbers if number.isdigit()))
