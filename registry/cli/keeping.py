"""Commands that keep a registry whole, on the store itself: verify, gc, export, import."""

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from adapters.errors import InvalidAdapter
from registry import signing
from registry.cli.output import AsJson, client, emit, progress_bar, say, warn
from registry.errors import DigestMismatch
from registry.maintain import archive, collection, witness
from registry.maintain.verify import verify as verify_store
from registry.model import access
from registry.model.access import Secret
from registry.model.catalog import File
from registry.model.keys import permanent_operators
from registry.registry import Registry
from registry.settings import ClientSettings, RegistrySettings
from registry.store.blobs import content_digest
from registry.times import utc_now


def register(app: typer.Typer) -> None:
    """Add these commands to `lorary`."""
    app.command(rich_help_panel="Govern")(verify)
    app.command("gc", rich_help_panel="Govern")(collect)
    app.command("export", rich_help_panel="Govern")(export)
    app.command("import", rich_help_panel="Govern")(import_)


def verify(
    ref: Annotated[
        str | None, typer.Argument(help="Only this version, downloaded from the registry.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(exists=True, help="The public key (PEM) whose signature is required."),
    ] = None,
    witness_file: Annotated[
        Path | None,
        typer.Option(
            "--witness",
            help="Compare the log with what this file recorded before, and record it now.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the whole store: the chain of commits, every event and every file's digest.

    Exit code 1: damage was found. 3: something could not be read now. A witness file, kept where
    those who can write to the store cannot write, shows commits that were removed or rewritten.

    With a version: download it, hash it and, given a public key, verify its signature.

    Example: lorary verify --witness /mnt/elsewhere/lorary.witness

    Example: lorary verify medical/icd10-coder@7 --public-key hospital.pem
    """
    if ref is not None:
        _verify_version(ref, public_key, as_json)
        return
    seen = witness.read(witness_file) if witness_file else {}
    store = RegistrySettings().open_store()
    with progress_bar(quiet=as_json) as progress:
        report = verify_store(store, progress, seen)
    if report.sound and witness_file and report.head:
        witness.note(witness_file, report.commits, report.head)
    result = "NOT SOUND" if report.findings else "NOT FULLY READ" if report.unread else "sound"

    def show() -> None:
        say(
            f"{report.commits} commits, {report.versions} versions, {report.blobs} blobs "
            f"({report.bytes} bytes): {result}"
        )
        for finding in report.findings:
            say(f"  - {finding}")
        for missed in report.unread:
            say(f"  - could not be read: {missed}")
        for remark in report.remarks:
            say(f"  - today's rules would refuse {remark}")

    emit({**msgspec.to_builtins(report), "sound": report.sound}, as_json, show)
    if not report.sound:
        raise typer.Exit(1 if report.findings else 3)


def _verify_version(ref: str, public_key: Path | None, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, client() as registry:
        directory = Path(folder, "adapter")
        with progress_bar(quiet=as_json, transfer=True) as progress:
            version = registry.pull(ref, directory, progress=progress)
        files = [File(file["path"], file["size"], file["sha256"]) for file in version["files"]]
        if content_digest(files) != version["digest"]:
            raise DigestMismatch(f"{ref}: the digest is not that of the list of files.")
        signer = None
        if public_key is not None:
            local = {file.path: directory / file.path for file in files}
            try:
                signer = signing.verify_signature(local, [public_key.read_text()])
            except InvalidAdapter as error:
                raise InvalidAdapter(f"{ref}: {error.message}") from error
    signed = f", signed by {signer[:16]}" if signer else ""
    found = {"ref": version["ref"], "digest": version["digest"], "signer": signer}
    emit(found, as_json, lambda: say(f"{version['ref']}  {version['digest']}: sound{signed}"))


def collect(
    apply: Annotated[bool, typer.Option("--apply", help="Remove; by default only count.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Resume an interrupted collection; confirm first that it is not running.",
        ),
    ] = False,
    grace_hours: Annotated[float, typer.Option(min=0, help="Keep files younger than this.")] = 24.0,
    as_json: AsJson = False,
) -> None:
    """Delete files that no version needs. Safe while others push; a dry run by default.

    First expires the versions that their domain's policy no longer retains.

    Example: lorary gc

    Example: lorary gc --apply --grace-hours 48
    """
    settings = RegistrySettings()
    registry = Registry(settings.open_store_to_write() if apply else settings.open_store())
    try:
        secret = Secret.parse(ClientSettings().key.get_secret_value())
        key = access.authenticate(registry.refresh(), secret, utc_now())
        access.require(key, "operate", access.ANY_DOMAIN)
        with progress_bar(quiet=as_json) as progress:
            report = collection.collect(
                registry,
                key.id,
                apply=apply,
                resume=resume,
                grace_seconds=grace_hours * 3600,
                progress=progress,
            )
    finally:
        registry.close()
    verb = "Removed" if apply else "Would remove"
    emit(
        msgspec.to_builtins(report),
        as_json,
        lambda: say(
            f"{verb} {report.blobs} blobs and {report.parts} parts ({report.bytes} bytes); "
            f"{len(report.expired)} versions beyond what is retained"
            + ("" if apply else ". Remove them: lorary gc --apply")
        ),
    )


def export(
    path: Annotated[Path, typer.Argument(help="A tar file.")], as_json: AsJson = False
) -> None:
    """Export the whole registry, log and files, to one tar file.

    Example: lorary export registry.tar
    """
    with progress_bar(quiet=as_json) as progress:
        catalog = archive.export(RegistrySettings().open_store(), path, progress)
    emit(
        {"path": str(path), "commits": catalog.sequence, "head": catalog.head},
        as_json,
        lambda: say(f"{path}: {catalog.registry}, {catalog.sequence} commits"),
    )


def import_(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A tar file.")],
    without_trailer: Annotated[
        bool,
        typer.Option(
            "--without-trailer",
            help="Accept an export of an earlier Lorary, which cannot prove that it is complete.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import an export into the empty store that LORARY_STORE names.

    Everything is verified before anything is stored. Repeating an interrupted import is safe.

    Example: lorary import registry.tar
    """
    settings = RegistrySettings()
    with progress_bar(quiet=as_json) as progress:
        store = settings.open_store_to_write()
        found = archive.import_(store, path, progress, without_trailer=without_trailer)
    catalog, complete = found.catalog, found.trailer is not None
    if not complete:
        warn(
            f"{path} has no trailer: commits after {catalog.sequence} ({catalog.time}), if there "
            "were any, are lost."
        )
    if not permanent_operators(catalog):
        warn(
            "Every operator's key in it expires or was revoked. While one is valid, issue one "
            "without --expires: lorary key issue NAME --grant operate:*"
        )
    emit(
        {
            "store": settings.store,
            "commits": catalog.sequence,
            "head": catalog.head,
            "complete": complete,
        },
        as_json,
        lambda: say(f"{settings.store}: {catalog.registry}, {catalog.sequence} commits"),
    )
