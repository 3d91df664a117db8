"""What has been loaded by name: with which adapter it answers when a request names none, for what, and since when.

A name is what `Names` knows (``base``, ``base:adapter``, ``base:adapter@0.5``), and where people may type paths also a
folder or a hub id. A base's name answers with its default adapter, which loading and swapping set; a name with an adapter
in it always answers with that one. Names on one base share what is in memory, so unloading one of them unloads all.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from playground.errors import AdapterUnknown, InvalidRequest, ModelNotFound, ModelNotLoaded
from playground.local_inference.adapters import place
from playground.services.models import Models
from playground.services.names import Names
from playground.services.threads import in_own_thread
from playground.types import Dtype, ModelSpec, Quantization, ResidentInfo

Key = tuple[str, tuple[tuple[str, float], ...]]


class Unset:
    """The kind of `UNSET`."""


UNSET: Final = Unset()  # nothing was said of an adapter; None says "the base"


@dataclass(frozen=True)
class Entry:
    """A model in memory under the name that it was loaded by. ``spec`` is what answers where a request names no adapter.

    ``named`` is what the name says by itself, ``resident`` what is in memory for it. ``use_case`` is None for what the pages
    or `/v1` have loaded.
    """

    model_id: str
    named: ModelSpec
    spec: ModelSpec
    use_case: str | None
    resident: ResidentInfo

    @property
    def loaded_at(self) -> float:
        """When the base came into memory, in seconds since 1970."""
        return self.resident.loaded_at


@dataclass(frozen=True)
class Choice:
    """With what a name answers, as it was last chosen; it holds until the model is unloaded here. ``turn`` counts them."""

    model_id: str
    named: ModelSpec
    spec: ModelSpec
    use_case: str | None = None
    turn: int = -1

    def among(self, residents: Sequence[ResidentInfo]) -> Entry | None:
        """The entry for it; None where nothing of its base is in memory.

        A base that is there in another way than was chosen answers as it is there: nothing is loaded a second time for it.
        """
        here = [resident for resident in residents if self.spec.base in (resident.base, resident.path)]
        for resident in here:
            if _fits(self.spec, resident):
                return self.entry(resident)
        if not here:
            return None
        quantization: Quantization = here[0].quantization  # type: ignore[assignment]
        spec = replace(self.spec, quantization=quantization, dtype="auto", device="auto")
        return replace(self.entry(here[0]), spec=spec)

    def entry(self, resident: ResidentInfo) -> Entry:
        """The entry for it in ``resident``."""
        return Entry(self.model_id, self.named, self.spec, self.use_case, resident)


class Entries:
    """The models in memory with their default adapters. A default is read once, when a request is admitted.

    Safe from any thread; reads the disk, beside the event loop where a method is awaited. Every method that takes a name
    raises `ModelNotFound` when that, or the adapter beside it, does not exist.
    """

    def __init__(self, models: Models, names: Names) -> None:
        self._models = models
        self._names = names
        self._choices: dict[Key, Choice] = {}
        self._lock = threading.Lock()
        self._turns = itertools.count()

    def spec(self, model_id: str, adapter: str | Unset | None = UNSET, *, must_be_loaded: bool = True) -> ModelSpec:
        """What answers a request for ``model_id``: with ``adapter``, with the base alone for None, else with its default.

        Raises `ModelNotLoaded` when it must be in memory and is not, and `InvalidRequest` when ``model_id`` names another
        adapter than ``adapter`` does.
        """
        named = self._named(model_id)
        choice = self._choice(model_id, named)
        entry = choice.among(self._models.loaded())
        if entry is None and must_be_loaded:
            raise _not_loaded(model_id)
        default = entry.spec if entry else choice.spec
        if isinstance(adapter, Unset):
            return default
        return default.without_adapters() if adapter is None else self._with(model_id, named, default, adapter)

    def base(self, model_id: str) -> ModelSpec:
        """The base ``model_id`` as it is, whatever its default adapter.

        Raises `ModelNotLoaded`, and `InvalidRequest` when ``model_id`` names an adapter.
        """
        if self._named(model_id).adapters:
            raise InvalidRequest(f"{model_id!r} is no base: it names an adapter.", "Send the name without the adapter.")
        return self.spec(model_id, None)

    async def load(
        self,
        model_id: str,
        *,
        adapter_path: str | Unset | None = UNSET,
        quantization: Quantization | None = None,
        dtype: Dtype | None = None,
        device: str | None = None,
        use_case: str | None = None,
    ) -> Entry:
        """Bring ``model_id`` into memory, to answer with ``adapter_path`` from now on. Quick when all of it is there.

        Of several that are under way for one name, the one that was asked for last decides. Raises what `spec` and loading
        raise; the default has not changed then.
        """
        turn = next(self._turns)

        def chosen() -> Choice:
            named = self._named(model_id)
            wanted = self._default(model_id, named, named, adapter_path)
            spec = replace(
                wanted,
                quantization=quantization or wanted.quantization,
                dtype=dtype or wanted.dtype,
                device=device or wanted.device,
            )
            return Choice(self._shown(model_id, named), named, spec, use_case, turn)

        return await self._carry_out(await in_own_thread(chosen, "look up"))

    async def swap(self, model_id: str, adapter_path: str | None) -> Entry:
        """Let ``model_id`` answer with ``adapter_path``, or with the base alone for None, once it is attached.

        Raises `ModelNotLoaded`, and what `load` raises; nothing has changed then.
        """
        turn = next(self._turns)

        def chosen() -> Choice:
            named = self._named(model_id)
            before = self._choice(model_id, named)
            entry = before.among(self._models.loaded())
            if entry is None:
                raise _not_loaded(model_id)
            return replace(before, spec=self._default(model_id, named, entry.spec, adapter_path), turn=turn)

        return await self._carry_out(await in_own_thread(chosen, "look up"))

    async def unload(self, model_id: str) -> int:
        """Drop ``model_id``'s base from memory with all that is on it; returns the bytes that came back.

        Raises `ModelNotLoaded`, and `ModelBusy` while it answers.
        """
        named = await in_own_thread(lambda: self._named(model_id), "look up")
        if not self._is_loaded(named):
            raise ModelNotLoaded(f"{model_id!r} is not loaded.", "GET /api/inference/models/loaded tells what is.")
        freed = await self._models.unload(named.base)
        with self._lock:
            self._choices = {key: choice for key, choice in self._choices.items() if key[0] != named.base}
        return freed

    def loaded(self) -> tuple[Entry, ...]:
        """Everything in memory: each base by its name, and the names with an adapter that it was loaded by."""
        with self._lock:
            choices = list(self._choices.values())
        residents = self._models.loaded()
        entries = [entry for choice in choices if (entry := choice.among(residents))]
        found: list[Entry] = []
        for resident in residents:
            mine = sorted((one for one in entries if one.resident is resident), key=lambda one: one.named.adapters)
            if not mine or mine[0].named.adapters:
                spec = ModelSpec(resident.base)
                found.append(Choice(self._models.name(spec), spec, spec).entry(resident))
            found += mine
        return tuple(found)

    def _named(self, model_id: str) -> ModelSpec:
        """What ``model_id`` says by itself. Raises `ModelNotFound`, `AdapterInvalid`."""
        try:
            return self._names.spec(model_id)
        except ModelNotFound as unknown:
            if model_id != model_id.strip():
                raise
            try:
                return self._models.spec(model_id)
            except ModelNotFound:
                if ":" in model_id:  # whoever names an adapter wants to know which ones there are
                    raise unknown from None
                raise

    def _choice(self, model_id: str, named: ModelSpec) -> Choice:
        """What was chosen for a name; for one that nobody has loaded what it says by itself."""
        with self._lock:
            return self._choices.get((named.base, named.adapters)) or Choice(model_id, named, named)

    def _shown(self, model_id: str, named: ModelSpec) -> str:
        """``model_id`` for everybody to see: what is on offer by its name there, though its path was typed."""
        name = self._models.name(named)
        return model_id if named.adapters or name == named.base else name

    def _is_loaded(self, named: ModelSpec) -> bool:
        """Whether it can be unloaded by that name: the adapter in it must be there as well."""
        here = [resident for resident in self._models.loaded() if named.base in (resident.base, resident.path)]
        attached = {place(adapter.path) for resident in here for adapter in resident.adapters}
        return bool(here) and all(place(path) in attached for path, _ in named.adapters)

    def _default(self, model_id: str, named: ModelSpec, before: ModelSpec, adapter: str | Unset | None) -> ModelSpec:
        """``before`` with ``adapter`` as what ``model_id`` answers with from now on."""
        if isinstance(adapter, Unset):
            return replace(before, adapters=named.adapters)
        if adapter is not None:
            return self._with(model_id, named, before, adapter)
        if named.adapters:
            raise _two_adapters(model_id, "null, the base,")
        return before.without_adapters()

    def _with(self, model_id: str, named: ModelSpec, before: ModelSpec, adapter: str) -> ModelSpec:
        if not adapter.strip():
            raise InvalidRequest("adapter_path is empty.", "Name an adapter, or send null for the base.")
        try:
            adapters = self._models.spec(self._models.name(named), adapter).adapters
        except AdapterUnknown as unknown:
            raise ModelNotFound(unknown.message, unknown.remedy) from None
        if not named.adapters:
            return replace(before, adapters=adapters)
        if place(named.adapters[0][0]) != place(adapters[0][0]):
            raise _two_adapters(model_id, repr(adapter))
        return replace(before, adapters=named.adapters)

    async def _carry_out(self, choice: Choice) -> Entry:
        """Bring into memory what was chosen, and let it answer from then on."""
        resident = await self._models.loaded_as(choice.spec)
        self._choose(choice)
        return choice.entry(resident)

    def _choose(self, choice: Choice) -> None:
        key = (choice.named.base, choice.named.adapters)
        with self._lock:
            before = self._choices.get(key)
            if before is None or before.turn < choice.turn:
                self._choices[key] = choice


def _fits(spec: ModelSpec, resident: ResidentInfo) -> bool:
    """Whether ``resident`` is what ``spec`` asks for."""
    quantization = "nf4" if spec.quantization == "int4" else spec.quantization
    device = "cuda:0" if spec.device == "cuda" else spec.device
    return (
        quantization in ("auto", resident.quantization)
        and spec.dtype in ("auto", resident.dtype)
        and device in ("auto", resident.device)
    )


def _not_loaded(model_id: str) -> ModelNotLoaded:
    return ModelNotLoaded(f"{model_id!r} is not loaded.", "Load it first: POST /api/inference/load, or on the page.")


def _two_adapters(model_id: str, other: str) -> InvalidRequest:
    return InvalidRequest(
        f"{model_id!r} names its adapter, and {other} is another one.",
        "Send the name of the base, or one of the adapters.",
    )
