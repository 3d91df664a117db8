"""P8, G10: adapters and merged models leave the playground whole, in processes that end with whoever asked for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import IA3Config, LoraConfig
from safetensors.torch import load_file, save_file

from playground.config import ROOT, AppConfig, load_config
from playground.errors import AdapterInvalid, EngineFailure, InvalidRequest, ModelBusy, OutOfMemory
from playground.local_inference import LocalInference
from playground.local_inference.adapters import check_adapter, content_hash
from playground.services import exports as exports_module
from playground.services.exports import Exports, MergeComparison
from playground.services.models import Models
from playground.types import Status
from tests.local_inference import adapter_maker
from tests.local_inference.conftest import PIRATE, ask, ids_of, make_adapter

__all__ = ["make_adapter"]

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalInference]:
    real = LocalInference()
    yield real
    real.close()


@pytest.fixture
def config(tmp_path: Path) -> AppConfig:
    return replace(load_config(), data_dir=tmp_path / "data")


@pytest.fixture
def exports(engine: LocalInference, config: AppConfig) -> Exports:
    return Exports(Models(engine, config), config)


async def collected(news: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in news]


def last(news: AsyncIterator[Any]) -> Any:
    """What comes last; everything before it is a `Status`."""
    *statuses, result = asyncio.run(collected(news))
    assert statuses
    assert all(isinstance(status, Status) for status in statuses)
    return result


def left_in(config: AppConfig) -> list[str]:
    folder = config.data_dir / "exports"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_an_adapter_at_half_strength_answers_as_the_original_at_scale_one_half(
    exports: Exports, config: AppConfig, engine: LocalInference
) -> None:
    """P8: token for token in float32, and sound by our own check."""
    path = last(exports.adapter("starter", "pirate", 0.5))
    assert path == config.data_dir / "exports" / "pirate-x0.5"
    assert check_adapter(path, base=ROOT / "assets" / "models" / "starter").verdict == "sound"
    original = ids_of(list(engine.stream(ask("Hello there!", (PIRATE, 0.5)))))
    assert ids_of(list(engine.stream(ask("Hello there!", (path, 1.0))))) == original
    assert original != ids_of(list(engine.stream(ask("Hello there!", (PIRATE, 1.0)))))
    assert left_in(config) == ["pirate-x0.5"]


def test_at_strength_one_the_files_are_the_same(exports: Exports, config: AppConfig) -> None:
    """P8: the same bytes, the same identity; a second export takes a free name."""
    first, second = (last(exports.adapter("starter", "pirate")) for _ in range(2))
    assert content_hash(first) == content_hash(second) == content_hash(PIRATE)
    assert left_in(config) == ["pirate-x1", "pirate-x1-2"]
    assert not [file for file in first.iterdir() if file.suffix not in (".json", ".safetensors", ".md")]


@pytest.mark.parametrize("strength", [0.5, 0.7, -1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_only_b_is_scaled_and_nothing_is_rounded_away(
    strength: float, dtype: torch.dtype, exports: Exports, config: AppConfig, tmp_path: Path
) -> None:
    """P8: in 16 bits where that is exact, in float32 where it is not; A, and the file's metadata, stay."""
    folder = adapter_maker.make(tmp_path / "narrow")
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    scaled = load_file(last(exports.adapter("starter", str(folder), strength)) / WEIGHTS)
    assert scaled.keys() == tensors.keys()
    for name, tensor in tensors.items():
        if "lora_A" in name:
            assert torch.equal(scaled[name], tensor)
            assert scaled[name].dtype == dtype
        else:
            assert torch.equal(scaled[name].float(), (tensor.double() * strength).float())
            assert scaled[name].dtype == (dtype if strength == 0.5 else torch.float32)


@pytest.mark.parametrize("dora", [False, True])
def test_patterns_and_dora_have_the_strength_that_was_asked(
    dora: bool, exports: Exports, engine: LocalInference, make_adapter: Callable[..., Path]
) -> None:
    """P8: ranks, alphas and rsLoRA of single layers; and DoRA, whose norm is taken of W + s·BA either way."""
    folder = make_adapter(
        LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 6}, use_rslora=not dora,
            alpha_pattern={"v_proj": 3}, use_dora=dora, task_type="CAUSAL_LM",
        ),
        name=f"patterned-{dora}",
    )  # fmt: skip
    path = last(exports.adapter("starter", str(folder), 2.0))
    original, exported, weaker = (logprobs(engine, one) for one in ((folder, 2.0), (path, 1.0), (folder, 1.0)))
    assert exported == pytest.approx(original, abs=1e-4)
    assert weaker != pytest.approx(original, abs=1e-2)


