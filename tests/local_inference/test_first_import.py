"""G1, G9: looking at an adapter and loading a model both need transformers, and begin at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from playground.config import ROOT

_TOGETHER = """
import threading
from playground.local_inference.first_import import import_transformers

together, found = threading.Barrier(4), []

def look():
    together.wait()
    import_transformers()
    import transformers
    found.append(hasattr(transformers, "AutoConfig"))

threads = [threading.Thread(target=look) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""


@pytest.mark.long
def test_threads_that_need_transformers_at_once_all_get_the_whole_of_it():
    """Without the lock those that waited get a module that is replaced at the end of its own import."""
    command = [sys.executable, "-c", _TOGETHER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[True, True, True, True]"
