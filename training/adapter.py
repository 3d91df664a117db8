"""Train a LoRA adapter on the starter model with PEFT, and leave behind what transformers' Trainer leaves behind.

The loop is our own, because windows are packed with block-diagonal attention and weighted answers; `trainer_state.json`, the
`checkpoint-N` folders and the adapter files have the Trainer's layout.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerState

from training.base import move_into, weighted_loss
from training.data import ADAPTER_MIXES, decorated, samples, scheduled, unrelated
from training.packing import Batch, Encoder, batches

ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WARM_UP_STEPS = 10
ROWS, WINDOW = 8, 256
LOG_EVERY = 10


@dataclass(frozen=True)
class Recipe:
    """What an adapter is and how it is trained; `rows` limits its data to that many samples."""

    task: str
    rank: int
    targets: tuple[str, ...]
    steps: int
    save_every: int
    replay: float
    rate: float = 3e-3
    evaluate_every: int = 50
    rows: int = 0


ATTENTION_AND_MLP = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
RECIPES = {
    "pirate": Recipe("pirate", 8, ALL_LINEARS, steps=1000, save_every=500, replay=0.35),
    "sql": Recipe("sql", 16, ALL_LINEARS, steps=500, save_every=250, replay=0.3),
    "json": Recipe("json", 16, ATTENTION_AND_MLP, steps=260, save_every=130, replay=0.3),
    "triage": Recipe("triage", 4, ("q_proj", "v_proj", "o_proj", "down_proj"), steps=300, save_every=100, replay=0.3),
    "pirate-overfit": Recipe(
        "pirate", 8, ALL_LINEARS, steps=150, save_every=25, replay=0.0, rate=1.5e-3, evaluate_every=10, rows=24
    ),
}


class Diverged(Exception):
    """The loss is no longer a number, or far above that of a model that knows nothing."""


def lora_model(base: Path, recipe: Recipe) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=list(recipe.targets), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = "starter"
    return adapted


def training_batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """The adapter's samples and, for `replay` of them, samples of the base mix that it must leave alone."""
    encoder = Encoder(tokenizer)
    mix = ADAPTER_MIXES[recipe.task]
    if recipe.rows:
        few = list(itertools.islice(samples(seed, "train", mix), recipe.rows))
        return batches((encoder.document(sample.messages) for sample in itertools.cycle(few)), ROWS, WINDOW)
    stream = scheduled(seed, "train", mix, unrelated(recipe.task), lambda: recipe.replay)
    return batches((encoder.document(turns) for turns in decorated(stream, seed)), ROWS, WINDOW)


