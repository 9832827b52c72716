"""Pages that look: catalogue, adapter, version, comparison, audit log."""

import math
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse

from adapters.admission import CARD, CONFIG, PROVENANCE
from adapters.card import MAX_CARD_BYTES
from adapters.names import AdapterRef
from adapters.spectra import MIN_PEERS, Spectrum
from registry.audit import described
from registry.errors import StoreError, UnknownFile, VersionGone
from registry.http.access import Caller
from registry.http.reviews import requirements_view
from registry.http.transfers import answer_file
from registry.http.views import LISTED, SHOWN, commit_view
from registry.log.commits import CommitLog
from registry.model.access import has_role, require_some_audit
from registry.model.catalog import Adapter, Version
from registry.model.comparisons import summary
from registry.model.requirement import verdict
from registry.model.task_versions import TaskVersion
from registry.model.tasks import paths
from registry.model.trials import in_words
from registry.publish.examining import peers
from registry.store.blobs import Blobs
from registry.web import comparing, drawing
from registry.web.rendering import page
from registry.web.session import ViewerDep

router = APIRouter(include_in_schema=False)
PAGE = 50


@router.get("/", response_class=HTMLResponse)
def catalogue(
    viewer: ViewerDep,
    q: Annotated[str, Query(max_length=200)] = "",
    domain: Annotated[str, Query(max_length=63)] = "",
    flagged: bool = False,
    number: Annotated[int, Query(ge=1, alias="page")] = 1,
) -> Response:
    """Every adapter that the viewer may see."""
    found = [
        adapter
        for path, adapter in sorted(viewer.catalog.adapters.items())
        if viewer.may_see(adapter.domain)
        and domain in ("", adapter.domain)
        and all(word in _words(path, adapter) for word in q.lower().split())
        and (not flagged or adapter.versions[-1].flags)
    ]
    return page(
        "catalogue.html",
        viewer=viewer,
        q=q,
        domain=domain,
        flagged=flagged,
        domains=[name for name in sorted(viewer.catalog.domains) if viewer.may_see(name)],
        adapters=found[(number - 1) * PAGE : number * PAGE],
        total=len(found),
        number=number,
        pages=max(1, math.ceil(len(found) / PAGE)),
        catalog=viewer.catalog,
        tasks=_tasks(viewer, domain),
        required=_required(viewer, domain),
    )


@router.get("/adapters/{domain}/{adapter}", response_class=HTMLResponse)
def show_adapter(viewer: ViewerDep, domain: str, adapter: str) -> Response:
    """Its versions, its aliases, and who moved them when."""
    found = _adapter(viewer, domain, adapter)
    policy = viewer.catalog.domain(domain).policy
    return page(
        "adapter.html",
        viewer=viewer,
        adapter=found,
        versions=found.versions[-SHOWN:],
        policy=policy,
        default=viewer.catalog.domain(domain).default == adapter,
        keys=viewer.catalog.keys,
        may_move=has_role(viewer.key, "publish", domain),
        history=_history(found),
        in_words=in_words,
        summary=summary,
    )


@router.get("/adapters/{domain}/{adapter}/versions/{number}", response_class=HTMLResponse)
def show_version(viewer: ViewerDep, domain: str, adapter: str, number: int) -> Response:
    """Card, files, lineage, admission, and what it lacks for production."""
    found = _adapter(viewer, domain, adapter)
    version = _version(viewer, domain, adapter, number)
    policy = viewer.catalog.domain(domain).policy
    asked = {alias: requirements_view(viewer, version, alias) for alias in policy.guarded}
    return page(
        "version.html",
        viewer=viewer,
        version=version,
        aliases=sorted(alias for alias, n in found.aliases.items() if n == number),
        card=_text(viewer, version, CARD).decode(errors="replace"),
        graph=drawing.lineage_graph(
            version, sorted(viewer.catalog.index.get("child", str(version.ref)))
        ),
        norms=_norms_plot(viewer, [version]),
        policy=policy,
        peers=len(peers(viewer.catalog, version.base)),
        min_peers=MIN_PEERS,
        asked=asked,
        verdicts=[verdict(str(version.ref), alias, items) for alias, items in asked.items()],
        tasks=_tasks_of(viewer, version),
        keys=viewer.catalog.keys,
        may_approve=has_role(viewer.key, "approve", domain),
        others=[n for n in range(1, len(found.versions) + 1)[-SHOWN:] if n != number],
    )


@router.get("/adapters/{domain}/{adapter}/versions/{number}/files/{name}")
def download(viewer: ViewerDep, domain: str, adapter: str, number: int, name: str) -> Response:
    """One file, to keep."""
    version = _version(viewer, domain, adapter, number)
    if version.tombstone is not None:
        raise VersionGone(str(version.ref), version.tombstone)
    file = next((file for file in version.files if file.path == name), None)
    if file is None:
        raise UnknownFile(f"{version.ref} has no file {name[:80]!r}.")
    headers = {
        "Content-Disposition": f'attachment; filename="{file.path}"',
        "X-Content-Type-Options": "nosniff",
    }
    direct = viewer.settings.direct_transfers
    return answer_file(viewer.registry.store, file, None, direct=direct, headers=headers)


