"""The base stays the base, bit for bit, whatever was attached, broke, was cancelled or was unloaded before (G2, G10)."""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file

from playground.errors import AdapterInvalid, EngineFailure, PlaygroundError
from playground.local_inference import LocalInference
from playground.local_inference.peft_turn import probe
from playground.types import GenerationRequest

from .conftest import PIRATE, PROMPTS, SQL, STARTER, ask, at_once, events_of, ids_of

WEIGHTS = "adapter_model.safetensors"
LAYERS = 6  # of the starter
ANSWER = "The capital of France is Paris."
LINEARS = ["q_proj", "v_proj", "down_proj"]
SERVED = ("lora", "dora", "ia3", "saved", "retrained")
BROKEN = ("nan", "nan ia3", "overflowing", "truncated", "misshapen", "misshapen ia3")
ON_NF4 = tuple(name for name in SERVED if name != "dora")  # a DoRA is refused on a quantized base


def _rewritten(source: Path, folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of an adapter with every tensor ``change``d."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / WEIGHTS)
    save_file({name: change(name, value.clone()).contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    return folder


def _truncated(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    return folder


def _nan(name: str, value: torch.Tensor) -> torch.Tensor:
    return torch.full_like(value, torch.nan)


def _too_wide(name: str, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([value, value], dim=-1)


def _enormous(name: str, value: torch.Tensor) -> torch.Tensor:
    return torch.full_like(value, 1e30)


@pytest.fixture(scope="module")
def folders(make_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters by name: served beside others, served alone by PEFT, and broken in ways found early, late and by PEFT."""
    root = tmp_path_factory.mktemp("sequence")
    ia3 = make_adapter(IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), "ia3")
    return {
        "lora": PIRATE,
        "dora": make_adapter(LoraConfig(r=4, use_dora=True, target_modules=LINEARS), "dora"),
        "ia3": ia3,
        "saved": make_adapter(LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"]), "saved"),
        "retrained": shutil.copytree(SQL, root / "retrained"),
        "nan": _rewritten(PIRATE, root / "nan", _nan),
        "nan ia3": _rewritten(ia3, root / "nan-ia3", _nan),
        "overflowing": _rewritten(PIRATE, root / "overflowing", _enormous),
        "truncated": _truncated(PIRATE, root / "truncated"),
        "misshapen": _rewritten(PIRATE, root / "misshapen", _too_wide),
        "misshapen ia3": _rewritten(ia3, root / "misshapen-ia3", _too_wide),
    }


@pytest.fixture
def engine_of_its_own() -> Iterator[LocalInference]:
    """An engine with nothing in memory, and no reuse: what was read in other pieces is the same only within rounding."""
    engine = LocalInference(prefix_budget=0)
    yield engine
    engine.close()


@dataclass
class Life:
    """What one engine goes through on one base; each method is a thing that happens, with the adapter called ``name``."""

    engine: LocalInference
    folders: dict[str, Path]
    quantization: str
    chance: random.Random

    def request(self, *names: str, **settings: Any) -> GenerationRequest:
        asked = ask(PROMPTS[1], *((self.folders[name], 1.0) for name in names), **({"max_new_tokens": 6} | settings))
        return replace(asked, spec=replace(asked.spec, quantization=self.quantization))

    def base(self) -> list[Any]:
        """The base as scored, as it answers, and its logits directly; floats and tensors to be compared bit by bit."""
        (scores,) = self.engine.score(self.request(), ANSWER, top=20)
        answer = [token for event in events_of(self.engine, self.request(top_logprobs=5)) for token in event.tokens]
        resident = self.resident()
        assert self.engine._machinery is not None
        logits = self.engine._machinery.compute(lambda: probe(resident.model, resident.vocabulary))
        return [scores.tokens, answer, logits.numpy().tobytes()]

    def resident(self) -> Any:
        assert self.engine._machinery is not None
        (resident,) = self.engine._machinery.residents.find(str(STARTER))
        return resident

    def generate(self, name: str) -> None:
        """The adapter answers, and not as the base does."""
        base, other = (events_of(self.engine, self.request(*who, top_logprobs=1)) for who in ((), (name,)))
        assert [e.tokens for e in base] != [e.tokens for e in other]

    def cancel(self, name: str) -> None:
        """Left after its first token."""
        stream = self.engine.stream(self.request(name, max_new_tokens=400))
        assert next(event for event in stream if event.tokens)
        stream.close()
        self._settle()

    def beams(self, name: str) -> None:
        assert events_of(self.engine, self.request(name, strategy="beam_search", num_beams=3))[-1].finish_reason

    def score(self, name: str) -> None:
        base, other = self.engine.score(self.request(), ANSWER, [self.request(name).spec])
        assert base.tokens != other.tokens

    def crowd(self, name: str) -> None:
        """With a LoRA and the base at the same time."""
        requests = [self.request(), self.request(name), self.request("lora")]
        got: list[list[int]] = [[], [], []]
        at_once(lambda at: got[at].extend(ids_of(events_of(self.engine, requests[at]))), 3)
        assert all(got)

    def fail_midway(self, name: str) -> None:
        """Something raises in the middle of the model, in its second pass with the adapter, and in a search's."""
        self.engine.load(self.request(name).spec)
        for settings in ({}, {"strategy": "beam_search", "num_beams": 2}):
            with self._raising(), pytest.raises(PlaygroundError, match="made to fail"):
                events_of(self.engine, self.request(name, **settings))
            self._settle()

    def unload(self, name: str) -> None:
        """Unloaded with the adapter's answer under way, which is waited for."""
        stream = self.engine.stream(self.request(name, max_new_tokens=8))
        assert next(event for event in stream if event.tokens)
        self.engine.unload(str(STARTER), 30)
        assert list(stream)[-1].finish_reason
        assert self.engine.residents() == ()

    def retrain(self, name: str) -> None:
        """Attached, then written over on disk and asked for again."""
        self.engine.load(self.request("retrained").spec)
        _rewritten(self.folders["retrained"], self.folders["retrained"].with_name("next"), lambda _, value: value * 1.1)
        shutil.move(self.folders["retrained"].with_name("next") / WEIGHTS, self.folders["retrained"] / WEIGHTS)
        shutil.rmtree(self.folders["retrained"].with_name("next"))
        self.generate("retrained")

    def refuse(self, name: str) -> None:
        """A broken adapter, asked for by an answer and by a score."""
        for run in (events_of, lambda engine, request: engine.score(request, ANSWER)):
            with pytest.raises((AdapterInvalid, EngineFailure)):
                run(self.engine, self.request(name))

    def _settle(self) -> None:
        """Return once nothing is live any more."""
        limit = time.monotonic() + 60
        while self.engine.activity() != (0, 0):
            assert time.monotonic() < limit, "rows stayed"
            time.sleep(0.005)

    @contextmanager
    def _raising(self) -> Iterator[None]:
        """One attention within the block, a different one each time, raises; both ways through the model have it."""
        calls, original = itertools.count(), F.scaled_dot_product_attention
        fatal = self.chance.randrange(4 * LAYERS)

        def attention(*args: Any, **options: Any) -> torch.Tensor:
            if next(calls) == fatal:
                raise RuntimeError("made to fail")
            return original(*args, **options)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(F, "scaled_dot_product_attention", attention)
            yield


Happening = tuple[Callable[[Life, str], None], str]
WITH_AN_ADAPTER = (Life.generate, Life.cancel, Life.beams, Life.score, Life.crowd, Life.fail_midway)


def _everything(served: tuple[str, ...]) -> list[Happening]:
    """Whatever may happen, with each adapter that it may happen with."""
    found: list[Happening] = [(happens, name) for happens in WITH_AN_ADAPTER for name in served]
    return [*found, *_the_rest()]


def _the_rest() -> list[Happening]:
    refused: list[Happening] = [(Life.refuse, name) for name in BROKEN]
    return [*refused, (Life.unload, "lora"), (Life.unload, "ia3"), (Life.retrain, "retrained")]


def _some_of_everything(served: tuple[str, ...], chance: random.Random) -> list[Happening]:
    """Everything that may happen, once."""
    return [*((happens, chance.choice(served)) for happens in WITH_AN_ADAPTER), *_the_rest()]


def _live(life: Life, happenings: list[Happening]) -> None:
    """Go through ``happenings`` in a random order; after each one the base must be what it was at first."""
    life.chance.shuffle(happenings)
    at_first = life.base()
    for at, (happens, name) in enumerate(happenings):
        happens(life, name)
        assert life.base() == at_first, f"changed by {[(h.__name__, n) for h, n in happenings[: at + 1]]}"
        assert not life.resident().damaged


QUANTIZED = pytest.mark.parametrize(("quantization", "served"), [("none", SERVED), ("nf4", ON_NF4)])


@pytest.mark.parametrize(
    ("quantization", "served"), [("none", SERVED), pytest.param("nf4", ON_NF4, marks=pytest.mark.long)]
)
def test_the_base_is_bit_equal_after_whatever_happened(
    engine_of_its_own: LocalInference, folders: dict[str, Path], quantization: str, served: tuple[str, ...]
) -> None:
    """G2, G10: attaches, failures, cancels and unloads, each at least once, in one order of many."""
    life = Life(engine_of_its_own, folders, quantization, random.Random(quantization))
    _live(life, _some_of_everything(served, life.chance))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@QUANTIZED
def test_the_base_is_bit_equal_after_any_sequence(
    engine_of_its_own: LocalInference, folders: dict[str, Path], quantization: str, served: tuple[str, ...], seed: int
) -> None:
    """G2, G10: the same in other orders, with every adapter, things happening twice."""
    life = Life(engine_of_its_own, folders, quantization, random.Random(100 + seed))
    _live(life, life.chance.choices(_everything(served), k=60))
