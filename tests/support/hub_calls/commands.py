"""The `hf` command, `huggingface-cli` up to 0.33."""

from pathlib import Path
from typing import Any

from tests.support.hub_calls.calls import Absent, Scene, call, hf


def _repos(*arguments: str) -> str:
    """`hf repos`, which was `hf repo` once."""
    try:
        return hf("repos", *arguments)
    except Absent:
        return hf("repo", *arguments)


@call("hf auth whoami")
def whoami(api: Any, scene: Scene) -> None:
    try:
        hf("auth", "whoami")
    except Absent:
        hf("whoami")


@call("hf upload")
def upload(api: Any, scene: Scene) -> None:
    hf("upload", scene.repo("shell"), scene.folders["first"], "--commit-message", "From a shell")
    assert api.revision_exists(scene.repo("shell"), "1")


@call("hf upload --delete, without production")
def upload_deleting(api: Any, scene: Scene) -> None:
    hf("upload", scene.repo("shell"), scene.folders["second"], ".", "--delete", "*")
    assert api.revision_exists(scene.repo("shell"), "2")


@call("hf upload --revision main, without production")
def upload_to_main(api: Any, scene: Scene) -> None:
    hf("upload", scene.repo("shell"), scene.folders["third"], ".", "--revision", "main")
    assert api.revision_exists(scene.repo("shell"), "3")


@call("hf upload --revision NAME", "not offered")
def upload_to_branch(api: Any, scene: Scene) -> None:
    hf("upload", scene.repo("shell"), scene.folders["first"], ".", "--revision", "dev")


@call("hf upload of a pickle", "can run code")
def upload_pickle(api: Any, scene: Scene) -> None:
    hf("upload", scene.repo("shell"), scene.folders["pickled"])


@call("hf upload-large-folder with a refused file ends")
def upload_large_folder(api: Any, scene: Scene) -> None:
    folder = scene.folders["pickled"]
    hf("upload-large-folder", scene.repo("refused"), folder, "--repo-type=model")
    names = api.list_repo_files(scene.repo("refused"), revision="1")
    assert "adapter_model.safetensors" in names
    assert not [name for name in names if name.endswith(".bin")]


@call("hf download")
def download(api: Any, scene: Scene) -> None:
    out = Path(scene.work, "downloaded")
    hf("download", scene.repo("kept"), "--revision", "live", "--local-dir", str(out))
    assert (out / "README.md").read_bytes() == scene.bytes("first", "README.md")


@call("hf repos create")
def create(api: Any, scene: Scene) -> None:
    import huggingface_hub as hub

    if hub.__version__ < "0.34":
        hf("repo", "create", "created", "--organization", scene.domain, "--yes")
    else:
        _repos("create", scene.repo("created"))


@call("hf repos tag create")
def tag_create(api: Any, scene: Scene) -> None:
    try:
        _repos("tag", "create", scene.repo("kept"), "shelled", "--revision", "3")
    except Absent:
        hf("tag", scene.repo("kept"), "shelled", "--revision", "3")
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(scene.repo("kept")).tags}
    assert tags["shelled"] == scene.commits[2]


@call("hf repos tag list")
def tag_list(api: Any, scene: Scene) -> None:
    try:
        assert "live" in _repos("tag", "list", scene.repo("kept"))
    except Absent:
        assert "live" in hf("tag", "--list", scene.repo("kept"))


@call("hf repos tag delete", "not offered")
def tag_delete(api: Any, scene: Scene) -> None:
    try:
        _repos("tag", "delete", scene.repo("kept"), "live", "--yes")
    except Absent:
        hf("tag", "--delete", scene.repo("kept"), "live", "--yes")


@call("hf repos branch create", "not offered")
def branch_create(api: Any, scene: Scene) -> None:
    _repos("branch", "create", scene.repo("kept"), "dev")


@call("hf repos delete", "not offered")
def delete(api: Any, scene: Scene) -> None:
    try:
        _repos("delete", scene.repo("kept"), "--yes")
    except Absent:
        _repos("delete", scene.repo("kept"))


@call("hf repos settings", "not offered")
def settings(api: Any, scene: Scene) -> None:
    _repos("settings", scene.repo("kept"), "--gated", "auto")


@call("hf models ls")
def models(api: Any, scene: Scene) -> None:
    listed = hf("models", "ls", "--author", scene.domain, "--format", "json")
    assert scene.repo("kept") in listed
