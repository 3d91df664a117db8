"""R1: configuration is read once, and what is wrong with it is said by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from playground.config import _SERVER_KEYS, ROOT, environment_overrides, load_config, prepare_process
from playground.errors import ConfigError
from playground.types import GenerationSettings


def _write(tmp_path: Path, text: str) -> Path:
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "playground.toml"
    file.write_text(text)
    return file


def test_the_bundled_configuration_offers_the_starter_first() -> None:
    """R1: selectable without any network, gpt2 and qwen beside it."""
    config = load_config()
    assert list(config.models) == ["starter", "gpt2", "qwen"]
    assert Path(config.models["starter"].path) == ROOT / "assets" / "models" / "starter"
    assert list(config.use_cases) == [
        "chatbot", "code_generation", "summarization", "qa", "creative_writing", "domain_adaptation",
    ]  # fmt: skip
    assert all(case.examples for case in config.use_cases.values())


def test_the_presets_are_the_promised_ones() -> None:
    """I3, P4."""
    presets = load_config().presets
    assert list(presets) == ["Deterministic", "Balanced", "Creative"]
    assert presets["Deterministic"].is_greedy
    values = {name: (p.temperature, p.max_new_tokens, p.repetition_penalty) for name, p in presets.items()}
    assert values["Balanced"] == (0.7, 256, 1.15)
    assert values["Creative"] == (1.0, 512, 1.1)
    assert presets["Deterministic"].max_new_tokens == 128
    assert isinstance(presets["Balanced"], GenerationSettings)


def test_a_misspelt_key_is_named_with_a_suggestion(tmp_path: Path) -> None:
    """R1."""
    with pytest.raises(ConfigError, match=r"engine\.dtpye.*Did you mean engine\.dtype"):
        load_config(_write(tmp_path, '[engine]\ndtpye = "auto"\n'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server", "not valid TOML"),
        ("[server]\nport = 70000", "port is 70000"),
        ('[engine]\nquantization = "int3"', "quantization is 'int3'"),
        ('[engine]\nmemory_budget = "lots"', "memory_budget is 'lots'.*8 GB"),
        ('[engine]\nmemory_budget = "120%"', "at most 100%"),
        ("[engine]\nmemory_budget = -1", "memory_budget is -1"),
        ("[engine]\nmemory_budget = 8", "which is 8 bytes.*8 GB"),
        ("[engine]\nmemory_budget = true", "memory_budget is True"),
        ('[engine]\nprefix_budget = "some"', "prefix_budget is 'some'.*off"),
        ("[engine]\nkeep_alive = -5", "keep_alive is -5.*seconds"),
        ("[engine]\nkeep_alive = nan", "keep_alive is nan"),
        ('[engine]\nkeep_alive = "soon"', "keep_alive is 'soon'"),
        ('[server]\nupload_limit = "much"', "upload_limit is 'much'.*2 GB"),
        ("[server]\nupload_limit = 0", "upload_limit is 0"),
        ("[server]\nupload_limit = true", "upload_limit is True"),
        ('[server]\nrate_limit = "often"', "rate_limit is 'often'.*10 per minute"),
        ('[server]\nrate_limit = "0 per minute"', "rate_limit is '0 per minute'"),
        ('[server]\nlogin_limit = "3 per 0 minutes"', "login_limit is"),
        ("[server]\nat_once = -1", "at_once is -1"),
        ("[server]\nat_once = 1.5", "at_once is 1.5.*whole number"),
        ("[server]\nanswer_cache = 1001", "answer_cache is 1001.*to 1,000"),
        ("[server]\ndeadline = -1", "deadline is -1.*0 is never"),
        ("[server]\nsession_hours = 0", "session_hours is 0.*above 0"),
        ("[server]\ncontent_filter = 3", "content_filter is 3"),
        ('[server]\naccess_log = "perhaps"', "access_log is 'perhaps'"),
        ('[server]\nallow_origin = ["example.org"]', "allow_origin is 'example.org'.*https://"),
        ('[server]\nallow_origin = ["https://*.org"]', "allow_origin"),
        ('[server]\nallow_origin = ["https://x.org/page"]', "allow_origin"),
        ('[server]\nallow_origin = ["http://[1"]', "allow_origin"),
        ('[server]\nallow_host = ["https://x.org"]', "allow_host is 'https://x.org'.*bare name"),
        ("[server]\noauth_users = [1]", "oauth_users holds"),
        ("[server]\napi_key = 12345678", "api_key holds"),
        ("[server]\nadmin_key = 12345678", "admin_key is no text"),
        ("[models.mine]\n", "no path"),
        ('[models.mine]\npath = "x"\nadapters = "y"', "not a list"),
        ('[models.mine]\npath = "x"\n[models.mine.recommended]\ntemperature = 9', "temperature"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """R1: with the file and the key."""
    with pytest.raises(ConfigError, match=says):
        load_config(_write(tmp_path, text))


def test_arguments_win_and_added_models_are_offered(tmp_path: Path) -> None:
    """R1: --model and --adapter add to what is offered."""
    here = str(tmp_path)
    config = load_config(overrides={"port": "7999", "model": ["org/name", here], "adapter": [here], "host": None})
    assert config.port == 7999
    assert list(config.models)[-2:] == ["org/name", here]
    assert config.adapters == (here,)


@pytest.mark.parametrize("option", ["model", "adapter"])
def test_an_added_folder_that_is_not_there_is_said_at_start(option: str) -> None:
    """R1: not silently offered nowhere."""
    with pytest.raises(ConfigError, match=f"no {option} folder '/no/such/thing'.*--{option}"):
        load_config(overrides={option: ["/no/such/thing"]})


def test_a_configuration_that_is_a_folder_is_a_sentence(tmp_path: Path) -> None:
    """R1."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ('"auto"', 0.0),
        ("0.5", 0.5),
        ('"50 %"', 0.5),
        ('"8 GB"', 8e9),
        ('"1.5gib"', 1.5 * 2**30),
        ("8000000000", 8e9),
        ("8e9", 8e9),
        ("1e17", 1e17),
    ],
)
def test_a_memory_budget_is_bytes_or_a_share(tmp_path: Path, text: str, budget: float) -> None:
    """G1: as a person writes it; 0 is what is free."""
    assert load_config(_write(tmp_path, f"[engine]\nmemory_budget = {text}\n")).memory_budget == pytest.approx(budget)


