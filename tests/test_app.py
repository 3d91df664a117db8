"""`app.py` and the command line: starting, stopping, refusing, and what is not loaded meanwhile."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from playground.__main__ import main as command_line
from playground.config import environment_overrides, load_config
from playground.errors import AdapterInvalid, ModelNotFound
from playground.services.models import Models
from tests.api.fake_engine import FakeEngine
from tests.conftest import ROOT, started_app

OPTIONS = (
    "host", "port", "data-dir", "config", "model", "adapter", "device", "dtype", "quantization", "memory-budget",
    "prefix-budget", "keep-alive", "preload", "auth", "api-key", "admin-key", "allow-origin",
)  # fmt: skip
FIRST_PAGE = """
import json, socket, sys
strangers = []
connect, look_up = socket.socket.connect, socket.getaddrinfo
def recording_connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        strangers.append(str(address))
    return connect(self, address)
def recording_look_up(host, *rest, **more):
    if host not in ("127.0.0.1", "localhost", "::1", None, ""):
        strangers.append(str(host))
    return look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = recording_connect, recording_look_up
import app, httpx, os
port = app.free_port("127.0.0.1", 0)
app.demo.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
url = app.demo.local_url
page = httpx.get(url)
report = {
    "page": page.status_code,
    "policy": "connect-src 'self'" in page.headers["content-security-policy"],
    "health": httpx.get(url + "health").json()["status"],
    "models": httpx.get(url + "v1/models").json()["object"],
    "foreign": httpx.get(url, headers={"Host": "evil.com"}).status_code,
    "heavy": [name for name in ("torch", "transformers", "peft", "bitsandbytes", "datasets") if name in sys.modules],
    "strangers": strangers,
}

import functools, pathlib
import gradio as gr
from playground.config import AppConfig
from playground.gate import Gate
from tests.gate.house import half, told
def who(request: gr.Request):
    return f"{request.username} and {told(request.request.scope)['id']}"
with gr.Blocks(analytics_enabled=False) as demo:
    gr.Button().click(who, None, gr.Textbox(), api_name="who")
config = AppConfig(data_dir=pathlib.Path(sys.argv[1]), auth={"anna": "sesame"})
gate = functools.partial(Gate, api=half("api"), config=config)
port = app.free_port("127.0.0.1", 0)
where = {"server_name": "127.0.0.1", "server_port": port, "prevent_thread_lock": True, "quiet": True}
demo.launch(**where, **app.server_options(gate))
with httpx.Client(base_url=demo.local_url) as browser:
    join = functools.partial(browser.post, "gradio_api/call/who", json={"data": []})
    strange = [browser.get("config").status_code, join().status_code]
    signed_in = browser.post("login", data={"name": "anna", "password": "sesame"}).status_code
    told = browser.get("gradio_api/call/who/" + join().json()["event_id"]).text
    also = browser.get("v1/models").json()["id"], browser.get("gradio_api/user").json()
report["callers"] = {"stranger": strange, "signed_in": signed_in, "queue": "user anna and user anna" in told, "also": also}
print(json.dumps(report), flush=True)
os._exit(0)
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        check=False,
    )


def test_help_lists_what_works_and_nothing_else():
    """R1: an option that does nothing yet is not accepted."""
    listed = run("app.py", "--help")
    assert listed.returncode == 0
    for option in OPTIONS:
        assert f"--{option}" in listed.stdout
    assert "--share" not in listed.stdout
    refused = run("app.py", "--share")
    assert (refused.returncode, "--share" in refused.stderr) == (2, True)


