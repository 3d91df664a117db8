"""Run folders as five trainers leave them: the files that they are documented to write, around a real adapter."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from playground.config import AppConfig
from playground.services.runs import Runs
from playground.store import Store
from playground.training_run import TrainingRun

ASSETS = Path(__file__).resolve().parents[2] / "assets"
ADAPTER = ASSETS / "adapters" / "triage"
LONG_AGO = time.time() - 86_400

PEFT_CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags:
- base_model:adapter:{base}
- lora
{tags}---

# Model Card for Model ID

<!-- Provide a quick summary of what the model is/does. -->
"""

TRL_CARD = """---
base_model: {base}
datasets: {dataset}
library_name: peft
model_name: {name}
tags:
- base_model:adapter:{base}
- generated_from_trainer
- lora
- sft
- trl
licence: license
---

# Model Card for {name}

This model is a fine-tuned version of [{base}](https://huggingface.co/{base}) on the \
[{dataset}](https://huggingface.co/datasets/{dataset}) dataset.
It has been trained using [TRL](https://github.com/huggingface/trl).
"""

LLAMA_FACTORY_CARD = """---
library_name: peft
license: other
base_model: {base}
tags:
- base_model:adapter:{base}
- llama-factory
- lora
- transformers
pipeline_tag: text-generation
model-index:
- name: {name}
  results: []
---

<!-- This model card has been generated automatically according to the information the Trainer had access to. -->

# {name}

This model is a fine-tuned version of [{base}](https://huggingface.co/{base}) on the identity and the \
alpaca_en_demo datasets.
"""

AXOLOTL_CARD = """---
library_name: peft
license: apache-2.0
base_model: {base}
tags:
- axolotl
- base_model:adapter:{base}
- lora
- transformers
datasets:
- teknium/GPT4-LLM-Cleaned
pipeline_tag: text-generation
---

[<img src="https://example.org/badge.png" alt="Built with Axolotl"/>](https://example.org)
<details><summary>See axolotl config</summary>

axolotl version: `0.12.0`
```yaml
base_model: {base}
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
adapter: lora
```

</details><br>

# {name}

This model is a fine-tuned version of [{base}](https://huggingface.co/{base}) on the teknium/GPT4-LLM-Cleaned dataset.
"""


def state(
    step: int, max_steps: int, log: Iterable[Mapping[str, Any]] | None = None, *, stopped: bool | None = None
) -> str:
    """A `trainer_state.json` at ``step``: a loss every 10 steps, a held-out one every 20, unless there is another log."""
    entries = list(log) if log is not None else list(losses(step))
    stopped = step >= max_steps if stopped is None else stopped
    control = {"should_epoch_stop": False, "should_evaluate": False, "should_log": False, "should_save": True}
    raw = {
        "best_global_step": None, "best_metric": None, "best_model_checkpoint": None, "epoch": step / max_steps,
        "eval_steps": 20, "global_step": step, "is_hyper_param_search": False, "is_local_process_zero": True,
        "is_world_process_zero": True, "log_history": entries, "logging_steps": 10, "max_steps": max_steps,
        "num_input_tokens_seen": 0, "num_train_epochs": 1, "save_steps": 10,
        "stateful_callbacks": {
            "TrainerControl": {"args": {**control, "should_training_stop": stopped}, "attributes": {}}
        },
        "total_flos": 1.5e15, "train_batch_size": 2, "trial_name": None, "trial_params": None,
    }  # fmt: skip
    return json.dumps(raw, indent=2, sort_keys=True)


def losses(step: int) -> Iterable[dict[str, Any]]:
    """Log entries up to ``step``; the loss at a step is 10 divided by it, the held-out one half more."""
    for at in range(10, step + 1, 10):
        yield {"epoch": at / 100, "grad_norm": 0.5, "learning_rate": 1e-4, "loss": round(10 / at, 4), "step": at}
        if at % 20 == 0:
            yield {"epoch": at / 100, "eval_loss": round(15 / at, 4), "eval_runtime": 1.2, "step": at}


def adapter(folder: Path, base: str = "starter", *, card: str = PEFT_CARD, tags: str = "", **changed: Any) -> Path:
    """What PEFT's ``save_pretrained`` writes: configuration, weights and a card. It can be loaded on the toy model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((ADAPTER / "adapter_config.json").read_text()) | {"base_model_name_or_path": base} | changed
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    shutil.copy(ADAPTER / "adapter_model.safetensors", folder)
    (folder / "README.md").write_text(card.format(base=base, name=folder.name, tags=tags, dataset=""))
    return folder


def checkpoint(run: Path, step: int, max_steps: int, base: str = "starter", **options: Any) -> Path:
    """What the Trainer saves at ``step``: the adapter, what it needs for going on, and its state."""
    folder = adapter(run / f"checkpoint-{step}", base, **options)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_bytes(b"PK")
    (folder / "trainer_state.json").write_text(state(step, max_steps))
    return folder


def trainer_run(run: Path, steps: Iterable[int] = (10, 20, 30), max_steps: int = 30, base: str = "starter") -> Path:
    """transformers' Trainer by itself: nothing but checkpoints, as nobody has called ``save_model``."""
    for step in steps:
        checkpoint(run, step, max_steps, base)
    events = run / "runs" / "Nov20_10-00-00_host"
    events.mkdir(parents=True)
    (events / "events.out.tfevents.1763632800.host.1.0").write_bytes(b"")
    return run


