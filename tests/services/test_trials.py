"""P7: prompts × models × settings → rows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from playground.config import AppConfig, load_config
from playground.errors import AdapterInvalid, ContextOverflow, InvalidRequest, QueueFull, RateLimited
from playground.local_inference import LocalInference
from playground.services.assembly import Services
from playground.services.generation import Generation
from playground.services.limits import Limits
from playground.services.trial_scores import scores
from playground.services.trials import TOGETHER, TrialPlan, TrialPrompt, TrialRow, Trials
from playground.types import Caller, GenerationEvent, GenerationRequest, GenerationSettings, ModelSpec, Status
from tests.api.fake_engine import FakeEngine, end, endless, text

ANNA = Caller("user anna", "user")
GREEDY = GenerationSettings(strategy="greedy", max_new_tokens=12)
DRAWN = GenerationSettings(temperature=1.2, max_new_tokens=12)
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Picky(FakeEngine):
    """Raises ``refusals[prompt or base]`` instead of answering; ``most`` is how many ran at once."""

    def __init__(self, **refusals: Exception) -> None:
        super().__init__()
        self.refusals = refusals
        self.most = 0

    async def astream(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        refusal = self.refusals.get(request.prompt or "") or self.refusals.get(request.spec.base)
        if refusal:
            self.requests.append(request)
            raise refusal
        async with aclosing(super().astream(request)) as events:
            async for event in events:
                self.most = max(self.most, self.running)
                await asyncio.sleep(0)
                yield event


def trials(engine: FakeEngine, config: AppConfig | None = None) -> Trials:
    config = config or AppConfig()
    return Trials(Generation(engine, config), Limits(config), config)  # type: ignore[arg-type]


def plan(
    prompts: int = 2, models: tuple[str, ...] = ("a",), settings: tuple[GenerationSettings, ...] = (GREEDY,)
) -> TrialPlan:
    return TrialPlan(
        tuple(TrialPrompt(f"p{number}") for number in range(prompts)),
        tuple((name, ModelSpec(name)) for name in models),
        tuple((f"s{number}", one) for number, one in enumerate(settings)),
    )


async def collected(made: Trials, asked: TrialPlan) -> list[TrialRow]:
    return [row async for row in made.run(ANNA, asked)]


async def test_every_prompt_is_answered_by_every_model_with_all_settings():
    """P7: one row for each place of the plan, and each request is the one of its place."""
    engine = Picky()
    asked = plan(3, ("a", "b"), (GREEDY, DRAWN))
    rows = await collected(trials(engine), asked)
    assert {(row.prompt, row.spec, row.setting) for row in rows} == {
        (prompt, spec, setting) for prompt in range(3) for spec in range(2) for setting in range(2)
    }
    assert all(row.text == "Hello there" and row.finish_reason == "stop" and not row.error for row in rows)
    asked_for = sorted((one.prompt, one.spec.base, one.settings.strategy) for one in engine.requests)
    assert asked_for[:4] == [
        ("p0", "a", "greedy"),
        ("p0", "a", "sampling"),
        ("p0", "b", "greedy"),
        ("p0", "b", "sampling"),
    ]
    assert {one.user for one in engine.requests} == {ANNA.id}


async def test_no_more_than_eight_are_answered_at_once_or_what_the_server_allows():
    """P7, S2: a batch test leaves room for others."""
    engine = Picky()
    await collected(trials(engine), plan(40))
    assert engine.most == TOGETHER
    few = Picky()
    await collected(trials(few, AppConfig(at_once=2)), plan(12))
    assert few.most == 2


async def test_settings_without_a_seed_get_one_for_each_row():
    """P7: drawn answers can be made again, and two rows do not share a draw; a seed that was given is kept."""
    engine = Picky()
    await collected(trials(engine), plan(6, settings=(DRAWN, DRAWN.replace(seed=5))))
    drawn = [one.settings.seed for one in engine.requests if one.settings.seed != 5]
    assert len(drawn) == len(set(drawn)) == 6
    assert None not in drawn
    assert len(engine.requests) == 12


async def test_a_row_that_fails_is_a_row_with_its_sentence_and_the_others_go_on():
    """P7: errors are told where the answer would be; what is not ours is told in general and logged."""
    engine = Picky(p1=ContextOverflow("The prompt is too long.", "Shorten it."), p2=ZeroDivisionError("boom"))
    rows = sorted(await collected(trials(engine), plan(4)), key=lambda row: row.prompt)
    assert [bool(row.error) for row in rows] == [False, True, True, False]
    assert (rows[1].error, rows[1].remedy) == ("The prompt is too long.", "Shorten it.")
    assert "boom" not in rows[2].error
    assert rows[2].error
    assert rows[3].text == "Hello there"


async def test_what_was_written_before_a_failure_stays():
    """P7: a row that breaks off keeps its text beside the error."""
    engine = FakeEngine(lambda: [text("Half of"), ContextOverflow("It broke.", "Try again.")])
    (row,) = await collected(trials(engine), plan(1))
    assert (row.text, row.error, row.finish_reason) == ("Half of", "It broke.", None)


async def test_an_adapter_that_cannot_answer_is_not_tried_for_every_prompt():
    """P7: what is wrong with the model is wrong for all of its rows, and the other model answers all the same."""
    engine = Picky(b=AdapterInvalid("Broken.", "Train it again."))
    rows = await collected(trials(engine, AppConfig(at_once=1)), plan(9, ("a", "b")))
    assert [row.error for row in rows if row.spec == 1] == ["Broken."] * 9
    assert all(not row.error for row in rows if row.spec == 0)
    assert sum(one.spec.base == "b" for one in engine.requests) == 1


async def test_a_full_server_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    """P7: where the line is full a row takes its turn later, and fails nothing."""
    monkeypatch.setattr("playground.services.trials.AGAIN_S", 0)
    steps = iter([QueueFull("Full.", "Later."), None, RateLimited("Too many.", "Wait.", 1), None])
    engine = FakeEngine(lambda: [refusal] if (refusal := next(steps, None)) else [text("Hello"), end()])
    rows = await collected(trials(engine), plan(2))
    assert [row.text for row in rows] == ["Hello"] * 2
    assert len(engine.requests) == 4


async def test_an_answer_that_the_engine_gave_up_is_an_error_and_no_short_answer():
    """P7: a server that stops says so in the cells that it cut off."""
    engine = FakeEngine(lambda: [text("Hel"), end("cancelled")])
    (row,) = await collected(trials(engine), plan(1))
    assert "server is stopping" in row.error


@pytest.mark.parametrize("leave", ["close", "cancel"])
async def test_closing_stops_everything_at_once_and_leaves_nothing_behind(leave: str):
    """P7, G6: whoever leaves takes all running answers with them, and no task stays."""
    first = iter([True])
    engine = FakeEngine(lambda: [text("Hello"), end()] if next(first, False) else endless())
    before = asyncio.all_tasks()
    rows = trials(engine).run(ANNA, plan(30))
    assert (await anext(rows)).text == "Hello"
    for _ in range(100):
        await asyncio.sleep(0)
    assert engine.running == TOGETHER
    if leave == "close":
        await rows.aclose()
    else:
        waiting = asyncio.ensure_future(anext(rows))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert engine.running == 0
    assert asyncio.all_tasks() == before
    assert len(engine.requests) < 30


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (plan(0), "There are no prompts to test."),
        (plan(1, ()), "There are no models to test."),
        (plan(1, settings=()), "There are no settings to test."),
        (plan(1001), "These are 1,001 answers, and a batch test makes 1,000 at most."),
        (dataclasses.replace(plan(1), prompts=(TrialPrompt("Hi"), TrialPrompt(" \n"))), "Prompt 2 is empty."),
        (dataclasses.replace(plan(1), prompts=(TrialPrompt("Hi", "\ud83e"),)), "Prompt 1 holds half of a character."),
        (plan(1, settings=(DRAWN.replace(num_return_sequences=3),)), "asks for 3 answers"),
        (dataclasses.replace(plan(1), template="odd"), "Unknown template"),
    ],
)
async def test_a_plan_that_makes_no_sense_is_refused_before_any_work(asked: TrialPlan, said: str):
    """P7: the sentence comes at once, and nothing was asked."""
    engine = Picky()
    with pytest.raises(InvalidRequest, match=said):
        trials(engine).run(ANNA, asked)
    assert engine.requests == []


async def test_where_others_wait_a_plan_is_smaller_and_counts_for_the_rate():
    """P7, S2: 200 answers on a shared server, and a plan over the rate is refused with the number that is left."""
    shared = AppConfig(free_paths=False, rate_limit="10 per minute")
    made = trials(Picky(), shared)
    with pytest.raises(InvalidRequest, match="200 at most"):
        made.run(ANNA, plan(201))
    assert len(await collected(made, plan(6))) == 6
    with pytest.raises(RateLimited, match=r"These are 5 requests, .*: 4 are left now") as refused:
        made.run(ANNA, plan(5))
    assert "Ask for 4 at most." in str(refused.value)
    assert len(await collected(made, plan(4))) == 4


async def test_a_prompts_own_system_prompt_wins_and_the_template_is_the_plans():
    """P7: what a dataset says goes before what the settings say."""
    engine = Picky()
    asked = TrialPlan(
        (TrialPrompt("a", system="Be brief."), TrialPrompt("b")),
        (("m", ModelSpec("m")),),
        (("s", GREEDY.replace(system_prompt="Be kind.")),),
        "instruction",
    )
    await collected(trials(engine), asked)
    systems = {one.prompt: one.settings.system_prompt for one in engine.requests}
    assert systems == {"a": "Be brief.", "b": "Be kind."}
    assert {one.template for one in engine.requests} == {"instruction"}


async def test_all_of_one_base_is_asked_before_the_next_one_is_loaded():
    """P7: models that do not fit beside each other are not loaded in turns; adapters of one base come together."""
    engine = Picky()
    specs = (("a", ModelSpec("a")), ("b", ModelSpec("b")), ("a + x", ModelSpec("a", (("x", 1.0),))))
    await collected(trials(engine, AppConfig(at_once=1)), dataclasses.replace(plan(2), specs=specs))
    assert [(one.prompt, one.spec.base) for one in engine.requests] == [
        ("p0", "a"), ("p0", "a"), ("p1", "a"), ("p1", "a"), ("p0", "b"), ("p1", "b"),
    ]  # fmt: skip


async def test_the_time_before_its_turn_is_told_apart():
    """P7: seconds that a model took to load say nothing about how fast it answers."""
    loading = GenerationEvent(
        Status("loading", "reading weights"), stats=dataclasses.replace(text("").stats, elapsed_s=0.15)
    )
    engine = FakeEngine(lambda: [loading, text("Hello"), end()])
    (row,) = await collected(trials(engine), plan(1))
    assert row.waited_s == 0.15
    assert row.seconds == pytest.approx(0.05)


def test_columns_are_compared_with_what_was_expected_and_with_the_first():
    """P7: matches, likeness, tokens and errors of each column; a failed row counts for nothing else."""
    asked = TrialPlan(
        (TrialPrompt("a", "Paris"), TrialPrompt("b", "Rome"), TrialPrompt("c")),
        (("m", ModelSpec("m")),),
        (("one", GREEDY), ("two", DRAWN)),
    )
    said = {(0, 0): "Paris", (1, 0): "rome!", (2, 0): "x", (0, 1): "Paris", (1, 1): "Oslo"}
    rows = [TrialRow(at, 0, setting, answer, "stop") for (at, setting), answer in said.items()]
    first, second = scores(asked, [*rows, TrialRow(2, 0, 1, "half", error="It broke.")])
    assert (first.answers, first.compared, first.matches, first.near, first.same, first.beside) == (3, 2, 1, 1, 3, 3)
    assert (second.answers, second.errors, second.matches, second.near, second.same, second.beside) == (
        2,
        1,
        1,
        0,
        1,
        2,
    )
    assert first.similarity is not None
    assert second.similarity is not None
    assert first.similarity > second.similarity


async def test_rows_that_are_answered_together_are_those_that_are_asked_alone(engine: LocalInference):
    """P7, G2: in float32 a batch test says what one request after the other says, drawn answers of a seed included."""
    config = load_config()
    services = Services.over(engine, config)
    models = services.models
    specs = tuple((name or "base", models.spec("starter", name)) for name in ("", "pirate"))
    prompts = tuple(TrialPrompt(text) for text in ("What is the capital of France?", "Tell me a story."))
    asked = TrialPlan(prompts, specs, (("greedy", GREEDY), ("drawn", DRAWN.replace(seed=11))))
    rows = await collected(services.trials, asked)
    assert len(rows) == 8
    assert not any(row.error for row in rows)
    assert all(row.provenance and row.provenance.exact and row.provenance.dtype == "float32" for row in rows)
    assert all(row.manifest and row.manifest.token_ids and row.manifest.text == row.text for row in rows)
    for row in rows:
        request = GenerationRequest(
            specs[row.spec][1], prompts[row.prompt].text, settings=asked.settings[row.setting][1]
        )
        alone = "".join([event.text async for event in services.generation.astream(request)])
        assert row.text == alone
    assert len({row.text for row in rows}) > 3