def test_every_option_is_an_environment_variable_too(tmp_path):
    """R1: PLAYGROUND_*, and PORT; lists are split at commas."""
    values = {
        "config": str(ROOT / "configs" / "playground.toml"),
        "host": "0.0.0.0",
        "port": "7001",
        "data-dir": str(tmp_path),
        "model": "org/a,org/b",
        "adapter": str(tmp_path),
        "device": "cpu",
        "dtype": "float32",
        "quantization": "nf4",
        "memory-budget": "8 GB",
        "prefix-budget": "1 GB",
        "keep-alive": "600",
        "preload": "1",
        "auth": "anna:sesame,ben:open",
        "api-key": "sk-the-first,sk-the-second",
        "admin-key": "sk-of-the-admin",
        "allow-origin": "https://a.example,http://b.example:8080",
    }
    assert set(values) == set(OPTIONS)
    environ = {f"PLAYGROUND_{name.upper().replace('-', '_')}": value for name, value in values.items()}
    config = load_config(overrides=environment_overrides(environ))
    assert (config.host, config.port, config.data_dir) == ("0.0.0.0", 7001, tmp_path)
    assert (config.device, config.dtype, config.quantization, config.preload) == ("cpu", "float32", "nf4", True)
    assert (config.memory_budget, config.prefix_budget, config.keep_alive) == (8e9, 1e9, 600)
    assert list(config.models)[-2:] == ["org/a", "org/b"]
    assert config.adapters == (str(tmp_path),)
    assert (config.auth, config.admin_key) == ({"anna": "sesame", "ben": "open"}, "sk-of-the-admin")
    assert config.api_keys == ("sk-the-first", "sk-the-second")
    assert config.allow_origins == ("https://a.example", "http://b.example:8080")
    assert load_config(overrides=environment_overrides({"PORT": "7002"})).port == 7002


def test_the_command_line_wins_over_the_environment(monkeypatch):
    """R1: what was typed last counts; --model and --adapter repeat."""
    import app

    monkeypatch.setenv("PLAYGROUND_PORT", "7001")
    monkeypatch.setenv("PLAYGROUND_DEVICE", "cuda")
    given = app.arguments(
        ["--port", "7002", "--model", "a", "--model", "b", "--memory-budget", "50%", "--keep-alive", "9"]
    )
    assert (given["port"], given["device"], given["model"]) == (7002, "cuda", ["a", "b"])
    config = load_config(overrides={key: given[key] for key in ("memory_budget", "keep_alive")})
    assert (config.memory_budget, config.keep_alive) == (0.5, 9)
    assert "preload" not in given


def test_who_may_come_in_can_be_said_on_the_command_line():
    """A6: each of them repeats but for the admin key; the help says where keys are not seen by everybody."""
    import app

    typed = ["--auth", "anna:a:b", "--auth", "ben:x", "--api-key", "sk-12345678", "--api-key", "sk-87654321"]
    typed += [
        "--admin-key",
        "sk-of-the-admin",
        "--allow-origin",
        "https://a.example",
        "--allow-origin",
        "http://b.example",
    ]
    config = load_config(overrides=app.arguments(typed))
    assert config.auth == {"anna": "a:b", "ben": "x"}
    assert (len(config.api_keys), config.admin_key, len(config.allow_origins)) == (2, "sk-of-the-admin", 2)
    assert "sk-" not in repr(config)
    told = " ".join(run("app.py", "--help").stdout.split())
    assert "everybody on this machine can read a running program's arguments" in told
    for name in ("PLAYGROUND_AUTH", "PLAYGROUND_API_KEY", "PLAYGROUND_ADMIN_KEY"):
        assert name in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "/nowhere.toml"], ["/nowhere.toml", "--config"]),
        (["--port", "99999"], ["99999", "65535"]),
        (["--auth", "anna"], ["auth", "USER:PASS"]),
        (["--api-key", "short"], ["api_key", "8"]),
        (["--allow-origin", "*"], ["allow_origin", "https://example.org"]),
        (["--auth", "anna:x", "--data-dir", "/proc/nowhere"], ["/proc/nowhere/secret", "--data-dir"]),
        (["--host", "no.such.host.invalid"], ["no.such.host.invalid", "Cannot listen", "--host"]),
        (["--admin-key", ""], ["--admin-key is empty"]),
        (["--data-dir", ""], ["--data-dir is empty"]),
        (["--api-key", "sk-long-enough", "--api-key", ""], ["--api-key is empty"]),
        (["--device", "gpu"], ["'gpu'", "cuda:N"]),
    ],
)
def test_what_cannot_start_says_so_in_one_sentence(options, words, capfd):
    """R1, R3: exit code 2 and one line on stderr, no traceback."""
    import app

    assert app.main(options) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words)