@pytest.mark.parametrize(("text", "budget"), [('"off"', 0), ("0", 0), ('"2 GB"', 2e9), ("0.25", 0.25)])
def test_what_is_kept_for_later_turns_has_a_budget(tmp_path: Path, text: str, budget: float) -> None:
    """G11: a tenth of the memory unless told otherwise."""
    assert load_config().prefix_budget == 0.1
    assert load_config(_write(tmp_path, f"[engine]\nprefix_budget = {text}\n")).prefix_budget == budget


def test_models_stay_unless_a_time_is_given() -> None:
    """G1: nobody's model is unloaded behind their back; the environment and the file can say otherwise."""
    assert load_config().keep_alive == 0
    found = environment_overrides({"PLAYGROUND_KEEP_ALIVE": "900", "PLAYGROUND_MEMORY_BUDGET": "6 GB"})
    config = load_config(overrides=found)
    assert (config.keep_alive, config.memory_budget) == (900, 6e9)


def test_the_environment_speaks_every_option() -> None:
    """R1: PLAYGROUND_*, and PORT."""
    found = environment_overrides({"PORT": "1", "PLAYGROUND_MODEL": "a, b", "PLAYGROUND_PRELOAD": "yes"})
    assert found == {"port": "1", "model": ["a", "b"], "preload": True}
    assert environment_overrides({"PORT": "1", "PLAYGROUND_PORT": "2"})["port"] == "2"


@pytest.mark.parametrize(("text", "limit"), [('"500 MB"', 500_000_000), ("1000", 1000), ('"1.5 gib"', 3 * 2**29)])
def test_an_upload_limit_is_a_size(tmp_path: Path, text: str, limit: int) -> None:
    """P8: 2 GB unless the file or the environment says otherwise."""
    assert load_config().upload_limit == 2_000_000_000
    assert load_config(_write(tmp_path, f"[server]\nupload_limit = {text}\n")).upload_limit == limit
    assert load_config(overrides=environment_overrides({"PLAYGROUND_UPLOAD_LIMIT": "3 MB"})).upload_limit == 3_000_000


