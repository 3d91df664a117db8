"""A long life of the engine: a thousand generations of every kind, and nothing is left behind."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from playground.local_inference import LocalInference, memory

from .conftest import PIRATE, PROMPTS, SQL, ask

AT_ONCE = 16


def _live(
    engine: LocalInference, seed: int, count: int, companies: list[tuple[Any, ...]], searches: float = 0.03
) -> list[Exception]:
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
                wrong.append(error)

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


def _settled(engine: LocalInference) -> int:
    """Resident bytes once nothing runs."""
    for _ in range(500):
        if engine.activity() == (0, 0):
            break
        threading.Event().wait(0.02)
    gc.collect()
    memory.give_back("cpu")
    return psutil.Process().memory_info().rss


COMPANIES: list[tuple[Any, ...]] = [(), ((PIRATE, 1.0),), ((SQL, 0.5),), ((PIRATE, 1.0), (SQL, 1.5))]


def test_a_crowd_of_every_kind_is_answered(inference: LocalInference) -> None:
    """G6: rows that come, go and are cancelled while beam searches run; nothing breaks, nothing stays."""
    assert _live(inference, 3, 70, COMPANIES, searches=0.15) == []
    _settled(inference)
    assert inference.activity() == (0, 0)
    assert inference.memory().kv_cache == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_at_generation_1000_is_that_at_200(inference: LocalInference, make_adapter: Callable[..., Path]) -> None:
    """S5: within 5 %; rows of the base, LoRA, a mix and an adapter through PEFT, random cancels; no thread stays."""
    from peft import LoHaConfig

    loha = make_adapter(LoHaConfig(r=4, alpha=8, target_modules=["q_proj"]), "loha")
    companies = [*COMPANIES, *COMPANIES, *COMPANIES, ((loha, 1.0),)]
    assert _live(inference, 1, 200, companies) == []
    early, threads = _settled(inference), threading.active_count()
    assert _live(inference, 2, 800, companies) == []
    late = _settled(inference)
    assert inference.activity() == (0, 0)
    assert inference.memory().kv_cache == 0
    assert threading.active_count() <= threads
    assert late <= 1.05 * early, f"{early / 1e6:.0f} MB at 200, {late / 1e6:.0f} MB at 1000"