def test_a_taken_port_is_one_sentence():
    """R1: which port, and what to do; found out before anything heavy is imported."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        refused = run("app.py", "--port", port)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert port in refused.stderr
    assert "--port" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture(scope="module")
def first_page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen when somebody else launched the pages, and others behind a login, in a process of their own."""
    done = run("-c", FIRST_PAGE, str(tmp_path_factory.mktemp("first_page")))
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def test_the_first_page_needs_neither_torch_nor_the_network(first_page):
    """R5, S4, R4: the module-level `demo`, launched by somebody else, is the whole house and imports nothing heavy."""
    assert {name: seen for name, seen in first_page.items() if name != "callers"} == {
        "page": 200,
        "policy": True,
        "health": "healthy",
        "models": "list",
        "foreign": 403,
        "heavy": [],
        "strangers": [],
    }


def test_gradio_sees_the_gates_caller(first_page):
    """A6: one identity, through Gradio's own queue as well; and nobody comes in who has not come by the gate."""
    import app

    assert first_page["callers"] == {
        "stranger": [401, 401],
        "signed_in": 303,
        "queue": True,
        "also": ["user anna", "user anna"],
    }
    assert app.visitor(SimpleNamespace(scope={"type": "http"})) is None


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_while_answers_are_written(tmp_path, number, monkeypatch):
    """A6: a stream and a load are under way; exit code 0, no traceback, and well before the last resort."""
    monkeypatch.setenv("PLAYGROUND_DRAIN", "0.5")
    body = {"model": "starter", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 10**6}
    with started_app(tmp_path, "--preload") as app, httpx.Client(base_url=app.url, timeout=60) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            app.process.send_signal(number)
            last = [line for line in response.iter_lines() if line][-1]
            assert "shutting_down" in last or last == "data: [DONE]"
            assert app.process.wait(20) == 0
        assert "Traceback" not in app.printed()


STOPPING = """
import os, signal, sys, threading, time, types
import app
from playground.config import AppConfig
asked = []
def step(name, result=None):
    def take(*given, **more):
        asked.append(name)
        print(name, *given, flush=True)
        if name == "drain" and sys.argv[1] == "hangs":
            time.sleep(60)
        return result
    return take
services = types.SimpleNamespace(
    jobs=types.SimpleNamespace(start=step("jobs.start"), close=step("jobs.close")),
    preload=types.SimpleNamespace(start=step("ready")),
    generation=types.SimpleNamespace(drain=step("drain")),
)
services.chat = types.SimpleNamespace(close=step("chat.close"))
engine = types.SimpleNamespace(close=step("engine.close"))
store = types.SimpleNamespace(close=step("store.close"))
demo = types.SimpleNamespace(launch=step("launch"), close=step("server.close"), local_url="http://x/")
app.leave(app.Playground(AppConfig(drain=7), engine, services, demo, store).serve())
"""


def stopped(how: str, *signals: signal.Signals) -> tuple[int, list[str]]:
    """The exit code of the program around stand-ins, and what was asked of them, when these signals are sent."""
    command = [sys.executable, "-c", STOPPING, how]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for number, word in zip(signals, ("ready", "drain 7"), strict=False):
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] == word:
                    break
            process.send_signal(number)
        said += [line.strip() for line in process.stdout]
        return process.wait(20), said


