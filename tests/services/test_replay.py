"""G10: a manifest makes its answer again, token for token, or says where and why not; with the real model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from playground.config import ROOT, AppConfig, load_config
from playground.errors import AdapterInvalid, InvalidRequest, ModelNotFound
from playground.local_inference import LocalInference
from playground.services.generation import Generation
from playground.services.manifests import Manifest, Recorder
from playground.services.models import Models
from playground.services.replay import Replay, ReplayResult, compare
from playground.services.runs import Runs
from playground.store import Store
from playground.types import GenerationEvent, GenerationRequest, GenerationSettings, Message, Provenance, Token

ADAPTERS = ROOT / "assets" / "adapters"
DRAWN = GenerationSettings(temperature=1.2, top_p=1.0, max_new_tokens=25)


@dataclasses.dataclass(frozen=True)
class House:
    """The services over one engine."""

    engine: LocalInference
    config: AppConfig

    @property
    def models(self) -> Models:
        return Models(self.engine, self.config, Runs(self.config, Store.in_memory()))

    @property
    def replay(self) -> Replay:
        return Replay(Generation(self.engine), self.models)

    def request(self, prompt: str = "Tell me about the sea.", adapter: str = "", **settings: Any) -> GenerationRequest:
        dtype = settings.pop("dtype", "float32")
        spec = self.models.spec("starter", adapter, 0.8, quantization="none", dtype=dtype)
        return GenerationRequest(spec, prompt, settings=DRAWN.replace(**settings))

    def answered(self, request: GenerationRequest, until: int = 10_000) -> tuple[Manifest, ...]:
        """The manifests of ``request``'s answers, stopped after ``until`` tokens."""
        recorder = Recorder(request)
        tokens = 0
        events = self.engine.stream(request)
        for event in events:
            tokens += len(event.tokens)
            recorder.add(event)
            if tokens >= until:
                recorder.add(GenerationEvent(event.status, finish_reason="cancelled"))
                break
        events.close()
        return recorder.manifests(self.replay.prompt_hash(request))

    def again(self, manifest: Manifest) -> ReplayResult:
        """The result of a replay of ``manifest`` as it comes out of its JSON."""
        return asyncio.run(self._again(Manifest.from_json(manifest.to_json())))

    async def _again(self, manifest: Manifest) -> ReplayResult:
        *events, result = [event async for event in self.replay.run(manifest)]
        assert all(isinstance(event, GenerationEvent) and event.index == 0 for event in events)
        assert isinstance(result, ReplayResult)
        return result


@pytest.fixture(scope="module")
def house(engine: LocalInference) -> House:
    return House(engine, load_config())


@pytest.fixture
def pirate(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ADAPTERS / "pirate", tmp_path / "pirate"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "greedy"},
        {"seed": 7, "repetition_penalty": 1.3, "stop": ("the",)},
        {"dtype": "bfloat16", "reproducible": True},
    ],
)
def test_an_answer_replays_identically(house: House, settings: dict[str, Any]) -> None:
    """G10, G3: with an adapter at a strength; the seed is the one that was drawn."""
    (manifest,) = house.answered(house.request(adapter="pirate", **settings))
    assert len(manifest.token_ids) > 1
    assert len(manifest.prompt_hash) == 64
    result = house.again(manifest)
    assert result == ReplayResult(True, None, None, None, None, False, ())
    assert result.sentence == "identical"


@pytest.mark.parametrize("template", ["raw", "instruction", "chat"])
def test_every_template_and_a_conversation_replay(house: House, template: Any) -> None:
    """G10."""
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "And?"),
    )
    request = dataclasses.replace(house.request(), prompt=None, messages=turns, template=template, prefill="Well")
    (manifest,) = house.answered(request)
    assert house.again(manifest).identical


def test_token_ids_and_biases_replay(house: House) -> None:
    """G10, A4: what was forced is forced again, and what was banned is not there."""
    free = dataclasses.replace(house.request(adapter="pirate"), prompt=None, prompt_ids=(9, 2, 2, 77), template="raw")
    banned = house.answered(free)[0].token_ids[0]
    settings = free.settings.replace(logit_bias=((banned, -100.0), (604, 3.0)), seed=1)
    (manifest,) = house.answered(dataclasses.replace(free, settings=settings))
    assert banned not in manifest.token_ids
    assert house.again(manifest) == ReplayResult(True, None, None, None, None, False, ())


