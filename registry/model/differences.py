"""What differs between two versions. Pure."""

from registry.model.catalog import Version


def changed_files(old: Version, new: Version) -> str:
    """The files whose contents differ, in words."""
    before = {file.path: file.sha256 for file in old.files}
    after = {file.path: file.sha256 for file in new.files}
    paths = sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    return ", ".join(paths) or "no file"
