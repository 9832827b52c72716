"""The registry's service put together."""

import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

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


def _errors(model: type[BaseModel]) -> Responses:
    """How errors look, for the OpenAPI document."""
    return {status: {"model": model} for status in ERRORS}


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
        routes=[reading.resolving(PREFIX, _errors(Envelope))],
    )
    app.state.registry = registry
    app.state.settings = settings
    app.state.ended = session.Ended()
    app.state.streams = streams
    app.add_middleware(HeadAsGet)
    app.add_middleware(bodies.BodyLimits, settings=settings)
    app.add_middleware(Observed)
    errors.install(app)
    parts = (reading, uploads, commands, governing, evaluations, tasks, reviews, events, webhooks)
    for part in parts:
        app.include_router(part.router, prefix=PREFIX, responses=_errors(Envelope))
    for pages in (browsing, acting, reviewing):
        app.include_router(pages.router)
    for hub in (hub_reading, hub_writing, hub_committing, hub_tagging):
        app.include_router(hub.router, responses=_errors(HubError))
    app.mount("/static", StaticFiles(packages=[("registry.web", "static")]))

    @app.get("/live")
    def live() -> dict[str, str]:
        """Whether the process answers, whatever its store does; open to everyone."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse, responses=_errors(Envelope))
    def show_metrics(caller: CallerDep) -> PlainTextResponse:
        """Metrics for Prometheus. They take the role observe, or operate, in all domains."""
        require_observe(caller.key)
        page = metrics.page(caller.catalog, utc_now())
        return PlainTextResponse(page, media_type=CONTENT_TYPE_LATEST)

    @app.get("/health", responses=_errors(Envelope))
    def health(response: Response) -> dict[str, Any]:
        """Whether the store answers; open to everyone."""
        catalog = registry.refresh()
        response.headers["Cache-Control"] = "no-store"
        return {"status": "ok", "registry": catalog.registry, "sequence": catalog.sequence}

    return app