def test_each_of_several_answers_replays_by_itself(house: House) -> None:
    """G10, G3: only the one is run."""
    manifests = house.answered(house.request("Write a short story.", num_return_sequences=3, temperature=2.0, seed=1))
    assert [manifest.index for manifest in manifests] == [0, 1, 2]
    assert len({manifest.text for manifest in manifests}) == 3
    assert all(house.again(manifest).identical for manifest in manifests)


def test_a_beam_search_replays_by_its_text(house: House) -> None:
    """G10: it tells no tokens; each of its answers is compared with the one of its place."""
    request = house.request(strategy="beam_search", num_beams=3, num_return_sequences=2, max_new_tokens=10)
    first, second = house.answered(request)
    assert first.text != second.text
    assert house.again(first).identical
    assert house.again(second).identical
    result = house.again(dataclasses.replace(first, text=first.text[:3] + "#"))
    assert (result.identical, result.differs_at) == (False, None)
    assert result.sentence == "differs: another text from character 4 on"


def test_a_stopped_answer_is_compared_as_far_as_it_goes(house: House) -> None:
    """G10: the prefix, and it says so; what changed is known all the same."""
    (manifest,) = house.answered(house.request(seed=3, max_new_tokens=200), until=6)
    result = house.again(manifest)
    assert result.identical
    assert result.changed == ()
    assert f"stopped after {len(manifest.token_ids)} tokens" in result.sentence
    with pytest.raises(InvalidRequest, match="before it had a token"):
        house.again(dataclasses.replace(manifest, token_ids=()))


def test_an_adapter_that_was_copied_elsewhere_replays_identically(house: House, pirate: Path, tmp_path: Path) -> None:
    """G10: the hash identifies it; a path that is no longer there is only a name."""
    (manifest,) = house.answered(house.request(adapter=str(pirate)))
    moved = pirate.rename(tmp_path / "moved")
    with pytest.raises(AdapterInvalid):
        House(house.engine, dataclasses.replace(house.config, models={
            "starter": dataclasses.replace(house.config.models["starter"], adapters=())
        })).again(manifest)  # fmt: skip
    result = House(house.engine, dataclasses.replace(house.config, adapters=(str(moved),))).again(manifest)
    assert result.identical
    assert result.changed == ()


def test_an_adapter_that_was_trained_again_differs_where_it_differs(
    house: House, pirate: Path, make_other: Callable[[Path], None]
) -> None:
    """G10: at the token where plain generation differs, with the sentence that says why."""
    request = house.request(adapter=str(pirate), seed=11)
    (manifest,) = house.answered(request)
    make_other(pirate)
    (other,) = house.answered(request)
    pairs = zip(manifest.token_ids, other.token_ids, strict=False)
    expected = next(at for at, (a, b) in enumerate(pairs, start=1) if a != b)
    alone = dataclasses.replace(house.config, models={
        "starter": dataclasses.replace(house.config.models["starter"], adapters=())
    })  # fmt: skip
    result = House(house.engine, alone).again(manifest)
    assert (result.identical, result.differs_at, result.within_rounding) == (False, expected, False)
    assert [change for change in result.changed if "Adapter 'pirate' has changed" in change] == list(result.changed)
    assert result.sentence.startswith(f"differs at token {expected}: ")
    assert result.now is not None
    assert result.now.id == other.token_ids[expected - 1]
    assert house.again(manifest).identical, "the offered one of the same files is found instead"


@pytest.fixture
def make_other() -> Callable[[Path], None]:
    """Replaces an adapter's weights by others of the same shape."""

    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        save_file({name: -2 * tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})

    return change


def test_a_batch_dependent_answer_is_replayed_alone(house: House) -> None:
    """G3, G10: two replays of it always agree, and where it parts from them is told as what it is."""
    (manifest,) = house.answered(house.request(dtype="bfloat16", seed=5))
    assert manifest.provenance is not None
    assert not manifest.provenance.exact
    first, second = house.again(manifest), house.again(manifest)
    assert first == second
    assert first.changed == ()


