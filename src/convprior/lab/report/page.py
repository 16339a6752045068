"""What the report says, gathered for the template: plain texts, tables and finished charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from convprior import __version__
from convprior.lab.report import words
from convprior.lab.report.charts import accuracies, differences
from convprior.lab.report.curves import draw_learning_curves, learning_curves
from convprior.lab.report.dose import NARROW, POINTS, WIDE, dose_panels, draw_dose, line_looks
from convprior.lab.report.drawing import MOST_COLORS, arm_colors
from convprior.lab.report.toml import to_toml
from convprior.lab.report.tuning import draw_tuning
from convprior.lab.study.comparison import Comparison, Summary
from convprior.lab.study.design import Slot
from convprior.lab.study.keys import flatten
from convprior.lab.study.run import Outcome, chosen_values
from convprior.lab.study.tune import Tuning
from convprior.lab.study.wording import count, points, remarks
from convprior.lab.train import as_dict

_ENVIRONMENT = {
    "version": "convprior",
    "torch": "PyTorch",
    "python": "Python",
    "hardware": "hardware",
    "device": "device",
    "threads": "threads a run",
    "precision": "precision",
}


@dataclass(frozen=True)
class Panel:
    """One (data, model): what was compared there, what was found, and its charts."""

    data: str
    model: str
    compared: str
    comparisons: list[Comparison]
    controls: list[tuple[Comparison, str]]
    weights: str
    summaries: list[Summary]
    differences: str
    accuracies: str
    curves: str
    tuning: dict[str, str]
    """A chart for each tuned key."""
    edges: list[str]
    chosen: dict[str, str]
    """For each arm the tuned values it uses."""
    tuned: list[str]
    """The arms that were tuned."""


def panel(
    outcome: Outcome,
    comparisons: Sequence[Comparison],
    summaries: Sequence[Summary],
    data: str,
    model: str,
) -> Panel:
    """Gathers one (data, model)."""
    study = outcome.study
    rows = [row for row in outcome.rows if (row.data, row.model) == (data, model)]
    own = [one for one in comparisons if (one.data, one.model) == (data, model)]
    sums = [one for one in summaries if (one.data, one.model) == (data, model)]
    arms = [arm.name for arm in study.arms]
    curves = learning_curves(rows, outcome.folder / "cells")
    tunings = [one for one in outcome.tunings if (one.slot.data, one.slot.model) == (data, model)]
    keys = dict.fromkeys(key for one in tunings for key in one.values)
    return Panel(
        data=data,
        model=model,
        compared=words.what_was_compared(study, rows, data, model),
        comparisons=own,
        controls=words.what_controls_say(study, rows),
        weights=words.weights_seen(rows),
        summaries=sums,
        differences=differences(own) if any(one.pairs for one in own) else "",
        accuracies=accuracies(sums, study.baseline) if any(one.n for one in sums) else "",
        curves=draw_learning_curves(curves, arms, study.baseline) if curves else "",
        tuning={key: draw_tuning(tunings, key, arms, study.baseline) for key in keys},
        edges=[f"{one.slot.arm}: {edge}" for one in tunings for edge in one.edge],
        chosen=_chosen(outcome, tunings, data, model),
        tuned=[one.slot.arm for one in tunings],
    )


def content(
    outcome: Outcome, comparisons: Sequence[Comparison], summaries: Sequence[Summary]
) -> dict[str, Any]:
    """Everything the template shows."""
    study, rows = outcome.study, outcome.rows
    arms = [arm.name for arm in study.arms]
    panels = [
        panel(outcome, comparisons, summaries, data.label, model.label)
        for data in study.data
        for model in study.models
    ]
    metrics = [row.metrics for row in rows if row.metrics]
    failed = [row for row in [*rows, *outcome.failures] if row.status in ("crashed", "diverged")]
    shared, varied = recipes(outcome)
    return {
        "version": __version__,
        "study": study,
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "counts": _counts(outcome),
        "time": words.duration(sum(one.get("seconds") or 0.0 for one in metrics)),
        "problems": list({(r.arm, r.data, r.model, r.key): r for r in failed}.values()),
        "unfinished": sum(row.status in ("waiting", "interrupted") for row in rows),
        "panels": panels,
        "dose": dose(outcome, summaries),
        "matrix": matrix(comparisons, panels) if len(panels) > 1 else [],
        "lead": words.bottom_line(
            comparisons, len(panels), [one for panel in panels for one, _ in panel.controls]
        ),
        "remarks": remarks(comparisons),
        "rows": rows,
        "several": len(panels) > 1,
        "weighed": any("mean_weight" in one for one in metrics),
        "colors": arm_colors(arms, study.baseline),
        "crowded": len(arms) > MOST_COLORS + 1,
        "shared": shared,
        "varied": varied,
        "toml": to_toml(study.document),
        "environment": environment(metrics),
        "points": points,
    }


def dose(outcome: Outcome, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The study's curve: what its axis is called, a chart a panel, and how lines look."""
    curve, panels = outcome.study.curve, dose_panels(outcome.study, summaries)
    if curve is None or not panels:
        return {}
    looks = line_looks(panels)
    width = WIDE if len(panels) == 1 else NARROW
    return {
        "title": curve.title,
        "charts": [(f"{p.data}, {p.model}", draw_dose(p, curve, looks, width)) for p in panels],
        "looks": looks,
        "points": POINTS,
        "referred": any(panel.references for panel in panels),
    }


