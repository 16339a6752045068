"""The summary of a study in plain words: what was compared, and what the controls say."""

from collections.abc import Mapping, Sequence
from typing import Any

from convprior.lab.study.comparison import Comparison
from convprior.lab.study.design import Slot, Study
from convprior.lab.study.rows import Row
from convprior.lab.study.statistics import compare
from convprior.lab.study.wording import count

_NAMED = 4
"""Arms that a sentence names; more are counted."""


def what_was_compared(study: Study, rows: Sequence[Row], data: str, model: str) -> str:
    """One or two sentences on the arms, pairs, images and cost of one (data, model)."""
    others = [arm.name for arm in study.arms if arm.name != study.baseline]
    slot = Slot(study.baseline, data, model)
    recipe = study.recipe(slot, {}, study.splits[0], study.seeds[0])
    done = [row.metrics for row in rows if row.metrics]
    names = listed(others) if len(others) <= _NAMED else count(len(others), "arm")
    against = f"{names} against {study.baseline}" if others else f"{study.baseline} alone"
    pairs = f"{count(len(study.splits), 'split')} x {count(len(study.seeds), 'seed')}"
    sentence = f"{against} on {data} with {model}, {pairs}"
    if recipe.data.per_class is not None:
        sentence += f", trained on {count(recipe.data.per_class, 'image')} a class"
        if done and "per_class_accuracy" in done[0]:
            classes = len(done[0]["per_class_accuracy"])
            sentence += f" ({recipe.data.per_class * classes:,} images, {classes} classes)"
    sentence += f", {recipe.budget.examples:,} examples seen a run"
    tested = sorted({row["evaluated_images"] for row in done if "evaluated_images" in row})
    if tested:
        images = " or ".join(f"{number:,}" for number in tested)
        sentence += f", evaluated once at the end on {images} test images"
    return f"{sentence}."


def bottom_line(
    comparisons: Sequence[Comparison], settings: int, controls: Sequence[Comparison] = ()
) -> str:
    """The verdicts in one sentence: ``locality helps; reversed is not shown to differ``.

    Args:
        comparisons: all of the study.
        settings: how many (data, model) there are.
        controls: from :func:`what_controls_say`; an arm that helps but is not shown to beat a
            control of its own is said to be in doubt.
    """
    if not any(one.pairs for one in comparisons):
        return ""
    if not any(one.decidable for one in comparisons):
        most = max(comparisons, key=lambda one: one.pairs - one.ties)
        if most.ties:
            return f"No verdict: at most {most.pairs - most.ties} of {most.pairs} pairs differ."
        return f"Too few pairs for a verdict: {count(most.pairs, 'pair')} can show nothing."
    found: dict[str, list[str]] = {}
    for one in comparisons:
        found.setdefault(one.arm, []).append(one.verdict)
    parts: dict[str, list[str]] = {}
    silent = []
    for arm, verdicts in found.items():
        shown = [
            verdict if settings == 1 else f"{verdict} in {times} of {settings} settings"
            for verdict in ("helps", "hurts")
            if (times := verdicts.count(verdict))
        ]
        if shown:
            unbeaten = [o.arm for o in controls if o.baseline == arm and o.verdict != "hurts"]
            doubt = f" but is not shown to beat {listed(list(dict.fromkeys(unbeaten)))}"
            helps = "helps" in verdicts and unbeaten
            parts.setdefault(f"{' and '.join(shown)}{doubt if helps else ''}", []).append(arm)
        else:
            silent.append(arm)
    sentences = []
    for said, own in parts.items():
        if len(own) <= _NAMED:
            sentences += [f"{arm} {said}" for arm in own]
        else:
            plural = (
                said.replace("helps", "help").replace("hurts", "hurt").replace("is not", "are not")
            )
            sentences.append(f"{len(own)} arms {plural}")
    if silent:
        names = listed(silent) if len(silent) <= _NAMED else f"{len(silent)} arms"
        sentences.append(f"{names} {'is' if len(silent) == 1 else 'are'} not shown to differ")
    return f"Against {comparisons[0].baseline}: {'; '.join(sentences)}."


def weights_seen(rows: Sequence[Row]) -> str:
    """How much images counted in the arms that weigh them; empty where none does."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.metrics and "mean_weight" in row.metrics:
            found.setdefault(row.arm, []).append(row.metrics)
    parts = []
    for arm, own in found.items():
        mean = sum(one["mean_weight"] for one in own) / len(own)
        largest = max(one["largest_weight"] for one in own)
        parts.append(f"{arm} mean {mean:.3f}, largest {largest:.3g}")
    return f"Weights of the images in training: {'; '.join(parts)}." if parts else ""


def find_controls(study: Study) -> dict[str, str]:
    """The arms that are controls, each with the arm it controls.

    An arm is a control if it sets a recipe key named ``control``, of an arm that is the same but
    for such keys; or if it takes the tuned values of another arm, whose method it then lacks.
    """
    plain = {arm.name: _without_control(arm.overrides) for arm in study.arms}
    controls = {
        arm.name: [
            other.name
            for other in study.arms
            if not _is_control(other.overrides) and plain[other.name] == plain[arm.name]
        ]
        for arm in study.arms
        if _is_control(arm.overrides)
    }
    borrowers = {arm.name: arm.tuned_as for arm in study.arms if arm.tuned_as is not None}
    return borrowers | {control: found[0] for control, found in controls.items() if found}


def what_controls_say(study: Study, rows: Sequence[Row]) -> list[tuple[Comparison, str]]:
    """Each control against the arm it controls, with what follows from it.

    That an arm helps and its control is not shown to help is no difference between the two: they
    are compared directly, in pairs, corrected across the controls of one arm.
    """
    found = []
    controls = find_controls(study)
    for method in dict.fromkeys(controls.values()):
        own = [row for row in rows if row.arm == method or controls.get(row.arm) == method]
        for one in compare(own, method):
            meaning = {
                "hurts": f"does worse than {method}, so what tells them apart matters",
                "helps": f"does better than {method}, so {method} is not what helps",
                "not shown": (
                    f"is not shown to differ from {method}, so what tells them apart is not shown "
                    "to matter"
                ),
            }
            found.append((one, f"Here {one.arm} {meaning[one.verdict]}"))
    return found


def control_sentences(study: Study, rows: Sequence[Row]) -> list[str]:
    """What the controls say, a sentence each, for the terminal.

    With several data sets or networks each begins with the one that it is about.
    """
    several = len(study.data) > 1, len(study.models) > 1
    sentences = []
    for one, meaning in what_controls_say(study, rows):
        where = [name for name, shown in zip((one.data, one.model), several, strict=True) if shown]
        sentences.append(": ".join([*where, f"{one.headline}. {meaning}."]))
    return sentences


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), *names[-1:]])


def duration(seconds: float) -> str:
    """A time as people say it: ``48 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _is_control(overrides: Mapping[str, Any]) -> bool:
    return any(
        key.rpartition(".")[2] == "control" and value not in (None, "none")
        for key, value in overrides.items()
    )


def _without_control(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {key: v for key, v in overrides.items() if key.rpartition(".")[2] != "control"}