def test_a_replay_takes_the_precision_that_was_used(house: House) -> None:
    """G10: a request that left it open was answered in what was in memory."""
    (manifest,) = house.answered(house.request(dtype="bfloat16", reproducible=True))
    spec = dataclasses.replace(manifest.request.spec, dtype="auto", quantization="auto")
    opened = dataclasses.replace(manifest, request=dataclasses.replace(manifest.request, spec=spec))
    assert house.again(opened).identical


def test_names_stand_for_paths_in_what_is_handed_out(house: House) -> None:
    """G10, S1: a manifest says nothing of this machine's folders, and replays all the same."""
    (manifest,) = house.answered(house.request(adapter="pirate"))
    named = house.replay.named(manifest)
    assert str(ROOT) in manifest.to_json()
    assert str(ROOT) not in named.to_json()
    assert house.again(named).identical


def test_an_answer_of_a_runs_checkpoint_is_kept_by_its_label_and_replays(house: House) -> None:
    """G10, I1: also where others reach the server, which know no paths."""
    (manifest,) = house.answered(house.request(adapter="pirate-overfit/checkpoint-50", seed=1))
    named = house.replay.named(manifest)
    assert named.request.spec.adapters == (("pirate-overfit/checkpoint-50", 0.8),)
    assert str(ROOT) not in named.to_json()
    assert house.again(named).identical
    assert House(house.engine, dataclasses.replace(house.config, free_paths=False)).again(named).identical


def test_a_manifest_loads_nothing_that_its_reader_could_not(house: House, pirate: Path, make_other: Any) -> None:
    """S1: where no free paths are allowed, its paths are names to look up and nothing else."""
    shared = House(house.engine, dataclasses.replace(house.config, free_paths=False))
    (manifest,) = house.answered(house.request(adapter="pirate", seed=1))
    assert shared.again(manifest).identical

    def with_spec(**changes: Any) -> Manifest:
        spec = dataclasses.replace(manifest.request.spec, **changes)
        return dataclasses.replace(manifest, request=dataclasses.replace(manifest.request, spec=spec), provenance=None)

    make_other(pirate)
    with pytest.raises(AdapterInvalid, match="not offered"):
        shared.again(with_spec(base="starter", adapters=((str(pirate), 1.0),)))
    for base in ("/etc", "evil/model", str(ROOT / "assets" / "models" / "starter")):
        with pytest.raises(ModelNotFound, match="not offered"):
            shared.again(with_spec(base=base))


def test_a_base_that_lies_elsewhere_is_found_by_its_files(house: House) -> None:
    """G10: the path of another machine."""
    (manifest,) = house.answered(house.request())
    spec = dataclasses.replace(manifest.request.spec, base="/no/such/place/starter")
    elsewhere = dataclasses.replace(manifest, request=dataclasses.replace(manifest.request, spec=spec))
    assert house.again(elsewhere).identical
    made = dataclasses.replace(manifest.provenance, base_hash="0" * 64)  # type: ignore[type-var]
    with pytest.raises(ModelNotFound, match="no model folder"):
        house.again(dataclasses.replace(elsewhere, provenance=made))


def test_what_is_not_as_it_was_is_said(house: House) -> None:
    """G10: each in a sentence, though the tokens agree."""
    (manifest,) = house.answered(house.request(strategy="greedy"))
    assert manifest.provenance is not None
    made = dataclasses.replace(
        manifest.provenance,
        base_hash="1" * 64,
        template_hash="2" * 64,
        device="cuda:0",
        versions={**manifest.provenance.versions, "torch": "1.0"},
    )
    result = house.again(dataclasses.replace(manifest, provenance=made, prompt_hash="3" * 64))
    assert result.identical
    said = " ".join(result.changed)
    for words in ("base's files", "chat template", "other tokens", "device was cuda:0", "version of torch was 1.0"):
        assert words in said
    assert len(result.changed) == 5


