"""The routes of commands, which follow from the commands' own definitions.

Parts of the path and the body are the command's fields. The answer is the resource that the path
begins with, as it is afterwards.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from typing import Any, TypeAlias, get_type_hints

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from adapters.names import AdapterRef, check_name
from registry.http.access import Caller, CallerDep
from registry.http.reviews import review_view
from registry.http.schemas import body_of, given
from registry.http.views import (
    adapter_view,
    domain_view,
    key_view,
    plain,
    task_version_view,
    version_view,
)
from registry.http.webhooks import webhook_view
from registry.model.base import Command, Event
from registry.model.canary import RollBackSplit, SplitRolledBack
from registry.model.feedback import GiveFeedback
from registry.model.machine import commands
from registry.model.reviews import find
from registry.model.shadow import ReportShadow
from registry.model.standing import calibrated
from registry.model.tasks import find as find_task

Json: TypeAlias = "dict[str, Any]"


def add_routes(router: APIRouter) -> None:
    """Add the route of each command that has one."""
    for command in commands().values():
        if command.route is not None:
            router.add_api_route(
                command.route.path,
                _endpoint(command, command.route.in_path),
                methods=[command.route.method],
                status_code=command.route.status,
                name=command.__name__,
                description=command.__doc__,
            )


def _endpoint(
    command: type[Command], path_fields: list[str]
) -> Callable[..., Coroutine[Any, Any, Json]]:
    """What carries out the command of a request."""
    hints = get_type_hints(command)
    body = body_of(command, *path_fields)

    async def carry_out(caller: Caller, **sent: Any) -> Json:
        fields = given(sent.pop("body")) if "body" in sent else {}
        if "domain" in sent:
            check_name(sent["domain"], "domain")
        asked = command(**sent, **fields)
        # No thread waits: however many ask at once share commits.
        events = await asyncio.wrap_future(caller.registry.submit(asked, caller.key.id))
        return await run_in_threadpool(_answer, caller, asked, events)

    parameters = [Parameter("caller", Parameter.KEYWORD_ONLY, annotation=CallerDep)]
    parameters += [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=hints[name]) for name in path_fields
    ]
    if body.model_fields:
        parameters.append(Parameter("body", Parameter.KEYWORD_ONLY, annotation=body))
    carry_out.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return carry_out


def _answer(caller: Caller, command: Any, events: Sequence[Event]) -> Json:
    if isinstance(command, RollBackSplit | GiveFeedback | ReportShadow):
        return _reported(command, events)
    assert command.route is not None  # noqa: S101
    caller = replace(caller, catalog=caller.registry.catalog)  # which holds the command's events
    shows = next(show for begin, show in _RESOURCES if command.route.path.startswith(begin))
    return shows(caller, command)


def _reported(
    command: RollBackSplit | GiveFeedback | ReportShadow, events: Sequence[Event]
) -> Json:
    """To a replica, which may see no resource: what its report changed."""
    if isinstance(command, RollBackSplit):
        return {"rolled_back": bool(events)}
    if isinstance(command, ReportShadow):
        return {"recorded": bool(events)}
    ended = [event.alias for event in events if isinstance(event, SplitRolledBack)]
    return {"counted": bool(events), "rolled_back": ended}


def _version(caller: Caller, command: Any) -> Json:
    catalog = caller.registry.catalog
    version = catalog.find(AdapterRef(command.domain, command.adapter, command.version))
    return plain(version_view(version, calibrated(catalog.keys, version), catalog.keys))


def _adapter(caller: Caller, command: Any) -> Json:
    catalog = caller.registry.catalog
    ref = AdapterRef(command.domain, command.adapter)
    return adapter_view(catalog.adapter(ref), catalog.domain(command.domain))


def _domain(caller: Caller, command: Any) -> Json:
    return domain_view(caller.registry.catalog.domain(command.domain))


def _task(caller: Caller, command: Any) -> Json:
    return task_version_view(
        find_task(caller.registry.catalog, command.domain, command.task, command.version)
    )


def _key(caller: Caller, command: Any) -> Json:
    return key_view(caller.registry.catalog.keys[command.key])


def _review(caller: Caller, command: Any) -> Json:
    return review_view(caller, find(caller.registry.catalog, command.review))


def _webhook(caller: Caller, command: Any) -> Json:
    hook = caller.registry.catalog.webhooks.get(command.webhook)
    return {"id": command.webhook, "removed": True} if hook is None else webhook_view(hook, None)


_RESOURCES: tuple[tuple[str, Callable[[Caller, Any], Json]], ...] = (
    ("/adapters/{domain}/{adapter}/versions/{version}", _version),
    ("/adapters/{domain}/{adapter}", _adapter),
    ("/domains/{domain}/tasks/{task}/versions/{version}", _task),
    ("/domains", _domain),
    ("/keys/{key}", _key),
    ("/reviews/{review}", _review),
    ("/webhooks/{webhook}", _webhook),
)
"""What is answered, by how a route's path begins; the first match counts."""

router = APIRouter(tags=["commands"])
add_routes(router)