def test_pickles_are_allowed_only_in_so_many_words(tmp_path: Path) -> None:
    """G9: off unless the configuration or the environment says true; a word that could mean anything opens nothing."""
    file = tmp_path / "playground.toml"
    assert not load_config(overrides={}).allow_pickle
    assert load_config(overrides={}).converted is None
    for written, expected in (("true", True), ("false", False), ('"on"', True)):
        file.write_text(f"[engine]\nallow_pickle = {written}\n")
        assert load_config(file).allow_pickle is expected
    assert load_config(overrides=environment_overrides({"PLAYGROUND_ALLOW_PICKLE": "true"})).converted is not None
    for written in ('"maybe"', "1", "[]"):
        file.write_text(f"[engine]\nallow_pickle = {written}\n")
        with pytest.raises(ConfigError, match="Write true or false"):
            load_config(file)


def test_links_are_bounded_where_others_reach_the_server(tmp_path: Path) -> None:
    """S1: to the offered folders, the uploads, and for a snapshot of the hub's cache its own blobs."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    given = {"adapter": [str(snapshot)], "data_dir": str(tmp_path / "data")}
    assert load_config(overrides=given).adapter_roots == ()
    roots = load_config(overrides=given | {"host": "0.0.0.0"}).adapter_roots
    assert {snapshot, snapshot.parent.parent / "blobs", tmp_path / "data" / "adapters"} <= set(roots)
    assert ROOT / "assets" / "adapters" in roots


SECRET = "hush-4711"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'auth = ["{SECRET}"]', "auth has an entry without a user or a password"),
        (f'auth = [":{SECRET}"]', "auth has an entry"),
        (f'auth = ["anna:{SECRET}", "anna:{SECRET}2"]', "auth names a user twice"),
        (f'auth = {{ "a:b" = "{SECRET}" }}', "auth has an entry"),
        (f'auth = ["anna:{SECRET}", 1]', "auth holds"),
        (f'api_key = ["{SECRET}", "short"]', "api_key has a value that is no good"),
        (f'api_key = ["{SECRET} with spaces"]', "api_key has a value"),
        (f'admin_key = "{SECRET}ä"', "admin_key has a value"),
        (f'admin_key = ["{SECRET}", "{SECRET}"]', "admin_key is no text"),
        (f'allow_origin = "https://me:{SECRET}@x.org"', "allow_origin is 'x.org'"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_it(tmp_path: Path, text: str, says: str) -> None:
    """S3: an error ends up in logs and on screens."""
    with pytest.raises(ConfigError, match=says) as raised:
        load_config(_write(tmp_path, f"[server]\n{text}\n"))
    assert SECRET not in str(raised.value)


def test_secrets_are_read_and_never_shown(tmp_path: Path) -> None:
    """A6, S3: passwords with colons and as a table, several keys, the admin's apart; none of them in the repr."""
    text = f'auth = ["anna:{SECRET}:x"]\napi_key = ["key-{SECRET}"]\nadmin_key = "admin-{SECRET}"\n'
    config = load_config(_write(tmp_path, f"[server]\n{text}"))
    assert config.auth == {"anna": f"{SECRET}:x"}
    assert (config.api_keys, config.admin_key) == ((f"key-{SECRET}",), f"admin-{SECRET}")
    assert (config.needs_login, config.needs_key) == (True, True)
    assert SECRET not in repr(config)
    table = tmp_path / "table.toml"
    table.write_text(f'[server.auth]\nanna = "{SECRET}"\nben = "other"\n')
    assert load_config(table).auth == {"anna": SECRET, "ben": "other"}


