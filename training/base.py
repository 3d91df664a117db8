"""Train the base model: a small Llama, packed windows, Muon for the matrices, AdamW for the rest, resumable.

The learning rate is a function of progress alone: the largest of tokens, CPU-seconds and wall-seconds spent over their
budgets. With only --tokens the run is reproducible; a time budget makes sure that the decay ends on a busy machine, or
after a pause. Questions are learned from as well, with a small weight that shrinks to nothing: every token is an output.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training.data import BASE_MIX, FIRST_MIX, FIRST_SHARE, decorated, long_conversations, scheduled
from training.packing import Batch, Encoder, batches
from training.tokenizer import CONTEXT_TOKENS, END, PAD, save_tokenizer

SHORT, LONG = (8, 256), (2, 1024)
LONG_EVERY = 9
WARM_UP_STEPS = 50
CONSTANT_SHARE = 0.4
MUON_RATE, ADAM_RATE = 0.008, 3e-3
READ_WEIGHT = 0.2


@dataclass
class Progress:
    """Where a run is; saved with every checkpoint."""

    seed: int
    step: int = 0
    tokens: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    smoothed_loss: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Budget:
    """What a run may spend; 0 means unlimited."""

    tokens: float
    cpu_seconds: float
    wall_seconds: float

    def share(self, progress: Progress) -> float:
        spent = (progress.tokens, progress.cpu_seconds, progress.wall_seconds)
        limits = (self.tokens, self.cpu_seconds, self.wall_seconds)
        return max(used / limit for used, limit in zip(spent, limits, strict=True) if limit)


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights; those that write into the residual stream are smaller, so that depth does not add noise."""
    model = LlamaForCausalLM(model_config(tokenizer))
    scale = 1 / math.sqrt(2 * len(model.model.layers))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.down_proj.weight.mul_(scale)
    return model


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    ends = tokenizer.convert_tokens_to_ids([END, PAD])
    return GenerationConfig(
        do_sample=True, temperature=0.2, top_p=0.95, max_new_tokens=200, eos_token_id=ends, pad_token_id=ends[1]
    )