def test_how_far_apart_two_tokens_are_is_told_however_unlikely_the_old_one_is(house: House) -> None:
    """G10: also of a token that is among no list of alternatives; as likely as the scored answer says it is."""
    request = house.request(adapter="pirate", strategy="greedy", reproducible=True, dtype="bfloat16")
    (manifest,) = house.answered(request)
    unlikely, at = 5, 3
    ids = (*manifest.token_ids[:at], unlikely, *manifest.token_ids[at + 1 :])
    result = house.again(dataclasses.replace(manifest, token_ids=ids))
    assert (result.differs_at, result.within_rounding) == (at + 1, False)
    assert result.was is not None
    assert result.now is not None
    assert (result.was.id, result.now.id) == (unlikely, manifest.token_ids[at])
    prompt = house.engine.render(request).token_ids
    read = [
        house.engine.prompt_tokens(
            GenerationRequest(request.spec, prompt_ids=(*prompt, *ids[:at], token), template="raw")
        )[-1].logprob
        for token in (manifest.token_ids[at], unlikely)
    ]
    assert result.gap == pytest.approx(read[0] - read[1], abs=0.3)
    assert result.gap > 3
    assert f"{result.gap:.3g} apart in log-probability" in result.sentence


def test_a_token_that_the_model_has_not_is_said_to_be_unknown(house: House) -> None:
    """G10, S1: whatever stands in a manifest, the comparison comes."""
    (manifest,) = house.answered(house.request(strategy="greedy"))
    result = house.again(dataclasses.replace(manifest, token_ids=(2**31 - 1, *manifest.token_ids[1:])))
    assert (result.differs_at, result.gap) == (1, None)
    assert "is not among the 20 likeliest" in result.sentence


@pytest.mark.long
def test_what_company_has_changed_is_told_with_its_gap(house: House) -> None:
    """G3, G10: drawn flat and in bfloat16, where half of the answers part from their replays; in float32 none does."""
    prompts = ("Tell me about the sea.", "Write a poem.", "What is a cat?", "Who are you?")
    for dtype in ("bfloat16", "float32"):
        flat = {"temperature": 2.0, "top_k": 0, "max_new_tokens": 40, "dtype": dtype}
        requests = [
            house.request(text, adapter, seed=3, **flat) for text in prompts for adapter in ("", "pirate", "sql")
        ]
        with ThreadPoolExecutor(len(requests)) as pool:
            manifests = [found for (found,) in pool.map(house.answered, requests)]
        results = [house.again(manifest) for manifest in manifests]
        assert any(result.gap is not None for result in results) == (dtype == "bfloat16")
        for result in results:
            one_ended = "ended there" in result.note
            assert result.identical or (dtype == "bfloat16" and (result.gap is not None or one_ended)), result.sentence
            assert result.gap is None or abs(result.gap) < 1, "what rounding does is small"


# --- comparing, without a model


def _manifest(ids: tuple[int, ...], **changes: Any) -> Manifest:
    settings = changes.pop("settings", GenerationSettings(strategy="greedy"))
    request = GenerationRequest(load_spec(), "Hi", settings=settings)
    dtype = changes.pop("dtype", "bfloat16")
    made = Provenance("m", "", (), "none", dtype, "cpu", "chat", settings, 1, {"torch": "2"})
    return Manifest(request, 0, ids, "", "text", "stop", made, **changes)


def load_spec() -> Any:
    return Models(None, load_config()).spec("starter")  # type: ignore[arg-type]


def _tokens(*ids: int, top: tuple[tuple[int, str, float], ...] = ()) -> list[Token]:
    return [Token(id, f"t{id}", next((p for i, _, p in top if i == id), -1.0), top) for id in ids]


def _compared(manifest: Manifest, tokens: list[Token], text: str = "text", reason: Any = "stop") -> ReplayResult:
    return compare(manifest, tokens, text, reason, manifest.provenance)


NEAR = ((4, "t4", -0.7), (3, "t3", -0.703), (5, "t5", -4.0))


def test_two_tokens_as_good_as_equal_are_within_rounding() -> None:
    """G10: how far apart they are is told; in float32 it is never rounding."""
    result = _compared(_manifest((1, 2, 3)), _tokens(1, 2, 4, top=NEAR))
    assert (result.differs_at, result.within_rounding) == (3, True)
    assert result.gap == pytest.approx(0.003)
    assert result.sentence == "differs at token 3, within rounding: 't3' then, 't4' now, 0.003 apart in log-probability"
    assert not _compared(_manifest((1, 2, 3), dtype="float32"), _tokens(1, 2, 4, top=NEAR)).within_rounding
    assert not _compared(_manifest((1, 2, 5)), _tokens(1, 2, 4, top=NEAR)).within_rounding