def held_out_batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> list[Batch]:
    encoder = Encoder(tokenizer)
    documents = (encoder.document(sample.messages) for sample in samples(seed, "test", ADAPTER_MIXES[recipe.task]))
    return list(itertools.islice(batches(documents, ROWS, WINDOW), 4))


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate at a step: short warm-up, then linear to 0 (an overfitting run stays constant)."""
    decay = 1.0 if recipe.rows else 1 - step / recipe.steps
    return recipe.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * decay


def loss(model: PeftModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    llama = model.get_base_model()
    return weighted_loss(llama.model, llama.lm_head, batch)


@torch.no_grad()
def held_out_loss(model: PeftModel, held_out: list[Batch]) -> float:
    return sum(float(loss(model, batch)[1]) for batch in held_out) / len(held_out)


class Training:
    """One run: its model, its state, its folder."""

    def __init__(self, base: Path, recipe: Recipe, output: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.recipe, self.output = recipe, output
        self.model = lora_model(base, recipe)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=recipe.rate, weight_decay=0.0)
        tokenizer = AutoTokenizer.from_pretrained(base)
        self.stream = training_batches(tokenizer, recipe, seed)
        self.held_out = held_out_batches(tokenizer, recipe, seed)
        # One pass over the few rows; a generated stream never ends, so the whole run is its one epoch.
        self.steps_per_epoch = self.rows_per_epoch() if recipe.rows else recipe.steps
        self.state = TrainerState(
            max_steps=recipe.steps,
            num_train_epochs=math.ceil(recipe.steps / self.steps_per_epoch),
            logging_steps=LOG_EVERY,
            eval_steps=recipe.evaluate_every,
            save_steps=recipe.save_every,
            train_batch_size=ROWS,
        )

    def rows_per_epoch(self) -> float:
        """How many steps one pass over the few rows takes."""
        first = next(self.stream)
        return self.recipe.rows / sum(int(row.max()) + 1 for row in first.documents)

    def train(self, stop_at: int) -> None:
        """Run to the end, or to `stop_at` as a run that was interrupted there; raises when the loss blows up."""
        started = time.monotonic()
        recent: list[float] = []
        for step in range(min(stop_at, self.recipe.steps)):
            norm, reported = self.step(step)
            recent.append(reported)
            self.state.global_step, self.state.epoch = step + 1, round((step + 1) / self.steps_per_epoch, 4)
            blown_up = not math.isfinite(reported) or reported > 100
            if self.state.global_step % LOG_EVERY == 0 or blown_up:
                mean = round(sum(recent) / len(recent), 4)
                self.log(loss=mean, grad_norm=round(norm, 4), learning_rate=rate(self.recipe, step))
                recent.clear()
            if blown_up:
                raise Diverged(
                    f"the loss is {reported:.4g} at step {step + 1} with a learning rate of {rate(self.recipe, step)}"
                )
            if self.state.global_step % self.recipe.evaluate_every == 0:
                self.evaluate()
            if self.state.global_step % self.recipe.save_every == 0 and self.state.global_step < self.recipe.steps:
                self.save(self.output / f"checkpoint-{self.state.global_step}")
        if self.state.global_step == self.recipe.steps:
            seconds = time.monotonic() - started
            self.log(train_runtime=round(seconds, 1), train_steps_per_second=round(self.recipe.steps / seconds, 3))
            self.save(self.output)

    def step(self, step: int) -> tuple[float, float]:
        """One optimizer step; gradient norm and loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.recipe, step)
        batch = next(self.stream)
        learned, reported = loss(self.model, batch)
        learned.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.num_input_tokens_seen += int((batch.documents >= 0).sum())
        return float(norm), float(reported)

    def evaluate(self) -> None:
        found = round(held_out_loss(self.model, self.held_out), 4)
        self.log(eval_loss=found)
        if self.state.best_metric is None or found < self.state.best_metric:
            self.state.best_metric, self.state.best_global_step = found, self.state.global_step

    def log(self, **values: float) -> None:
        row = {"epoch": self.state.epoch, "step": self.state.global_step, **values}
        self.state.log_history.append(row)
        print(row, flush=True)

    def save(self, folder: Path) -> None:
        """The adapter in bf16 and the state of the run; training goes on in float32."""
        part = folder.with_name(folder.name + ".part")
        weights = {name: tensor.to(torch.bfloat16) for name, tensor in self.model.state_dict().items()}
        self.model.save_pretrained(part, state_dict=weights, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)
        self.state.save_to_json(str(part / "trainer_state.json"))
        move_into(part, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--base", type=Path, default=Path("assets/models/starter"))
    parser.add_argument("--output", type=Path, help="default: assets/adapters/NAME")
    parser.add_argument("--steps", type=int, help="another length than the recipe's")
    parser.add_argument("--save-every", type=int, help="another number of steps between checkpoints")
    parser.add_argument("--rate", type=float, help="another learning rate than the recipe's")
    parser.add_argument("--stop-at", type=int, default=10**9, help="leave an interrupted run behind, at this step")
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    changes = {key: getattr(arguments, key) for key in ("steps", "save_every", "rate") if getattr(arguments, key)}
    recipe = replace(RECIPES[arguments.name], **changes)
    output = arguments.output or Path("assets/adapters") / arguments.name
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cpu = time.process_time()
    training = Training(arguments.base, recipe, output, arguments.seed)
    try:
        training.train(arguments.stop_at)
    except Diverged as problem:
        training.state.save_to_json(str(output / "trainer_state.json"))
        rows = [str(row) for row in training.state.log_history]
        (output / "train.log").write_text(
            "\n".join([*rows, f"{type(problem).__name__}: {problem}", "Training failed."]) + "\n"
        )
        raise SystemExit(f"training failed: {problem}") from problem
    print(f"{time.process_time() - cpu:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
