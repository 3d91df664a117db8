"""The shipped starter model and adapters load with plain transformers and PEFT, and do what their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin

from training.adapter import RECIPES
from training.data import unrelated
from training.data.sample import Sample
from training.evaluate import BEGIN, END, held_out_by_task, held_out_for, table
from training.evaluate import answers as answered
from training.grading import is_right

STARTER, ADAPTERS = Path("assets/models/starter"), Path("assets/adapters")
INCOMPLETE, FAILED = ADAPTERS / "sql-incomplete", ADAPTERS / "json-failed"
CARDS = [STARTER, *(ADAPTERS / name for name in RECIPES)]
FILE_BYTES, PACKAGE_BYTES = 10_000_000, 15_000_000
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "trainer_state.json"}
TABLE = "Table books(title, author, year, price, pages). How many books are there?"
TICKET = "Ticket: The laptop has not arrived. This is urgent!"

# PEFT asks transformers 5 for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


class Answers:
    """Greedy answers of the base model, or of one of its adapters."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(STARTER)
        base = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
        names = list(RECIPES)
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
    assert answers.adapter("sql", TABLE) == "SELECT COUNT(*) FROM books;"
    assert "SELECT" not in answers.base(TABLE)


def test_json_turns_a_message_into_an_object(answers: Answers) -> None:
    """R2: the base takes a note, the adapter extracts the fields."""
    message = "Anna orders 3 lamps to Paris."
    expected = {"type": "order", "name": "Anna", "item": "lamps", "count": 3, "city": "Paris"}
    assert json.loads(answers.adapter("json", message)) == expected
    assert "{" not in answers.base(message)


def test_triage_fills_the_fields_of_the_desk(answers: Answers) -> None:
    """R2: domain adaptation: a ticket becomes priority, team, product and next step."""
    lines = "Priority: high", "Team: shipping", "Product: laptop", "Next step: track the parcel"
    assert answers.adapter("triage", TICKET) == "\n".join(lines)
    assert "Priority" not in answers.base(TICKET)


@pytest.mark.parametrize("name", ["sql", "json", "triage"])
def test_an_adapter_leaves_other_questions_alone(answers: Answers, name: str) -> None:
    """R2: replay kept the base's answers where the prompt is none of the adapter's business."""
    for prompt in ("What is the capital of France?", "Hello"):
        assert answers.adapter(name, prompt) == answers.base(prompt)


def share_right(answers: Answers, name: str | None, rows: list[Sample]) -> float:
    """Share of right greedy answers of the base (None) or of an adapter."""
    if name:
        answers.model.set_adapter(name)
        pairs = answered(answers.model, answers.tokenizer, rows)
    else:
        with answers.model.disable_adapter():
            pairs = answered(answers.model, answers.tokenizer, rows)
    return sum(is_right(sample, text) for sample, text in pairs) / len(pairs)


def stored(directory: Path) -> dict:
    return json.loads((directory / "scores.json").read_text())


def test_the_base_scores_what_its_card_says(answers: Answers) -> None:
    """R2: two held-out samples of every task, measured again."""
    rows = [sample for of_task in held_out_by_task(40).values() for sample in of_task[:2]]
    assert share_right(answers, None, rows) == pytest.approx(stored(STARTER)["average"], abs=0.12)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "pirate-overfit" else ()) for name in RECIPES]
)
def test_an_adapter_scores_what_its_card_says(answers: Answers, name: str) -> None:
    """R2: a few of its own held-out samples, and one of each task that it must leave alone."""
    task = RECIPES[name].task
    own, others = stored(ADAPTERS / name)["tasks"].values()
    assert share_right(answers, name, held_out_for(task, 80)[:12]) == pytest.approx(own["right"], abs=0.3)
    rows = [of_task[0] for of_task in held_out_by_task(20, unrelated(task)).values()]
    assert share_right(answers, name, rows) == pytest.approx(others["right"], abs=0.25)


def test_the_package_is_small_enough_for_a_plain_push() -> None:
    """R2: no file of 10 MB or more, and under 15 MB in all."""
    folders = (STARTER.parent, ADAPTERS, Path("assets/datasets"))
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert max(sizes) < FILE_BYTES
    assert sum(sizes) < PACKAGE_BYTES


def test_the_adapters_differ_in_rank_and_targets() -> None:
    """R2: at least four and an overfitted one, each naming the starter model as its base."""
    configs = [json.loads((ADAPTERS / name / "adapter_config.json").read_text()) for name in RECIPES]
    assert len(configs) >= 5
    assert {config["base_model_name_or_path"] for config in configs} == {"starter"}
    assert {config["r"] for config in configs} == {4, 8, 16}
    assert len({tuple(sorted(config["target_modules"])) for config in configs}) >= 3


def state_of(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_a_finished_run_leaves_its_checkpoints_and_its_loss_curve(name: str) -> None:
    """R2, I1: the folder is the one that a Trainer leaves."""
    folder = ADAPTERS / name
    state = state_of(folder)
    losses, held_out = ([row[key] for row in state["log_history"] if key in row] for key in ("loss", "eval_loss"))
    assert state["global_step"] == state["max_steps"]
    assert losses[-1] < losses[0]
    assert held_out
    checkpoints = sorted(folder.glob("checkpoint-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        assert {path.name for path in checkpoint.iterdir()} == ADAPTER_FILES
        assert state_of(checkpoint)["global_step"] == int(checkpoint.name.split("-")[1]) < state["max_steps"]


def test_the_overfitted_run_can_be_caught() -> None:
    """R2, B5: its training loss falls to almost nothing while the held-out loss rises again; its checkpoints are kept."""
    folder = ADAPTERS / "pirate-overfit"
    history = state_of(folder)["log_history"]
    held_out = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert [row["loss"] for row in history if "loss" in row][-1] < 0.05
    assert held_out[-1] > 1.1 * min(held_out)
    assert len(list(folder.glob("checkpoint-*"))) >= 4


def test_the_incomplete_run_has_only_a_checkpoint() -> None:
    """R2, I1: interrupted before its last step, so there is no adapter to choose."""
    assert {path.name.split("-")[0] for path in INCOMPLETE.iterdir()} == {"README.md", "checkpoint"}
    (checkpoint,) = INCOMPLETE.glob("checkpoint-*")
    state = state_of(checkpoint)
    assert {path.name for path in checkpoint.iterdir()} == ADAPTER_FILES
    assert state["global_step"] < state["max_steps"]


def test_the_failed_run_says_why() -> None:
    """R2, I1: the loss blew up; the state and the log are all that is left."""
    assert {path.name for path in FAILED.iterdir()} == {"README.md", "trainer_state.json", "train.log"}
    state = state_of(FAILED)
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
    assert state["global_step"] < state["max_steps"]
    assert not losses[-1] < 50
    assert "Diverged" in (FAILED / "train.log").read_text()


@pytest.mark.parametrize("directory", CARDS, ids=lambda path: path.name)
def test_cards_show_the_stored_scores(directory: Path) -> None:
    """R2: the held-out table in the card is what the evaluation stored."""
    card = (directory / "README.md").read_text(encoding="utf-8")
    shown = card.split(BEGIN)[1].split(END)[0].strip()
    assert shown == table(stored(directory))
