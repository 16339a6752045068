"""The page: says what was found, loads nothing, and believes nobody's names."""

import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import RunError
from convprior.lab.report import write_report, write_study_report
from convprior.lab.report.drawing import render
from convprior.lab.report.toml import to_toml
from convprior.lab.report.words import (
    bottom_line,
    control_sentences,
    duration,
    find_controls,
    listed,
    what_controls_say,
)
from convprior.lab.study import parse_study, read_study
from convprior.lab.study.rows import Row
from convprior.lab.study.statistics import compare, summarize
from convprior.lab.study.tables import text_table

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"

DOCUMENT = {
    "name": "made-up",
    "splits": [0, 1],
    "seeds": 5,
    "base": {"data": {"source": "digits", "per_class": 10}, "budget": {"examples": 3000}},
    "arms": {
        "baseline": {},
        "locality": {"prior": {"law": "quadratic"}},
        "reversed": {"prior": {"law": "quadratic", "control": "reversed"}},
    },
}
TUNE = {
    "sampler": "grid",
    "seeds": 1,
    "space": {"optimizer.weight_decay": {"values": [1e-4, 1e-3, 1e-2]}},
}
LOADS = {
    "src",
    "href",
    "xlink:href",
    "srcset",
    "data",
    "poster",
    "action",
    "background",
    "formaction",
}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The page as a reader and a browser meet it: texts, tags, and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.style: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in LOADS and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")
            if "url(" in (value or "") or "javascript:" in (value or ""):
                self.loads.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.style if self.open and self.open[-1] == "style" else self.words).append(data)


def page(outcome) -> Page:
    written = write_study_report(outcome.folder)
    found = Page(written.path.read_text())
    assert found.loads == []
    assert found.handlers == []
    assert not {"script", "img", "iframe", "object", "link", "base"} & set(found.tags)
    assert not re.search(r"@import|url\(", "".join(found.style))
    return found


def test_the_page_says_what_was_found(make_study):
    outcome = make_study(DOCUMENT, {"locality": 0.02})
    found = page(outcome)
    for one in compare(outcome.rows, "baseline"):
        assert one.headline in found.text
        assert one.by_split in found.text
    assert "Against baseline: locality helps; reversed is not shown to differ." in found.text
    assert (
        "locality and reversed against baseline on digits with plain_cnn, 2 splits x 5 seeds, "
        "trained on 10 images a class (100 images, 10 classes), 3,000 examples seen a run, "
        "evaluated once at the end on 360 test images." in found.text
    )
    assert "reversed does worse than locality, so what tells them apart matters" in found.text
    assert "More splits say more than more seeds." in found.text
    assert found.tags.count("svg") == 3
    for row in outcome.rows:
        assert row.key in found.text
    assert "A Processor" in found.text
    assert "2.15.0" in found.text
    assert "convprior study made-up.toml" in found.text


def test_all_files_of_a_study_are_written(make_study):
    outcome = make_study(DOCUMENT)
    written = write_study_report(outcome.folder)
    assert written.path == outcome.folder / "report.html"
    assert (outcome.folder / "table.txt").read_text() == written.text
    assert {"results.json", "results.csv"} <= {path.name for path in outcome.folder.iterdir()}


def test_hostile_names_and_errors_stay_text(make_study):
    document = {
        **DOCUMENT,
        "description": HOSTILE,
        "models": [{"name": "plain_cnn"}, {"name": f"timm:{HOSTILE}"}],
        "arms": {**DOCUMENT["arms"], HOSTILE: {"prior": {"law": "linear"}}},
        "tune": TUNE,
    }
    failures = {(HOSTILE, 0, 0): ("crashed", HOSTILE)}
    found = page(make_study(document, failures=failures, hardware=HOSTILE))
    assert found.text.count(HOSTILE) > 5


