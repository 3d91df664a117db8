"""Other people's clients, unmodified, against the real app: A4's proof that they work."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from playground.config import ROOT
from tests.clients.conftest import CLIENTS

QUESTION = "What is the capital of France?"
STARTER = ROOT / "assets" / "models" / "starter"
LLM_MODELS = """
- model_id: pirate
  model_name: "starter:pirate"
  api_base: "{url}/v1"
- model_id: text
  model_name: starter
  api_base: "{url}/v1"
  completion: true
"""
RANKING = """
task: bundled_ranking
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{instruction}}}}\\nThe review is"
doc_to_choice: [positive., negative.]
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
ANSWERS = """
task: bundled_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{rows}"}}}}
test_split: test
output_type: generate_until
doc_to_text: instruction
doc_to_target: output
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def answered(url: str, **fields: object) -> str:
    """The server's own greedy answer, asked for without any client."""
    body = {"model": "starter:pirate", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 12} | fields, timeout=100).json()
    return reply["choices"][0]["message"]["content"]


def continued(url: str) -> str:
    """The same for a text."""
    body = {"model": "starter", "prompt": "How much is", "temperature": 0, "max_tokens": 4}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=100).json()["choices"][0]["text"]


def test_the_openai_package_of_the_release_before(live_app, script):
    """A4: chat and text, whole and streamed, log-probabilities, and errors that name the field."""
    found = script("openai_package", f"{live_app.url}/v1")
    assert found["version"].startswith("2.")
    assert {"starter", "starter:pirate"} <= set(found["models"])
    assert found["answer"] == found["streamed"] == answered(live_app.url)
    assert found["usage"][0] == found["usage"][1]
    assert found["logprobs"] == [2] * 12
    assert [text.startswith(begun) for text, begun in zip(found["text"], ("How much is", "The sky"), strict=True)] == [
        True,
        True,
    ]
    assert all(first is None and second < 0 for first, second in found["text_logprobs"])
    assert found["text_streamed"] == found["text_whole"] == continued(live_app.url)
    assert found["unknown_model"] == ["NotFoundError", "model_not_found", None]
    assert found["tools"] == ["BadRequestError", "unsupported_value", "tools"]
    assert found["json"] == ["BadRequestError", "unsupported_value", "response_format"]
    assert found["misspelt"] == ["BadRequestError", "unknown_field", "temprature"]


@pytest.mark.long
def test_litellm(live_app, script):
    """A4: its `openai/` provider, whole and streamed, and its own error classes."""
    found = script("litellm_package", f"{live_app.url}/v1")
    assert found["answer"] == found["streamed"] == answered(live_app.url)
    assert found["finish_reason"] == "length"
    assert found["usage"] > 12
    assert found["text"] == continued(live_app.url)
    assert (found["unknown_model"], found["bad_request"]) == ("NotFoundError", "BadRequestError")


@pytest.mark.long
def test_langchain(live_app, script):
    """A4: ChatOpenAI with invoke, stream, batch and log-probabilities; its OpenAI class for plain texts."""
    found = script("langchain_package", f"{live_app.url}/v1")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert found["answer"] == found["streamed"] == answered(live_app.url, messages=turns)
    assert found["batch"] == [answered(live_app.url)] * 2
    assert (found["finish_reason"], found["model"]) == ("length", "starter:pirate")
    assert found["usage"] > 12
    assert found["logprobs"] == [2] * 12
    assert found["text"] == found["text_streamed"] == continued(live_app.url)


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_llm(live_app, run, tmp_path, options):
    """A4: the `llm` program with our models in its extra-openai-models.yaml."""
    models = LLM_MODELS.format(url=live_app.url)
    (tmp_path / "extra-openai-models.yaml").write_text(models, encoding="utf-8")

    def prompted(model: str, length: int, text: str) -> str:
        settings = ["-o", "temperature", 0, "-o", "max_tokens", length]
        return run(CLIENTS / "llm", "-m", model, *settings, "-n", *options, text, LLM_USER_PATH=str(tmp_path))

    assert prompted("pirate", 12, QUESTION) == f"{answered(live_app.url)}\n"
    assert prompted("text", 4, "How much is") == f"{continued(live_app.url)}\n"


@pytest.mark.long
@pytest.mark.parametrize("environment", ["theirs", "ours"])
def test_transformers_chat(live_app, script, our_python, environment):
    """A4: in a terminal; it has the model loaded first, and its flags for `generate` have an effect."""
    python = our_python if environment == "ours" else CLIENTS / "python"
    flags = ["do_sample=False", "max_new_tokens=64"]
    found = script("terminal_chat", f"{live_app.url}/v1", "starter:pirate", QUESTION, *flags, python=python)
    assert found["code"] == 0, found["screen"]
    assert "starter:pirate is warm" in found["screen"] or "starter:pirate was already loaded" in found["screen"]
    assert answered(live_app.url, max_tokens=64) in " ".join(found["screen"].split())


def rows(task: str) -> list[dict]:
    """The bundled questions of one kind."""
    lines = (ROOT / "assets" / "datasets" / "starter.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["task"] == task]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with two tasks for lm-eval, on bundled rows."""
    ranking = [row | {"label": int("negative" in row["output"])} for row in rows("sentiment")]
    for name, task, found in (("ranking", RANKING, ranking), ("answers", ANSWERS, rows("addsub"))):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, found)), encoding="utf-8")
        (tmp_path / f"{name}.yaml").write_text(task.format(rows=data), encoding="utf-8")
    return tmp_path


def plainly_found(context: str, answer: str) -> tuple[float, bool]:
    """How likely plain transformers finds ``answer`` behind ``context``, and whether greedy decoding would say it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(STARTER)
    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    known = len(tokenizer(context)["input_ids"])
    ids = torch.tensor([tokenizer(context + answer)["input_ids"]])
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(ids).logits[0, known - 1 : -1].float(), dim=-1)
    said = ids[0, known:]
    likely = logprobs.gather(1, said[:, None]).sum().item()
    return likely, bool((logprobs.argmax(dim=-1) == said).all())


@pytest.mark.long
@pytest.mark.parametrize("sent", ["ids", "texts"])
def test_lm_eval(live_app, script, tasks, sent):
    """A4: log-likelihoods are plain transformers' own, by ids and by text; answers are the chat's, over both routes."""
    found = script("lm_eval_package", f"{live_app.url}/v1", "starter", STARTER, tasks, sent)
    assert len(found["ranking"]) == len(rows("sentiment"))
    for sample in found["ranking"]:
        context = f"{sample['doc']['instruction']}\nThe review is"
        for (likely, greedy), answer in zip(sample["found"], (" positive.", " negative."), strict=True):
            expected, is_greedy = plainly_found(context, answer)
            assert likely == pytest.approx(expected, abs=1e-3)
            assert greedy == is_greedy
    turns = [[{"role": "user", "content": question}] for question in found["questions"]]
    expected = [answered(live_app.url, model="starter", messages=turn, max_tokens=24, stop=["\n"]) for turn in turns]
    assert found["chat_answers"] == found["answers"] == expected
    assert found["exact_match"] > 0
