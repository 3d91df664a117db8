"""Whether an adapter may be asked: everything that is known of it and of its base before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from playground.config import AppConfig, is_path
from playground.errors import AdapterUnknown, ModelNotFound, NotFound, PlaygroundError
from playground.local_inference.adapters import AdapterReport, place
from playground.services.base_names import last_part, offered_name
from playground.services.models import Models
from playground.services.runs import Runs
from playground.training_run import Checkpoint, TrainingRun
from playground.types import ModelSpec

Sentence = tuple[str, str]
_PATH = re.compile(r"""(?<![\w/.:~])(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s'"]+[/\\])*([^/\\\s'"]+)""")


@dataclass(frozen=True)
class Verdict:
    """What was found about an adapter on a base. ``problems`` are (sentence, remedy); () means that it may be asked.

    ``label`` is what the adapter is called in every field of the pages, ``base`` the name of the base that it goes on,
    ``place`` where it lies: its folder, or its label where others than this machine's own people look.
    """

    base: str
    label: str
    place: str = ""
    run: TrainingRun | None = None
    checkpoint: Checkpoint | None = None
    spec: ModelSpec | None = None
    report: AdapterReport | None = None
    problems: tuple[Sentence, ...] = ()
    warnings: tuple[Sentence, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether it may be asked."""
        return not self.problems and self.spec is not None


class Readiness:
    """Checks adapters of runs, and others that are on offer. Reads the disk: milliseconds when nothing has changed."""

    def __init__(self, models: Models, runs: Runs, config: AppConfig) -> None:
        self._models = models
        self._runs = runs
        self._config = config

    def base_of(self, run: TrainingRun) -> str:
        """The offered model that ``run`` was trained on, else its base as the trainer wrote it down."""
        return offered_name(run.base, self._config.models.values()) or run.base.strip()

    def check(self, base: str, adapter: str) -> Verdict:
        """All that can be told of ``adapter``, the label of a run's checkpoint or an offered adapter's name, on ``base``.

        Never raises for what is wrong with them: that is in the verdict. A run that is not completed is a problem of
        its own unless one of its checkpoints is named.
        """
        verdict = self._of_run(Verdict(base.strip(), adapter.strip()))
        try:
            if not verdict.problems:
                verdict = self._of_files(verdict)
        except PlaygroundError as error:
            verdict = replace(verdict, spec=None, problems=(self._told(verdict, error),))
        return self._for_others(verdict) if self._config.is_shared else verdict

    def is_loaded(self, verdict: Verdict) -> bool:
        """Whether base and adapter are both in memory, so that an answer begins at once."""
        spec = verdict.spec
        resident = self._models.resident(spec) if spec else None
        if spec is None or resident is None:
            return False
        attached = {place(one.path) for one in resident.adapters}
        return all(place(path) in attached for path, _ in spec.adapters)

    def _of_run(self, verdict: Verdict) -> Verdict:
        """``verdict`` with the run and checkpoint of its label, and what the run's state says against it."""
        found = self._runs.find(verdict.label)
        if found:
            verdict = replace(verdict, run=found[0], checkpoint=found[1])
        run = verdict.run or self._run(verdict.label)
        if run is None or run.state == "completed" or verdict.label != run.name:
            return verdict
        remedy = "Choose one of its checkpoints." if run.checkpoints else "Choose another run."
        return replace(verdict, run=run, problems=((run.why or f"{run.name!r} was not completed.", remedy),))

    def _of_files(self, verdict: Verdict) -> Verdict:
        """``verdict`` with what lies on the disk. Raises what `Models.spec` and `Models.report` raise."""
        spec = self._models.spec(verdict.base, verdict.label)
        report = self._models.report_on(spec)
        path = spec.adapters[0][0]
        if not os.path.isdir(path):  # the list of runs may be a moment older
            raise AdapterUnknown(f"{verdict.label!r} is no longer there.", "Choose another run, or press Refresh.")
        verdict = self._at(path, replace(verdict, base=self._models.name(spec), place=path, spec=spec, report=report))
        base_problems, base_warnings = self._of_base(verdict.base, spec, report.info.base)
        return replace(
            verdict,
            problems=(*base_problems, *_two_places(verdict, path), *_sentences(report, "problem")),
            warnings=(*base_warnings, *_sentences(report, "warning")),
        )

    def _at(self, path: str, verdict: Verdict) -> Verdict:
        """``verdict`` with the run that the adapter in the folder ``path`` belongs to, also where that was typed."""
        if os.path.isabs(verdict.label):
            verdict = replace(verdict, label=self._models.known_name(verdict.base, path) or verdict.label)
        label = None if verdict.run else self._runs.label(path)
        found = self._runs.find(label) if label else None
        return replace(verdict, run=found[0], checkpoint=found[1]) if found else verdict

    def _of_base(self, name: str, spec: ModelSpec, trained: str) -> tuple[tuple[Sentence, ...], tuple[Sentence, ...]]:
        """(problems, warnings) of a base that is not here, for an adapter that was trained on ``trained``.

        Raises what `Models.is_here` raises.
        """
        from huggingface_hub.constants import is_offline_mode  # which listing does not need

        if self._models.is_here(spec):
            return (), ()
        if is_path(spec.base):
            return ((f"There is no model folder {spec.base!r}.", "Choose another base model."),), ()
        if is_offline_mode():
            sentence = f"{name!r} is not on this machine, and the hub is switched off (HF_HUB_OFFLINE)."
            return ((sentence, "Choose a base model that is here, or start the app without HF_HUB_OFFLINE."),), ()
        later = f"{name!r} is not on this machine: it is downloaded when it is first used."
        warnings = [(later, "The first answer takes as long as that.")]
        if trained and self._is_other(name, spec, trained):  # of a base that is here the report says it
            other = f"The adapter was trained on {trained!r}, and the base is {name!r}."
            warnings.append((other, "Make sure that this is the same model."))
        return (), tuple(warnings)

    def _is_other(self, name: str, spec: ModelSpec, trained: str) -> bool:
        alike = last_part(trained).lower() in {last_part(one).lower() for one in (name, spec.base)}
        return not alike and offered_name(trained, self._config.models.values()) != name

    def _told(self, verdict: Verdict, error: PlaygroundError) -> Sentence:
        """``error`` in the words of training runs."""
        run, _, checkpoint = verdict.label.rpartition("/")
        if isinstance(error, AdapterUnknown) and run and self._run(run):
            return f"The run {run!r} has no checkpoint {checkpoint!r}.", "Choose another checkpoint, or press Refresh."
        if isinstance(error, ModelNotFound) and verdict.run and verdict.base == verdict.run.base.strip() != "":
            where = "offered here" if self._config.is_shared else "on this machine"
            remedy = "Choose the same model as the base" + ("." if self._config.is_shared else ", or type its folder.")
            return f"The run was trained on {verdict.base!r}, which is not {where}.", remedy
        return error.message, error.remedy

    def _run(self, name: str) -> TrainingRun | None:
        try:
            return self._runs.get(name)
        except NotFound:
            return None

    def _for_others(self, verdict: Verdict) -> Verdict:
        """``verdict`` without this machine's paths."""
        run, config = verdict.run, self._config
        known = [run.path, run.base, *(one.path for one in run.checkpoints)] if run else []
        known += [*(entry.path for entry in config.models.values()), *map(str, config.adapter_roots)]
        paths = sorted(filter(is_path, known), key=len, reverse=True)

        def told(sentences: tuple[Sentence, ...]) -> tuple[Sentence, ...]:
            return tuple((_without(paths, what), _without(paths, remedy)) for what, remedy in sentences)

        where = verdict.label if verdict.spec else ""
        return replace(verdict, place=where, problems=told(verdict.problems), warnings=told(verdict.warnings))


def _two_places(verdict: Verdict, path: str) -> Iterator[Sentence]:
    """An offered adapter may have the label of another folder's checkpoint; neither is taken for the other."""
    if verdict.checkpoint and place(verdict.checkpoint.path) != place(path):
        yield (
            f"{verdict.label!r} stands for two adapters: the training run's, and the one that is offered for "
            f"{verdict.base} under this name.",
            "Rename the folder of one of them.",
        )


def _sentences(report: AdapterReport, severity: str) -> Iterator[Sentence]:
    return ((one.message, one.remedy) for one in report.findings if one.severity == severity)


def _without(paths: Sequence[str], sentence: str) -> str:
    """``sentence`` with the last part of a path instead of the whole, for ``paths``, which may hold spaces, and others."""
    for path in paths:
        sentence = sentence.replace(path, last_part(path))
    return _PATH.sub(r"\1", sentence)
