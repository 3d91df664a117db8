"""lm-evaluation-harness on a task of our own: log-likelihoods over `/v1/completions`, answers over both routes.

Arguments: the address of `/v1`, the model, the tokenizer's folder, the folder of the tasks, and what to send: ids or texts.
"""

import json
import sys

import lm_eval
from lm_eval.tasks import TaskManager

server, model, tokenizer, tasks, sent = sys.argv[1:]
manager = TaskManager(include_path=tasks, include_defaults=False)


def evaluate(kind, path, task, **options):
    """The result and the samples of one task."""
    settings = {"model": model, "base_url": f"{server}/{path}", "num_concurrent": 1, "max_retries": 1} | options
    return lm_eval.simple_evaluate(
        kind, settings, tasks=[task], task_manager=manager, log_samples=True, bootstrap_iters=0,
        apply_chat_template=task == "bundled_answers",
    )  # fmt: skip


ranked = evaluate(
    "local-completions",
    "completions",
    "bundled_ranking",
    tokenizer=tokenizer,
    tokenizer_backend="huggingface",
    tokenized_requests=sent == "ids",
    batch_size=4,
)
written = evaluate(
    "local-completions", "completions", "bundled_answers", tokenizer=tokenizer, tokenizer_backend="huggingface"
)  # the tokenizer's template, sent as token ids
chatted = evaluate("local-chat-completions", "chat/completions", "bundled_answers", eos_string="<|im_end|>")
print(
    json.dumps(
        {
            "ranking": [
                {"doc": sample["doc"], "found": [list(answer) for answer in sample["filtered_resps"]]}
                for sample in ranked["samples"]["bundled_ranking"]
            ],
            "accuracy": ranked["results"]["bundled_ranking"]["acc,none"],
            "answers": [sample["filtered_resps"][0] for sample in written["samples"]["bundled_answers"]],
            "chat_answers": [sample["filtered_resps"][0] for sample in chatted["samples"]["bundled_answers"]],
            "questions": [sample["doc"]["instruction"] for sample in chatted["samples"]["bundled_answers"]],
            "exact_match": chatted["results"]["bundled_answers"]["exact_match,none"],
        }
    )
)