def test_failures_come_first_and_say_why(make_study):
    failures = {
        ("locality", 0, 3): ("diverged", "the loss became nan"),
        ("reversed", 1, 1): ("crashed", "killed"),
    }
    found = page(make_study(DOCUMENT, failures=failures))
    first = found.text.index("2 runs failed")
    assert first < found.text.index("What was found")
    assert (
        "locality, digits, plain_cnn, split 0, seed 3: diverged: the loss became nan" in found.text
    )
    assert "1 pair missing: split 1 seed 1 (reversed crashed)" in found.text


def test_an_interim_report_says_so(make_study):
    found = page(make_study(DOCUMENT, most=12))
    assert "Interim report. 18 of 30 cells have not finished" in found.text
    found = page(make_study({**DOCUMENT, "name": "untouched"}, most=0))
    assert "no pair finished in both arms" in found.text
    assert "svg" not in found.tags


def test_a_tuned_study_shows_its_tuning(make_study):
    arms = {**DOCUMENT["arms"], "same": {"prior": {"law": "linear"}, "tuned_as": "locality"}}
    outcome = make_study({**DOCUMENT, "arms": arms, "tune": TUNE})
    found = page(outcome)
    assert "Tuning of optimizer.weight_decay" in found.text
    assert found.tags.count("svg") == 4
    assert "0.001 (as locality)" in found.text
    edge = {"space": {"optimizer.weight_decay": {"values": [1e-2, 1e-1, 1.0]}}}
    found = page(make_study({**DOCUMENT, "name": "edge", "tune": {**TUNE, **edge}}))
    assert "Tuning ended at the edge of its range." in found.text
    assert "locality: optimizer.weight_decay = 0.01 is the smallest value tried" in found.text


def test_several_data_and_models_get_an_overview(make_study):
    models = ["plain_cnn", "wrn16_2"]
    found = page(make_study({**DOCUMENT, "models": models}, {"locality": 0.03}))
    assert "locality helps in 2 of 2 settings; reversed is not shown to differ." in found.text
    assert "not across these 2" in found.text
    assert found.tags.count("svg") == 6


def test_one_arm_alone(make_study):
    found = page(make_study({**DOCUMENT, "arms": {"only": {}}}))
    assert "There is one arm, so nothing is compared." in found.text
    assert found.tags.count("svg") == 2


def test_too_few_pairs_are_said_first(make_study):
    found = page(make_study({**DOCUMENT, "splits": [0]}, {"locality": 0.05}))
    lead = "Too few pairs for a verdict: 5 pairs can show nothing."
    assert found.text.index(lead) < found.text.index("What was found")
    assert "7 pairs all on one side are enough" in found.text


def test_too_many_ties_are_said_first(make_study):
    outcome = make_study(DOCUMENT)
    tied = [replace(one, metrics={**one.metrics, "accuracy": 0.9}) for one in outcome.rows]
    tied[-1] = replace(tied[-1], metrics={**tied[-1].metrics, "accuracy": 0.8})
    comparisons = compare(tied, "baseline")
    assert bottom_line(comparisons, 1) == "No verdict: at most 1 of 10 pairs differ."


def test_twenty_arms_and_two_hundred_cells_stay_readable_and_small(make_study):
    arms = {"baseline": {}} | {
        f"floor {i}": {"prior": {"law": "linear", "floor": i / 20}} for i in range(19)
    }
    outcome = make_study({**DOCUMENT, "arms": arms})
    found = page(outcome)
    assert len(outcome.rows) == 200
    assert "19 arms against baseline" in found.text
    assert (outcome.folder / "report.html").stat().st_size < 400_000


def test_a_missing_learning_curve_or_metric_is_no_failure(make_study):
    found = page(make_study(DOCUMENT, log="", seconds=None))
    assert "Training loss" not in found.text
    assert found.tags.count("svg") == 2