def logprobs(engine: LocalInference, adapter: tuple[Path, float]) -> list[float]:
    """Of an answer's tokens."""
    return [token.logprob for event in engine.stream(ask("Tell me more.", adapter)) for token in event.tokens]


def test_a_strength_without_an_exact_form_is_refused(
    exports: Exports, config: AppConfig, make_adapter: Callable[..., Path]
) -> None:
    """P8: in a sentence, with nothing written; at strength 1 every kind can be taken along."""
    other = make_adapter(
        IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"), name="ia3"
    )
    with pytest.raises(AdapterInvalid, match=r"'ia3' \(IA3\) can be saved at strength 1 only, not at 0\.5"):
        last(exports.adapter("starter", str(other), 0.5))
    saved = make_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(AdapterInvalid, match=r"also replaces parts of the base \(base_model.model.lm_head.weight"):
        last(exports.adapter("starter", str(saved), 0.5))
    began = make_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="olora", task_type="CAUSAL_LM"))
    with pytest.raises(AdapterInvalid, match=r"began as a part of the base \(olora\)"):
        last(exports.adapter("starter", str(began), 0.5))
    with pytest.raises(InvalidRequest, match="At strength 0 nothing of the adapter is left"):
        last(exports.adapter("starter", "pirate", 0))
    with pytest.raises(InvalidRequest, match="No adapter was named"):
        last(exports.adapter("starter", ""))
    assert left_in(config) == []
    assert content_hash(last(exports.adapter("starter", str(other)))) == content_hash(other)


def test_nothing_is_overwritten(exports: Exports, tmp_path: Path) -> None:
    """P8: a folder that is there stays as it is."""
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidRequest, match=r"mine' is there already.*nothing is overwritten"):
        last(exports.adapter("starter", "pirate", out=tmp_path / "mine"))
    assert last(exports.adapter("starter", "pirate", out=tmp_path / "new")) == tmp_path / "new"
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(exports: Exports, tmp_path: Path) -> None:
    """P8: on the command line anything may be typed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match=r"No folder can be made in .*file': "):
        last(exports.adapter("starter", "pirate", out=tmp_path / "file" / "new"))


def test_several_exports_at_once_get_folders_of_their_own(exports: Exports, config: AppConfig) -> None:
    """P8: of one adapter at one strength."""

    async def together() -> list[Any]:
        return await asyncio.gather(*(collected(exports.adapter("starter", "pirate", 0.5)) for _ in range(3)))

    folders = {str(news[-1]) for news in asyncio.run(together())}
    assert {Path(folder).name for folder in folders} == set(left_in(config))
    assert len(folders) == 3


@pytest.mark.long
def test_an_allowed_pickle_leaves_as_safetensors(engine: LocalInference, config: AppConfig, tmp_path: Path) -> None:
    """P8, G9: alone and merged; where it is not allowed it is refused."""
    pickled = tmp_path / "pirate"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_bytes((PIRATE / "adapter_config.json").read_bytes())
    torch.save(load_file(PIRATE / WEIGHTS), pickled / "adapter_model.bin")
    allowing = replace(config, allow_pickle=True)
    exports = Exports(Models(engine, allowing), allowing)
    folder = last(exports.adapter("starter", str(pickled), 1.0))
    ours, theirs = load_file(folder / WEIGHTS), load_file(PIRATE / WEIGHTS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (folder / "adapter_model.bin").exists()
    with pytest.raises(AdapterInvalid, match="pickle"):
        last(Exports(Models(engine, config), config).adapter("starter", str(pickled)))
    assert last(exports.compare_merged("starter", str(pickled))).tokens > 50


def test_a_shared_server_exports_nothing(engine: LocalInference, config: AppConfig) -> None:
    """P8, S2: only for the person at this machine."""
    shared = replace(config, free_paths=False)
    exports = Exports(Models(engine, shared), shared)
    assert not exports.allowed
    for call in (exports.adapter, exports.merged, exports.compare_merged):
        with pytest.raises(InvalidRequest, match="only where the server is reached from this machine alone"):
            last(call("starter", "pirate"))
    assert not config.data_dir.exists()


@pytest.mark.long
def test_a_model_is_merged_in_a_process_of_its_own(exports: Exports, config: AppConfig, engine: LocalInference) -> None:
    """P8, G10: verified, told apart from its base, loadable here, and no resident was touched."""
    before = ids_of(list(engine.stream(ask("Hello there!"))))
    residents = engine.residents()
    news = asyncio.run(collected(exports.merged("starter", "pirate")))
    path, said = news[-1], news[-2]
    assert path == config.data_dir / "exports" / "starter-pirate-merged"
    assert said.phase == "done"
    assert said.detail.startswith("The merged model answers as the adapter does. Merged in bfloat16, over ")
    assert engine.residents() == residents
    assert ids_of(list(engine.stream(ask("Hello there!")))) == before
    assert left_in(config) == ["starter-pirate-merged"]
    assert json.loads((path / "merge.json").read_text())["rounded"]["agreement"] > 0.95
    merged = replace(ask("Hello there!"), spec=replace(ask().spec, base=str(path)))
    assert (
        ids_of(list(engine.stream(merged)))[:8] == ids_of(list(engine.stream(ask("Hello there!", (PIRATE, 1.0)))))[:8]
    )


# Below, another program stands in for the one that merges: what is tested is how processes end.

STAND_IN = """
import json, os, signal, subprocess, sys, time
job = json.loads(sys.stdin.readline())
if job["target"]:
    os.mkdir(job["target"])
    open(os.path.join(job["target"], "half"), "w").close()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``stand_in(program)`` puts a Python program in the place of the one that merges."""

    def put(program: str) -> None:
        (tmp_path / "stand_in.py").write_text(STAND_IN + program)
        monkeypatch.setattr(exports_module, "_COMMAND", (sys.executable, str(tmp_path / "stand_in.py")))

    return put


def test_closing_the_iterator_kills_the_whole_group(
    stand_in: Callable[[str], None], exports: Exports, config: AppConfig
) -> None:
    """P8: Stop, a closed tab: no process and no half-written folder stays; news come though nothing is said."""
    stand_in(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(json.dumps({'status': {'phase': 'loading', 'detail': str(child.pid), 'fraction': None}}), flush=True)\n"
        "time.sleep(600)\n"
    )

    async def run() -> int:
        news = exports.merged("starter", "pirate")
        async for status in news:
            if isinstance(status, Status) and status.detail.isdigit():
                break
        again = await anext(news)
        assert again == status
        assert left_in(config) == ["starter-pirate-merged.partial"]
        with pytest.raises(ModelBusy, match="Another model is being merged"):
            await collected(exports.compare_merged("starter", "sql"))
        await news.aclose()
        return int(status.detail)

    pid = asyncio.run(run())
    assert gone(pid)
    assert left_in(config) == []


def test_a_cancelled_task_ends_the_process_too(
    stand_in: Callable[[str], None], exports: Exports, config: AppConfig
) -> None:
    """P8: as Gradio's Stop does it; afterwards the next one may start."""
    stand_in(
        "print(json.dumps({'status': {'phase': 'loading', 'detail': str(os.getpid()), 'fraction': None}}), flush=True)\n"
        "time.sleep(600)\n"
    )

    async def run() -> int:
        seen: asyncio.Queue[Status] = asyncio.Queue()

        async def follow() -> None:
            async for status in exports.merged("starter", "pirate"):
                await seen.put(status)  # type: ignore[arg-type]

        task = asyncio.create_task(follow())
        while not (status := await seen.get()).detail.isdigit():
            pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return int(status.detail)

    assert gone(asyncio.run(run()))
    assert left_in(config) == []


