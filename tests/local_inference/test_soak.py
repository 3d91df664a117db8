"""A long life of the engine: a thousand generations of every kind, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from playground.errors import AdapterInvalid, ModelNotLoaded
from playground.local_inference import LocalInference, memory

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask

AT_ONCE = 16
WEIGHTS = "adapter_model.safetensors"


def _live(
    engine: LocalInference, seed: int, count: int, companies: list[tuple[Any, ...]], searches: float = 0.03
) -> list[str]:
    """``count`` generations, sixteen at once, two in five of them left early; what went wrong."""
    chance, room, wrong = random.Random(seed), threading.Semaphore(AT_ONCE), []

    def run(request: Any, patience: int) -> None:
        with room:
            try:
                stream, got = engine.stream(request), 0
                for event in stream:
                    got += len(event.tokens)
                    if got >= patience:
                        break
                stream.close()
            except Exception as error:
                wrong.append("".join(traceback.format_exception(error)))

    threads = []
    for at in range(count):
        style: dict[str, Any] = {
            "strategy": "sampling",
            "top_k": chance.choice([0, 20]),
            "temperature": 0.9,
            "seed": at,
        }
        if chance.random() < searches:
            style = {"strategy": "beam_search", "num_beams": 3}
        prompt = chance.choice([*PROMPTS, "word " * chance.randint(1, 700)])
        request = ask(prompt, *chance.choice(companies), max_new_tokens=chance.randint(1, 40), **style)
        patience = chance.randint(1, 10) if chance.random() < 0.4 else 1000
        threads.append(threading.Thread(target=run, args=(request, patience)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def _wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)


def _settled(engine: LocalInference) -> int:
    """Resident bytes once nothing runs."""
    _wait_for(lambda: engine.activity() == (0, 0))
    gc.collect()
    memory.give_back("cpu")
    return psutil.Process().memory_info().rss


COMPANIES: list[tuple[Any, ...]] = [(), ((PIRATE, 1.0),), ((SQL, 0.5),), ((PIRATE, 1.0), (SQL, 1.5))]


@pytest.mark.long
def test_a_crowd_of_every_kind_is_answered(inference: LocalInference) -> None:
    """G6: rows that come, go and are cancelled while beam searches run; nothing breaks, nothing stays."""
    assert _live(inference, 3, 70, COMPANIES, searches=0.15) == []
    _settled(inference)
    assert inference.activity() == (0, 0)
    assert inference.memory().kv_cache == 0


@dataclass
class Neighbour:
    """Somebody else at the same engine: swaps adapters, trains them anew, tries broken ones, scores, unloads the base."""

    engine: LocalInference
    trained: Sequence[Path]
    broken: Sequence[Path]
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def about(self, seed: int) -> Iterator[None]:
        """Does things by chance, in threads, while the block runs; the base is gone after it."""
        leaving, chance = threading.Event(), random.Random(seed)
        busy = [threading.Thread(target=self._until, args=(leaving, chance)), threading.Thread(target=self._unload)]
        for thread in busy:
            thread.start()
        try:
            yield
        finally:
            leaving.set()
            for thread in busy:
                thread.join()
        self._unload()

    def _until(self, leaving: threading.Event, chance: random.Random) -> None:
        while not leaving.wait(0.05):
            self._do(chance.choice([self._swap, self._retrain, self._fail, self._score]), chance)

    def _unload(self) -> None:
        """Waits until nobody needs the base, which is when the crowd pauses, or has gone."""
        self._do(lambda: self.engine.unload(str(STARTER), 120))

    def _do(self, action: Callable[..., object], *args: Any) -> None:
        try:
            action(*args)
            self.done[action.__name__] += 1
        except ModelNotLoaded:
            self.done["not loaded"] += 1
        except Exception as error:
            self.wrong.append("".join(traceback.format_exception(error)))

    def _swap(self, chance: random.Random) -> None:
        self.engine.load(ask("Hello!", (chance.choice(self.trained), 1.0)).spec)

    def _retrain(self, chance: random.Random) -> None:
        """Other numbers in the same folder, as a training saves them; a running answer keeps what it began with."""
        folder = chance.choice(self.trained)
        tensors = {name: value * chance.uniform(0.9, 1.1) for name, value in load_file(folder / WEIGHTS).items()}
        save_file(tensors, folder.with_name("next.safetensors"))
        os.replace(folder.with_name("next.safetensors"), folder / WEIGHTS)

    def _fail(self, chance: random.Random) -> None:
        with pytest.raises(AdapterInvalid):
            self.engine.load(ask("Hello!", (chance.choice(self.broken), 1.0)).spec)

    def _score(self, chance: random.Random) -> None:
        self.engine.score(ask("Hello!"), "Hello to you.", [ask("Hello!", (chance.choice(self.trained), 1.0)).spec])


def _broken(source: Path, root: Path) -> list[Path]:
    """Adapters that fail: when they are read, when they are tried out, and when PEFT puts them on."""
    changes = {"nan": lambda value: value * torch.nan, "huge": lambda value: torch.full_like(value, 1e30)}
    for name, change in changes.items():
        shutil.copytree(source, root / name)
        save_file({key: change(value) for key, value in load_file(source / WEIGHTS).items()}, root / name / WEIGHTS)
    shutil.copytree(source, root / "cut")
    (root / "cut" / WEIGHTS).write_bytes((source / WEIGHTS).read_bytes()[:5000])
    return [root / name for name in ("nan", "huge", "cut")]


def _threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_at_generation_1000_is_that_at_200(make_adapter: Callable[..., Path], tmp_path: Path) -> None:
    """S5: within 5 %; rows of the base, LoRAs, mixes and an adapter through PEFT, random cancels, beside a neighbour.

    Adapters come, are trained anew and fail, the base is unloaded and comes back; no thread stays.
    """
    from peft import LoHaConfig

    names = ("pirate", "sql", "triage", "json")
    trained = [Path(shutil.copytree(PIRATE.with_name(name), tmp_path / name)) for name in names]
    loha = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj"]), "loha")
    alone = [((folder, 1.0),) for folder in trained]
    mixes = [((trained[0], 1.0), (trained[1], 1.5)), ((trained[2], 0.5), (trained[3], 1.0))]
    companies: list[tuple[Any, ...]] = [*[(), *alone, *mixes] * 2, ((loha, 1.0),)]
    at_first, engine = _threads(), LocalInference()
    neighbour = Neighbour(engine, trained, _broken(PIRATE, tmp_path))
    at: list[int] = []
    threads: list[list[str]] = []
    for hundred in range(10):
        with neighbour.about(hundred):
            assert _live(engine, hundred, 100, companies) == []
        assert neighbour.wrong == []
        assert (engine.residents(), engine.activity()) == ((), (0, 0))
        at.append(_settled(engine))
        threads.append(_threads())
    engine.close()
    assert min(neighbour.done[name] for name in ("_swap", "_retrain", "_fail", "_score")) >= 10, neighbour.done
    assert at[-1] <= 1.05 * at[1], f"resident MB after each hundred: {[round(rss / 1e6) for rss in at]}"
    assert threads[-1] == threads[1]
    _wait_for(lambda: _threads() == at_first)
