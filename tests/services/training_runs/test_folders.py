"""Run folders of five trainers, and the bundled ones, are read right, and say how they ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, load_config
from playground.services.runs import Runs
from playground.store import Store
from tests.services import trainers
from tests.services.trainers import aged, by_name, listed, names, only_run


def test_the_bundled_runs_are_read_as_what_they_are(tmp_path: Path) -> None:
    """I1: seven runs, five of them completed; names, base, steps, losses and datasets."""
    runs = Runs(load_config(None, {"data_dir": tmp_path}), Store.in_memory())
    found = by_name(runs)
    assert {name: (run.state, run.step, run.max_steps, run.loss, run.eval_loss) for name, run in found.items()} == {
        "pirate": ("completed", 1000, 1000, 0.0483, 0.0547),
        "pirate-overfit": ("completed", 150, 150, 0.0004, 0.74),
        "sql": ("completed", 500, 500, 0.0014, 0.0008),
        "sql-incomplete": ("incomplete", 150, 500, 0.0057, 0.001),
        "triage": ("completed", 300, 300, 0.0028, 0.001),
        "json": ("completed", 260, 260, 0.0028, 0.0009),
        "json-failed": ("failed", 22, 260, None, None),
    }
    assert {run.base for run in found.values()} == {"starter"}
    assert all(
        run.datasets == (name.removesuffix("-incomplete").removesuffix("-failed"),) for name, run in found.items()
    )
    assert names(found["pirate-overfit"]) == [
        "pirate-overfit", *(f"pirate-overfit/checkpoint-{step}" for step in (125, 100, 75, 50, 25))
    ]  # fmt: skip
    assert found["json-failed"].checkpoints == ()
    assert "step 22 of 260" in found["json-failed"].why
    assert "stopped at step 150 of 500" in found["sql-incomplete"].why
    assert found["sql-incomplete"].final is None


def test_a_plain_trainer_s_last_checkpoint_is_its_end(tmp_path: Path) -> None:
    """I1: transformers' Trainer without save_model leaves nothing but checkpoints."""
    run = only_run(trainers.trainer_run(tmp_path / "out").parent)
    assert (run.state, run.why, run.trainer, run.step, run.max_steps) == ("completed", "", "Trainer", 30, 30)
    assert names(run) == ["out", "out/checkpoint-20", "out/checkpoint-10"]
    assert run.final
    assert run.final.path == str(tmp_path / "out" / "checkpoint-30")
    assert run.final.step == 30
    assert [(one.loss, one.eval_loss) for one in run.checkpoints] == [(0.3333, 0.75), (0.5, 0.75), (1.0, None)]


def test_trl_s_card_names_base_and_dataset(tmp_path: Path) -> None:
    """I1, I4: the adapter at the top is the end, though only its checkpoints have a state."""
    run = only_run(trainers.trl_run(tmp_path / "sft", "org/base").parent)
    assert (run.state, run.trainer, run.base, run.datasets) == ("completed", "TRL", "org/base", ("trl-lib/Capybara",))
    assert names(run) == ["sft", "sft/checkpoint-30", "sft/checkpoint-20"]
    assert run.final
    assert run.final.path == str(tmp_path / "sft")
    assert run.final.step == 30


def test_of_two_adapters_on_one_model_the_trained_one_is_offered(tmp_path: Path) -> None:
    """I1: DPO with a frozen reference adapter beside the policy, at the end and in every checkpoint."""
    run = only_run(trainers.dpo_run(tmp_path / "dpo").parent)
    assert (run.state, run.trainer, names(run)) == ("completed", "TRL", ["dpo", "dpo/checkpoint-20"])
    assert [Path(one.path).relative_to(tmp_path).as_posix() for one in run.checkpoints] == [
        "dpo/policy", "dpo/checkpoint-20/policy"
    ]  # fmt: skip


def test_an_unsloth_notebook_s_two_folders_are_found(tmp_path: Path) -> None:
    """I1: checkpoints in outputs, the adapter by itself in lora_model."""
    found = by_name(listed(trainers.unsloth_project(tmp_path)))
    assert {name: (run.state, run.trainer, names(run)) for name, run in found.items()} == {
        "outputs": ("completed", "Unsloth", ["outputs"]),
        "lora_model": ("completed", "Unsloth", ["lora_model"]),
    }
    assert found["outputs"].step == 60
    assert found["lora_model"].step is None
    inside = trainers.adapter(tmp_path / "b" / "outputs" / "lora_model")
    trainers.checkpoint(inside.parent, 60, 100)
    [run] = listed(tmp_path / "b").all().runs
    assert (run.state, names(run)) == ("completed", ["outputs", "outputs/checkpoint-60"])
    assert run.final
    assert run.final.path == str(inside)


