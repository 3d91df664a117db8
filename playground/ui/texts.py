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

FINISH = {"stop": "ended by itself", "length": "cut at the token limit", "cancelled": "stopped"}
FINISH_HELP = {
    "stop": "The model wrote its end token, or a stop sequence was reached.",
    "length": "The answer reached “Max new tokens” or the end of the context; raise the limit to let it go on.",
    "cancelled": "Stopped before it was finished; the text so far stays.",
}

KNOWN = "{reused:,} of {prompt:,} prompt tokens already read"
KNOWN_HELP = "The model had read these before with the same adapters, so it began with the rest of the prompt."
CACHED = "kept from before"
CACHED_HELP = (
    "The same was asked of the same weights before, and this server keeps such answers. Run again makes it anew."
)

PHASES = {"queued": "Waiting in line", "loading": "Loading", "prefilling": "Reading the prompt"}
NOT_YET_IN_LINE = "Getting ready"
DOTS = {"idle": "Idle", "queued": "In line", "loading": "Loading", "generating": "Answering", "error": "Error"}

MODEL_HELP = "Pick one, or type a folder or a hub id such as org/name."
ADAPTER_HELP = "A small file of changes on top of the base model. Pick one, or type the folder of one."
STRENGTH = "Strength"
STRENGTH_HELP = (
    "How much of the adapter is added: 0 is the base model alone, 1 is as trained, 2 twice as much. "
    "Other values can be typed."
)
QUANTIZATION_HELP = "Smaller weights for less memory. Automatic shrinks them only when they would not fit."

REPORT = "Adapter report"
REPORT_NONE = "No adapter is chosen: answers come from the base model alone."
CHECKING = "reading the adapter's files"
EXAMINING = "measuring what each layer changes"
SEVERITIES = {"problem": "Problem.", "warning": "Warning.", "note": "Note."}
PROOF_HELP = (
    "Seen when the adapter was attached: whether all of its tensors (tables of numbers) found their place in the base, "
    "and how far eight fixed tokens moved the scores that the model gives to what may come next."
)
NORMS = "How much each layer changes"
NORM_HELP = (
    "The norm (size) of what is added to a layer's weights, all bars to one scale. Point at a bar for its figures."
)
NO_NORMS = "Only LoRA adapters can be measured layer by layer; this one is of another kind."
DOCTOR_HELP = {
    "Kind": "How it was trained. LoRA adds the product of two small matrices to some of the base's weights.",
    "Rank": "How many directions each layer could change at most: the width of LoRA's two small matrices.",
    "Alpha": "The number by which the trainer scaled the adapter; only its share of the rank matters.",
    "Scaling": "What the change is multiplied with when it is added: alpha over rank, or over its root for rsLoRA.",
    "Variants": "rsLoRA scales by the root of the rank. DoRA also learns how long each row of the weights is.",
    "Changes": "The kinds of weights that the adapter changes.",
    "Parameters": "How many numbers the adapter holds.",
    "Effective rank": "How many directions are really used in a layer. Far below the rank, a smaller adapter would do.",
    "Of the base": "How large the change of a layer is beside the base's own weights.",
    "Changed most": "The layers that changed most, as a share of the base where that is known.",
    "Dead layers": "Layers that change less than a thousandth of what the middle one changes: they learned nothing.",
    "Not measured": "Modules whose numbers have a meaning of their own, such as experts that share one tensor.",
    "PEFT version": "The library that wrote the adapter, and the one that reads it here.",
}

COPY_HELP = "Copy what made this answer, as JSON: with it the answer can be made again"
PROVENANCE_HELP = {
    "Base": "The model, with its revision or the first digits of its files' SHA-256.",
    "Adapter": "What was added to the base, how strongly, and the first digits of its files' SHA-256.",
    "Quantization": "Whether the weights were stored with fewer bits to save memory.",
    "Precision": "With how many digits it was computed, and on which device.",
    "Template": "How the prompt was wrapped before the model read it, and the first digits of the template's SHA-256.",
    "Seed": "Where the random draws began; the same seed gives the same draws.",
    "Repeatable": "Whether the same request gives the same answer, whatever else is answered at that time.",
    "Versions": "The libraries that computed it.",
}
EXACT = "exactly: the same request gives the same tokens"
NOT_EXACT = (
    "almost: other answers computed at the same time change the last digits, so a close call may fall the other way; "
    "“Reproducible” in the settings prevents that"
)
AGAIN = "Run again"
AGAIN_PASTED = "Manifest, run again"
REPLAY_MANIFEST = "Replay a manifest"
CHANGED_SINCE = "What is not as it was then:"
WITHIN_ROUNDING = "Both were about as likely; rounding alone can decide that."
REPLAY_STOPPED = "Stopped. The answer above is as it was."
MANIFEST_HELP = "Paste what a click on an answer's line copied: it is run again and compared, token by token."

