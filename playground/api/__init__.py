"""The HTTP API: `create_app` makes it, beside the pages or alone (``uvicorn --factory playground.api:create_app``)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import FastAPI

from playground import __version__
from playground.api import (
    classic,
    completions,
    conversations,
    docs,
    failures,
    health,
    inference,
    jobs,
    metrics,
    openai,
    sockets,
    warm,
)
from playground.api.stopping import Stopping
from playground.config import AppConfig, environment_overrides, load_config, prepare_process
from playground.gate import Gate, Identity, journal
from playground.local_inference import LocalInference
from playground.services.assembly import Services, engine_options
from playground.store import Store

DESCRIPTION = """
The HTTP side of Adapter Playground: the same engine, models and bounds as the pages.

`model` is a base (`starter`), a base with one of its adapters (`starter:pirate`), or that at another strength
(`starter:pirate@0.5`); `GET /v1/models` lists them. A name that is not in the list is a 404, never the base. Every error
says what to do next; under `/v1` it has OpenAI's shape. Fields that this server lacks are refused by name unless they carry
their neutral value.
"""


def create_app(config: AppConfig | None = None, services: Services | None = None) -> FastAPI:
    """The API over the given services.

    Without them it is a server of its own: configuration from configs/playground.toml and PLAYGROUND_* variables, an
    engine that is closed with it, its own gate, and the history of its data folder. A signal to stop it lets answers
    finish first. Raises `ConfigError` when the configuration cannot be read, `HistoryUnavailable` when another process,
    a second worker for one, has the history.
    """
    if config is None or services is None:
        return _alone(config)
    return _api(config, services)


def _alone(config: AppConfig | None) -> FastAPI:
    prepare_process()
    config = config or load_config(overrides=environment_overrides())
    engine = LocalInference(**engine_options(config))
    identity = Identity(config)
    with ExitStack() as given_up:
        store = Store.open(config.data_dir / "history")
        given_up.callback(store.close)
        services = Services.over(engine, config, store)
        app = _api(config, services, Stopping(services, engine, store, config.drain))
        given_up.pop_all()
    journal.switch(config.access_log)
    app.add_middleware(Gate, config=config, identity=identity)
    return app


def _api(config: AppConfig, services: Services, stopping: Stopping | None = None) -> FastAPI:
    """The routes; ``stopping`` is there where the services start and end with the server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if stopping is None:
            yield
            return
        stopping.listen()
        services.jobs.start()
        services.preload.start()
        yield
        await asyncio.to_thread(stopping.close)

    app = FastAPI(
        title="Adapter Playground",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    failures.install(app)
    if config.metrics:
        app.add_middleware(metrics.Counted, meters=services.meters)
    for routes in (
        health.router(config, services),
        *([metrics.router(services)] if config.metrics else []),
        openai.router(services),
        completions.router(config, services),
        warm.router(services),
        inference.router(config, services),
        conversations.router(services),
        classic.router(services),
        sockets.router(services),
        jobs.router(config, services),
        docs.router(),
    ):
        app.include_router(routes)
    app.openapi = functools.partial(docs.describe, app, config.needs_key)  # type: ignore[method-assign]
    return app
