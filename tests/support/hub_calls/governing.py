"""Calls that change or remove repositories, tags and branches, or discuss them."""

from typing import Any

from tests.support.hub_calls.calls import Absent, Scene, call, method


@call("create_tag: a new alias")
def create_tag(api: Any, scene: Scene) -> None:
    kept = scene.repo("kept")
    api.create_tag(kept, tag="tagged", revision="3")
    assert _tags(api, scene)["tagged"] == scene.commits[2]
    api.create_tag(kept, tag="tagged", revision="3", exist_ok=True)


@call("create_tag of an alias that names another version", "names version 3")
def move_tag(api: Any, scene: Scene) -> None:
    api.create_tag(scene.repo("kept"), tag="tagged", revision="1")


@call("create_tag of a guarded alias without approval", "is guarded")
def guarded_tag(api: Any, scene: Scene) -> None:
    api.create_tag(scene.repo("kept"), tag="approved", revision="3", exist_ok=True)


@call("create_tag('v1.0')", "alias")
def dotted_tag(api: Any, scene: Scene) -> None:
    api.create_tag(scene.repo("kept"), tag="v1.0")


@call("delete_tag", "not offered")
def delete_tag(api: Any, scene: Scene) -> None:
    api.delete_tag(scene.repo("kept"), tag="live")


@call("create_branch", "not offered")
def create_branch(api: Any, scene: Scene) -> None:
    api.create_branch(scene.repo("kept"), branch="dev")


@call("delete_branch", "not offered")
def delete_branch(api: Any, scene: Scene) -> None:
    api.delete_branch(scene.repo("kept"), branch="dev")


@call("super_squash_history", "not offered")
def super_squash(api: Any, scene: Scene) -> None:
    method(api, "super_squash_history")(scene.repo("kept"))


@call("move_repo", "not offered")
def move_repo(api: Any, scene: Scene) -> None:
    api.move_repo(scene.repo("kept"), scene.repo("elsewhere"))


@call("delete_repo", "not offered")
def delete_repo(api: Any, scene: Scene) -> None:
    api.delete_repo(scene.repo("kept"))


@call("update_repo_settings", "not offered")
def update_settings(api: Any, scene: Scene) -> None:
    method(api, "update_repo_settings")(scene.repo("kept"), gated="auto")


@call("duplicate_repo, duplicate_space", "not offered")
def duplicate(api: Any, scene: Scene) -> None:
    if hasattr(api, "duplicate_repo"):
        api.duplicate_repo(scene.repo("kept"), scene.repo("double"))
    else:
        method(api, "duplicate_space")(scene.repo("kept"), scene.repo("double"))


@call("unlike, list_repo_likers", "not offered")
def likes(api: Any, scene: Scene) -> None:
    api.unlike(scene.repo("kept"))


@call("get_repo_discussions", "not offered")
def discussions(api: Any, scene: Scene) -> None:
    list(api.get_repo_discussions(scene.repo("kept")))


@call("create_discussion, create_pull_request", "pull requests")
def create_discussion(api: Any, scene: Scene) -> None:
    api.create_pull_request(scene.repo("kept"), title="Better")


@call("comment_discussion, merge_pull_request", "not offered")
def comment(api: Any, scene: Scene) -> None:
    api.comment_discussion(scene.repo("kept"), 1, comment="Good.")


@call("access requests", "not offered")
def access_requests(api: Any, scene: Scene) -> None:
    list(api.list_pending_access_requests(scene.repo("kept")))


@call("collections", "not offered")
def collections(api: Any, scene: Scene) -> None:
    api.create_collection(title="Mine", namespace=scene.domain)


@call("webhooks", "not offered")
def webhooks(api: Any, scene: Scene) -> None:
    api.list_webhooks()


@call("jobs", "not offered")
def jobs(api: Any, scene: Scene) -> None:
    run = method(api, "run_job")
    run(image="python:3.12", command=["true"], namespace=scene.domain)


@call("buckets", "not offered")
def buckets(api: Any, scene: Scene) -> None:
    method(api, "create_bucket")(scene.repo("bucket"))


@call("get_user_overview, get_organization_overview", "not offered")
def overview(api: Any, scene: Scene) -> None:
    if not hasattr(api, "get_organization_overview"):
        raise Absent
    api.get_organization_overview(scene.domain)


def _tags(api: Any, scene: Scene) -> dict[str, str]:
    refs = api.list_repo_refs(scene.repo("kept"))
    return {tag.name: tag.target_commit for tag in refs.tags}
