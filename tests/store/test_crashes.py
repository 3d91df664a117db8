"""A process that is killed with SIGKILL while it saves, and a second one beside it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tinydb import TinyDB

from playground.store import Store
from tests.conftest import ROOT
from tests.store.sayings import talk

# Appends for ever, and tells each turn once it is saved. The floor is so low that it folds again and again meanwhile.
APPENDING = """
import sys
from pathlib import Path
from playground.conversation import Turn, new_id
from playground.store import Store, journal
from tests.store.sayings import reply
journal.FOLD_FLOOR = 5_000
store = Store.open(Path(sys.argv[1]))
talks = store.conversations.all("local")
print("ready", flush=True)
while True:
    for one in talks:
        turn = Turn(new_id(), one.leaf, "assistant", "said " * 20, 1.0, reply())
        store.conversations.change("local", one.id, lambda now: now.with_turns([turn], 1.0))
        print(one.id, turn.id, flush=True)
"""


def appending(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDING, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def killed_while_appending(folder: Path, seconds: float) -> list[tuple[str, str]]:
    """(conversation, turn) of all that the process reported as saved until it was killed."""
    with appending(folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        reported = [line for line in process.stdout if line.endswith("\n")]
    return [(words[0], words[1]) for words in map(str.split, reported)]


def check_kills(folder: Path, times: int, dice: random.Random) -> None:
    """Kill so often, and look for all that was ever reported after each."""
    store = Store.open(folder)
    for _ in range(3):
        store.conversations.put(talk("Hi"))
    store.close()
    reported: set[tuple[str, str]] = set()
    for _ in range(times):
        saved = killed_while_appending(folder, dice.uniform(0, 0.15))
        assert reported.isdisjoint(saved)
        reported.update(saved)
        with TinyDB(folder / "history.json", encoding="utf-8") as plain:
            assert len(plain.table("conversations")) == 3
        store = Store.open(folder)
        assert store.notices == ()
        there = {(one.id, turn.id) for one in store.conversations.all("local") for turn in one.turns}
        assert reported <= there
        assert len(there) - 3 - len(reported) <= times, "at most one a kill was saved and not told any more"
        store.close()
        json.loads((folder / "history.json").read_bytes())
    assert len(reported) > times


def test_what_was_reported_as_saved_outlives_a_kill(folder):
    """F2: SIGKILL while it writes; the same file goes on after each."""
    check_kills(folder, 3, random.Random(6))


@pytest.mark.long
def test_what_was_reported_as_saved_outlives_fifty_kills(folder):
    """F2: at random moments, other ones each time."""
    check_kills(folder, 50, random.Random())


def test_a_second_process_is_refused_with_a_sentence_and_exit_code_2(folder):
    """F2: which folder, and what to do; and the first one goes on undisturbed."""
    store = Store.open(folder)
    command = [sys.executable, "app.py", "--port", "0", "--data-dir", str(folder.parent)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    for words in ("in use by another process", str(folder), "--data-dir"):
        assert words in refused.stderr
    store.conversations.put(talk("Hi"))
    store.close()


@pytest.mark.long
def test_a_second_worker_of_the_api_is_refused_with_the_sentence(folder):
    """F2: `uvicorn --factory` over a data folder that is in use."""
    store = Store.open(folder)
    command = [sys.executable, "-m", "uvicorn", "--factory", "playground.api:create_app", "--port", "0"]
    own = os.environ | {"PLAYGROUND_DATA_DIR": str(folder.parent), "HF_HUB_OFFLINE": "1"}
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=own, check=False)
    assert refused.returncode != 0
    assert "in use by another process" in refused.stderr
    store.close()