def test_lists_in_the_environment_are_split_at_commas() -> None:
    """R1, A6: PLAYGROUND_AUTH and the like; spaces and empty entries do not matter."""
    found = environment_overrides(
        {
            "PLAYGROUND_AUTH": "anna:one, ben:two:three",
            "PLAYGROUND_API_KEY": "first-key, second-key,",
            "PLAYGROUND_ADMIN_KEY": "admin-key",
            "PLAYGROUND_ALLOW_ORIGIN": "https://A.org/, http://b.org:8080",
            "PLAYGROUND_ALLOW_HOST": "A.org",
            "PLAYGROUND_METRICS": "off",
            "PLAYGROUND_ANSWER_CACHE": "7",
            "PLAYGROUND_DEADLINE": "1.5",
        }
    )
    config = load_config(overrides=found)
    assert config.auth == {"anna": "one", "ben": "two:three"}
    assert (config.api_keys, config.admin_key) == (("first-key", "second-key"), "admin-key")
    assert (config.allow_origins, config.allow_hosts) == (("https://a.org", "http://b.org:8080"), ("a.org",))
    assert (config.metrics, config.answer_cache, config.deadline) == (False, 7, 1.5)


def test_who_shares_a_server_shares_it_within_limits(tmp_path: Path) -> None:
    """A6, S2: ten a minute, eight at once, ten minutes, and a log where others come in; all off on loopback."""
    own, shared = load_config(), load_config(overrides={"host": "0.0.0.0"})
    assert (own.rate_limit, own.at_once, own.deadline, own.access_log) == ("off", 0, 0, False)
    assert (shared.rate_limit, shared.at_once, shared.deadline, shared.access_log) == ("10 per minute", 8, 600, True)
    chosen = load_config(overrides={"host": "0.0.0.0", "rate_limit": "3 / Hour", "at_once": "0"})
    assert (chosen.rate_limit, chosen.at_once) == ("3 / hour", 0)
    assert (own.answer_cache, own.content_filter, own.metrics) == (0, "", True)


def test_a_server_behind_a_proxy_is_shared() -> None:
    """S2: bound to loopback, but answering to another name: somebody passes on what comes from elsewhere."""
    for hosts, shared in (((), False), (["localhost", "127.0.0.1"], False), (["demo.example"], True)):
        config = load_config(overrides={"allow_host": hosts})
        assert (config.is_shared, config.free_paths) == (shared, not shared)
        assert config.rate_limit == ("10 per minute" if shared else "off")


def test_a_password_may_hold_a_comma(tmp_path: Path) -> None:
    """A6: as an argument, in the file, and in the environment where the line is ended."""
    assert load_config(overrides={"auth": ["anna:a,b"]}).auth == {"anna": "a,b"}
    for text, users in (("anna:a,b\n", {"anna": "a,b"}), ("anna:a,b\nben:c", {"anna": "a,b", "ben": "c"})):
        assert load_config(overrides=environment_overrides({"PLAYGROUND_AUTH": text})).auth == users
    path = tmp_path / "playground.toml"
    path.write_text('[server]\nauth = ["anna:a,b"]\n')
    assert load_config(path).auth == {"anna": "a,b"}
    with pytest.raises(ConfigError, match="line breaks") as refused:
        load_config(overrides=environment_overrides({"PLAYGROUND_AUTH": "anna:one,SECRET"}))
    assert "SECRET" not in str(refused.value)


def test_a_space_is_shared() -> None:
    """S2, R4: it is reached from everywhere, so it listens everywhere, within limits, unless its owner names a host."""
    assert load_config(overrides=environment_overrides({"SPACE_ID": "a/b"})).is_shared
    found = environment_overrides({"SPACE_ID": "a/b", "PLAYGROUND_HOST": "127.0.0.1"})
    assert found["host"] == "127.0.0.1"


def test_every_key_of_the_server_is_explained_where_it_is_set() -> None:
    """R1: the bundled file names them all, with a comment."""
    text = (ROOT / "configs" / "playground.toml").read_text()
    server = text.partition("[server]")[2].partition("[engine]")[0]
    missing = [key for key in _SERVER_KEYS - {"host", "port"} if f"{key} = " not in server]
    assert missing == []


def test_runs_and_datasets_are_offered_from_the_file_and_from_the_start(tmp_path: Path) -> None:
    """I1: paths in the file are relative to the checkout, those of the start come last and are where they were typed."""
    for folder in ("trained", "data", "more"):
        (tmp_path / folder).mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    file = _write(tmp_path, '[folders]\nruns = ["trained"]\ndatasets = ["data", "rows.jsonl", "org/name"]\n')
    more = str(tmp_path / "more")
    config = load_config(file, {"runs": [more, more], "datasets": [more, "org/other"]})
    assert config.runs == (str(tmp_path / "trained"), more)
    assert config.datasets == (
        str(tmp_path / "data"), str(tmp_path / "rows.jsonl"), "org/name", more, "org/other",
    )  # fmt: skip