@router.get("/adapters/{domain}/{adapter}/compare", response_class=HTMLResponse)
def compare(
    viewer: ViewerDep,
    domain: str,
    adapter: str,
    a: Annotated[int, Query(ge=1)],
    b: Annotated[int, Query(ge=1)],
) -> Response:
    """What differs between two versions."""
    left, right = (_version(viewer, domain, adapter, number) for number in (a, b))
    made = [_text(viewer, version, PROVENANCE) for version in (left, right)]
    configs = [_text(viewer, version, CONFIG) for version in (left, right)]
    return page(
        "compare.html",
        viewer=viewer,
        left=left,
        right=right,
        measured=comparing.compare_versions(left, right),
        config=comparing.compare_json(*configs),
        made=comparing.compare_json(*made),
        norms=_norms_plot(viewer, [left, right]),
    )


@router.get("/log", response_class=HTMLResponse)
def audit_log(viewer: ViewerDep, before: Annotated[int | None, Query(ge=1)] = None) -> Response:
    """What happened, the newest first. It takes the role audit or operate."""
    require_some_audit(viewer.key)
    newest = viewer.catalog.sequence if before is None else min(before - 1, viewer.catalog.sequence)
    log, rows = CommitLog(viewer.registry.store), list[dict[str, Any]]()
    for sequence in range(newest, max(0, newest - PAGE), -1):
        if (stored := log.read(sequence)) is not None:
            rows.append(commit_view(stored, viewer.catalog, viewer.key))
    oldest = max(1, newest - PAGE + 1)
    return page(
        "log.html",
        viewer=viewer,
        commits=rows,
        oldest=oldest,
        keys=viewer.catalog.keys,
        described=described,
    )


def _history(adapter: Adapter) -> list[tuple[str, str, str, str]]:
    """When, what, with which version and by whom: an adapter's aliases, canaries, shadows and
    revocations, the newest first."""
    rows = [
        (move.time, f"{move.alias} moved" if move.version else f"{move.alias} removed",
         f"@{move.previous or '-'} → @{move.version or '-'}", move.actor)
        for move in adapter.moves[-SHOWN:]
    ]  # fmt: skip
    rows += [
        (
            split.time,
            f"{split.alias} split",
            f"{split.percent} % get @{split.candidate}",
            split.actor,
        )
        for split in adapter.canaries[-SHOWN:]
    ]
    rows += [
        (
            shadow.time,
            f"{shadow.alias} shadowed",
            f"@{shadow.candidate} also answers {100 * shadow.share:g} %",
            shadow.actor,
        )
        for shadow in adapter.shadows
    ]
    rows += [
        (
            version.revoked_at,
            f"revoked: {version.revoked}",
            f"@{version.number}",
            version.revoker or "",
        )
        for version in adapter.versions[-SHOWN:]
        if version.revoked_at is not None
    ]
    return sorted(rows, reverse=True)[:SHOWN]


def _tasks(viewer: Caller, domain: str) -> list[TaskVersion]:
    """The newest versions of the domain's tasks, in the order of their names."""
    if domain not in viewer.catalog.domains or not viewer.may_see(domain):
        return []
    tasks = (viewer.catalog.tasks[path] for path in paths(viewer.catalog, domain))
    return [version for task in tasks for version in reversed(task.versions[-LISTED:])]


def _tasks_of(viewer: Caller, version: Version) -> dict[tuple[str, str, str], str]:
    """The pushed task's version that each suite of the version's evaluations belongs to, by the
    suite's name and digests; the first version that has it."""
    wanted = {
        (result.suite, result.digest, result.held_out)
        for evaluation in version.evaluations
        for result in evaluation.results
    }
    found: dict[tuple[str, str, str], str] = {}
    for path in paths(viewer.catalog, version.domain):
        for pushed in viewer.catalog.tasks[path].versions:
            for suite in pushed.suites:
                pinned = (suite.suite, suite.digest, suite.held_out)
                if pinned in wanted:
                    found.setdefault(pinned, pushed.named)
    return found


def _required(viewer: Caller, domain: str) -> set[str]:
    """The versions of tasks that the domain's policy names."""
    found = viewer.catalog.domains.get(domain)
    return {rule.task for rule in found.policy.suites} if found else set()


def _words(path: str, adapter: Adapter) -> str:
    newest = adapter.versions[-1] if adapter.versions else None
    return f"{path} {newest.base if newest else ''} {' '.join(adapter.aliases)}".lower()


def _adapter(viewer: Caller, domain: str, adapter: str) -> Adapter:
    ref = viewer.looks_at(AdapterRef.parse(f"{domain}/{adapter}"))
    return viewer.catalog.adapter(ref)


def _version(viewer: Caller, domain: str, adapter: str, number: int) -> Version:
    return viewer.catalog.find(viewer.looks_at(AdapterRef.parse(f"{domain}/{adapter}@{number}")))


def _text(viewer: Caller, version: Version, name: str) -> bytes:
    """A small file's content, or nothing: a page is shown without it."""
    file = next((file for file in version.files if file.path == name), None)
    if file is None or file.size > MAX_CARD_BYTES or version.tombstone is not None:
        return b""
    try:
        return Blobs(viewer.registry.store).get(file.sha256)
    except StoreError:
        return b""


def _norms_plot(viewer: Caller, versions: list[Version]) -> str | None:
    """The norm of each layer's update, one line a version."""
    series = {}
    for version in versions:
        if version.analysis is None or version.tombstone is not None:
            return None
        try:
            data = Blobs(viewer.registry.store).get(version.analysis)
            modules = msgspec.json.decode(data, type=dict[str, Spectrum])
        except (StoreError, msgspec.MsgspecError):
            return None
        series[str(version.ref)] = drawing.layer_norms(modules)
    return drawing.lines(series, "layer", "norm of the update")
