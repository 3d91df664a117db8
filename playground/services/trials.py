"""Trials: prompts × models × settings → rows. What the batch test shows, and what other pages that ask many use."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

from playground.config import AppConfig, is_text
from playground.errors import InvalidRequest, PlaygroundError, QueueFull, RateLimited, ShuttingDown
from playground.services.generation import Generation
from playground.services.limits import Limits
from playground.services.manifests import Manifest, Recorder
from playground.types import (
    TEMPLATES,
    Caller,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    GenerationSettings,
    GenerationStats,
    ModelSpec,
    Provenance,
    Template,
)

MOST_ANSWERS = 1_000
MOST_ANSWERS_SHARED = 200  # where others wait for the same model
TOGETHER = 8  # answers of one plan at a time: what a batch of the engine gains most from
AGAIN_S = 1.0  # until a row is tried again where the server is full, or its user has too much running
_SEEDS = 2**31
# What says of a model or adapter that it cannot answer, whatever it is asked.
_HOPELESS = ("model_not_found", "model_unsupported", "adapter_invalid", "adapter_not_found")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialPrompt:
    """What is asked, and what was expected, "" where that is not known. ``system`` wins over that of the settings."""

    text: str
    expected: str = ""
    system: str = ""


@dataclass(frozen=True)
class TrialPlan:
    """Every prompt with every model and all settings. Models and settings are named for people."""

    prompts: tuple[TrialPrompt, ...]
    specs: tuple[tuple[str, ModelSpec], ...]
    settings: tuple[tuple[str, GenerationSettings], ...]
    template: Template = "chat"

    @property
    def size(self) -> int:
        """How many answers it asks for."""
        return len(self.prompts) * len(self.specs) * len(self.settings)

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """(spec, setting) of each column of a table of it: what is compared on every prompt."""
        return tuple(itertools.product(range(len(self.specs)), range(len(self.settings))))


@dataclass(frozen=True)
class Place:
    """Which answer of a plan: the places of its prompt, its model and its settings, from 0."""

    prompt: int
    spec: int
    setting: int


@dataclass(frozen=True)
class TrialRow:
    """One answer of a plan: its places in it, and what came of it. ``error`` is the sentence for one that failed.

    ``text`` of one that failed is what had been written until then. ``waited_s`` is how much of the time went by before
    anything was read: the model was loaded, or others came first. ``manifest`` is all that it takes to make a finished
    answer again, with its weights as the plan names them.
    """

    prompt: int
    spec: int
    setting: int
    text: str = ""
    finish_reason: FinishReason | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)
    waited_s: float = 0.0
    provenance: Provenance | None = None
    manifest: Manifest | None = None
    notices: tuple[str, ...] = ()
    error: str = ""
    remedy: str = ""

    @property
    def seconds(self) -> float:
        """How long the model took for it, once it was its turn."""
        return max(0.0, self.stats.elapsed_s - self.waited_s)


Told = Callable[[Place, GenerationEvent], None]


class Trials:
    """Carries out plans; the engine answers many rows at once. Answers are made afresh, and nothing of them is kept."""

    def __init__(self, generation: Generation, limits: Limits, config: AppConfig) -> None:
        self._generation = generation
        self._limits = limits
        self._most = MOST_ANSWERS_SHARED if config.is_shared else MOST_ANSWERS
        self._together = min(TOGETHER, config.at_once or TOGETHER)

    @property
    def most(self) -> int:
        """How many answers a plan may ask for."""
        return self._most

    def run(self, caller: Caller, plan: TrialPlan, told: Told | None = None) -> AsyncGenerator[TrialRow, None]:
        """The rows as they are finished, whatever their order; closing it stops what is being answered.

        A row that fails is a row with an error. ``told`` hears every event on its way, on the event loop. Settings
        without a seed get one for each row. Raises, before any work, `InvalidRequest` for a plan that is empty or too
        large, and `RateLimited`.
        """
        self.check(plan)
        self._limits.admit(caller, plan.size)
        return self._rows(caller.id, plan, told or _unheard)

    def check(self, plan: TrialPlan) -> None:
        """Raise `InvalidRequest` for what `run` would not take."""
        for count, what in ((plan.prompts, "prompts"), (plan.specs, "models"), (plan.settings, "settings")):
            if not count:
                raise InvalidRequest(f"There are no {what} to test.", "Give at least one.")
        if plan.size > self._most:
            raise InvalidRequest(
                f"These are {plan.size:,} answers, and a batch test makes {self._most:,} at most.",
                "Take fewer prompts, models or settings.",
            )
        if plan.template not in TEMPLATES:
            raise InvalidRequest(f"Unknown template {plan.template!r}.", f"Use one of {', '.join(TEMPLATES)}.")
        for number, prompt in enumerate(plan.prompts, 1):
            if not prompt.text.strip():
                raise InvalidRequest(f"Prompt {number} is empty.", "Write something there, or leave it out.")
            if not _is_text(prompt):
                raise InvalidRequest(f"Prompt {number} holds half of a character.", "Save it as whole UTF-8.")
        for name, settings in plan.settings:
            if settings.num_return_sequences > 1:
                raise InvalidRequest(
                    f"“{name}” asks for {settings.num_return_sequences} answers, and a batch test makes one to each prompt.",
                    "Set Answers to 1 there, or leave these settings out.",
                )

    async def _rows(self, user: str, plan: TrialPlan, told: Told) -> AsyncGenerator[TrialRow, None]:
        work = _Work(self._generation, user, plan, told)
        workers = [asyncio.create_task(work.go_on()) for _ in range(min(self._together, plan.size))]
        try:
            for _ in range(plan.size):
                yield await work.finished.get()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class _Work:
    """One plan while it is carried out: what is still to be asked, and the rows that nobody has taken yet."""

    def __init__(self, generation: Generation, user: str, plan: TrialPlan, told: Told) -> None:
        self._generation, self._user, self._plan, self._told = generation, user, plan, told
        self._places = _in_order(plan)
        self._hopeless: dict[int, TrialRow] = {}  # spec → how it failed
        self.finished: asyncio.Queue[TrialRow] = asyncio.Queue()

    async def go_on(self) -> None:
        """Answer one row after another, beside others who do the same."""
        for place in self._places:
            self.finished.put_nowait(await self._outcome(place))

    async def _outcome(self, place: Place) -> TrialRow:
        known = self._hopeless.get(place.spec)
        if known is not None:
            return dataclasses.replace(known, prompt=place.prompt, setting=place.setting)
        row = TrialRow(place.prompt, place.spec, place.setting)
        request = self._request(place)
        answer = _Growing(row, request)
        try:
            await self._answer(request, place, answer)
        except PlaygroundError as error:
            failed = dataclasses.replace(answer.row, error=error.message, remedy=error.remedy)
            if error.code in _HOPELESS:
                self._hopeless[place.spec] = dataclasses.replace(row, error=error.message, remedy=error.remedy)
            return failed
        except Exception:  # a task's edge: the row says that it failed, the log says how
            _LOG.exception("a row of a batch test failed")
            sentence = "Something went wrong in the server; its log says what."
            return dataclasses.replace(answer.row, error=sentence, remedy="Try again.")
        return answer.row

    async def _answer(self, request: GenerationRequest, place: Place, answer: _Growing) -> None:
        """Have one row answered; where the server is full it waits for its turn. Raises what generating raises."""
        while True:
            try:
                async with aclosing(self._generation.astream(request, fresh=True)) as events:
                    async for event in events:
                        answer.add(event)
                        self._told(place, event)
                return
            except (QueueFull, RateLimited):
                await asyncio.sleep(AGAIN_S)

    def _request(self, place: Place) -> GenerationRequest:
        """The row's request, with what was left to chance decided."""
        plan = self._plan
        prompt, settings = plan.prompts[place.prompt], plan.settings[place.setting][1]
        seed = secrets.randbelow(_SEEDS) if settings.seed is None else settings.seed
        system = prompt.system or settings.system_prompt
        return GenerationRequest(
            plan.specs[place.spec][1],
            prompt.text,
            settings=settings.replace(seed=seed, system_prompt=system),
            template=plan.template,
            user=self._user,
        )