def test_the_bundled_datasets_are_there_unless_others_are_named(tmp_path: Path) -> None:
    """I4: also where a configuration of one's own says nothing of folders."""
    bundled = (str(ROOT / "assets" / "datasets"),)
    assert load_config().datasets == bundled
    assert load_config().runs == ()
    assert load_config(_write(tmp_path, "")).datasets == bundled
    (tmp_path / "configs" / "playground.toml").write_text("[folders]\ndatasets = []\n")
    assert load_config(tmp_path / "configs" / "playground.toml").datasets == ()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runs": ["/no/such/folder"]}, "no folder of training runs '/no/such/folder'.*--runs"),
        ({"runs": ["org/name"]}, "no folder of training runs 'org/name'"),
        ({"runs": [" "]}, "no folder of training runs"),
        ({"datasets": ["./nowhere"]}, "no dataset './nowhere'.*--datasets"),
        ({"datasets": ["data/rows.jsonl"]}, "no dataset 'data/rows.jsonl'"),
        ({"datasets": [""]}, "no dataset ''"),
        ({"datasets": ["squad"]}, "no dataset 'squad'.*org/name"),
    ],
)
def test_runs_and_datasets_that_are_not_there_are_said_at_start(given: dict[str, list[str]], says: str) -> None:
    """I1: by name, with the option that named them."""
    with pytest.raises(ConfigError, match=says):
        load_config(overrides=given)


def test_a_folder_of_runs_that_the_file_misspells_is_said_with_the_file(tmp_path: Path) -> None:
    """I1: the key as well."""
    with pytest.raises(ConfigError, match=r"no folder of training runs 'trained'.*playground\.toml"):
        load_config(_write(tmp_path, '[folders]\nruns = ["trained"]\n'))
    (tmp_path / "configs" / "playground.toml").write_text("[folders]\nrun = []\n")
    with pytest.raises(ConfigError, match=r"folders\.run.*Did you mean folders\.runs"):
        load_config(tmp_path / "configs" / "playground.toml")


def test_a_configuration_and_a_split_may_be_named_with_a_hub_id() -> None:
    """I4: as they may be on the page."""
    assert load_config(overrides={"datasets": ["org/name:main/test "]}).datasets[1:] == ("org/name:main/test",)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("folders = 3", "folders"),
        ("server = []", "server"),
        ('models = "x"', "models"),
        ("[models]\nx = 3", "models.x"),
    ],
)
def test_what_should_be_a_table_is_said_by_name(text: str, name: str, tmp_path: Path) -> None:
    """S1: a slip in the file is a sentence, no traceback."""
    with pytest.raises(ConfigError, match=rf"playground\.toml: {name} is no table.*\[{name}\]"):
        load_config(_write(tmp_path, text + "\n"))


def test_the_environment_names_runs_and_datasets() -> None:
    """I1: several are parted by commas."""
    found = environment_overrides({"PLAYGROUND_RUNS": "/a, /b", "PLAYGROUND_DATASETS": "org/name"})
    assert found == {"runs": ["/a", "/b"], "datasets": ["org/name"]}


def test_no_link_of_a_run_may_lead_out_of_the_folders_of_runs(tmp_path: Path) -> None:
    """S2: they are among the roots where others reach the server."""
    given = {"runs": [str(tmp_path)], "data_dir": str(tmp_path / "data")}
    assert load_config(overrides=given).adapter_roots == ()
    assert tmp_path.resolve() in load_config(overrides=given | {"host": "0.0.0.0"}).adapter_roots


def test_threads_change_places_often_from_the_start() -> None:
    """P7, G11: with Python's own five milliseconds, a busy client's thread would hold up each step of every answer."""
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        prepare_process()
        assert sys.getswitchinterval() == pytest.approx(1e-4)
    finally:
        sys.setswitchinterval(before)
