"""What the engine's tests share: the bundled model, plain transformers beside it, and adapters made on the spot."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.config import ROOT
from playground.local_inference import LocalInference
from playground.local_inference.prefixes import Prefixes
from playground.local_inference.resident import Resident
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec

STARTER = ROOT / "assets" / "models" / "starter"
PIRATE = ROOT / "assets" / "adapters" / "pirate"
SQL = ROOT / "assets" / "adapters" / "sql"
TABLE = "Given the table movies(id, title, director, genre, year, rating): Show all movies."
PROMPTS = ("What is the capital of France?", "Hello! How are you today?", "Write a short story about a cat.")


@pytest.fixture(scope="module")
def inference() -> Iterator[LocalInference]:
    """An engine of this module's own."""
    engine = LocalInference()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The starter's tokenizer."""
    return AutoTokenizer.from_pretrained(STARTER)


def plain_model() -> Any:
    """The starter in plain transformers, float32."""
    return AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32).eval()


def greedy_ids(model: Any, ids: list[int], tokens: int, **options: Any) -> list[int]:
    """Plain transformers' greedy continuation of ``ids``, without the end token."""
    prompt = torch.tensor([ids])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            do_sample=False,
            **options,
        )
    answer: list[int] = out[0, len(ids) :].tolist()
    end = model.generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    return answer[:-1] if answer and answer[-1] in ends else answer


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The prompt as plain transformers templates it."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
    )
    return ids


def ask(prompt: str = PROMPTS[0], *adapters: tuple[Path, float], **settings: Any) -> GenerationRequest:
    """A chat request to the starter; greedy, 40 tokens, unless told otherwise."""
    values = {"strategy": "greedy", "max_new_tokens": 40, **settings}
    spec = ModelSpec(str(STARTER), tuple((str(path), scale) for path, scale in adapters))
    return GenerationRequest(spec, prompt, settings=GenerationSettings(**values))


def events_of(engine: LocalInference, request: GenerationRequest) -> list[GenerationEvent]:
    """Every event of ``request``."""
    return list(engine.stream(request))


def at_once(run: Callable[[int], None], count: int) -> None:
    """``run(0)`` to ``run(count - 1)``, each in a thread, to their end."""
    threads = [threading.Thread(target=run, args=(at,), name=f"reader {at}") for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def answers_of(inference: LocalInference, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """The ids of all answers, asked for at once."""
    found: list[list[int]] = [[] for _ in requests]

    def run(at: int) -> None:
        found[at] = [token.id for event in inference.stream(requests[at]) for token in event.tokens]

    at_once(run, len(requests))
    return found


def unpack(monkeypatch: pytest.MonkeyPatch, resident: Resident) -> None:
    """Have ``resident`` compute in transformers' own pass; what ours has left for reuse has another form."""
    monkeypatch.setattr(resident, "packed", None)
    monkeypatch.setattr(resident, "prefixes", Prefixes(0))


def text_of(events: list[GenerationEvent]) -> str:
    """The deltas joined."""
    return "".join(event.text for event in events)


def ids_of(events: list[GenerationEvent]) -> list[int]:
    """The generated ids, end token excluded."""
    return [token.id for event in events for token in event.tokens]


@pytest.fixture(scope="session")
def make_adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_adapter(config, seed)`` saves an adapter with random weights, made by PEFT on the starter."""
    from peft import get_peft_model

    def make(config: Any, name: str = "adapter", seed: int = 0, base: Path = STARTER) -> Path:
        folder = tmp_path_factory.mktemp("adapters") / name
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
            with torch.no_grad():
                for key, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter) * _noise(key))
            model.save_pretrained(folder)
        return folder

    return make


def _noise(name: str) -> float:
    """Enough to change the answer without turning it to noise."""
    return 0.02 if "modules_to_save" in name or "token_adapter" in name else 0.05