WHY_SO = "Why loaded like this"
ONE_AT_A_TIME = "Answers of this model take turns."

ADD = "Add an adapter"
ADD_NAME_HELP = "What to call it here. Left empty, a zip gives its own name."
ADD_HELP = "A zip, a folder, or its files. Weights are taken as safetensors only: those hold numbers, and no program."
ADD_REFUSED = (
    "Adapters can be added here only on the machine that the app runs on. Start it with --adapter to offer more."
)
REMOVE_ASKED = "Deletes the uploaded files of {name}; a copy in memory stays until the model is unloaded."
RECEIVING = "checking and unpacking the files"
EXPORT_HELP = (
    "The adapter at the strength above as a file of its own, or the whole model with the adapter worked into its weights. "
    "Files are written on this machine."
)
MERGED_DTYPE_HELP = (
    "With how many digits the merged model is written. bfloat16 suits most models; float16 has finer steps."
)
EXPORT_REFUSED = "Export writes files, so it works only on the machine that the app runs on."
EXPORT_NONE = "Choose an adapter to export it."
EXPORT_STOPPED = "Stopped. Nothing was kept."
MERGE_HELP = {
    "Largest change of a score": "The most that any score of a possible next token moved by merging. Zero is no change.",
    "Difference of the predictions": "Kullback-Leibler divergence: how far apart what both predict is. Zero is the same.",
    "Same likeliest token": "At how many places both would say the same word when they take the likeliest one.",
}

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
    ("Arrow up", "In an empty prompt: bring the last one back"),
    ("Enter", "Send the message, in Full Chat"),
    ("Shift + Enter", "Break the line there"),
    ("← →", "Older or newer version of the message in focus"),
    ("F2, Delete", "Rename or delete the conversation in focus"),
    ("Escape", "Stop, or close what is open"),
    ("Ctrl + /", "Show this list"),
    ("Tab", "Next control"),
)

NO_ADDRESSES = "A file is dropped onto the page; nothing is fetched from an address."
OPERATORS_ONLY = "Only the operator of this server may do that, because others are using it too."
OPERATORS_KEY = "Sign in as admin with the admin key, or ask whoever runs the server."
SIGN_IN = "Sign in"
SIGN_IN_HELP = "Sign in to be known here by a name of your own, or to look after the server"
SIGN_OUT = "Sign out"
SIGNED_IN = "Signed in as {name}."
OPERATOR = "May unload models for everybody."

UNEXPECTED = "Something went wrong on our side. Try again; the server's log holds the details."

# --- the sidebar ---
NO_CONVERSATIONS = "What you ask and what is answered will stand here, one line for each conversation."
NOTHING_FOUND = "No conversation fits."
SEARCH_HELP = "Looks in titles and in every message"
EXPORT_FORMATS = {
    "json": ("JSON", "Everything: all versions, settings and what made each answer. Can be imported again."),
    "markdown": ("Markdown", "The open path, to read or to print."),
    "txt": ("Text", "The open path as plain text."),
    "chatml": ("ChatML", "One conversation to a line, messages with role and content: what trainers read."),
    "sharegpt": ("ShareGPT", "One conversation to a line, with “from” and “value”: what trainers read."),
}
IMPORT_HELP = "Choose files, or drop them here: JSON, Markdown, text, ChatML or ShareGPT, up to 30 MB each"
PLACE_HELP = "All conversations are in this one file, and nowhere else: {place}. Click to copy the path."
NONE_TO_DELETE = "There is nothing to delete."
DELETE_ALL_ASKED = "Deletes {conversations}: everything that was asked and answered, also from the file."
DELETED_ELSEWHERE = "The conversation that was open here was deleted elsewhere."
TOO_MUCH_TO_UNDO = "It was too much to be brought back."
NO_LONGER_UNDONE = "That can no longer be brought back."