def test_a_bias_counts_where_two_tokens_are_compared() -> None:
    """G10, A4: what decided were the logits with it."""
    for bias, rounding in ((((3, -5.0),), False), (((5, 3.3),), True), (((5, 3.3), (4, 3.0)), False)):
        greedy = GenerationSettings(strategy="greedy", logit_bias=bias)
        manifest = _manifest((1, 5 if bias[0][0] == 5 else 3), settings=greedy)
        assert _compared(manifest, _tokens(1, 4, top=NEAR)).within_rounding == rounding
    drawn = GenerationSettings(temperature=1.0, logit_bias=((5, -6.0),))
    top = ((4, "t4", -0.1), (5, "t5", -3.0), (7, "t7", -9.1))
    assert _compared(_manifest((7,), settings=drawn), _tokens(4, top=top)).within_rounding
    plain = drawn.replace(logit_bias=())
    assert not _compared(_manifest((7,), settings=plain), _tokens(4, top=top)).within_rounding


def test_a_draw_on_the_border_of_two_tokens_is_within_rounding() -> None:
    """G10: drawn tokens follow each other in the order of likelihood, so neighbours may be far apart in probability."""
    drawn = GenerationSettings(temperature=1.0)
    top = ((4, "t4", -0.1), (5, "t5", -3.0), (6, "t6", -3.1), (7, "t7", -5.0))
    assert _compared(_manifest((5,), settings=drawn), _tokens(4, top=top)).within_rounding
    assert not _compared(_manifest((7,), settings=drawn), _tokens(4, top=top)).within_rounding
    assert not _compared(_manifest((5,)), _tokens(4, top=top)).within_rounding, "greedy draws nothing"


def test_another_adapter_is_no_rounding() -> None:
    """G10: however near the tokens are."""
    manifest = _manifest((1, 3))
    now = dataclasses.replace(manifest.provenance, base_hash="a", template_hash="b")  # type: ignore[type-var]
    assert not compare(manifest, _tokens(1, 4, top=NEAR), "", "stop", now).within_rounding


def test_answers_of_other_lengths_and_ends_are_not_identical() -> None:
    """G10."""
    shorter, longer = _compared(_manifest((1, 2)), _tokens(1)), _compared(_manifest((1,)), _tokens(1, 2))
    assert (shorter.differs_at, longer.differs_at) == (2, 2)
    assert "the replay ended there" in shorter.sentence
    assert "goes on with 't2'" in longer.sentence
    other = _compared(_manifest((1,)), _tokens(1), reason="length")
    assert not other.identical
    assert other.sentence == "differs: the same text, but it ended with 'stop' then and 'length' now"
    unknown = _compared(_manifest((9,)), _tokens(4, top=NEAR))
    assert "token 9, is not among the 3 likeliest" in unknown.sentence


# --- JSON


def test_a_manifest_survives_its_json() -> None:
    """G10: and the name of the person who asked stays out of it."""
    manifest = _manifest((1, 2, 3))
    asked = dataclasses.replace(manifest.request, user="10.0.0.7", chat_template_kwargs={"enable_thinking": False})
    whole = dataclasses.replace(manifest, request=asked, text="ÿ 🦜 \n")
    assert Manifest.from_json(whole.to_json()) == dataclasses.replace(
        whole, request=dataclasses.replace(asked, user="")
    )
    assert "10.0.0.7" not in whole.to_json()


