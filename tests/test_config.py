"""R1: configuration is read once, and what is wrong with it is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.config import ROOT, environment_overrides, load_config
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
        ("[engine]\nkeep_alive = -5", "keep_alive is -5.*seconds"),
        ("[engine]\nkeep_alive = nan", "keep_alive is nan"),
        ('[engine]\nkeep_alive = "soon"', "keep_alive is 'soon'"),
        ('[server]\nupload_limit = "much"', "upload_limit is 'much'.*2 GB"),
        ("[server]\nupload_limit = 0", "upload_limit is 0"),
        ("[server]\nupload_limit = true", "upload_limit is True"),
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
