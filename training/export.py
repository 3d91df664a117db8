"""Write the newest checkpoint of a base run as a model that plain transformers loads."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from training.base import Run, export


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(AutoTokenizer.from_pretrained(arguments.tokenizer), arguments.run, seed=0)
    run.resume()
    export(run.model, run.tokenizer, arguments.output)
    print(f"step {run.progress.step}, {run.progress.tokens} tokens, loss {run.progress.smoothed_loss:.4f}")


if __name__ == "__main__":
    main()
