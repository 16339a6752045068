"""Charts are well-formed SVG that shows every pair, whatever the arms are called or how many."""

import random
import xml.etree.ElementTree as ET

import pytest

from convprior.lab.report.charts import accuracies, differences
from convprior.lab.report.curves import CurvePoint, draw_learning_curves, learning_curves
from convprior.lab.report.drawing import WIDTH, arm_colors, short_names
from convprior.lab.report.tuning import draw_tuning
from convprior.lab.study import Slot, Trial, Tuning
from convprior.lab.study.rows import Row
from convprior.lab.study.statistics import compare, summarize

HOSTILE = '</script><img src=x onerror=alert(1)>"'
SVG = "{http://www.w3.org/2000/svg}"


def study(arms: list[str], splits: int, seeds: int, dead: tuple[str, ...] = ()) -> list[Row]:
    generator = random.Random(0)
    return [
        Row(arm, "d", "m", split, seed, f"{arm}-{split}-{seed}", "diverged", None, "nan")
        if arm in dead
        else Row(arm, "d", "m", split, seed, f"{arm}-{split}-{seed}", "finished",
                 {"accuracy": generator.gauss(0.9, 0.01)})
        for arm in arms
        for split in range(splits)
        for seed in range(seeds)
    ]  # fmt: skip


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert "id=" not in svg  # several charts share a page
    assert float(root.attrib["width"]) <= WIDTH + 10
    assert root.attrib["viewBox"]
    return root


def texts(root: ET.Element) -> list[str]:
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def marks(root: ET.Element, kind: str, layer: int) -> int:
    """Shapes of one layer, by the class the renderer gives their group."""
    found = [
        group
        for group in root.iter(f"{SVG}g")
        if group.attrib.get("class") == f"mark-{kind} role-mark layer_{layer}_marks"
    ]
    return sum(len(list(group)) for group in found)


@pytest.mark.parametrize(("arms", "splits", "seeds"), [(2, 1, 1), (3, 3, 5), (20, 2, 5)])
def test_every_pair_is_a_dot_and_every_arm_a_mean(arms, splits, seeds):
    names = ["baseline", *(f"arm {i}" for i in range(1, arms))]
    rows = study(names, splits, seeds)
    root = parsed(differences(compare(rows, "baseline")))
    assert marks(root, "symbol", 1) == (arms - 1) * splits * seeds
    assert marks(root, "rule", 2) == (arms - 1 if splits * seeds > 1 else 0)
    assert marks(root, "symbol", 3) == arms - 1
    assert set(names[1:]) <= set(texts(root))
    root = parsed(accuracies(summarize(rows), "baseline"))
    assert marks(root, "symbol", 1) == arms * splits * seeds
    assert marks(root, "symbol", 3) == arms
    assert float(root.attrib["height"]) < 900


def test_dead_arms_keep_their_line_and_leave_the_rest_alone():
    rows = study(["baseline", "a", "b"], 2, 3, dead=("a",))
    root = parsed(differences(compare(rows, "baseline")))
    assert {"a", "b"} <= set(texts(root))
    assert marks(root, "symbol", 1) == 6
    root = parsed(
        accuracies(summarize(study(["baseline", "a"], 2, 3, dead=("baseline",))), "baseline")
    )
    assert marks(root, "rule", 0) == 0


def test_two_hundred_cells_stay_small():
    rows = study([f"arm {i}" for i in range(20)], 2, 5)
    for svg in (differences(compare(rows, "arm 0")), accuracies(summarize(rows), "arm 0")):
        assert len(svg) < 80_000


def test_names_are_escaped():
    rows = study(["baseline", HOSTILE], 1, 3)
    short = short_names([HOSTILE])[HOSTILE]
    for svg in (differences(compare(rows, "baseline")), accuracies(summarize(rows), "baseline")):
        assert "<img" not in svg
        assert short in texts(parsed(svg))


def test_short_names_differ():
    names = [f"{'x' * 30}{i}{'y' * 30}" for i in range(12)]
    short = short_names(names)
    assert len(set(short.values())) == 12
    assert all(len(label) <= 24 for label in short.values())
    assert short_names(["plain"]) == {"plain": "plain"}


def test_the_baseline_is_gray_and_six_others_differ():
    colors = arm_colors(["a", "base", "b", "c", "d", "e", "f"], "base")
    assert len(set(colors.values())) == 7


def write_log(folder, row: Row, losses: list[float | None]) -> None:
    (folder / row.key).mkdir(parents=True)
    lines = [f'{{"examples": {100 * (i + 1)}, "loss": {x}}}' for i, x in enumerate(losses)]
    (folder / row.key / "log.jsonl").write_text("\n".join(lines) + "\n")


def test_a_learning_curve_is_mean_and_range_of_the_finished_runs(tmp_path):
    rows = study(["a"], 1, 3) + study(["b"], 1, 1, dead=("b",))
    for row, losses in zip(rows, ([2.0, 1.0], [4.0, 2.0], [3.0, 6.0], [9.0, 9.0]), strict=True):
        write_log(tmp_path, row, losses)
    curves = learning_curves(rows, tmp_path)
    assert curves == {"a": [CurvePoint(100, 3.0, 2.0, 4.0), CurvePoint(200, 3.0, 1.0, 6.0)]}