def matrix(
    comparisons: Sequence[Comparison], panels: Sequence[Panel]
) -> list[tuple[str, list[Comparison | None]]]:
    """Arms by (data, model): the overview of a study with several."""
    at = {(one.arm, one.data, one.model): one for one in comparisons}
    return [
        (arm, [at.get((arm, panel.data, panel.model)) for panel in panels])
        for arm in dict.fromkeys(one.arm for one in comparisons)
    ]


def recipes(
    outcome: Outcome,
) -> tuple[dict[str, str], list[tuple[Slot, dict[str, str]]]]:
    """The recipe keys that all cells share, and for each slot those in which slots differ.

    Splits and seeds are what the study crosses with and are left out. Tuned values are those
    chosen; a slot whose tuning is not done is left out.
    """
    study = outcome.study
    values = chosen_values(study, outcome.tunings)
    flat = {}
    for slot in study.slots():
        if slot in values:
            recipe = study.recipe(slot, values[slot], study.splits[0], study.seeds[0])
            keys = flatten(as_dict(recipe))
            flat[slot] = {k: v for k, v in keys.items() if k not in ("seed", "data.split")}
    every = list(flat.values())
    same = [
        key for key in (every[0] if every else ()) if len({repr(f.get(key)) for f in every}) == 1
    ]
    shared = {key: _text(every[0][key]) for key in same}
    varied = [
        (slot, {key: _text(value) for key, value in keys.items() if key not in shared})
        for slot, keys in flat.items()
    ]
    return shared, varied


def environment(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Versions and hardware of the finished cells; more than one value means they were mixed."""
    found = {
        name: sorted({str(one[key]) for one in metrics if key in one})
        for key, name in _ENVIRONMENT.items()
    }
    return {name: values for name, values in found.items() if values}


def _counts(outcome: Outcome) -> list[str]:
    study = outcome.study
    finished = sum(row.status == "finished" for row in outcome.rows)
    return [
        count(len(study.arms), "arm"),
        count(len(study.data), "data set"),
        count(len(study.models), "network"),
        count(len(study.splits), "split"),
        count(len(study.seeds), "seed"),
        f"{finished} of {count(len(outcome.rows), 'cell')} finished",
    ]


def _chosen(outcome: Outcome, tunings: Sequence[Tuning], data: str, model: str) -> dict[str, str]:
    values = {one.slot.arm: one.values for one in tunings}
    lines = {}
    for arm in outcome.study.arms:
        tuner = outcome.study.tuner(Slot(arm.name, data, model)).arm
        if tuner in values:
            as_other = f" (as {tuner})" if tuner != arm.name else ""
            lines[arm.name] = ", ".join(map(_text, values[tuner].values())) + as_other
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
