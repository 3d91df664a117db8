"""What a program calls a model: ``base``, ``base:adapter``, or ``base:adapter@0.5`` for another strength than as trained.

An adapter is called what the pages call it, a training run's checkpoint too: ``base:run/checkpoint-500``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from playground.errors import InvalidRequest, ModelNotFound
from playground.services.kept import Kept
from playground.services.models import Models
from playground.types import SCALE_LIMIT, AdapterInfo, ModelSpec

KEPT_SECONDS = 0.5
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Named:
    """What a name stands for: ``base`` and ``adapter`` as `Models.spec` takes them, and the adapter's strength."""

    base: str
    adapter: str | None = None
    scale: float = 1.0


class Names:
    """The names of what is offered and of what is in memory. An unknown name is an error, never the base."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._asked: Kept[tuple[Named, ModelSpec]] = Kept(KEPT_SECONDS)

    def all(self, broken: bool = False) -> dict[str, Named]:
        """Name → what it stands for, without strengths; ``broken`` adapters only when asked for."""
        names: dict[str, Named] = {}
        offered = self._models.offered()
        for model in offered:
            names[model.name] = Named(model.name)
            names.update(self._with_adapters(model.name, model.adapters, broken))
        for resident in self._models.loaded():
            if resident.base not in {model.path for model in offered}:
                names.setdefault(resident.base, Named(resident.base))
                names.update(self._with_adapters(resident.base, self._models.adapters(resident.base), broken))
        return names

    def _with_adapters(self, base: str, adapters: tuple[AdapterInfo, ...], broken: bool) -> dict[str, Named]:
        sound = [adapter for adapter in adapters if broken or not adapter.problems]
        return {f"{base}:{adapter.name}": Named(base, adapter.name) for adapter in sound}

    def resolve(self, name: str) -> Named:
        """What ``name`` stands for. Raises `ModelNotFound`, and `InvalidRequest` for a strength without an adapter.

        A broken adapter's name is known, so that asking for it says what is wrong with it.
        """
        names = self.all(broken=True)
        known, at, strength = name.rpartition("@")
        for look_up in (names.get, lambda one: self._of_run(one, names)):
            if found := look_up(name):
                return found
            if at and (found := look_up(known)):
                return _at_strength(name, found, strength)
        raise ModelNotFound(f"There is no model {name!r}.", f"Models: {', '.join(names)}.")

    def _of_run(self, name: str, names: Mapping[str, Named]) -> Named | None:
        """``base:label`` of a training run's checkpoint; there may be thousands, so they are no part of `all`."""
        for base in [known for known, named in names.items() if named.adapter is None]:
            label = name.removeprefix(f"{base}:")
            if label != name and self._models.is_label(label):
                return Named(base, label)
        return None

    def spec(self, name: str) -> ModelSpec:
        """The `ModelSpec` for ``name``. Raises what `resolve` and `Models.spec` raise."""
        return self.asked(name)[1]

    def asked(self, name: str) -> tuple[Named, ModelSpec]:
        """`resolve` and `spec` in one, and found out anew at most twice a second for what is on offer.

        Looking through the folders of all adapters for each of many requests would hold up the answers that are being
        written. Whoever answers looks at the one adapter's files again, so nothing is answered with what is no longer there.
        """
        if self._models.offers(name.partition(":")[0]):
            return self._asked.get(name, lambda: self._look_up(name))
        return self._look_up(name)

    def _look_up(self, name: str) -> tuple[Named, ModelSpec]:
        named = self.resolve(name)
        return named, self._models.spec(named.base, named.adapter, named.scale)


def _at_strength(name: str, named: Named, strength: str) -> Named:
    scale = float(strength) if _NUMBER.fullmatch(strength) else math.nan
    if not math.isfinite(scale):
        raise ModelNotFound(
            f"There is no model {name!r}: {strength!r} is no strength.", "Write it as base:adapter@0.5."
        )
    if named.adapter is None:
        raise InvalidRequest(f"{name!r} names a strength, but no adapter.", "Write it as base:adapter@0.5.")
    if abs(scale) > SCALE_LIMIT:  # told here, as a `ModelSpec` knows the adapter by its folder only
        limit = f"It must be between −{SCALE_LIMIT:g} and {SCALE_LIMIT:g}; 1 is as trained."
        raise InvalidRequest(f"{name!r} names the strength {scale:g}.", limit)
    return Named(named.base, named.adapter, scale)