def trl_run(run: Path, base: str = "starter", dataset: str = "trl-lib/Capybara") -> Path:
    """TRL's SFTTrainer with ``save_model``: the adapter and its card at the top, no state there."""
    for step in (20, 30):
        checkpoint(run, step, 30, base)
    adapter(run, base)
    (run / "README.md").write_text(TRL_CARD.format(base=base, name=run.name, dataset=dataset))
    for name in ("training_args.bin", "tokenizer.json", "tokenizer_config.json"):
        (run / name).write_bytes(b"{}")
    return run


def dpo_run(run: Path, base: str = "starter") -> Path:
    """TRL's DPOTrainer with two adapters on one model: PEFT saves each in a folder of its own."""
    for place in (run / "checkpoint-20", run):
        for name in ("policy", "ref"):
            adapter(place / name, base)
        (place / "README.md").write_text(PEFT_CARD.format(base=base, tags="- dpo\n- trl\n"))
    (run / "checkpoint-20" / "trainer_state.json").write_text(state(20, 20))
    return run


def unsloth_project(project: Path) -> Path:
    """An Unsloth notebook: checkpoints in ``outputs``, the adapter saved by itself in ``lora_model``."""
    base = "unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit"
    mapping = {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}
    tags = "- sft\n- transformers\n- trl\n- unsloth\n"
    checkpoint(project / "outputs", 60, 60, base, tags=tags, auto_mapping=mapping)
    adapter(project / "lora_model", base, tags=tags, auto_mapping=mapping)
    (project / "unsloth_compiled_cache").mkdir()
    (project / "unsloth_compiled_cache" / "UnslothSFTTrainer.py").write_text("")
    return project


def llama_factory_run(run: Path, base: str = "starter", *, interrupted: bool = False) -> Path:
    """LLaMA-Factory: its own log a line at a time, and at the end the adapter, the state and the results at the top."""
    for step in (10, 20):
        checkpoint(run, step, 30, base)
    lines = [
        {"current_steps": at, "total_steps": 30, "loss": 10 / at, "lr": 1e-4, "epoch": at / 10, "percentage": at / 0.3,
         "elapsed_time": "0:00:05", "remaining_time": "0:00:10"}
        for at in range(5, 26 if interrupted else 31, 5)
    ]  # fmt: skip
    (run / "trainer_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "training_args.yaml").write_text(
        "dataset: identity,alpaca_en_demo\ndataset_dir: data\nstage: sft\nlora_rank: 8\n"
    )
    (run / "llamaboard_config.yaml").write_text("top.lang: en\ntrain.dataset:\n- identity\n- alpaca_en_demo\n")
    (run / "running_log.txt").write_text("[INFO|2026-11-20 10:00:00] trainer:2519 >> ***** Running training *****\n")
    if not interrupted:
        adapter(run, base)
        (run / "README.md").write_text(LLAMA_FACTORY_CARD.format(base=base, name=run.name))
        (run / "trainer_state.json").write_text(state(30, 30))
        (run / "train_results.json").write_text('{"epoch": 3.0, "train_loss": 0.9}')
        (run / "all_results.json").write_text('{"epoch": 3.0, "train_loss": 0.9}')
        (run / "training_loss.png").write_bytes(b"")
    return run


def axolotl_run(run: Path, base: str = "starter", *, interrupted: bool = False) -> Path:
    """axolotl: configuration and tokenizer lie at the top from the start, the weights and the card only at the end."""
    adapter(run, base)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (run / name).write_text("{}")
    (run / "debug.log").write_text("[INFO] Pre-saving adapter config\n")
    checkpoint(run, 20, 40, base)
    if interrupted:
        (run / "adapter_model.safetensors").unlink()
        (run / "README.md").unlink()
    else:
        checkpoint(run, 40, 40, base)
        (run / "README.md").write_text(AXOLOTL_CARD.format(base=base, name=run.name))
        (run / "merged").mkdir()
        (run / "merged" / "model.safetensors").write_bytes(b"")
    return run


def listed(top: Path, **changed: Any) -> Runs:
    """The runs below ``top`` alone."""
    return Runs(AppConfig(runs=(str(top),), data_dir=top / ".data", **changed), Store.in_memory())


def only_run(top: Path, **changed: Any) -> TrainingRun:
    """The one run below ``top``."""
    [run] = listed(top, **changed).all().runs
    return run


def by_name(runs: Runs) -> dict[str, TrainingRun]:
    return {run.name: run for run in runs.all().runs}


def names(run: TrainingRun) -> list[str]:
    """What its adapters are called, in their order."""
    return [run.label(one) for one in run.checkpoints]


def aged(folder: Path, seconds: float = 0.0) -> Path:
    """``folder``, with all in it written a day ago, or ``seconds`` after that."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (LONG_AGO + seconds, LONG_AGO + seconds))
    return folder
