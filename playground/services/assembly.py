"""The services, put together over one engine, for whoever shows them: pages, HTTP, command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playground.config import AppConfig
from playground.local_inference import LocalInference
from playground.services.chat import Chat
from playground.services.datasets import Datasets
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
from playground.services.readiness import Readiness
from playground.services.replay import Replay
from playground.services.runs import Runs
from playground.services.samples import Samples
from playground.services.trials import Trials
from playground.services.uploads import Uploads
from playground.store import Store


def engine_options(config: AppConfig) -> dict[str, Any]:
    """What `LocalInference` is made with: everything that the configuration says of the engine.

    What one person's prompts left is kept from the others wherever the app tells people apart.
    """
    return {
        "memory_budget": config.memory_budget,
        "prefix_budget": config.prefix_budget,
        "private_prefixes": config.is_shared or config.needs_key,
        "keep_alive": config.keep_alive,
        "adapter_roots": config.adapter_roots,
        "pickles": config.converted,
        "measured": config.measured,
    }


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
    runs: Runs
    readiness: Readiness
    datasets: Datasets
    samples: Samples
    trials: Trials

    @classmethod
    def over(cls, engine: LocalInference, config: AppConfig, store: Store | None = None) -> Services:
        """All of them over ``engine`` and ``store``, without which the history is forgotten with the process.

        Raises `ConfigError` when the content filter that ``config`` names cannot be had.
        """
        store = store or Store.in_memory()
        runs = Runs(config, store)
        models = Models(engine, config, runs)
        names = Names(models)
        meters = Meters(config.models)
        meters.watch(engine)
        generation = Generation(engine, config, meters)
        history, replay, limits = History(store, config), Replay(generation, models), Limits(config, meters)
        datasets = Datasets(config)
        return cls(
            models=models,
            names=names,
            entries=Entries(models, names),
            generation=generation,
            limits=limits,
            meters=meters,
            jobs=Jobs(generation, config.data_dir / "jobs"),
            replay=replay,
            exports=Exports(models, config),
            uploads=Uploads(config),
            preload=Preload(engine, models, config),
            history=history,
            presets=OwnPresets(store.presets, config, history.owner),
            chat=Chat(generation, history, replay),
            runs=runs,
            readiness=Readiness(models, runs, config),
            datasets=datasets,
            samples=Samples(datasets),
            trials=Trials(generation, limits, config),
        )
