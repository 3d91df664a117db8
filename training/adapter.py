"""Train a LoRA adapter on the starter model with PEFT, and leave behind what transformers' Trainer leaves behind."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerState

from training.base import answer_loss, move_into
from training.data import ADAPTER_MIXES, decorated, samples
from training.packing import Batch, Encoder, batches

RANKS = {"pirate": 8, "sql": 16, "json": 8}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PEAK_RATE = 3e-3
WARM_UP_STEPS = 10
ROWS, WINDOW = 8, 256
LOG_EVERY, EVALUATE_EVERY = 10, 50


def lora_model(base: Path, name: str) -> PeftModel:
    rank = RANKS[name]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = "starter"
    return adapted


def adapter_batches(tokenizer: PreTrainedTokenizerFast, name: str, split: str, seed: int) -> Iterator[Batch]:
    encoder = Encoder(tokenizer)
    conversations = (
        decorated(samples(seed, split, ADAPTER_MIXES[name]), seed)
        if split == "train"
        else (s.messages for s in samples(seed, split, ADAPTER_MIXES[name]))
    )
    return batches((encoder.document(turns) for turns in conversations), ROWS, WINDOW)


def rate(step: int, steps: int) -> float:
    """Learning rate at a step: short warm-up, then linear to 0."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * (1 - step / steps)


@torch.no_grad()
def held_out_loss(model: PeftModel, held_out: list[Batch]) -> float:
    return sum(float(loss(model, batch)[1]) for batch in held_out) / len(held_out)


def loss(model: PeftModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    llama = model.get_base_model()
    return answer_loss(llama.model, llama.lm_head, batch)


def train(model: PeftModel, stream: Iterator[Batch], held_out: list[Batch], steps: int) -> TrainerState:
    """Run `steps` optimizer steps; the state's log holds loss, gradient norm and rate as the Trainer logs them."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=PEAK_RATE, weight_decay=0.0)
    state = TrainerState(
        max_steps=steps, num_train_epochs=1, logging_steps=LOG_EVERY, eval_steps=EVALUATE_EVERY, train_batch_size=ROWS
    )
    recent: list[float] = []
    started = time.monotonic()
    for step, batch in enumerate(itertools.islice(stream, steps)):
        optimizer.param_groups[0]["lr"] = rate(step, steps)
        learned, reported = loss(model, batch)
        learned.backward()
        norm = nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float(reported))
        state.global_step, state.epoch = step + 1, round((step + 1) / steps, 4)
        state.num_input_tokens_seen += int((batch.documents >= 0).sum())
        if state.global_step % LOG_EVERY == 0:
            log(
                state,
                loss=round(sum(recent) / len(recent), 4),
                grad_norm=round(float(norm), 4),
                learning_rate=rate(step, steps),
            )
            recent.clear()
        if state.global_step % EVALUATE_EVERY == 0:
            log(state, eval_loss=round(held_out_loss(model, held_out), 4))
    seconds = time.monotonic() - started
    log(state, train_runtime=round(seconds, 1), train_steps_per_second=round(steps / seconds, 3))
    return state


def log(state: TrainerState, **values: float) -> None:
    row = {"epoch": state.epoch, "step": state.global_step, **values}
    state.log_history.append(row)
    print(row, flush=True)


def save(model: PeftModel, state: TrainerState, output: Path) -> None:
    part = output.with_name(output.name + ".part")
    model.to(torch.bfloat16).save_pretrained(part, save_embedding_layers=False)
    (part / "README.md").unlink(missing_ok=True)
    state.save_to_json(str(part / "trainer_state.json"))
    move_into(part, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ADAPTER_MIXES))
    parser.add_argument("--base", type=Path, default=Path("assets/models/starter"))
    parser.add_argument("--output", type=Path, help="default: assets/adapters/NAME")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    model = lora_model(arguments.base, arguments.name)
    held_out = list(itertools.islice(adapter_batches(tokenizer, arguments.name, "test", arguments.seed), 4))
    cpu = time.process_time()
    state = train(model, adapter_batches(tokenizer, arguments.name, "train", arguments.seed), held_out, arguments.steps)
    save(model, state, arguments.output or Path("assets/adapters") / arguments.name)
    print(f"{time.process_time() - cpu:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
