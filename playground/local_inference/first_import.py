"""Importing transformers for the first time, by one thread at a time."""

from __future__ import annotations

import threading

_ONE_AT_A_TIME = threading.Lock()


def import_transformers() -> None:
    """Import transformers, unless that is done; call it before the first ``import transformers`` that any thread makes.

    At its end transformers puts another module in its own place. A thread whose import waited for another thread's is given
    the first one, which has no classes, and everything that it imported stays broken until the process ends.
    """
    with _ONE_AT_A_TIME:
        import transformers  # noqa: F401
