"""What the history costs when it is large, and what rewriting the whole file for every change would.

    python benchmarks/history.py [--conversations 5000] [--messages 6] [--characters 300] [--rounds 30]

Every conversation has ``--messages`` messages of ``--characters`` characters; every second one is an answer with all that
the app stores of one: tokens, figures, and what made it. Wanted: the list in less than 20 ms, a search in less than 60 ms,
an answer and what it answers appended in less than 50 ms, fsync included, each at the median. Plain TinyDB, which writes the
whole file for every change, gets the same data and the same changes in turns with the store.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder, whose http.py would hide the standard library's

from tinydb import TinyDB  # noqa: E402

from playground.conversation import Conversation, Query, Reply, Turn, new_id  # noqa: E402
from playground.store import Store, records  # noqa: E402
from playground.store.journal import Journal  # noqa: E402
from playground.types import GenerationSettings, GenerationStats, ModelSpec, Provenance  # noqa: E402

WORDS = [*Path(__file__).read_text(encoding="utf-8").split(), "Ärger", "naïve", "smörgås", "日本", "🙂"]
ADAPTERS = ("pirate", "numbers", "haiku")
USE_CASES = ("chatbot", "qa", "creative_writing")
LIST_MS, SEARCH_MS, APPEND_MS = 20, 60, 50


def main() -> None:
    """Print one line for each figure. Exit code 1 when one is not as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--messages", type=int, default=6)
    parser.add_argument("--characters", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    dice = random.Random(6)
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        sys.exit(not measured(Path(folder), dice, options))


def measured(folder: Path, dice: random.Random, options: argparse.Namespace) -> bool:
    """Measure in ``folder``; True when all is as wanted."""
    print(f"{options.conversations:,} conversations × {options.messages} messages × {options.characters} characters")
    made = [conversation(dice, at, options) for at in range(options.conversations)]
    before = resident()
    storage = Journal(folder / "history.json")
    store = Store(storage)
    store.conversations.put_all(made)
    seconds = once(storage.fold)
    store.close()
    print(f"      fold into the file                 {seconds * 1000:8.1f} ms for {storage.size / 1e6:.1f} MB")
    (folder / "plain.json").write_bytes(storage.path.read_bytes())
    ids = [one.id for one in made]
    del store, storage, made
    gc.collect()
    opened: list[Store] = []
    print(f"      open                               {once(lambda: opened.append(Store.open(folder))) * 1000:8.1f} ms")
    store = opened.pop()
    print(
        f"      memory that it takes               {(resident() - before) / 1e6:8.1f} MB, and what making it has left"
    )
    good = [reading(store, dice, options.rounds)]
    plain = TinyDB(folder / "plain.json", encoding="utf-8")
    good.append(appending(store, plain, ids, dice, options))
    store.close()
    return all(good)


def reading(store: Store, dice: random.Random, rounds: int) -> bool:
    """Lists and searches; the words are some that are everywhere, in one conversation of three, or nowhere."""
    find = store.conversations.find
    filters = Query(model="starter", adapter="pirate", use_case="qa")
    searches = {"everywhere": "the of", "rare": dice.choice(("SMÖRGÅS ärger", "日本 naïve")), "nowhere": "zyzzyva"}
    good = [told("list", every(rounds, lambda: find("local", Query())), LIST_MS)]
    good.append(told("list, filtered", every(rounds, lambda: find("local", filters)), LIST_MS))
    for name, text in searches.items():
        times = every(rounds, partial(find, "local", Query(text)))
        good.append(told(f"search, words that are {name}", times, SEARCH_MS))
    return all(good)


def appending(store: Store, plain: TinyDB, ids: list[str], dice: random.Random, options: argparse.Namespace) -> bool:
    """A message and its answer appended by the store, and by plain TinyDB, in turns."""
    table = plain.table("conversations")
    ours, theirs = [], []
    for chosen in dice.choices(ids, k=options.rounds):
        ours.append(once(partial(store.conversations.change, "local", chosen, with_answer(dice, options))))
        document = records.document(store.conversations.get("local", chosen))
        place = next(one.doc_id for one in table if one["id"] == chosen)
        theirs.append(once(partial(table.update, document, doc_ids=[place])))
    good = told("append, fsync included", ours, APPEND_MS)
    ratio = statistics.median(other / own for own, other in zip(ours, theirs, strict=True))
    told("append by plain TinyDB", theirs)
    print(f"      plain TinyDB takes {ratio:.0f} × as long (median of {options.rounds} pairs, in turns)")
    return good


def with_answer(dice: random.Random, options: argparse.Namespace) -> Callable[[Conversation], Conversation]:
    """What appends a message and an answer to it at the end of the open path."""

    def edit(before: Conversation) -> Conversation:
        return before.with_turns(exchange(dice, before.leaf, options.characters), time.time())

    return edit


def conversation(dice: random.Random, at: int, options: argparse.Namespace) -> Conversation:
    """One with all of its messages on one path."""
    begun = Conversation(new_id(), "local", at, at, use_case=dice.choice(USE_CASES))
    for _ in range(options.messages // 2):
        begun = begun.with_turns(exchange(dice, begun.leaf, options.characters), at)
    return begun


def exchange(dice: random.Random, parent: str, characters: int) -> tuple[Turn, Turn]:
    """A message and its answer."""
    said = Turn(new_id(), parent, "user", text(dice, characters), time.time())
    return said, Turn(new_id(), said.id, "assistant", text(dice, characters), time.time(), reply(dice, characters))


def reply(dice: random.Random, characters: int) -> Reply:
    """What is stored of an answer of so many characters."""
    spec = ModelSpec("starter", ((dice.choice(ADAPTERS), 1.0),) if dice.random() < 0.7 else ())
    settings = GenerationSettings(seed=dice.getrandbits(63), max_new_tokens=512)
    provenance = Provenance(
        base="starter", revision="", adapters=tuple((name, "ab" * 32, scale) for name, scale in spec.adapters),
        quantization="none", dtype="float32", device="cpu", template="chat", settings=settings, seed=settings.seed or 0,
        versions={"playground": "0.1.0", "torch": "2.13.0", "transformers": "5.0.0", "peft": "0.18.0"},
        base_hash="cd" * 32, template_hash="ef" * 32, exact=True,
    )  # fmt: skip
    tokens = tuple(dice.randrange(150_000) for _ in range(characters // 4))
    stats = GenerationStats(900, len(tokens), dice.random() * 9, dice.random())
    return Reply(spec, "stop", stats=stats, provenance=provenance, token_ids=tokens, prompt_hash="12" * 32)


def text(dice: random.Random, characters: int) -> str:
    """Words, of so many characters together."""
    return " ".join(dice.choices(WORDS, k=characters // 3))[:characters]


def every(rounds: int, call: Callable[[], object]) -> list[float]:
    """Seconds of each round."""
    return [once(call) for _ in range(rounds)]


def once(call: Callable[[], object]) -> float:
    """Seconds that ``call`` took."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def told(what: str, times: list[float], wanted_ms: float | None = None) -> bool:
    """Print median and maximum; True when the median is below what is wanted."""
    median, most = statistics.median(times) * 1000, max(times) * 1000
    good = wanted_ms is None or median < wanted_ms
    mark = "     " if wanted_ms is None else "ok   " if good else "SHORT"
    wanted = "" if wanted_ms is None else f" (wanted: below {wanted_ms} ms)"
    print(f"{mark} {what:34} {median:8.1f} ms, at most {most:.1f} ms{wanted}", flush=True)
    return good


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