def test_a_long_learning_curve_is_thinned_and_keeps_its_end(tmp_path):
    (row,) = study(["a"], 1, 1)
    write_log(tmp_path, row, [1 / (i + 1) for i in range(1000)])
    (curve,) = learning_curves([row], tmp_path).values()
    assert len(curve) <= 60
    assert curve[-1].examples == 100_000


def test_a_broken_log_is_left_out(tmp_path):
    (row,) = study(["a"], 1, 1)
    assert learning_curves([row], tmp_path) == {}
    (tmp_path / row.key).mkdir()
    text = (
        'not json\n{"examples": 5}\n[1]\n{"examples": 1, "loss": NaN}\n{"examples": 9, "loss": 1}\n'
        '{"examples": 1e999, "loss": 1}\n'
    )
    (tmp_path / row.key / "log.jsonl").write_text(text)
    assert learning_curves([row], tmp_path) == {"a": [CurvePoint(9, 1.0, 1.0, 1.0)]}
    (tmp_path / row.key / "log.jsonl").write_bytes(b"\xff")
    assert learning_curves([row], tmp_path) == {}


@pytest.mark.parametrize("arms", [1, 3, 12])
@pytest.mark.parametrize("lowest", [0.0, 0.01])
def test_learning_curves_of_few_and_many_arms(arms, lowest):
    names = ["baseline", *(f"arm {i}" for i in range(1, arms))]
    points = [CurvePoint(100 * i, 2.0 / i, max(lowest, 1.5 / i - 1), 3 / i) for i in range(1, 9)]
    root = parsed(draw_learning_curves(dict.fromkeys(names, points), names, "baseline"))
    assert float(root.attrib["height"]) < 1200
    lines = [g for g in root.iter(f"{SVG}g") if "mark-line role-mark" in g.attrib.get("class", "")]
    drawn = sum(len(list(group)) for group in lines)
    assert drawn == (arms if arms <= 7 else 2 * (arms - 1))
    if arms > 7:
        assert set(names[1:]) <= set(texts(root))


@pytest.mark.parametrize("end", [2.0, 1.0, 0.4, 0.1, 0.01, 1e-6])
def test_every_learning_curve_has_at_least_two_labels_on_its_loss_axis(end):
    points = [CurvePoint(100, 2.4, 2.3, 2.5), CurvePoint(200, end, 0.9 * end, 1.1 * end)]
    svg = draw_learning_curves({"baseline": points}, ["baseline"], "baseline")
    labels = [text for text in texts(parsed(svg)) if text and text not in _TITLES]
    losses = [float(text) for text in labels if not text.endswith("k") and float(text) < 10]
    assert len(losses) >= 2
    assert all(0.8 * end <= value <= 2.6 for value in losses)


_TITLES = ("training loss", "training images seen")


def tuning(arm: str, values: list, key: str = "optimizer.weight_decay") -> Tuning:
    trials = [
        Trial({key: value}, 0.9 - 0.01 * abs(i - 2), None if i == 4 else 0.3, ())
        for i, value in enumerate(values)
    ]
    return Tuning(Slot(arm, "d", "m"), trials[2].values, 0.9, tuple(trials), (), "f")


@pytest.mark.parametrize(
    "values",
    [
        [0, 1e-4, 1e-3, 1e-2, 1e-1],
        [10 ** (-i / 5) for i in range(25)],
        [0.1 * i for i in range(12)],
        ["sgd", HOSTILE, "adamw", True, None],
    ],
)
def test_the_tuning_chart_shows_each_trial_and_rings_the_chosen(values):
    arms = ["baseline", "a"]
    svg = draw_tuning(
        [tuning(arm, values) for arm in arms], "optimizer.weight_decay", arms, "baseline"
    )
    root = parsed(svg)
    assert "<img" not in svg
    groups = [
        g for g in root.iter(f"{SVG}g") if "mark-symbol role-mark" in g.attrib.get("class", "")
    ]
    dots, rings = (len(list(group)) for group in groups)
    assert dots == 2 * (len(values) - 1)  # the trial with a diverged run is not drawn
    assert rings == 2
    assert "validation accuracy in %" in texts(root)


def test_tuning_of_many_arms_gets_a_panel_each():
    arms = ["baseline", *(f"arm {i}" for i in range(11))]
    tunings = [tuning(arm, [1e-4, 1e-3, 1e-2, 1e-1, 1.0]) for arm in arms]
    root = parsed(draw_tuning(tunings, "optimizer.weight_decay", arms, "baseline"))
    assert set(arms[1:]) <= set(texts(root))


def test_control_characters_do_not_reach_the_renderer():
    # One of them in an SVG text ends the whole process.
    assert short_names(["a\x1b[31m\n", "b"]) == {"a\x1b[31m\n": "a?[31m?", "b": "b"}