def test_llama_factory_s_own_log_tells_how_far_it_came(tmp_path: Path) -> None:
    """I1: completed with everything at the top; interrupted with checkpoints and trainer_log.jsonl."""
    done = only_run(trainers.llama_factory_run(tmp_path / "a" / "saves" / "lora" / "train_1").parents[2])
    assert (done.state, done.trainer, done.step, done.name) == ("completed", "LLaMA-Factory", 30, "train_1")
    assert done.datasets == ("identity", "alpaca_en_demo")
    stopped = only_run(aged(trainers.llama_factory_run(tmp_path / "b" / "train_2", interrupted=True)).parent)
    assert (stopped.state, stopped.step, stopped.max_steps, stopped.loss) == ("incomplete", 25, 30, 0.4)
    assert stopped.why == "It stopped at step 25 of 30."
    assert stopped.datasets == ("identity", "alpaca_en_demo")
    assert names(stopped) == ["train_2/checkpoint-20", "train_2/checkpoint-10"]
    assert len(listed(tmp_path / "b").curve(stopped).train) == 5


def test_what_llama_factory_leaves_after_answering_is_no_run(tmp_path: Path) -> None:
    """I1: predictions have the same log."""
    (tmp_path / "eval_1").mkdir()
    (tmp_path / "eval_1" / "trainer_log.jsonl").write_text('{"current_steps": 5, "total_steps": 9, "percentage": 55}\n')
    (tmp_path / "eval_1" / "generated_predictions.jsonl").write_text("")
    assert listed(tmp_path).all().runs == ()


def test_axolotl_s_configuration_at_the_top_is_no_adapter_yet(tmp_path: Path) -> None:
    """I1: it is saved before the training; the weights come at its end."""
    stopped = only_run(aged(trainers.axolotl_run(tmp_path / "a" / "lora-out", interrupted=True)).parent)
    assert (stopped.state, stopped.why) == ("incomplete", "It stopped at step 20 of 40.")
    assert names(stopped) == ["lora-out/checkpoint-20"]
    done = only_run(trainers.axolotl_run(tmp_path / "b" / "lora-out").parent)
    assert (done.state, done.trainer, done.datasets) == ("completed", "axolotl", ("teknium/GPT4-LLM-Cleaned",))
    assert names(done) == ["lora-out", "lora-out/checkpoint-40", "lora-out/checkpoint-20"]


def test_an_adapter_without_a_training_is_a_run_too(tmp_path: Path) -> None:
    """I1: what was downloaded or uploaded is completed, with no step and no loss."""
    run = only_run(trainers.adapter(tmp_path / "downloaded").parent)
    assert (run.state, run.step, run.loss, names(run)) == ("completed", None, None, ["downloaded"])
    curve = listed(tmp_path).curve(run)
    assert (curve.train, curve.evaluation, curve.diverged_at) == ((), (), None)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # between transformers and PEFT, not ours