def test_a_full_disk_keeps_the_old_report(make_study, monkeypatch):
    outcome = make_study(DOCUMENT)
    (outcome.folder / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convprior._files.os.fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_report(outcome, compare(outcome.rows, "baseline"), summarize(outcome.rows))
    assert (outcome.folder / "report.html").read_text() == "old"


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no study"):
        write_study_report(tmp_path)


def test_the_study_file_in_the_page_is_the_study(make_study):
    document = {**DOCUMENT, "description": HOSTILE, "tune": TUNE}
    outcome = make_study(document)
    again = parse_study(tomllib.loads(to_toml(outcome.study.document)))
    assert again == read_study(outcome.folder).study


LEAVES = st.one_of(
    st.text(), st.integers(-(2**60), 2**60), st.booleans(), st.floats(allow_nan=False)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), TREES, max_size=4))
def test_toml_reads_back(tree):
    assert tomllib.loads(to_toml(tree)) == tree


def test_words():
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip
    assert [duration(s) for s in (3, 600, 7200)] == ["3 s", "10 min", "2.0 h"]
    assert bottom_line([], 1) == ""


def test_a_control_is_paired_with_the_arm_it_controls():
    arms = {
        "baseline": {},
        "a": {"prior": {"law": "quadratic"}},
        "b": {"prior.law": "linear", "prior.floor": 0.5},
        "a reversed": {"prior": {"law": "quadratic", "control": "reversed"}},
        "b permuted": {"prior": {"law": "linear", "floor": 0.5, "control": "permuted"}},
        "orphan": {"prior": {"law": "gaussian", "control": "reversed"}},
    }
    study = parse_study({**DOCUMENT, "arms": arms})
    assert find_controls(study) == {"a reversed": "a", "b permuted": "b"}


def test_an_arm_that_borrows_tuned_values_controls_their_owner():
    arms = {
        "baseline": {},
        "a": {"prior.law": "quadratic"},
        "same strength": {"tuned_as": "a"},
        "a reversed": {"prior.law": "quadratic", "prior.control": "reversed", "tuned_as": "a"},
    }
    space = {"optimizer.weight_decay": {"values": [1e-3, 1e-2]}}
    study = parse_study({**DOCUMENT, "arms": arms, "tune": {"space": space}})
    assert find_controls(study) == {"same strength": "a", "a reversed": "a"}
    rows = [
        Row(arm, "digits", "plain_cnn", split, 0, f"{arm}{split}", "finished", {"accuracy": value})
        for arm, value in (("a", 0.8), ("same strength", 0.9), ("a reversed", 0.7))
        for split in range(8)
    ]
    base = [replace(row, arm="baseline", metrics={"accuracy": 0.75}) for row in rows[:8]]
    sentences = control_sentences(study, rows)
    assert "same strength - a = +10.00 points" in sentences[0]
    assert "so a is not what helps" in sentences[0]
    assert "a reversed does worse than a" in sentences[1]
    assert sentences[0].split(".")[0] in text_table([], [], sentences)
    several = parse_study({**DOCUMENT, "arms": arms, "data": ["digits", "other"], "tune": False})
    assert all(said.startswith("digits: a reversed") for said in control_sentences(several, rows))
    lead = bottom_line(
        compare([*rows, *base], "baseline"), 1, [one for one, _ in what_controls_say(study, rows)]
    )
    assert "a helps but is not shown to beat same strength" in lead
    assert "a reversed hurts" in lead


def test_a_verdict_of_many_arms_counts_them(make_study):
    arms = {"baseline": {}} | {
        f"floor {i}": {"prior": {"law": "linear", "floor": i / 20}} for i in range(6)
    }
    effects = {f"floor {i}": 0.05 for i in range(5)}
    outcome = make_study({**DOCUMENT, "arms": arms}, effects)
    lead = bottom_line(compare(outcome.rows, "baseline"), 1)
    assert lead == "Against baseline: 5 arms help; floor 5 is not shown to differ."


def test_colors_of_one_chart_are_not_those_of_another():
    import altair as alt

    charts = [
        alt.Chart(alt.InlineData(values=[{"x": 1}]))
        .mark_point()
        .encode(color=alt.Color("x:Q", scale=alt.Scale(range=[color, "white"])))
        for color in ("red", "green")
    ]
    ids = [re.findall(r'id="([^"]*)"', svg) for svg in map(render, charts)]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])