def rate(share: float, step: int) -> float:
    """Learning rate factor: warm-up by steps, constant, then linear to 0."""
    decay = min(1.0, (1 - share) / (1 - CONSTANT_SHARE))
    return max(0.0, decay) * min(1.0, (step + 1) / WARM_UP_STEPS)


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def weighted_loss(
    backbone: nn.Module, head: nn.Module, batch: Batch, read_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy to learn from, and the plain mean per assistant token to report.

    `read_weight` is what a token of a question weighs against one of an answer of the same length.
    """
    answers, weights = batch.weights[:, 1:], (batch.weights + read_weight * batch.read_weights)[:, 1:]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = backbone(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.attention_mask(), use_cache=False
        ).last_hidden_state
        learned = weights > 0
        logits = head(hidden[:, :-1][learned])
    losses = F.cross_entropy(logits.float(), batch.ids[:, 1:][learned], reduction="none")
    weights = weights[learned]
    return (losses * weights).sum() / weights.sum(), losses.detach()[answers[learned] > 0].mean()


def training_batches(tokenizer: PreTrainedTokenizerFast, seed: int, share: Callable[[], float]) -> Iterator[Batch]:
    """Short windows, and every ninth batch a long one of many turns; `share` tells how much of the run is over."""
    encoder = Encoder(tokenizer)
    stream = scheduled(seed, "train", BASE_MIX, FIRST_MIX, lambda: 0.5 * max(0.0, 1 - share() / FIRST_SHARE))
    short = batches((encoder.document(turns) for turns in decorated(stream, seed)), *SHORT)
    long = batches((encoder.document(turns) for turns in long_conversations(stream, seed)), *LONG)
    step = 0
    while True:
        step += 1
        yield next(long if step % LONG_EVERY == 0 else short)


@dataclass(frozen=True)
class Peers:
    """The processes that train together: each reads data of its own, all take the same step."""

    rank: int = 0
    count: int = 1

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in one exchange."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.count).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def agree(self, number: float) -> float:
        """The first process's number, so that all stop at the same step."""
        if self.count == 1:
            return number
        told = torch.tensor(number, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return float(told)


class Run:
    """One training run and its checkpoint file."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, output: Path, seed: int, peers: Peers | None = None) -> None:
        torch.manual_seed(seed)
        self.tokenizer, self.output, self.peers = tokenizer, output, peers or Peers()
        self.model = new_model(tokenizer)
        self.optimizers = optimizers(self.model)
        self.progress = Progress(seed)
        self.checkpoint = output / "checkpoint.pt"

    def resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)
        (self.output / "log.json").write_text(json.dumps(self.progress.log, indent=1))

    def step(self, batch: Batch, factor: float, read_weight: float) -> None:
        loss, reported = weighted_loss(self.model.model, self.model.lm_head, batch, read_weight)
        loss.backward()
        counted = torch.stack([reported, (batch.documents >= 0).sum().float()])
        self.peers.average([counted, *(p.grad for p in self.model.parameters() if p.grad is not None)])
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, top in zip(self.optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = top * factor
            optimizer.step()
            optimizer.zero_grad()
        previous = self.progress.smoothed_loss or float(counted[0])
        self.progress.smoothed_loss = 0.97 * previous + 0.03 * float(counted[0])
        self.progress.step += 1
        self.progress.tokens += round(float(counted[1]) * self.peers.count)

    def train(self, budget: Budget, scale: float, save_every: int = 250) -> None:
        seed = self.progress.seed + 1000 * self.progress.step + 500 * self.peers.rank
        stream = training_batches(self.tokenizer, seed, lambda: budget.share(self.progress))
        cpu, wall = time.process_time() - self.progress.cpu_seconds, time.monotonic() - self.progress.wall_seconds
        while (share := self.peers.agree(budget.share(self.progress))) < 1:
            factor = scale * rate(share, self.progress.step)
            self.step(next(stream), factor, READ_WEIGHT * (1 - share))
            self.progress.cpu_seconds, self.progress.wall_seconds = time.process_time() - cpu, time.monotonic() - wall
            if self.peers.rank == 0 and self.progress.step % 25 == 0:
                self.report(factor)
            if self.peers.rank == 0 and self.progress.step % save_every == 0:
                self.save()
        if self.peers.rank == 0:
            self.save()

    def report(self, factor: float) -> None:
        p = self.progress
        row = {
            "step": p.step,
            "tokens": p.tokens,
            "cpu_seconds": round(p.cpu_seconds, 1),
            "wall_seconds": round(p.wall_seconds, 1),
            "loss": round(p.smoothed_loss, 4),
            "rate": round(factor, 4),
        }
        p.log.append(row)
        print(json.dumps(row), flush=True)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    """Write the model as transformers loads it: bf16 weights, tokenizer, configs; each file appears whole."""
    part = output.with_name(output.name + ".part")
    model.generation_config = generation_config(tokenizer)
    model.to(torch.bfloat16).save_pretrained(part)
    save_tokenizer(tokenizer, part)
    move_into(part, output)


def move_into(part: Path, output: Path) -> None:
    """Move every file of a finished directory into place, then remove the directory."""
    output.mkdir(parents=True, exist_ok=True)
    for path in part.iterdir():
        path.chmod(0o644)
        path.replace(output / path.name)
    part.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory that training.tokenizer wrote")
    parser.add_argument(
        "--run", type=Path, required=True, help="directory for checkpoint and log; an existing run is resumed"
    )
    parser.add_argument("--export", type=Path, help="write the model here at the end")
    parser.add_argument("--tokens", type=float, default=12e6)
    parser.add_argument("--cpu-seconds", type=float, default=0)
    parser.add_argument("--wall-seconds", type=float, default=0)
    parser.add_argument("--rate-scale", type=float, default=1.0, help="factor on both learning rates")
    parser.add_argument("--processes", type=int, default=1, help="each adds a batch to every step")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    (arguments.run / "meeting").unlink(missing_ok=True)
    if arguments.processes == 1:
        work(0, arguments)
    else:
        torch.multiprocessing.start_processes(work, (arguments,), arguments.processes, start_method="fork")


def work(rank: int, arguments: argparse.Namespace) -> None:
    """One process of the run; the first one saves and exports."""
    torch.set_num_threads(1)
    peers = Peers(rank, arguments.processes)
    if peers.count > 1:
        meeting = (arguments.run / "meeting").resolve()
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=peers.count)
    run = Run(AutoTokenizer.from_pretrained(arguments.tokenizer), arguments.run, arguments.seed, peers)
    run.resume()
    run.train(Budget(arguments.tokens, arguments.cpu_seconds, arguments.wall_seconds), arguments.rate_scale)
    if arguments.export and rank == 0:
        export(run.model, run.tokenizer, arguments.export)


if __name__ == "__main__":
    main()
