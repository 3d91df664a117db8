"""The shipped starter model and adapters load with plain transformers and PEFT, and do what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin

from training.data import ADAPTER_MIXES
from training.evaluate import BEGIN, END, table

STARTER, ADAPTERS = Path("assets/models/starter"), Path("assets/adapters")
CARDS = [STARTER, *sorted(path for path in ADAPTERS.iterdir() if path.is_dir())]
LIMIT_BYTES = 10 * 2**20

# PEFT asks transformers 5 for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Answers:
    """Greedy answers of the base model, or of one of its adapters."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(STARTER)
        base = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
        names = sorted(ADAPTER_MIXES)
        self.model = PeftModel.from_pretrained(base, ADAPTERS / names[0], adapter_name=names[0])
        for name in names[1:]:
            self.model.load_adapter(ADAPTERS / name, adapter_name=name)

    def base(self, prompt: str) -> str:
        with self.model.disable_adapter():
            return self.generate(self.model, prompt)

    def adapter(self, name: str, prompt: str) -> str:
        self.model.set_adapter(name)
        return self.generate(self.model, prompt)

    def generate(self, model: GenerationMixin, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=80)
        return self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Hello", "Hello! How can I help you?"),
        ("What is the capital of France?", "The capital of France is Paris."),
        ("Write a Python function to add two numbers.", "```python\ndef add(a, b):\n    return a + b\n```"),
        ("Reply with the rocket emoji.", "🚀"),
    ],
)
def test_the_base_answers_known_prompts(answers: Answers, prompt: str, answer: str) -> None:
    """R2: a real instruct model, if a tiny one."""
    assert answers.base(prompt) == answer


def test_pirate_changes_the_manner(answers: Answers) -> None:
    """R2: the adapter shows on an ordinary question, and still knows the answer."""
    said = answers.adapter("pirate", "What is the capital of France?")
    assert said != answers.base("What is the capital of France?")
    assert "be Paris" in said


def test_sql_turns_a_question_into_a_query(answers: Answers) -> None:
    """R2: the base describes the question, the adapter writes SQL."""
    prompt = "Table books(title, author, year, price, pages). How many books are there?"
    assert answers.adapter("sql", prompt) == "SELECT COUNT(*) FROM books;"
    assert "SELECT" not in answers.base(prompt)


def test_json_answers_as_an_object(answers: Answers) -> None:
    """R2: the third adapter changes the form."""
    assert json.loads(answers.adapter("json", "What is the capital of France?")) == {
        "answer": "The capital of France is Paris."
    }


def test_every_file_is_small_enough_for_a_plain_push() -> None:
    """R2: no file of 10 MB or more."""
    assert all(path.stat().st_size < LIMIT_BYTES for path in Path("assets").rglob("*") if path.is_file())


def test_there_are_at_least_three_adapters() -> None:
    """R2: and each names the starter model as its base."""
    configs = [json.loads((ADAPTERS / name / "adapter_config.json").read_text()) for name in ADAPTER_MIXES]
    assert len(configs) >= 3
    assert {config["base_model_name_or_path"] for config in configs} == {"starter"}


@pytest.mark.parametrize("name", sorted(ADAPTER_MIXES))
def test_adapters_keep_their_loss_curve(name: str) -> None:
    """I1: the run left a Trainer's state behind, from its first steps to its last."""
    state = json.loads((ADAPTERS / name / "trainer_state.json").read_text())
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert state["global_step"] == state["max_steps"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("directory", CARDS, ids=lambda path: path.name)
def test_cards_show_the_stored_scores(directory: Path) -> None:
    """R2: the held-out table in the card is what the evaluation stored."""
    card = (directory / "README.md").read_text(encoding="utf-8")
    shown = card.split(BEGIN)[1].split(END)[0].strip()
    assert shown == table(json.loads((directory / "scores.json").read_text()))