# --- Full Chat ---
CHAT_VIEW = "Full Chat View"
CHAT_EMPTY = "Write the first message below. The model that is picked answers, and each answer says which one it was."
OTHER_WEIGHTS = "changed"
OTHER_WEIGHTS_HELP = "Not the same model, adapter or strength as the answer before."
ALONE_HELP = "The prompt was sent without what was said before it."
THINKING = "Thinking"
THINKING_UNFINISHED = "Thinking, not finished"
NOTHING_WRITTEN = "The model wrote nothing."
ANSWER_THIS = "Answer this message"
BRANCH_HELP = "Branch from here: a new conversation with all up to this message"
EMPTY_MESSAGE = "Write a message first."
PREFILL_HELP = "The answer begins with this; the model goes on from it."
HISTORY_CLEARED = "Conversation deleted."
STOPPED_EARLY = "Stopped before the first word; nothing was kept."
FIRST_OF = "the first of {several} answers"
GONE = "This conversation is no longer there. Start a new one, or open another."
MOVED_ON = "The answer in the other conversation goes on and is kept there."

# --- the Playground's presets and its conversation ---

PRESET_NAME = "What to call it"
PRESET_FIRST = "Start with this preset"
PRESET_FIRST_HELP = "Pages that you open begin with it. Choose another one to begin with that instead."
PRESET_REPLACES = "You have a preset “{name}”. Saving replaces it."
PRESET_SAVED = "Saved as “{name}”."
PRESET_REPLACED = "“{name}” was replaced."
PRESET_DELETED = "“{name}” was deleted. The fields keep their values."
PRESET_BACK = "“{name}” is back."
PRESET_BEGINS = "Your pages begin with “{name}” from now on."
PRESET_BEGINS_AS_BEFORE = "Your pages begin as they did at first."

NEW_CONVERSATION = "Begins a new conversation."
BEGIN_NEW = "New conversation"
CONTINUES = "Continues {title} ({messages})"
SENT_ALONE = "Sent alone, kept in {title} ({messages})"
THIS_CONVERSATION = "This conversation"
NOTHING_SAID = "What is said here stands here."
EARLIER = "{messages} before these; Full Chat shows all."
ROLES = {"user": "You", "assistant": "Answer", "system": "System"}
NOT_KEPT = "This answer is not kept in the conversation. {why}"
GOES_ON_WITH_FIRST = "The conversation goes on with answer 1; Full Chat shows the others as its versions."
FIRST_PROMPT = "Write a prompt, or pick an example below."
NO_FIGURES = "Saved by a program: it is not known how this message was made."

# --- training runs: steps 1 and 2 of the Inference tab ---
CHOOSE_RUN = "Choose a training run."
NO_RUNS = (
    "No training runs were found. Look in another folder, or start the app with --runs and a folder to look through."
)
NO_RUNS_HERE = "No training runs were found on this server."
NONE_COMPLETED = "None of the runs is completed yet."
NONE_COMPLETED_REMEDY = "A checkpoint of one that is not can be chosen, where it has any."
RUN_IS_GONE = "The run that was chosen is no longer in the folders that are looked through."
RUN_AND_ADAPTER_GONE = RUN_IS_GONE + " Its adapter was taken out: the base model alone answers now."
VALIDATING = "Validating {name} on {base}"
VALIDATED = "Adapter validated. Ready for inference."
VALIDATED_TOAST = "Adapter validated: {name} on {base}."
CANNOT_BE_USED = "{name} cannot be used."
NO_RUN_OF_THE_LIST = "not one of the runs listed"
BASE_OF_RUN_HELP = "Choosing a run fills in the model that it was trained on. The same as in the panel beside."
RUN_HELP = "Type a part of a name, a state or a date to find one among many."
CHECKPOINT_HELP = "What the run saved on the way can be asked as well, to see when it was best."
ANOTHER_FOLDER = "Look in another folder"
ANOTHER_FOLDER_HELP = "The folder of one run or adapter, or one that holds several."
LOOKING_FOR_RUNS = "Looking through the folder"
FOUND_RUNS = "{runs} found in {folder}; listed first."
FOUND_AND_CHOSEN = "{runs} found in {folder}; {name} is chosen."
FORGOTTEN = "{folder} is no longer looked through. Its files stay as they are."
FORGET_HELP = "Look no longer in this folder; its files stay as they are"
LOSS_OF = "Loss of {name}"
NO_CURVE = "The loss of the run that is chosen is drawn here."
NO_LOSSES = "This run has left no losses to draw."
DIVERGED = "From step {step} the loss was no number: the training has diverged."
DIVERGED_MARK = "diverged"
DOCTOR = "Doctor"

