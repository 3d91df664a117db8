"""The words on the pages that are long or that more than one place says: in one file, so that the voice stays one."""

from __future__ import annotations

PRODUCT = "Adapter Playground"
NO_ADAPTER = "none (base)"
MODELS_OWN = "Model's own"

TEMPLATES = {"chat": "Chat", "instruction": "Instruction", "raw": "Raw"}
STRATEGIES = {"greedy": "Greedy", "sampling": "Sampling", "top_k": "Top-k sampling", "beam_search": "Beam search"}
QUANTIZATIONS = {
    "auto": "Automatic",
    "none": "None (full precision)",
    "int8": "int8",
    "nf4": "nf4 (4-bit, same as int4)",
    "fp4": "fp4 (4-bit)",
}

FINISH = {"stop": "ended by itself", "length": "cut at the token limit", "cancelled": "cancelled"}
FINISH_HELP = {
    "stop": "The model wrote its end token, or a stop sequence was reached.",
    "length": "The answer reached “Max new tokens” or the end of the context; raise the limit to let it go on.",
    "cancelled": "Stopped before it was finished; the text so far stays.",
}

PHASES = {"queued": "Waiting in line", "loading": "Loading", "prefilling": "Reading the prompt"}
NOT_YET_IN_LINE = "Getting ready"
DOTS = {"idle": "Idle", "queued": "In line", "loading": "Loading", "generating": "Answering", "error": "Error"}

MODEL_HELP = "Pick one, or type a folder or a hub id such as org/name."
ADAPTER_HELP = "Pick one, or type the folder of a LoRA adapter."
QUANTIZATION_HELP = "Smaller weights for less memory. Automatic shrinks them only when they would not fit."

EMPTY_ANSWER = (
    "Pick an example or write a prompt, then press Generate. The model is loaded by itself when it is needed."
)
NOTHING_LOADED = "Nothing in memory yet. The first answer loads the model that is picked above."
PREVIEW_NOT_LOADED = "Shown once the model is loaded: the text after its template, and its token ids."
PREVIEW_TOO_LONG = "Too long to show: it cannot fit what this model reads."
PREVIEW_EMPTY = "Write a prompt to see it as the model reads it."
RESET_DONE = "Prompt and answer cleared. Undo brings both back."

# What the parameter guide says beyond a setting's own help: ranges that people find useful. Shown in the tooltips.
GUIDE = {
    "top_p": "0.1–0.5 conservative, 0.6–0.9 balanced, 0.95–1 most varied.",
    "top_k": "10–20 focused, 40–50 balanced, 100 and more exploratory.",
    "max_new_tokens": "50–100 for short answers, 200–500 for paragraphs, 1000 and more for articles.",
    "stop": "One to a line; write \\n for a line break.",
}

SHORTCUTS = (
    ("Ctrl + Enter", "Generate"),
    ("Escape", "Stop, or close what is open"),
    ("Ctrl + /", "Show this list"),
    ("Tab", "Next control"),
)

UNEXPECTED = "Something went wrong on our side. Try again; the server's log holds the details."