@pytest.mark.parametrize(
    ("program", "kind", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", OutOfMemory, "memory ran out.*Unload other models"),
        ("print('a log line', file=sys.stderr); raise KeyError('surprise')", EngineFailure, "KeyError: 'surprise'"),
        ("sys.exit(3)", EngineFailure, "the process ended with 3"),
        (
            "print(json.dumps({'error': {'code': 'adapter_invalid', 'message': 'No.', 'remedy': 'Do.'}}), flush=True)",
            AdapterInvalid,
            "No. Do.",
        ),
    ],
)
def test_however_the_process_ends_it_is_said_and_nothing_is_left(
    program: str, kind: type[Exception], says: str, stand_in: Callable[[str], None], exports: Exports, config: AppConfig
) -> None:
    """P8, G6: killed for its memory, an exception, an exit, an error of our own kinds."""
    stand_in(program)
    for _ in range(2):  # the second one is not told that the first still runs
        with pytest.raises(kind, match=says):
            last(exports.merged("starter", "pirate"))
    assert left_in(config) == []


def gone(pid: int) -> bool:
    """Whether the process ends; a zombie, which only its new parent can bury, counts as ended."""
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_merge_that_differs_much_is_told() -> None:
    """G10: not a shrug; figures and a way out."""
    fine = MergeComparison(0.1, 0.001, 0.99, 200, "bfloat16")
    assert not fine.differs
    for bad in (replace(fine, divergence=0.3), replace(fine, agreement=0.8)):
        assert bad.differs
        assert bad.sentence.startswith("The merged model answers differently; use the adapter beside its base")
        assert "over 200 tokens" in bad.sentence
