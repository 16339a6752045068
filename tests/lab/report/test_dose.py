"""The curve of a study: every finished arm has its dot, and the page holds it."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convprior.lab.report import write_study_report
from convprior.lab.report.dose import (
    NARROW,
    WIDE,
    DosePanel,
    dose_panels,
    draw_dose,
    line_looks,
    spread,
)
from convprior.lab.report.drawing import short_names
from convprior.lab.study.comparison import Summary
from convprior.lab.study.curve import Curve, Place
from convprior.lab.study.statistics import summarize

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</script><img src=x onerror=alert(1)>"'
LENGTHS = (0.5, 1.0, 2.0, 4.0)
DOCUMENT: dict[str, Any] = {
    "name": "lengths",
    "splits": [0, 1, 2],
    "seeds": 1,
    "base": {"data": {"source": "digits", "per_class": 10}, "budget": {"examples": 3000}},
    "arms": {
        "plain": {},
        "wide": {"model": {"width": 20}},
        "law": {"prior": {"law": "quadratic"}},
        **{
            f"{family} {length:g}": {
                "prior": {"law": "correlated", "family": family, "lengthscale": length}
            }
            for family in ("matern32", "exponential")
            for length in LENGTHS
        },
    },
    "curve": {
        "x": "prior.lengthscale",
        "group": "prior.family",
        "references": ["plain", "wide"],
        "at": {"law": "by law"},
        "log": True,
        "label": "lengthscale in taps",
    },
}

FEW = {
    **DOCUMENT,
    "splits": [0, 1],
    "arms": {
        name: DOCUMENT["arms"][name]
        for name in ("plain", "wide", "law", "matern32 1", "exponential 1", "exponential 2")
    },
}


def summary(arm: str, mean: float, half: float | None = 0.5, data: str = "d") -> Summary:
    ends = (None, None) if half is None else (mean - half, mean + half)
    return Summary(data, "m", arm, "accuracy", 3, mean, 0.4, *ends, [], 0)


def marks(svg: str, kind: str) -> int:
    groups = ET.fromstring(svg).iter(f"{SVG}g")
    own = [g for g in groups if f"mark-{kind} role-mark" in g.attrib.get("class", "")]
    return sum(len(list(group)) for group in own)


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter(f"{SVG}text")]


def draw(panel: DosePanel, curve: Curve, width: int = WIDE) -> str:
    svg = draw_dose(panel, curve, line_looks([panel]), width)
    assert "id=" not in svg  # several charts share a page
    assert float(ET.fromstring(svg).attrib["width"]) <= width + 8
    return svg


def test_every_finished_arm_is_drawn_once(make_study):
    outcome = make_study(DOCUMENT)
    (panel,) = dose_panels(outcome.study, summarize(outcome.rows))
    assert {(place.color, place.x) for place, _ in panel.points} == {
        *((f"family {f}", x) for f in ("matern32", "exponential") for x in LENGTHS),
        ("family matern32", "by law"),
    }
    assert [one.arm for one in panel.references] == ["plain", "wide"]
    svg = draw(panel, outcome.study.curve)
    assert marks(svg, "symbol") == 9
    assert {"0.5", "1", "2", "4", "by law", "plain", "wide"} <= set(texts(svg))
    assert "lengthscale in taps" in texts(svg)
    assert "accuracy in %" in texts(svg)


def test_what_did_not_finish_is_left_out(make_study):
    failed = {("matern32 4", split, 0): ("diverged", "nan") for split in range(3)}
    failed |= {("wide", split, 0): ("crashed", "oh") for split in range(3)}
    failed |= {("matern32 1", split, 0): ("crashed", "oh") for split in range(2)}
    outcome = make_study(DOCUMENT, failures=failed)
    (panel,) = dose_panels(outcome.study, summarize(outcome.rows))
    assert ("family matern32", 4.0) not in [(place.color, place.x) for place, _ in panel.points]
    assert [one.arm for one in panel.references] == ["plain"]
    assert marks(draw(panel, outcome.study.curve), "symbol") == 8  # one of them without interval


def test_a_panel_each_data_set_and_network(make_study):
    models = [{"name": "plain_cnn", "batch_norm": True}, {"name": "resnet18"}]
    outcome = make_study({**FEW, "models": models})
    panels = dose_panels(outcome.study, summarize(outcome.rows))
    assert [(panel.data, panel.model) for panel in panels] == [
        ("digits", "plain_cnn"),
        ("digits", "resnet18"),
    ]
    page = write_study_report(outcome.folder).path.read_text()
    assert "<figcaption><b>digits, resnet18</b></figcaption>" in page


def test_a_data_key_runs_along_the_axis_and_arms_are_lines(make_study):
    document = {
        "name": "sizes",
        "splits": [0, 1],
        "seeds": 1,
        "data": [{"source": "digits", "per_class": n} for n in (5, 10, 20)],
        "arms": {"plain": {}, "law": {"prior": {"law": "quadratic"}}},
        "curve": {"x": "data.per_class"},
    }
    outcome = make_study(document)
    (panel,) = dose_panels(outcome.study, summarize(outcome.rows))
    assert len(panel.points) == 6
    assert list(line_looks([panel]).colors) == ["plain", "law"]
    page = write_study_report(outcome.folder).path.read_text()
    assert "Accuracy against data.per_class" in page


def test_the_page_shows_the_curve_or_nothing(make_study):
    page = write_study_report(make_study(FEW).folder).path.read_text()
    assert "<h2>Accuracy against lengthscale in taps</h2>" in page
    assert "family exponential" in page
    waiting = make_study({**FEW, "name": "waiting"}, most=0)
    assert "Accuracy against" not in write_study_report(waiting.folder).path.read_text()
    plain = make_study({**FEW, "name": "none", "curve": None})
    assert dose_panels(plain.study, summarize(plain.rows)) == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(
    "xs",
    [
        [1],
        [1, 2, 8],
        ["none"],
        ["a\x1b[31m", HOSTILE, "datum.x"],
        [3, "full"],
        [0.001, 5, "a", "b", "c"],
    ],
    ids=str,
)
def test_numbers_words_and_both(xs, width):
    points = [
        (Place("d", "m", "l", "", x), summary(f"a{i}", 70 + i, None)) for i, x in enumerate(xs)
    ]
    panel = DosePanel("d", "m", points, [summary(HOSTILE, 70), summary("other", 70)])
    svg = draw(panel, Curve("k"), width)
    assert "<img" not in svg
    assert marks(svg, "symbol") == len(xs)
    assert marks(draw(panel, Curve("k", log=True), width), "symbol") == len(xs)
    words = short_names([x for x in xs if isinstance(x, str)])
    assert {*words.values(), *short_names([HOSTILE]).values()} <= set(texts(svg))


def test_lines_of_one_color_are_told_apart_by_style():
    points = [
        (Place("d", "m", color, style, x), summary(f"{color} {style} {x}", 70 + x))
        for color in ("a", "b")
        for style in ("", "wide", "shuffled", "fourth")
        for x in (1, 2)
    ]
    # Met at a word alone, which says what it is: no style of its own.
    points.insert(0, (Place("d", "m", "a", "local", "full"), summary("full", 70)))
    panel = DosePanel("d", "m", points, [])
    looks = line_looks([panel])
    assert len(set(looks.colors.values())) == 2
    assert list(looks.styles.values()) == ["solid", "dashed", "dotted", "solid"]
    svg = draw(panel, Curve("k"))
    assert svg.count('stroke-dasharray="7,4"') == svg.count('stroke-dasharray="2,4"') == 2
    assert marks(svg, "line") == 8


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=8).map(sorted),
    st.floats(0.01, 1.2),
)
def test_names_of_level_lines_keep_apart(values, apart):
    places = spread(values, apart, (0.0, 10.0))
    assert len(places) == len(values)
    assert all(b - a >= apart - 1e-9 for a, b in pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= 10 + 1e-9


def test_names_that_have_room_stay_at_their_lines():
    assert spread([1.0, 3.0, 9.0], 1.0, (0.0, 10.0)) == [1.0, 3.0, 9.0]