# --- the Inference tab: prompt and responses ---

PROMPT_STEP = "Prompt & responses"
LOCKED = "Locked until the adapter of a training run is validated above."
EXPORT_CHATS = "Export chats"
CHAT_FORMATS = {
    "txt": ("Text (.txt)", "Prompts and responses as plain text."),
    "markdown": ("Markdown (.md)", "Prompts and responses to read or to print."),
    "chatml": ("ChatML (.jsonl)", "One conversation to a line, messages with role and content: what trainers read."),
    "sharegpt": ("ShareGPT (.jsonl)", "One conversation to a line, with “from” and “value”: what trainers read."),
}
SAVED_AS = "Saved as {name}."
NOTHING_TO_EXPORT = "There is nothing to export."
NOTHING_TO_EXPORT_REMEDY = "Generate a response first."
GENERATE_PROMPT = "An instruction or a question. It is sent alone, without the responses above it."
EMPTY_PROMPT = "There is no prompt."
EMPTY_PROMPT_REMEDY = "Write one, or choose a sample prompt."
NO_RUN_CHOSEN = "No training run is chosen."
NO_RUN_CHOSEN_REMEDY = "Choose one in step 1."
LOADING_AND_GENERATING = "Loading fine-tuned model and generating response..."
GENERATING = "Generating response from fine-tuned model..."
ANSWERED = "Ready. {weights} answered."
RESPONSE_STOPPED = "Ready. Stopped; what was written is kept."
STOPPED_BEFORE = "Ready. Stopped before the first word; nothing was kept."
READY_AGAIN = "Ready for the next prompt."

# --- sample prompts from a dataset ---

SAMPLES_DATASET = "Dataset for sample prompts"
SAMPLES_DATASET_HELP = {
    True: "Pick one, or type a file (JSON, JSONL, CSV or Parquet), a folder, or a hub id such as org/name.",
    False: "Prompts to try are drawn from it.",
}
SAMPLES_PROMPTS = "Sample prompts"
SAMPLES_OWN = "of this run's own dataset"
SAMPLES_ON_HUB = "on the hub"
SAMPLES_RELIST = "Refresh"
SAMPLES_AGAIN = "New samples"
SAMPLES_FIRST = "Choose a dataset, and five of its prompts are drawn."
SAMPLES_UNKNOWN = "It is not known what this run was trained on. Choose a dataset, and five of its prompts are drawn."
SAMPLES_NOT_HERE = "This run was trained on {names}, which is not among the datasets here. Choose another one."
SAMPLES_TO_FETCH = "{name} is on the hub. “New samples” fetches rows of it."
SAMPLES_FORGOTTEN = "These samples are no longer known here. “New samples” draws others."
SAMPLES_COLUMNS = "Columns"
SAMPLES_COLUMNS_HELP = {
    "prompt": ("Prompt", "The question or the instruction."),
    "input": ("Input", "What the instruction is about: it follows the prompt after an empty line."),
    "expected": ("Expected answer", "What the answer is compared with."),
    "system": ("System prompt", "Goes into the settings when a sample that has one is chosen."),
    "messages": (
        "Messages",
        "Whole conversations: the last question with an answer is the prompt. Beside it only “System prompt” counts.",
    ),
}
SAMPLES_NO_COLUMN = "none"
SAMPLES_AS_GUESSED = "As guessed"
SAMPLES_EXPECTED = "Expected answer"
SAMPLES_NO_ANSWER = "The dataset has no answer for this row."
SAMPLES_EARLIER = "{messages} of this conversation came before the prompt and are left out."
SAMPLES_CHANGED = "The prompt is not the sample's any more, so no answer is expected."
SAMPLES_BACK = "Back to the sample"
SAMPLES_SYSTEM = "The sample's system prompt is in the settings:"
SAMPLES_SYSTEM_CHANGED = "The sample has a system prompt that is not in the settings now:"
SAMPLES_USE_SYSTEM = "Use it"

