"""The services, put together over one engine, for whoever shows them: pages, HTTP, command line."""

from __future__ import annotations

from dataclasses import dataclass

from playground.config import AppConfig
from playground.local_inference import LocalInference
from playground.services.chat import Chat
from playground.services.entries import Entries
from playground.services.exports import Exports
from playground.services.generation import Generation
from playground.services.history import History
from playground.services.jobs import Jobs
from playground.services.limits import Limits
from playground.services.meters import Meters
from playground.services.models import Models
from playground.services.names import Names
from playground.services.preload import Preload
from playground.services.presets import OwnPresets
from playground.services.replay import Replay
from playground.services.uploads import Uploads
from playground.store import Store


@dataclass(frozen=True)
class Services:
    """Everything that a surface may ask for."""

    models: Models
    names: Names
    entries: Entries
    generation: Generation
    limits: Limits
    meters: Meters
    jobs: Jobs
    replay: Replay
    exports: Exports
    uploads: Uploads
    preload: Preload
    history: History
    presets: OwnPresets
    chat: Chat

    @classmethod
    def over(cls, engine: LocalInference, config: AppConfig, store: Store | None = None) -> Services:
        """All of them over ``engine`` and ``store``, without which the history is forgotten with the process.

        Raises `ConfigError` when the content filter that ``config`` names cannot be had.
        """
        store = store or Store.in_memory()
        models = Models(engine, config)
        names = Names(models)
        meters = Meters(config.models)
        meters.watch(engine)
        generation = Generation(engine, config, meters)
        history, replay = History(store, config), Replay(generation, models)
        return cls(
            models=models,
            names=names,
            entries=Entries(models, names),
            generation=generation,
            limits=Limits(config, meters),
            meters=meters,
            jobs=Jobs(generation, config.data_dir / "jobs"),
            replay=replay,
            exports=Exports(models, config),
            uploads=Uploads(config),
            preload=Preload(engine, models, config),
            history=history,
            presets=OwnPresets(store.presets, config, history.owner),
            chat=Chat(generation, history, replay),
        )