def test_what_the_installed_trainer_leaves_is_read_right(tmp_path: Path) -> None:
    """I1: transformers' Trainer and PEFT on the bundled model, to its end and stopped before; the fixtures' states match."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    def train(name: str, callbacks: list[TrainerCallback]) -> Trainer:
        base = AutoModelForCausalLM.from_pretrained(ROOT / "assets" / "models" / "starter")
        model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        rows = [{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 8
        arguments = TrainingArguments(
            str(tmp_path / name), per_device_train_batch_size=2, max_steps=4, save_steps=2, logging_steps=1, use_cpu=True,
            report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        return Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)

    trainer = train("whole", [])
    trainer.train()
    with pytest.raises(KeyboardInterrupt):
        train("stopped", [Stopping()]).train()
    found = by_name(listed(tmp_path))
    assert names(found["whole"]) == ["whole", "whole/checkpoint-2"]
    assert found["whole"].state == "completed"
    assert found["whole"].trainer == "Trainer"
    assert found["whole"].loss is not None
    assert names(found["stopped"]) == ["stopped/checkpoint-2"]
    assert "step 2 of 4" in found["stopped"].why
    trainer.save_model()
    trainer.save_state()
    whole = by_name(listed(tmp_path))["whole"]
    assert names(whole) == ["whole", "whole/checkpoint-4", "whole/checkpoint-2"]
    assert whole.final
    assert whole.final.path == str(tmp_path / "whole")
    assert whole.final.step == 4
    assert len(listed(tmp_path).curve(whole).train) == 4
    written = json.loads((tmp_path / "whole" / "trainer_state.json").read_text())
    made = json.loads(trainers.state(4, 4))
    assert made.keys() == written.keys()
    assert made["stateful_callbacks"].keys() == written["stateful_callbacks"].keys()


def test_a_run_that_was_interrupted_says_how_far_it_came_and_with_which_error(tmp_path: Path) -> None:
    """I1: the last line of a traceback, on one line and not endless."""
    trainers.trainer_run(tmp_path / "out", (10, 20), 100)
    trace = (
        'Traceback (most recent call last):\n  File "t.py", line 3\n    go()\nRuntimeError: CUDA \x1b[31mout of memory'
    )
    (tmp_path / "out" / "train.log").write_text(f"{{'loss': 1}}\n{trace} {'x' * 5000}\n")
    run = only_run(aged(tmp_path))
    assert run.state == "incomplete"
    assert run.final is None
    assert run.why.startswith(
        "It stopped at step 20 of 100. Its log ends with: RuntimeError: CUDA  [31mout of memory xxx"
    )
    assert len(run.why) < 300
    assert run.why.isprintable()


def test_an_error_shows_no_folders_to_others(tmp_path: Path) -> None:
    """S2: where others reach the server a log's last line is shown without this machine's paths."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").write_text(
        "Traceback (most recent call last):\n  x\nFileNotFoundError: '/home/anna/data/x.json'\n"
    )
    assert "'x.json'" in only_run(tmp_path, free_paths=False, adapters=(str(tmp_path),)).why
    assert "/home/anna/data/x.json" in only_run(tmp_path).why


def test_a_run_that_may_still_be_running_says_so(tmp_path: Path) -> None:
    """I1: what has no end, no error, and was written to minutes ago."""
    trainers.trainer_run(tmp_path / "out", (10,), 100)
    assert "may still be running" in only_run(tmp_path).why
    assert "still" not in only_run(aged(tmp_path)).why