# --- the batch test ---
BATCH = "Batch test"
BATCH_HELP = (
    "The same prompts with several settings and models, in one table to compare. Nothing of it is kept in the history."
)
BATCH_SOURCES = {"typed": "Typed", "file": "A file", "dataset": "A dataset"}
BATCH_TYPED = "One prompt on each line"
BATCH_TYPED_HELP = "For prompts of several lines, put a line with only -\u2060-\u2060- between them."
BATCH_CHOOSE_FILE = "Choose a file"
BATCH_FILE_HELP = "or drop one here: txt (as typed), csv, json, jsonl or parquet, up to {size}. Your browser reads it."
BATCH_DATASET_HELP = "The first rows of it, with the answers that are expected."
BATCH_ROWS = "How many rows"
BATCH_PROMPT_COLUMN = "Column of the prompts"
BATCH_EXPECTED_COLUMN = "Column of the expected answers"
BATCH_LOOK = "Look at them"
BATCH_EXPECTED = (
    "No expected answers.",
    "Each has an expected answer.",
    "{count} have an expected answer.",
)
BATCH_EXPECTED_ANSWER = "Expected"
BATCH_SETTINGS = "Settings"
BATCH_SETTINGS_HELP = "Each one is a column. Your own presets are here as well."
BATCH_AS_SET = "As set on the right"
BATCH_MODELS = "Models"
BATCH_MODELS_HELP = "Base and adapters in one table. An adapter chosen here answers at strength 1."
BATCH_AS_CHOSEN = "As chosen on the right"
BATCH_BASE = "The base alone"
BATCH_NOTHING = "{counted}: there is nothing to run yet."
BATCH_TOO_MANY = (
    "{counted} answers are too many: a batch test makes {most} at most. Take fewer prompts, models or settings."
)
BATCH_SAME_SETTINGS = "“{one}” is the same as “{other}”, so it is asked once."
BATCH_SAME_MODEL = "“{one}” is what is chosen on the right, so it is asked once."
BATCH_NO_FILE = "Choose a file first."
BATCH_NO_DATASET = "Choose a dataset first."
BATCH_NO_PROMPTS = "There are no prompts."
BATCH_WRITE_ONE = "Write at least one, on a line of its own."
BATCH_FILES = {"csv": "Save as CSV", "jsonl": "Save as JSONL"}
BATCH_STOPPED = "Stopped before the first answer."
BATCH_FORGOTTEN = "That test is forgotten by now. Run it again."
BATCH_MATCH = {"match": "Match", "near": "Match but for case and punctuation", "none": "No match"}
BATCH_COMPARED = "Compared across settings"
BATCH_COLUMN = "Model and settings"
BATCH_MATCHES = (
    (
        "Matches",
        "Answers that are the expected one, of those with an expected answer; near is but for case and punctuation",
    ),
    ("Alike", "How alike answers and expected answers are, on average"),
)
BATCH_MEANS = (
    ("Tokens", "Tokens of an answer, on average"),
    ("Tokens/s", "How fast an answer was written, on average, while others were written beside it"),
    ("Same as first", "Answers that are word for word those of the first line"),
    ("Errors", "Prompts without an answer"),
)

# --- prompts and responses, beside what was expected ---

PAIRS = "Prompts and responses"
NO_PAIRS = "No responses yet. Write a prompt or choose a sample, then press Generate."
PAIR = "Pair"
PROMPT = "Prompt"
EXPECTED = "Expected answer"
MATCH = "Match"
NEAR_MATCH = "Match but for case and punctuation"
NO_MATCH = "No match · {percent} % alike"
MATCH_COUNT = "{same:,} of {all:,} match"
NEAR_COUNT = ", {near:,} more but for case and punctuation"
ALIKE = "{:,} % alike on average"
EARLIER_WEIGHTS = "{count:,} more answered before these."
COMPARED_LATER = "Compared when the response has ended."
NOT_ANSWERED = "Not answered."
DIFFERENCE = "What differs"
DIFFERENCE_KEY = "<del>missing</del> <ins>added</ins>"
DIFFERENCE_CUT = "The beginnings are shown; the texts go on."
IN_CONVERSATION = "knew what was said before"
IN_CONVERSATION_HELP = (
    "The whole conversation was sent with the prompt: not to be compared with a response to the prompt alone."
)
VERSION = "version {number} of {all}"
VERSION_HELP = "Full Chat shows the other versions."
USE_AGAIN = "Use again"
ASKED_BEFORE = "asked before"
USE_AGAIN_HELP = "Put this prompt back into its field"
COPY = "Copy"
SHOW_ALL = "Show all"
SHOW_LESS = "Show less"