class _Growing:
    """A row as it is answered; a fold over its events."""

    def __init__(self, row: TrialRow, request: GenerationRequest) -> None:
        self._row = row
        self._recorder = Recorder(request)
        self._pieces: list[str] = []
        self._notices: dict[str, None] = {}

    def add(self, event: GenerationEvent) -> None:
        """Take in one event. Raises `ShuttingDown` where the engine gave the answer up."""
        if event.finish_reason == "cancelled":
            raise ShuttingDown("The answer was cut off because the server is stopping.", "Run the test again.")
        self._recorder.add(event)
        self._pieces += [event.opened, event.text]
        self._notices |= {event.notice: None} if event.notice else {}
        self._row = dataclasses.replace(
            self._row,
            stats=event.stats,
            waited_s=event.stats.elapsed_s if event.status.phase in ("queued", "loading") else self._row.waited_s,
            finish_reason=event.finish_reason,
            provenance=event.provenance or self._row.provenance,
            manifest=next(iter(self._recorder.manifests(event.prompt_hash)), None) if event.finish_reason else None,
        )

    @property
    def row(self) -> TrialRow:
        """The row with what has come so far."""
        return dataclasses.replace(self._row, text="".join(self._pieces), notices=tuple(self._notices))


def _is_text(prompt: TrialPrompt) -> bool:
    """False for half a surrogate pair, which JSON may hold, and no tokenizer reads and no file takes."""
    return is_text(f"{prompt.text}{prompt.expected}{prompt.system}")


def _in_order(plan: TrialPlan) -> Iterator[Place]:
    """Prompt by prompt, so that what is compared comes together; but all of one base before the next one is loaded."""
    bases = dict.fromkeys(dataclasses.replace(spec, adapters=()) for _, spec in plan.specs)
    for base in bases:
        specs = [at for at, (_, spec) in enumerate(plan.specs) if spec.without_adapters() == base]
        for at, spec, setting in itertools.product(range(len(plan.prompts)), specs, range(len(plan.settings))):
            yield Place(at, spec, setting)


def _unheard(place: Place, event: GenerationEvent) -> None:
    """Nobody listens on the way."""