def test_whole_models_are_not_waited_for(tmp_path: Path) -> None:
    """I1: a training of all weights leaves no adapter however long it runs."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"")
    (tmp_path / "out" / "trainer_state.json").write_text(trainers.state(30, 30))
    assert (only_run(tmp_path).state, only_run(tmp_path).why) == ("failed", "It left whole models, and no adapter.")


def test_a_checkpoint_that_is_called_final_is_the_end(tmp_path: Path) -> None:
    """I1: loops that people write themselves call it so."""
    for name in ("checkpoint-epoch-1", "checkpoint-final"):
        trainers.adapter(tmp_path / "out" / name)
    assert names(only_run(tmp_path)) == ["out", "out/checkpoint-epoch-1"]


def test_early_stopping_is_an_end(tmp_path: Path) -> None:
    """I1: the trainer had decided to stop at its last checkpoint, long before the last step."""
    trainers.trainer_run(tmp_path / "out", (10, 20), 100)
    (tmp_path / "out" / "checkpoint-20" / "trainer_state.json").write_text(trainers.state(20, 100, stopped=True))
    run = only_run(tmp_path)
    assert (run.state, run.final and run.final.step, run.step, run.max_steps) == ("completed", 20, 20, 100)


def test_an_end_whose_adapter_was_not_saved_is_told(tmp_path: Path) -> None:
    """I1: the last step was reached, the last checkpoint is older, and nobody called save_model."""
    trainers.trainer_run(tmp_path / "out", (10, 20), 30)
    (tmp_path / "out" / "trainer_state.json").write_text(trainers.state(30, 30))
    run = only_run(aged(tmp_path))
    assert (run.state, run.why) == ("incomplete", "It came to its last step, 30, but saved no adapter of it.")


def test_a_run_that_was_taken_up_again_keeps_its_adapter_and_shows_how_far_it_is(tmp_path: Path) -> None:
    """I1: the state at the top is of the first training, those of later checkpoints go on."""
    trainers.trl_run(tmp_path / "out")
    (tmp_path / "out" / "trainer_state.json").write_text(trainers.state(30, 30))
    trainers.checkpoint(tmp_path / "out", 50, 80)
    run = only_run(tmp_path)
    assert (run.state, run.step, run.max_steps) == ("completed", 50, 80)
    assert run.final
    assert (run.final.step, run.final.loss) == (30, 0.3333)
    assert names(run)[:2] == ["out", "out/checkpoint-50"]
    assert len(listed(tmp_path).curve(run).train) == 5


@pytest.mark.parametrize(
    "ending", [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": 0.0, "grad_norm": float("nan")}]
)
def test_a_loss_that_became_no_number_is_a_failure(tmp_path: Path, ending: dict[str, float]) -> None:
    """I1: NaN, Infinity, and the 0 that the Trainer writes for them; earlier checkpoints can still be tried."""
    trainers.trl_run(tmp_path / "out")
    log = [*trainers.losses(20), {"step": 30, **ending}]
    (tmp_path / "out" / "trainer_state.json").write_text(trainers.state(30, 30, log))
    runs = listed(tmp_path)
    run = only_run(tmp_path)
    assert (run.state, run.loss, run.final) == ("failed", None, None)
    assert "no number any more at step 30 of 30" in run.why
    assert names(run) == ["out/checkpoint-30", "out/final", "out/checkpoint-20"]
    assert runs.curve(run).diverged_at == 30
    assert runs.curve(run).train == ((10, 1.0), (20, 0.5))
    assert runs.find("out") is None
    assert runs.find("out/final") is not None


def test_a_loss_that_recovered_is_none(tmp_path: Path) -> None:
    """I1: one step without a number on the way is a mark on the curve, no failure."""
    trainers.trl_run(tmp_path / "out")
    log = [{"step": 10, "loss": float("nan")}, {"step": 20, "loss": 0.5}, {"step": 30, "loss": 0.0, "grad_norm": 0.1}]
    (tmp_path / "out" / "trainer_state.json").write_text(trainers.state(30, 30, log))
    run = only_run(tmp_path)
    assert (run.state, run.loss, listed(tmp_path).curve(run).diverged_at) == ("completed", 0.0, 10)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"trainer_state.json": trainers.state(20, 100)}, "It left no adapter. It stopped at step 20 of 100."),
        ({"train.log": "starting\n"}, "It left no adapter."),
        ({"runs/Nov20_host/events.out.tfevents.1": ""}, "It left no adapter."),
        ({"checkpoint-5/adapter_config.json": "{}"}, "It left no adapter."),
        (
            {"trainer_state.json": trainers.state(9, 9), "adapter_model.safetensors": "0"},
            "It left an adapter's weights without adapter_config.json, which says what they are for.",
        ),
        ({"adapter_config.json": "{}"}, "There is adapter_config.json and no file with the adapter's weights."),
        ({"checkpoint-5/model-00001-of-00002.safetensors": "", "checkpoint-5/config.json": "{}"},
         "It left whole models, and no adapter."),
        ({"adapter_config.json": "{}", "adapters.safetensors": "", "0000100_adapters.safetensors": ""},
         "It left an adapter of MLX, adapters.safetensors, which cannot be loaded here: convert it to PEFT's format."),
        ({"checkpoint-20/trainer_state.json": trainers.state(20, 40), "checkpoint-20/global_step20/zero.pt": ""},
         "Its checkpoints hold no adapter, only shards of DeepSpeed or FSDP that must be put together first. "
         "It stopped at step 20 of 40."),
    ],
)  # fmt: skip
def test_a_training_without_an_adapter_has_failed(tmp_path: Path, files: dict[str, str], why: str) -> None:
    """I1: and says what there is instead."""
    for name, text in files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run = only_run(aged(tmp_path))
    assert (run.name, run.state, run.why, run.checkpoints) == ("out", "failed", why, ())


def test_a_half_written_checkpoint_is_left_out_and_told(tmp_path: Path) -> None:
    """I1: the training was killed while it saved."""
    trainers.trainer_run(tmp_path / "out", (10, 20), 100)
    (tmp_path / "out" / "checkpoint-20" / "adapter_model.safetensors").unlink()
    (tmp_path / "out" / "tmp-checkpoint-30").mkdir()
    trainers.adapter(tmp_path / "out" / "tmp-checkpoint-30")
    run = only_run(aged(tmp_path))
    assert names(run) == ["out/checkpoint-10"]
    assert "last checkpoint, step 20, is not whole" in run.why
