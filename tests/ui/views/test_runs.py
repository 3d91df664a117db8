"""Training runs in words, and their losses drawn."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

from playground.local_inference.adapters import AdapterReport
from playground.services.readiness import Verdict
from playground.training_run import Checkpoint, LossCurve, TrainingRun
from playground.types import AdapterInfo, ModelSpec
from playground.ui import texts
from playground.ui.views import runs as view
from playground.ui.views.loss_curve import BUCKETS, HEIGHT, ROWS_AT_MOST, WIDTH, loss_curve, thinned, ticks, told

AT = 1_777_816_920.0
FINAL = Checkpoint("/r/pirate", "", 1000, AT, 0.0612, 0.0547, final=True)
HALF = Checkpoint("/r/pirate/checkpoint-500", "checkpoint-500", 500, AT, 0.07)
PIRATE = TrainingRun(
    "/r/pirate", "pirate", "completed", at=AT, step=1000, max_steps=1000, loss=0.0612, checkpoints=(FINAL, HALF)
)
STOPPED = replace(
    PIRATE, name="sql", state="incomplete", why="It stopped at step 160 of 1,000.", step=160, checkpoints=(HALF,)
)
INFO = AdapterInfo("/r/pirate", "pirate", "starter", "LORA", 8, ("q_proj", "v_proj"), 600_000)
SOUND = Verdict("starter", "pirate", "/r/pirate", PIRATE, FINAL, ModelSpec("/m/starter"), AdapterReport(INFO, ()))
CURVE = LossCurve(((10, 1.32), (500, 0.07), (1000, 0.0612)), ((250, 0.13), (500, 0.05), (1000, 0.055)))


def test_an_entry_of_the_list_tells_name_state_date_step_and_loss():
    """I1: what is known, and how far a run came that is not completed; nothing stands for what is not known."""
    label = view.run_label(PIRATE)
    assert re.fullmatch(r"pirate · completed · \d+ [A-Z][a-z]{2} 2026, \d\d:\d\d · step 1,000 · loss 0\.0612", label)
    assert "incomplete" in view.run_label(STOPPED)
    assert "step 160 of 1,000" in view.run_label(STOPPED)
    assert view.run_label(TrainingRun("/r/x", "x", "failed")) == "x · failed"
    assert view.run_label(TrainingRun("/r/x", "x", "completed", at=1e300)) == "x · completed"


def test_the_checkpoints_of_a_run_are_chosen_by_the_label_of_their_adapter():
    """I1: the final one says so; what is sent is what every field calls the adapter."""
    assert view.checkpoint_choices(PIRATE) == [
        ("final · step 1,000 · loss 0.0612 · held-out 0.0547", "pirate"),
        ("checkpoint-500 · step 500 · loss 0.07", "pirate/checkpoint-500"),
    ]
    assert view.checkpoint_choices(None) == []


def test_a_name_of_a_folder_can_neither_script_the_page_nor_turn_what_is_read():
    """S3: run names are whatever somebody called a folder."""
    hostile = "<img src=x>${alert(1)}\u202egnp\x07"
    assert view.visible(hostile) == "<img src=x>${alert(1)}�gnp�"
    run = replace(PIRATE, name=hostile, trainer="<b>")
    verdict = replace(SOUND, label=hostile, place=hostile, run=run, base="<i>", problems=(("<u>", "<s>"),) * 2)
    shown = view.run_details(verdict) + view.notices([hostile]) + view.pointed_list([Path(hostile)])
    shown += view.run_status("error", view.verdict_sentence(verdict)) + loss_curve(CURVE, hostile)
    assert not re.search(r"<(img|b>Trained|i>|u>|s>)", shown.replace("<b>Problem.</b>", ""))
    assert "${" not in shown
    assert "\u202e" not in view.run_label(run)


def test_a_sound_adapter_is_one_green_line_under_where_it_lies_and_its_base():
    """I1, I2: the exact words; path and base; kind, rank, targets and size."""
    assert view.verdict_sentence(SOUND) == "Adapter validated. Ready for inference."
    shown = view.run_details(SOUND)
    assert 'data-sound="yes"' in shown
    assert "<b>/r/pirate</b>" in shown
    assert "<b>starter</b>" in shown
    assert 'data-verdict="sound">LoRA rank 8 on q_proj, v_proj · 600 kB</p>' in shown
    warned = view.run_details(replace(SOUND, warnings=(("It was trained on another base.", "Make sure."),)))
    assert '<li data-severity="warning"><b>Warning.</b> It was trained on another base.' in warned
    assert 'data-sound="yes"' in warned


def test_every_problem_stands_there_with_what_to_do_about_it():
    """I2: one problem is the status itself, and its remedy stands below; of several each is listed."""
    one = replace(SOUND, spec=None, problems=(("The file is cut off.", "Copy it again."),))
    assert view.verdict_sentence(one) == "The file is cut off."
    assert "Copy it again." in view.run_details(one)
    assert "<li" not in view.run_details(one)
    two = replace(one, problems=(*one.problems, ("The rank is 0.", "Train it again.")))
    assert view.verdict_sentence(two) == "The file is cut off. And 1 more problem."
    assert view.run_details(two).count('<li data-severity="problem">') == 2
    assert 'data-sound="no"' in view.run_details(two)


def test_an_adapter_that_belongs_to_no_run_says_so_and_a_run_without_one_is_called_a_run():
    """I1: what is chosen in the panel beside may be any adapter."""
    assert texts.NO_RUN_OF_THE_LIST in view.run_details(replace(SOUND, run=None, checkpoint=None))
    unfinished = Verdict("starter", "sql", run=STOPPED, problems=((STOPPED.why, "Choose one of its checkpoints."),))
    assert "<small>Run</small> <b>sql</b>" in view.run_details(unfinished)


def test_the_status_says_its_state_and_turns_a_ring_only_while_something_is_done():
    """I1: idle, validating, ready and error; an error is announced at once."""
    assert 'data-state="idle" role="status"' in view.run_status("idle", "Choose.")
    assert 'role="alert"' in view.run_status("error", "No.")
    assert "ring" not in view.run_status("ready", "Ready.")
    assert "ring" in view.run_status("validating", "Validating", busy=True)
    assert "3 s" in view.run_status("validating", "Validating", busy=True, elapsed_s=3.2)


def test_of_very_many_notices_the_first_ones_are_shown():
    """I1: five hundred folders that cannot be read do not push the fields off the page."""
    shown = view.notices([f"Folder {number} cannot be read." for number in range(500)])
    assert shown.count("<li>") == view.NOTICES_AT_MOST + 1
    assert "495 more notices" in shown
    assert view.notices([]) == ""


def test_the_curve_says_in_words_what_it_draws():
    """I1: training and held-out loss, the chosen step, and figures for whoever cannot see the lines."""
    shown = loss_curve(CURVE, "pirate", HALF)
    assert 'aria-labelledby="loss-title loss-desc"' in shown
    assert '<title id="loss-title">Loss of pirate</title>' in shown
    assert "Training loss 1.32 at step 10, 0.0612 at step 1,000." in shown
    assert "Lowest held-out loss 0.05 at step 500. Chosen: step 500." in shown
    assert '<polyline class="train"' in shown
    assert '<polyline class="held-out"' in shown
    assert '<line class="chosen"' in shown
    assert '<th scope="row">500</th><td>0.07</td><td>0.05</td>' in shown


def test_a_run_that_diverged_shows_where():
    """I1: losses that are no number cannot be drawn, but told."""
    shown = loss_curve(LossCurve(((10, 10.5), (20, 7.1)), diverged_at=22), "json")
    assert '<line class="diverged"' in shown
    assert "From step 22 the loss was no number" in shown
    only = loss_curve(LossCurve(diverged_at=1), "json")
    assert "From step 1 " in only
    assert texts.NO_LOSSES in only


def test_twenty_thousand_points_are_thinned_and_no_spike_is_lost():
    """I1: a long run is drawn at once, and what stands out in it still does."""
    points = tuple((step, 2.0 + math.sin(step) / 10) for step in range(20_000))
    spiked = (*points[:7_777], (7_777, 9.0), *points[7_778:])
    kept = thinned(spiked)
    assert len(kept) <= 2 * BUCKETS + 2
    assert (7_777, 9.0) in kept
    assert kept[0] == spiked[0]
    assert kept[-1] == spiked[-1]
    assert kept == sorted(kept)
    shown = loss_curve(LossCurve(spiked, spiked), "long")
    assert len(shown) < 20_000
    assert shown.count("<tr>") <= ROWS_AT_MOST + 2


def test_everything_that_is_drawn_lies_inside_of_the_drawing():
    """I1: one point, equal points, negative losses, spikes, losses at the ends of what a number can be."""
    for losses in ([1.0], [2.0, 2.0], [-1.0, 0.5, -3.0], [1.0, 1.1] * 100 + [1e9], [1e308, -1e308, 0.0], [1e-300, 5.0]):
        shown = loss_curve(LossCurve(tuple(enumerate(losses))), "x", FINAL)
        places = re.findall(r"(-?[\d.]+|nan|inf),(-?[\d.]+|nan|inf)(?=[ \"])", shown)
        places += re.findall(r'cx="([^"]+)" cy="([^"]+)"', shown)
        assert places
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in places), losses


def test_one_spike_does_not_flatten_all_the_rest():
    """I1: the scale is made for what nearly all losses are."""
    calm = [1.2 - step / 1000 for step in range(200)]
    shown = loss_curve(LossCurve(tuple(enumerate([*calm, 80.0]))), "x")
    heights = [float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", shown)]
    assert heights[-2] - heights[0] > HEIGHT / 3


def test_the_axes_have_few_and_round_numbers():
    """I1: readable at the size of a stamp."""
    for low, high in ((0.0, 1.3), (0.001, 2.4), (1e-6, 10.0), (3.0, 3.0001), (0, 20_000)):
        for logarithmic in (False, True) if low > 0 else (False,):
            found = ticks(low, high, logarithmic)
            assert len(found) <= 7
            assert all(low <= value <= high for value in found)
    assert ticks(0.001, 2.4, True) == [0.001, 0.01, 0.1, 1.0]
    assert ticks(0, 20_000, False) == [0, 5000, 10000, 15000, 20000]


def test_a_run_without_losses_says_so():
    """I1: an adapter that was uploaded has no curve."""
    assert texts.NO_LOSSES in loss_curve(LossCurve(), "x")
    assert told(LossCurve(((5, 1.0),))) == "Training loss 1 at step 5."