def test_a_manifest_keeps_token_ids_and_biases() -> None:
    """G10, A4: as many as a request may have; a manifest of an older version has neither, and is read."""
    settings = GenerationSettings(logit_bias=tuple((at, at / 16) for at in range(1024)))
    request = GenerationRequest(_manifest((1,)).request.spec, settings=settings, template="raw", prompt_ids=(3, 1, 3))
    assert Manifest.from_json(dataclasses.replace(_manifest((1,)), request=request).to_json()).request == request
    older = json.loads(_manifest((1,)).to_json())
    del older["request"]["prompt_ids"]
    for settings_of in (older["request"], older["provenance"]):
        del settings_of["settings"]["logit_bias"]
    assert Manifest.from_json(json.dumps(older)) == _manifest((1,))


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown field": (lambda m: m.update(command="rm"), "unknown field 'command'"),
    "an unknown field of the spec": (
        lambda m: m["request"]["spec"].update(trust_remote_code=True),
        "trust_remote_code",
    ),
    "a missing field": (lambda m: m.pop("text"), "lacks 'text'"),
    "another format": (lambda m: m.update(format="2"), "its format is not"),
    "tokens that are texts": (lambda m: m.update(token_ids=["1"]), "token_ids"),
    "tokens that are true": (lambda m: m.update(token_ids=[True]), "token_ids"),
    "tokens below 0": (lambda m: m.update(token_ids=[-1]), "below 0"),
    "an unknown setting": (lambda m: m["request"]["settings"].update(parrot=1), "parrot"),
    "a setting out of bounds": (lambda m: m["request"]["settings"].update(temperature=9.0), "temperature"),
    "a number of 400 digits": (lambda m: m["request"]["settings"].update(top_k=10**400), "top_k is 1000"),
    "a strength of 400 digits": (
        lambda m: m["request"]["spec"].update(adapters=[["a", 10**400]]),
        "strength of adapter",
    ),
    "a bias of another kind": (lambda m: m["request"]["settings"].update(logit_bias=[[1, "2"]]), "token 1 is '2'"),
    "biases without ids": (lambda m: m["provenance"]["settings"].update(logit_bias=[1]), "logit_bias holds 1"),
    "prompt ids that are texts": (lambda m: m["request"].update(prompt_ids=["1"]), "request's prompt_ids"),
    "prompt ids that are true": (lambda m: m["request"].update(prompt_ids=[True]), "request's prompt_ids"),
    "two prompts": (lambda m: m["request"].update(prompt_ids=[1], template="raw"), "Both a prompt and prompt_ids"),
    "a setting of another kind": (lambda m: m["request"]["settings"].update(strategy=[]), "strategy"),
    "an index of 10**9": (lambda m: m.update(index=10**9), "index"),
    "a base that is a number": (lambda m: m["request"]["spec"].update(base=1), "spec's base"),
    "adapters of two names": (lambda m: m["request"]["spec"].update(adapters=[["a", "b"]]), "spec's adapters"),
    "adapters without names": (lambda m: m["request"]["spec"].update(adapters=[[" ", 1.0]]), "spec's adapters"),
    "an unknown finish": (lambda m: m.update(finish_reason="tool"), "finish_reason"),
    "half a character": (lambda m: m.update(text="\ud800"), "manifest's text"),
    "an unknown role": (lambda m: m["request"].update(messages=[{"role": "tool", "content": "x"}]), "role"),
    "an unknown template": (lambda m: m["provenance"].update(template="own"), "template"),
    "a seed that is a text": (lambda m: m["provenance"].update(seed="1"), "seed"),
    "a reserved template value": (
        lambda m: m["request"].update(chat_template_kwargs={"chat_template": "{{ 1 }}"}),
        "chat_template",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_manifest_that_is_no_good_is_refused_by_name(case: str) -> None:
    """S1, G10: nothing of it is run."""
    change, words = BROKEN[case]
    values = json.loads(_manifest((1,)).to_json())
    change(values)
    with pytest.raises(InvalidRequest, match=words):
        Manifest.from_json(json.dumps(values))


def test_what_is_refused_is_not_said_again_in_full() -> None:
    """S1: a sentence stays one, whatever was sent."""
    values = json.loads(_manifest((1,)).to_json())
    for setting in ("temperature", "seed", "stop", "system_prompt", "strategy"):
        values["request"]["settings"] = {setting: [["x" * 10_000]]}
        with pytest.raises(InvalidRequest) as caught:
            Manifest.from_json(json.dumps(values))
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"format": NaN}', "1" * 5000, "x" * 16_000_001]
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    """S1."""
    with pytest.raises(InvalidRequest, match="no manifest"):
        Manifest.from_json(text)
