"""Which models and adapters are offered, and what of them is in memory: names become specs here, and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from playground.config import AppConfig, ModelEntry, existing_folder, is_path, is_text
from playground.errors import AdapterInvalid, AdapterUnknown, ModelBusy, ModelNotFound, ModelNotLoaded
from playground.local_inference import LocalInference
from playground.local_inference.adapters import AdapterReport as AdapterReport
from playground.local_inference.adapters import Finding as Finding
from playground.local_inference.adapters import (
    adapter_folders,
    check_adapter,
    fingerprint,
    inspect_adapter,
    place,
)
from playground.services.kept import Kept
from playground.services.runs import Runs
from playground.services.threads import in_own_thread
from playground.services.unique_names import unique_names
from playground.types import (
    AdapterInfo,
    Dtype,
    GenerationSettings,
    MemoryReport,
    ModelSpec,
    Quantization,
    ResidentInfo,
    Status,
)

if TYPE_CHECKING:
    from playground.local_inference.doctor import Diagnosis as Diagnosis  # for the pages' views as well, like these two
    from playground.local_inference.doctor import Layer as Layer

MEMORY_SECONDS = 0.5


@dataclass(frozen=True)
class OfferedModel:
    """A model that a person can pick: its name, where it is, and the adapters known for it."""

    name: str
    path: str
    description: str
    adapters: tuple[AdapterInfo, ...]


class Models:
    """The models on offer and in memory. ``engine`` runs them, ``config`` names them, ``runs`` have more adapters."""

    def __init__(self, engine: LocalInference, config: AppConfig, runs: Runs | None = None) -> None:
        self._engine = engine
        self._config = config
        self._runs = runs
        self._memory: Kept[MemoryReport] = Kept(MEMORY_SECONDS)
        self._sound: dict[Path, tuple[object, AdapterInfo]] = {}

    def offered(self) -> tuple[OfferedModel, ...]:
        """Every configured model, in the configuration's order, with its adapters."""
        return tuple(
            OfferedModel(entry.name, entry.path, entry.description, self.adapters(entry.name))
            for entry in self._config.models.values()
        )

    def adapters(self, base: str) -> tuple[AdapterInfo, ...]:
        """The adapters known for ``base`` (a name or path), those added at start or since then included; names are unique.

        Reads JSON and headers only, and again only what has changed. Broken ones are listed too, with their problems.
        """
        entry = self._entry(base)
        offered: tuple[str | Path, ...] = (
            *(entry.adapters if entry else ()),
            *self._config.adapters,
            self._config.uploads,
        )
        found = [self._inspected(folder) for top in offered for folder in adapter_folders(Path(top))]
        infos = list({info.path: info for info in found}.values())
        names = unique_names([(info.name, info.path) for info in infos])
        return tuple(dataclasses.replace(info, name=name) for info, name in zip(infos, names, strict=True))

    def spec(
        self,
        base: str,
        adapter: str | None = None,
        scale: float = 1.0,
        *,
        quantization: Quantization | None = None,
        dtype: Dtype | None = None,
        device: str | None = None,
    ) -> ModelSpec:
        """The `ModelSpec` for names as a person types them.

        ``base`` is an offered name, a folder or a hub id; ``adapter`` an offered adapter's name, the label of a training
        run's checkpoint (`TrainingRun.label`) or a folder, None or "" for the base alone. An offered name is never
        another's label. What is left out comes from the configuration. Where the configuration allows no free paths (a
        server that others can reach), only what it offers is taken.

        Raises `ModelNotFound`, `AdapterUnknown` and `AdapterInvalid`, saying what was looked for and what there is.
        """
        entry = self._entry(base)
        path = entry.path if entry else self._typed_base(base)
        adapters = ((self._adapter_path(base, adapter), scale),) if adapter and adapter.strip() else ()
        chosen = quantization or (entry.quantization if entry else None) or self._config.quantization
        return ModelSpec(path, adapters, chosen, dtype or self._config.dtype, device or self._config.device)

    def offers(self, base: str) -> bool:
        """True for the name of a model that the configuration offers."""
        return base in self._config.models

    def name(self, spec: ModelSpec) -> str:
        """The offered name of ``spec``'s base, or its path or hub id where it has none."""
        for entry in self._config.models.values():
            if entry.path == spec.base:
                return entry.name
        return spec.base

    def adapter_name(self, base: str, path: str) -> str:
        """`known_name` of the adapter at ``path``, else its folder's name. Reads the disk."""
        return self.known_name(base, path) or Path(path).name

    def known_name(self, base: str, path: str) -> str | None:
        """What `spec` takes for the adapter at ``path`` on ``base``: the name that it is offered under, or its run's label.

        None where nothing but its path says which one is meant. Reads the disk.
        """
        offered = self.adapters(self.name(ModelSpec(base)))
        known = {place(info.path): info.name for info in offered}
        if place(path) in known:
            return known[place(path)]
        label = self._runs.label(path) if self._runs else None
        return None if label in known.values() else label

    def is_label(self, label: str) -> bool:
        """Whether a training run's checkpoint has that label. Reads the disk."""
        return self._checkpoint(label) is not None

    def recommended(self, base: str) -> GenerationSettings | None:
        """The settings that the configuration recommends for ``base``, or None."""
        entry = self._entry(base)
        return GenerationSettings(**entry.recommended) if entry and entry.recommended else None

    async def load(self, spec: ModelSpec) -> AsyncIterator[Status]:
        """Load ``spec``'s base and attach its adapters, yielding a `Status` at every change and every 250 ms.

        The last one has phase "done". Loading goes on if the caller leaves; two callers share one load. Raises what
        `LocalInference.load` raises.
        """
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Status] = asyncio.Queue()

        def report(status: Status) -> None:
            with contextlib.suppress(RuntimeError):  # the loop closed under a caller who left; the load goes on
                loop.call_soon_threadsafe(news.put_nowait, status)

        task = asyncio.create_task(in_own_thread(lambda: self._engine.load(spec, report), "load"))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # never "exception not retrieved"
        latest = Status("loading", "starting")
        while not task.done() or not news.empty():
            getter = asyncio.create_task(news.get())
            await asyncio.wait({task, getter}, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            latest = getter.result() if getter.done() else latest
            getter.cancel()
            yield latest
        await task
        yield Status("done", "loaded", 1.0)

    async def loaded_as(self, spec: ModelSpec) -> ResidentInfo:
        """`load` without the news on the way: what is in memory for ``spec`` then. Quick when it is there already."""
        return await in_own_thread(lambda: self._engine.load(spec), "load")

    def loaded(self) -> tuple[ResidentInfo, ...]:
        """What is in memory now."""
        return self._engine.residents()

    def resident(self, spec: ModelSpec) -> ResidentInfo | None:
        """The model in memory that ``spec`` would use, if it is there."""
        wanted = {"int4": "nf4"}.get(spec.quantization, spec.quantization)
        return next(
            (
                one
                for one in self.loaded()
                if spec.base in (one.base, one.path) and wanted in ("auto", one.quantization)
            ),
            None,
        )

    async def unload(self, base: str) -> int:
        """Drop ``base`` and its adapters from memory; returns the bytes that came back.

        Raises `ModelNotLoaded`, or `ModelBusy` while it is answering.
        """
        spec = self.spec(self.name(ModelSpec(base.strip())))
        if not any(spec.base in (resident.base, resident.path) for resident in self.loaded()):
            raise ModelNotLoaded(f"{base!r} is not loaded.", "Loaded models are listed beside the memory meter.")
        try:
            return await in_own_thread(lambda: self._engine.unload(spec.base), "unload")
        except ModelBusy as error:  # the engine knows no names
            raise ModelBusy(error.message.replace(repr(spec.base), self.name(spec)), error.remedy) from None

    def memory(self) -> MemoryReport:
        """Memory of the engine's device; at most half a second old, however many ask."""
        return self._memory.get("memory", self._engine.memory)

    def report(self, base: str, adapter: str) -> AdapterReport:
        """Everything found about ``adapter``, names as a person types them: files, configuration, numbers, fit to ``base``.

        Blocks; milliseconds when it is asked again. Problems of the adapter are in the report, but for links out of what
        is offered. Raises `AdapterInvalid` and `ModelNotFound` as `spec` does.
        """
        return self.report_on(self.spec(base, adapter))

    def report_on(self, spec: ModelSpec) -> AdapterReport:
        """`report` for the one adapter of ``spec``. Raises `AdapterInvalid` where it has none."""
        from playground.local_inference.doctor import full_report  # numpy, which listing and answering do not need

        folder, model = _folders(spec)
        return full_report(folder, model, self._config.adapter_roots, self._config.converted)

    def is_here(self, spec: ModelSpec) -> bool:
        """Whether ``spec``'s base is on this machine as a whole; what is on the hub only is downloaded when it is loaded.

        Raises `ModelNotFound` and `ModelUnsupported` for the path of what is no model.
        """
        from playground.local_inference.places import is_here  # huggingface_hub, which listing does not need

        return is_here(spec.base)

    def diagnose(self, base: str, adapter: str) -> Diagnosis:
        """What every layer of ``adapter`` changes, and how it differs from ``base`` in tokenizer and template.

        Blocks for seconds. Raises what `spec` raises, and `AdapterInvalid` for one whose problems make numbers meaningless.
        """
        from playground.local_inference.doctor import examine

        folder, model = _folders(self.spec(base, adapter))
        return examine(folder, model, self._config.adapter_roots, self._config.converted)

    def _inspected(self, folder: Path) -> AdapterInfo:
        """`inspect_adapter`, remembered for a sound one until its folder, or one of the files that count, is another."""
        state: object = None
        with contextlib.suppress(OSError):  # it is being taken away: the inspection says what is there
            state = (place(str(folder)), os.stat(folder).st_mtime_ns, fingerprint(folder))
        known = self._sound.get(folder)
        if known and state and known[0] == state:
            return known[1]
        info = inspect_adapter(folder, self._config.adapter_roots, pickles=self._config.allow_pickle)
        if not info.problems:
            self._sound[folder] = (state, info)
        return info

    def _entry(self, base: str) -> ModelEntry | None:
        """The entry of that name, or of that path; where others reach the server no folder's path is a name."""
        base = base.strip()
        if base in self._config.models:
            return self._config.models[base]
        if not self._config.free_paths and is_path(base):
            return None
        return next((entry for entry in self._config.models.values() if entry.path == base), None)

    def _typed_base(self, base: str) -> str:
        """A typed folder as an absolute path, or a plausible hub id as it is."""
        base = base.strip()
        if not base:
            raise ModelNotFound("No model was named.", "Pick one, or type a folder or a hub id such as org/name.")
        if not self._config.free_paths:
            names = ", ".join(self._config.models)
            raise ModelNotFound(
                f"{base!r} is not offered here.", f"Offered: {names}. Others can be added with --model."
            )
        folder = existing_folder(base) if is_text(base) else ""
        if folder:
            return folder
        if is_path(base) or os.path.exists(base):
            raise ModelNotFound(f"There is no model folder {base!r}.", "Check the path; it must hold a config.json.")
        if "/" not in base or ":" in base or not is_text(base):  # a colon is before an adapter's name
            names = ", ".join(self._config.models)
            raise ModelNotFound(f"There is no model {base!r}.", f"Offered: {names}. Or type a folder or org/name.")
        return base

    def _adapter_path(self, base: str, adapter: str) -> str:
        """The folder of what ``adapter`` names. Raises `AdapterUnknown`, and `AdapterInvalid` where it is not to be had."""
        adapter = adapter.strip()
        known = self.adapters(base)
        for info in known:
            if adapter == info.name or (self._config.free_paths and adapter == info.path):
                self._refuse_links_out(info.path)
                return info.path
        typed = existing_folder(adapter) if self._config.free_paths and is_text(adapter) else ""
        labelled = None if os.path.isabs(adapter) else self._checkpoint(adapter)
        if labelled:
            _refuse_two_places(adapter, labelled, typed)
            self._refuse_links_out(labelled)
            return labelled
        if typed:
            return typed
        raise self._unknown(base, adapter, known)

    def _checkpoint(self, label: str) -> str | None:
        """The folder of the checkpoint of that label."""
        found = self._runs.find(label) if self._runs else None
        return found[1].path if found else None

    def _unknown(self, base: str, adapter: str, known: Sequence[AdapterInfo]) -> AdapterUnknown:
        """What to say of a name that stands for nothing: what there is, and what else may be typed."""
        names = ", ".join(info.name for info in known) or "none"
        if not self._config.free_paths:
            return AdapterUnknown(
                f"{adapter!r} is not offered for {base!r} here.",
                f"Offered: {names}. Others can be added with --adapter.",
            )
        return AdapterUnknown(
            f"There is no adapter {adapter!r} for {base!r}.",
            f"Offered: {names}. Or type the folder of an adapter, or a training run's checkpoint as run/checkpoint-500.",
        )

    def inspect(self, adapter_path: str) -> AdapterInfo:
        """What the adapter folder says of itself, with its problems; reads headers only.

        Raises `AdapterInvalid` where no free paths are allowed and the folder is not an offered one.
        """
        if not self._config.free_paths:
            known = {info.path: info for model in self.offered() for info in model.adapters}
            if adapter_path not in known:
                raise AdapterInvalid(f"{adapter_path!r} is not offered here.", "Others can be added with --adapter.")
            return known[adapter_path]
        return inspect_adapter(Path(adapter_path), pickles=self._config.allow_pickle)

    def _refuse_links_out(self, path: str) -> None:
        """Raise `AdapterInvalid` where a file of the adapter leads out of what is offered to people elsewhere."""
        if not self._config.adapter_roots:
            return
        out = [
            finding
            for finding in check_adapter(Path(path), roots=self._config.adapter_roots).findings
            if finding.code == "outside-roots"
        ]
        if out:
            raise AdapterInvalid(out[0].message, out[0].remedy)


def _folders(spec: ModelSpec) -> tuple[Path, Path | None]:
    """The folders of ``spec``'s adapter and of its base, None where that one is not on this machine."""
    from playground.local_inference.places import locate  # huggingface_hub, likewise

    if not spec.adapters:
        raise AdapterInvalid("No adapter was named.", "Pick one, or type the folder of an adapter.")
    model = existing_folder(locate(spec.base))
    return Path(spec.adapters[0][0]), Path(model) if model else None


def _refuse_two_places(name: str, labelled: str, typed: str) -> None:
    """Raise `AdapterInvalid` where the label of a checkpoint is also the path of another folder, as seen from here."""
    if typed and place(typed) != place(labelled):
        raise AdapterInvalid(
            f"{name!r} stands for two adapters: the training run's in {labelled!r}, and the folder {typed!r}.",
            "Type the whole path of the one that you mean.",
        )
