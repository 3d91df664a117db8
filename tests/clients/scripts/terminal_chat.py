"""`transformers chat MODEL ADDRESS` in a terminal of its own: one question, its answer, and out.

Arguments: the address of `/v1`, the model, the question, and flags for `generate`. Prints what was on the screen as JSON.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 90
address, model, question, *flags = sys.argv[1:]
ours, theirs = pty.openpty()
program = Path(sys.executable).with_name("transformers")
command = [program, "chat", model, address, *flags, "--user", "me"]
# Offline, the hub's client refuses every address, this one too; so it gets a hub that nobody answers for.
environment = os.environ | {
    "TERM": "dumb",
    "COLUMNS": "100",
    "HF_HUB_OFFLINE": "0",
    "HF_ENDPOINT": "http://127.0.0.1:9",
}
chat = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
os.close(theirs)


def shown_until(mark: str) -> str:
    """What is shown until ``mark`` is, or the program or the patience ends."""
    shown, limit = "", time.monotonic() + LIMIT_S
    while mark not in shown and time.monotonic() < limit:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            shown += os.read(ours, 65536).decode(errors="replace")
        except OSError:  # the program has ended
            break
    return shown


screen = ""
try:
    screen += shown_until("<me>:")
    os.write(ours, f"{question}\n".encode())
    screen += shown_until("<me>:")
    os.write(ours, b"!exit\n")
    chat.wait(LIMIT_S)
finally:
    chat.kill()
print(json.dumps({"code": chat.wait(), "screen": re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)}))
