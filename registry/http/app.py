"""The registry's service put together."""

import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.routing import BaseRoute

from registry.http import (
    bodies,
    commands,
    errors,
    evaluations,
    events,
    governing,
    metrics,
    reading,
    reviews,
    tasks,
    uploads,
    webhooks,
)
from registry.http.access import CallerDep
from registry.http.middleware import HeadAsGet, Observed
from registry.http.schemas import ERRORS, Envelope, HubError
from registry.http.turns import Turns
from registry.hub import committing as hub_committing
from registry.hub import reading as hub_reading
from registry.hub import tagging as hub_tagging
from registry.hub import writing as hub_writing
from registry.model.access import require_observe
from registry.notify.delivery import Deliverer, delivering
from registry.registry import Registry
from registry.settings import RegistrySettings
from registry.times import utc_now
from registry.web import acting, browsing, reviewing, session

logger = logging.getLogger("lorary.registry")
PREFIX = "/api/v1"

Responses = dict[int | str, dict[str, Any]]
probes = APIRouter()
"""What asks how the service fares."""


def _errors(model: type[BaseModel]) -> Responses:
    """How errors look, for the OpenAPI document."""
    return {status: {"model": model} for status in ERRORS}


def _same_errors(model: type[BaseModel]) -> Responses:
    """The same by reference, for all routes but the one that brings the model into the document:
    FastAPI makes a validator of each model that it is given, for each status of each route."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {status: {"content": {"application/json": {"schema": schema}}} for status in ERRORS}


def create_app(settings: RegistrySettings) -> FastAPI:
    """The service over the store that `settings` name.

    Raises `StoreUnavailable`, `StoreUnfit` for a store that does not keep its promises, or
    `RegistryMissing` if there is none to serve.
    """
    store = settings.open_store_to_write()
    registry = Registry(store, pause=settings.feedback_pause_seconds)
    registry.refresh()

    streams = events.Streams(registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as running:
            running.callback(registry.close)
            if settings.webhook_secrets and not settings.read_only:
                running.enter_context(delivering(Deliverer(streams.feed, settings)))
            elif registry.catalog.webhooks:
                logger.warning("webhooks: nothing is delivered; see LORARY_WEBHOOK_SECRET")
            yield

    app = FastAPI(
        title="Lorary registry",
        version="1",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere, on the session's origin
        redoc_url=None,
        routes=[*_routes()],
    )
    app.state.registry = registry
    app.state.settings = settings
    app.state.ended = session.Ended()
    app.state.streams = streams
    app.state.turns = {
        "examine": Turns(at_once=4, of_one=2),
        "store": Turns(at_once=16, of_one=8),
    }
    app.add_middleware(HeadAsGet)
    app.add_middleware(bodies.BodyLimits, settings=settings)
    app.add_middleware(Observed)
    errors.install(app)
    app.mount("/static", StaticFiles(packages=[("registry.web", "static")]))
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """What every service answers; `resolve` is tried before all others.

    The apps of one process share them: FastAPI computes for a quarter of a second to make them.
    """
    made = APIRouter()
    parts = (reading, uploads, commands, governing, evaluations, tasks, reviews, events, webhooks)
    for part in parts:
        made.include_router(part.router, prefix=PREFIX, responses=_same_errors(Envelope))
    for pages in (browsing, acting, reviewing):
        made.include_router(pages.router)
    for hub in (hub_reading, hub_writing, hub_committing):
        made.include_router(hub.router, responses=_same_errors(HubError))
    made.include_router(hub_tagging.router, responses=_errors(HubError))
    made.include_router(probes)
    return (reading.resolving(PREFIX, _errors(Envelope)), *made.routes)


@probes.get("/live")
def live() -> dict[str, str]:
    """Whether the process answers, whatever its store does; open to everyone."""
    return {"status": "ok"}


@probes.get("/metrics", response_class=PlainTextResponse, responses=_same_errors(Envelope))
def show_metrics(caller: CallerDep) -> PlainTextResponse:
    """Metrics for Prometheus. They take the role observe, or operate, in all domains."""
    require_observe(caller.key)
    page = metrics.page(caller.catalog, utc_now())
    return PlainTextResponse(page, media_type=CONTENT_TYPE_LATEST)


@probes.get("/health", responses=_same_errors(Envelope))
def health(request: Request, response: Response) -> dict[str, Any]:
    """Whether the store answers; open to everyone."""
    catalog = request.app.state.registry.refresh()
    response.headers["Cache-Control"] = "no-store"
    return {"status": "ok", "registry": catalog.registry, "sequence": catalog.sequence}