def test_it_lets_answers_finish_before_it_closes_anything():
    """A6, F2: jobs go on at the next start; the engine is closed when what runs had its time, and the history last."""
    code, said = stopped("at once", signal.SIGTERM)
    assert code == 0
    assert said[-6:] == ["jobs.close", "drain 7", "engine.close", "chat.close", "server.close", "store.close"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_it_at_once(number, code):
    """A6: nobody has to wait for answers that nobody wants."""
    assert stopped("hangs", number, number)[0] == code


@pytest.mark.long
def test_preload_happens_once_the_page_is_up(tmp_path):
    """R1: the address is printed and answers first; the model follows in the background."""
    with started_app(tmp_path, "--preload") as app:
        limit = time.monotonic() + 60
        while not httpx.get(f"{app.url}/health").json()["models_loaded"]:
            assert time.monotonic() < limit, app.printed()
            time.sleep(0.1)
        assert "failed" not in app.printed()


def test_others_may_use_what_is_offered_and_nothing_else(tmp_path):
    """S2: bound to the network, no free paths: neither a folder nor a hub id that the configuration does not name."""
    import app

    everybody = load_config(overrides={"host": "0.0.0.0"})
    assert "the models, without a password" in app.open_to_others(everybody)
    assert "the pages, without a password" in app.open_to_others(replace(everybody, api_keys=("sk-12345678",)))
    closed = app.open_to_others(replace(everybody, auth={"anna": "sesame"}, api_keys=("sk-12345678",)))
    assert "WARNING" not in closed
    assert "sesame" not in closed
    (tmp_path / "model").mkdir()
    here, open_to_all = (Models(FakeEngine(), load_config(overrides={"host": h})) for h in ("localhost", "0.0.0.0"))
    assert here.spec(str(tmp_path / "model")).base == str(tmp_path / "model")
    assert here.spec("org/name").base == "org/name"
    assert here.spec("starter", str(tmp_path)).adapters
    assert open_to_all.spec("starter", "pirate") == here.spec("starter", "pirate")
    for base in (str(tmp_path / "model"), "org/name"):
        with pytest.raises(ModelNotFound, match="not offered"):
            open_to_all.spec(base)
    with pytest.raises(AdapterInvalid, match="not offered"):
        open_to_all.spec("starter", str(tmp_path))
    with pytest.raises(AdapterInvalid, match="not offered"):
        open_to_all.inspect(str(tmp_path))
    assert here.inspect(str(tmp_path)).problems


@pytest.mark.long
def test_generate_streams_to_the_terminal():
    """G2, R1: the command line is one more surface over the same engine; only the answer is on stdout."""
    asked = ("-m", "playground", "generate", "What is the capital of France?", "--temperature", "0")
    base, pirate = (run(*asked, "--max-new-tokens", "16", *more) for more in ((), ("--adapter", "pirate")))
    assert (base.returncode, pirate.returncode) == (0, 0), base.stderr + pirate.stderr
    assert base.stdout.strip()
    assert base.stdout != pirate.stdout
    assert "Traceback" not in base.stderr


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["generate", "Hi", "--temperature", "3"], "temperature is 3.0"),
        (["generate", "Hi", "--model", "parrot"], "parrot"),
        (["generate", "Hi", "--adapter", "parrot"], "parrot"),
        (["generate", " "], "empty"),
        (["generate", "Hi", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_what_the_command_line_cannot_do_it_says_in_one_sentence(command, word, capsys):
    """G4: the same bounds and sentences as the pages; exit code 2."""
    assert command_line(command) == 2
    said = capsys.readouterr()
    assert word in said.err
    assert (said.err.count("\n"), said.out) == (1, "")


def test_validate_reports_and_its_exit_code_tells(capsys, tmp_path):
    """G9: 0 for a sound adapter, 1 with each problem in a sentence."""
    assert command_line(["validate", str(ROOT / "assets" / "adapters" / "pirate")]) == 0
    assert "looks sound" in capsys.readouterr().out
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    assert command_line(["validate", str(tmp_path)]) == 1
    assert "problem: " in capsys.readouterr().out


def test_every_setting_is_an_option_of_generate(capsys):
    """G4: made from the one declaration, help included."""
    from playground.types import knobs

    with pytest.raises(SystemExit):
        command_line(["generate", "--help"])
    shown = capsys.readouterr().out
    for name in knobs():
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("changes", "private"),
    [
        ({"free_paths": True}, False),
        ({"free_paths": False}, True),
        ({"free_paths": True, "api_keys": ("k" * 30,)}, True),
    ],
    ids=["one person", "strangers", "keys"],
)
def test_where_people_are_told_apart_so_are_their_prompts(monkeypatch, tmp_path, changes, private):
    """G11: with the pages and without them; where there is one person everything that was read serves everything."""
    import app
    from playground import api

    class Made(Exception):
        pass

    def engine(**options: Any) -> None:
        raise Made(options["private_prefixes"])

    monkeypatch.setattr("playground.api.LocalInference", engine)
    monkeypatch.setattr("playground.local_inference.LocalInference", engine)
    config = replace(load_config(overrides={"data_dir": tmp_path}), **changes)
    for compose in (lambda: api.create_app(config), lambda: app._composed(config, None, None)):
        with pytest.raises(Made, match=str(private)):
            compose()


def test_nothing_names_a_registry():
    """S4: a clone installs from wherever its user's pip is set to."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", ".ci/run"):
        assert "://" not in Path(ROOT, name).read_text(encoding="utf-8")
