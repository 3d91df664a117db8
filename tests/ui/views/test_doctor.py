"""The doctor's plot and table."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

from playground.local_inference.doctor import Diagnosis, Layer
from playground.services.models import Finding
from playground.ui import texts
from playground.ui.views.doctor import WIDTH, examined, figures, norm_plot


def layer(module: str, norm: float = 1.0, **changes) -> Layer:
    values = {"rank": 8, "scaling": 2.0, "largest": norm, "effective_rank": 5.0, "relative": 0.02, "dead": norm == 0}
    return Layer(module, norm=norm, **{**values, **changes})


def diagnosis(*layers: Layer, **changes) -> Diagnosis:
    dead = tuple(one.module for one in layers if one.dead)
    most = tuple(one.module for one in sorted(layers, key=lambda one: -one.norm))
    whole = Diagnosis(
        "pirate",
        "LORA",
        8,
        16.0,
        False,
        False,
        ("q_proj", "v_proj"),
        162_816,
        layers,
        dead,
        most,
        (),
        "0.21.2",
        "0.21.2",
        (),
    )
    return replace(whole, **changes)


SOUND = diagnosis(
    *(layer(f"model.layers.{i}.self_attn.{kind}", 1.0 + i) for i in range(4) for kind in ("q_proj", "v_proj"))
)


def drawn(found: Diagnosis) -> ET.Element:
    """The drawing, read as strictly as XML."""
    return ET.fromstring(re.search(r"<svg.*</svg>", norm_plot(found), re.DOTALL)[0])


def test_there_is_a_bar_for_each_layer_in_a_row_for_each_kind_of_module():
    """G9: norm per layer; the bars' heights are in proportion, and all lie inside of the drawing."""
    svg = drawn(SOUND)
    labels = ["".join(text.itertext()) for text in svg.iter("text") if text.get("class") == "label"]
    assert [label[-6:] for label in labels] == ["q_proj", "v_proj"]
    bars = [bar for bar in svg.iter("rect") if bar.get("class") == "norm"]
    assert len(bars) == 8
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[:4] == heights[4:]
    assert abs(heights[3] / heights[0] - 4) < 0.05
    assert all(float(bar.get("x")) + float(bar.get("width")) <= WIDTH for bar in bars)
    assert [text.text for text in svg.iter("text") if text.get("class") == "tick"] == ["0", "1", "2", "3"]


def test_a_bar_tells_its_figures_and_the_drawing_its_meaning():
    """G9, accessibility: a title for each bar, title and description for the whole."""
    svg = drawn(SOUND)
    titles = [title.text for group in svg.iter("g") for title in group.iter("title")]
    assert titles[0] == "layer 0, self_attn.q_proj: norm 1, 2.0 % of the base's weight · effective rank 5.0 of 8"
    assert (svg.get("role"), svg.get("aria-labelledby")) == ("img", "norms-title norms-desc")
    assert svg.find("title").text == texts.NORMS
    assert "layer 3, self_attn.q_proj, norm 4." in svg.find("desc").text


def test_dead_layers_are_crossed_out_counted_and_named():
    """G9: dead layers."""
    found = diagnosis(
        layer("model.layers.0.mlp.up_proj", 0.0, effective_rank=0.0), layer("model.layers.1.mlp.up_proj", 2.0)
    )
    svg = drawn(found)
    assert sum(path.get("class") == "dead" for path in svg.iter("path")) == 1
    assert "1 dead layer, crossed out" in svg.find("desc").text
    assert "1 of 2: up_proj of layer 0" in figures(found)
    assert ">5.0<" in figures(found)  # the middle of those that do something


def test_names_alike_in_two_rooms_experts_and_modules_without_a_layer_find_their_place():
    """G9: GPT-2's two c_proj, a mixture of experts, and the head."""
    found = diagnosis(
        layer("transformer.h.0.attn.c_proj"),
        layer("transformer.h.0.mlp.c_proj"),
        layer("model.layers.0.mlp.experts.0.w1", 1.0),
        layer("model.layers.0.mlp.experts.1.w1", 3.0),
        layer("lm_head"),
    )
    svg = drawn(found)
    labels = {text.find("title").text for text in svg.iter("text") if text.get("class") == "label"}
    assert labels == {"attn.c_proj", "mlp.c_proj", "w1", "lm_head"}
    titles = [title.text for group in svg.iter("g") for title in group.iter("title")]
    assert any("(largest of 2): norm 3" in title for title in titles)
    assert any(title.startswith("lm_head: norm 1") for title in titles)


def test_the_table_has_each_figure_with_its_meaning_and_leaves_out_what_is_not_known():
    """G9: rank, alpha, scaling, flags, parameters, effective rank, version; no jargon without a word about it."""
    shown = figures(replace(SOUND, rslora=True, dora=True))
    for words in (
        ">8<",
        ">16<",
        ">2<",
        "rsLoRA, DoRA",
        "162,816",
        "written with 0.21.2, read with 0.21.2",
        ">5.0<",
        ">none<",
    ):
        assert words in shown
    assert shown.count("<th") == shown.count(' title="')
    other = figures(diagnosis(kind="IA3", rank=None, alpha=None, peft_written=""))
    assert "Alpha" not in other
    assert "Dead layers" not in other
    assert "not told, read with" in other


def test_other_kinds_say_why_there_is_no_plot_and_findings_are_escaped():
    """G9, S3: only LoRA can be measured layer by layer; what comes from files is escaped."""
    finding = Finding("template-differs", "note", "The template <differs>.", "See it.")
    shown = examined(diagnosis(kind="IA3", name="<i>", findings=(finding,)))
    assert texts.NO_NORMS in shown
    assert "<svg" not in shown
    assert "The template &lt;differs&gt;." in shown
    assert "&lt;i&gt;, examined" in shown


def test_eighty_layers_are_drawn_without_crowding_the_numbers():
    """G9: readable at 390 px: every bar at least a unit wide, numbers at some of them."""
    svg = drawn(diagnosis(*(layer(f"model.layers.{i}.self_attn.q_proj") for i in range(80))))
    bars = [bar for bar in svg.iter("rect") if bar.get("class") == "norm"]
    assert len(bars) == 80
    assert all(float(bar.get("width")) >= 1 for bar in bars)
    assert sum(text.get("class") == "tick" for text in svg.iter("text")) <= 8
