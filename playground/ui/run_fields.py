"""The fields of step 1 of the Inference tab, and the updates that show a list of runs, or one of them, in them."""

from __future__ import annotations

import gradio as gr

from playground.services.runs import Listing
from playground.ui import texts
from playground.ui.run_found import Found
from playground.ui.run_verdict import Turn
from playground.ui.views import runs as view
from playground.ui.wiring import Updates, show_html


class RunFields:
    """`render` and `render_curve` make the widgets, ``outputs`` are those that the updates fill.

    ``names`` are the base models on offer; ``none`` is what is said where there is no run at all.
    """

    def __init__(self, names: list[str], none: str) -> None:
        self._names = names
        self._none = none

    def render(self) -> None:
        """Make the fields, and below them what is said of folders that could not be looked at."""
        names = self._names
        self.base = gr.Dropdown(
            names, value=names[0] if names else "", label="Base model", info=texts.BASE_OF_RUN_HELP,
            allow_custom_value=True, elem_id="run-base", elem_classes=["field", "hinted"],
        )  # fmt: skip
        self.run = gr.Dropdown(
            [], value=None, label="Training run", info=texts.RUN_HELP, elem_id="training-run",
            elem_classes=["field", "hinted"],
        )  # fmt: skip
        # Between the two lists: Gradio's dropdown breaks when its choices become fewer while it is open, so the checkpoints
        # are not the field that Tab opens after the run.
        with gr.Row(elem_classes="buttons run-buttons"):
            self.latest = gr.Button("Use latest completed run", size="sm", min_width=0, elem_id="latest-run")
            self.refresh = gr.Button("Refresh", size="sm", min_width=0, elem_id="refresh-runs")
        self.checkpoint = gr.Dropdown(
            [], value=None, label="Checkpoint", info=texts.CHECKPOINT_HELP, interactive=False,
            elem_id="checkpoint", elem_classes=["field", "hinted"],
        )  # fmt: skip
        self.notices = show_html("", elem_id="run-notices")

    def render_curve(self) -> None:
        """Make the place of the run's losses."""
        self.curve = show_html(view.no_curve(), elem_id="run-curve")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What its updates fill."""
        # A page shows the parts of an update one after another, and those of the next one may overtake them: what every
        # update holds comes first.
        return [self.run, self.checkpoint, self.curve, self.base, self.notices]

    def lists(self, turn: Turn, listing: Listing) -> Updates:
        """Updates that offer the runs of ``listing``, and say what could not be looked at; ``turn`` knows them then."""
        runs = sorted(listing.runs, key=lambda run: run.name not in turn.first)  # else as they were, the newest first
        turn.listed = tuple(run.name for run in runs)
        said = [*listing.notices, *([] if runs else [self._none])]
        return {self.run: gr.update(choices=view.run_choices(runs)), self.notices: view.notices(said)}

    def shows(self, turn: Turn, found: Found, listed: Updates | None = None) -> Updates:
        """The fields and the drawing for a run; one that is new since the list was made joins it.

        ``listed`` are the updates of a new list that go with these.
        """
        listed = self.lists(turn, found.listing) if found.listing else listed
        run = found.run
        if run is None:
            return self.empty(listed)
        return {
            **self._with_list(run.name, listed),
            self.checkpoint: gr.update(
                choices=view.checkpoint_choices(run),
                value=run.label(found.checkpoint) if found.checkpoint else None,
                interactive=bool(run.checkpoints),
            ),
            self.curve: found.curve,
        }

    def empty(self, listed: Updates | None = None) -> Updates:
        """The fields for no run."""
        return {
            **self._with_list(None, listed),
            self.checkpoint: gr.update(choices=[], value=None, interactive=False),
            self.curve: view.no_curve(),
        }

    def _with_list(self, name: str | None, listed: Updates | None) -> Updates:
        """``name`` in the list of runs, which may be a new one."""
        listed = listed or {}
        return {**listed, self.run: {**listed.get(self.run, gr.update()), "value": name}}
