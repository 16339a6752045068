"""The statistics against scipy, brute force and their own laws."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convprior.errors import InputError
from convprior.lab.study.comparison import Comparison
from convprior.lab.study.rows import Row, Status
from convprior.lab.study.significance import Interval, holm, interval, pairs_needed, sign_test
from convprior.lab.study.statistics import compare, summarize
from convprior.lab.study.wording import headline

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def row(arm, split, seed, accuracy, *, data="digits", model="cnn", status: Status = "finished"):
    metrics = {"accuracy": accuracy} if status == "finished" else None
    return Row(arm, data, model, split, seed, f"{arm}{split}{seed}", status, metrics)


def study(columns: dict[str, list[float]], per_split: int = 1, **where) -> list[Row]:
    """One row a number; ``per_split`` seeds share a split."""
    return [
        row(arm, i // per_split, i % per_split, value, **where)
        for arm, values in columns.items()
        for i, value in enumerate(values)
    ]


def only(rows: list[Row]) -> Comparison:
    (comparison,) = compare(rows, "baseline")
    return comparison


# --- oracles -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 360), st.integers(0, 360)), min_size=3, max_size=20))
def test_interval_is_that_of_the_paired_t_test(counts):
    base, arm = ([c[i] / 360 for c in counts] for i in (0, 1))
    if len({a - b for a, b in counts}) == 1:
        return  # the t test is undefined; see test_identical_differences
    found = only(study({"baseline": base, "locality": arm}))
    oracle = stats.ttest_rel(arm, base)
    low, high = oracle.confidence_interval(0.95)
    assert found.mean == pytest.approx(100 * (sum(arm) - sum(base)) / len(arm), abs=1e-7)
    assert found.low == pytest.approx(100 * low, abs=1e-6)
    assert found.high == pytest.approx(100 * high, abs=1e-6)
    assert (found.low > 0 or found.high < 0) == (oracle.pvalue < 0.05)


@pytest.mark.parametrize("n", range(11))
def test_sign_test_is_the_enumeration_of_all_outcomes(n):
    outcomes = [abs(2 * sum(signs) - n) for signs in itertools.product((0, 1), repeat=n)]
    for wins in range(n + 1):
        as_extreme = sum(outcome >= abs(2 * wins - n) for outcome in outcomes)
        differences = [1.5] * wins + [-0.1] * (n - wins) + [0.0] * 3
        assert sign_test(differences) == pytest.approx(as_extreme / 2**n, rel=1e-12)


def test_holm_of_a_hand_made_example():
    # sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1 -> .02, .03, .06, and .04 is lifted to .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2, 0.9]) == [0.4, 0.9]
    assert holm([]) == []


@given(P_VALUES)
def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for (p, q), (other, later) in itertools.product(zip(p_values, adjusted, strict=True), repeat=2):
        assert p <= q <= min(1, len(p_values) * p) + 1e-15
        assert p > other or q <= later


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order(p_values, shuffler):
    order = list(range(len(p_values)))
    shuffler.shuffle(order)
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


@given(P_VALUES, st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - step) * p_values[index] > level:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_pairs_needed_by_brute_force():
    for arms in range(1, 30):
        n = pairs_needed(arms)
        assert min(holm([sign_test([1.0] * n)] * arms)) <= 0.05
        assert min(holm([sign_test([1.0] * (n - 1))] * arms)) > 0.05
    assert [pairs_needed(arms) for arms in (1, 2, 3, 4)] == [6, 7, 7, 8]


def test_false_verdicts_under_the_null_stay_below_five_percent():
    """Four arms, nine pairs, no effect: P(any verdict) <= 0.05, Holm's guarantee."""
    generator, studies, wrong = random.Random(3), 250, 0
    for _ in range(studies):
        columns = {
            arm: [generator.gauss(0.8, 0.02) for _ in range(9)]
            for arm in ("baseline", "a", "b", "c")
        }
        verdicts = [found.verdict for found in compare(study(columns), "baseline")]
        wrong += any(verdict != "not shown" for verdict in verdicts)
    # P(more than this many of 250 at rate 0.05) < 0.001
    assert wrong <= stats.binom.ppf(0.999, studies, 0.05)


# --- verdicts and their words --------------------------------------------------------------


def test_the_sentence_of_a_clear_gain():
    base = [0.80, 0.81, 0.79, 0.80, 0.82, 0.80, 0.81]
    gains = [0.02, 0.01, 0.03, 0.02, 0.01, 0.02, 0.03]
    arms = {"baseline": base, "locality": [b + g for b, g in zip(base, gains, strict=True)]}
    found = only(study(arms))
    assert found.verdict == "helps"
    assert found.headline == (
        "locality - baseline = +2.0 points, 95 % interval 1.2 to 2.8, 7 pairs: helps"
    )
    assert found.notes == []
    mirrored = compare(study(arms), "locality")[0]
    assert mirrored.verdict == "hurts"
    assert (mirrored.low, mirrored.high) == (-found.high, -found.low)
    assert mirrored.p_value == found.p_value == 2 * 0.5**7


def test_five_pairs_are_never_enough_and_the_sentence_says_so():
    found = only(study({"baseline": [0.5] * 5, "x": [0.71, 0.72, 0.73, 0.74, 0.75]}))
    assert found.low > 20
    assert found.verdict == "not shown"
    assert found.sentence == (
        "x - baseline = +23.0 points, 95 % interval 21.0 to 25.0, 5 pairs: not shown to help; "
        "5 pairs cannot reach 0.05 in a sign test (2 x 0.5^5 = 0.0625): with 1 arm compared, "
        "6 pairs all on one side are enough"
    )


def test_six_pairs_are_too_few_for_three_arms():
    better = [0.6, 0.61, 0.62, 0.6, 0.61, 0.62]
    columns = {"baseline": [0.5] * 6, "a": better, "b": better, "c": better}
    for found in compare(study(columns), "baseline"):
        assert found.p_holm == pytest.approx(3 * 0.03125)
        assert found.verdict == "not shown"
        assert "p is at least 0.094 when corrected for 3 arms" in found.notes[0]
        assert "7 pairs all on one side are enough" in found.notes[0]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([5.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "not shown"),  # one outlier: interval holds 0
        ([1.0, 1.1, 0.9, 1.0, 1.0, -0.1, -0.1], "not shown"),  # interval > 0, signs are not
        ([1.0, 1.1, 0.9, 1.0, 1.0, 1.2, 0.8], "helps"),
        ([-1.0, -1.1, -0.9, -1.0, -1.0, -1.2, -0.8], "hurts"),
    ],
)
def test_a_verdict_needs_both_the_signs_and_the_interval(values, verdict):
    arm = [0.5 + value / 100 for value in values]
    found = only(study({"baseline": [0.5] * len(arm), "x": arm}))
    assert found.verdict == verdict


def test_signs_and_interval_on_opposite_sides_show_nothing():
    # Many small losses, few large gains: the tests point in opposite directions.
    arm = [0.499] * 17 + [0.9, 0.9, 0.9]
    found = only(study({"baseline": [0.5] * 20, "x": arm}))
    assert found.p_holm <= 0.05
    assert found.mean > 0
    assert found.verdict == "not shown"


def test_an_interval_beside_zero_does_not_look_like_zero():
    assert headline("x", "b", 8, Interval(0.74, 1.0, 0.03, 1.45), "helps") == (
        "x - b = +0.74 points, 95 % interval 0.03 to 1.45, 8 pairs: helps"
    )
    assert "interval -0.04 to 1.52," in headline("x", "b", 8, Interval(0.7, 1, -0.04, 1.52), "")


# --- corners -------------------------------------------------------------------------------


def test_one_pair_has_no_interval():
    found = only(study({"baseline": [0.5], "x": [0.6]}))
    assert (found.mean, found.sd, found.low, found.high) == (pytest.approx(10), None, None, None)
    assert (
        found.headline == "x - baseline = +10.0 points, 1 pair, so no interval: not shown to help"
    )
    assert "1 pair cannot reach 0.05 in a sign test (2 x 0.5^1 = 1)" in found.notes[0]


def test_identical_differences_give_an_interval_of_width_zero():
    # 0.6 - 0.5 and 0.8 - 0.7 differ in the last bit; both are ten points
    found = only(study({"baseline": [0.5, 0.7] * 4, "x": [0.6, 0.8] * 4}))
    assert (found.mean, found.sd, found.low, found.high) == (10.0, 0.0, 10.0, 10.0)
    assert found.verdict == "helps"


def test_all_ties():
    found = only(study({"baseline": [0.5, 0.6, 0.1 + 0.2], "x": [0.5, 0.6, 0.3]}))
    assert (found.wins, found.losses, found.ties) == (0, 0, 3)
    assert (found.p_value, found.p_holm, found.verdict) == (1.0, 1.0, "not shown")
    assert found.headline.endswith("interval 0.00 to 0.00, 3 pairs: no difference shown")
    assert found.notes == []


def test_ties_may_leave_too_few_pairs():
    found = only(study({"baseline": [0.5] * 7, "x": [0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]}))
    assert found.p_value == 0.0625
    assert found.notes[0].startswith("5 pairs without the 2 ties cannot reach 0.05")


def test_baseline_missing():
    with pytest.raises(InputError, match="'baseline' is no arm of this study; it has a, b"):
        compare(study({"a": [0.5], "b": [0.5]}), "baseline")
    with pytest.raises(InputError, match="it has none"):
        compare([], "baseline")
    assert compare(study({"baseline": [0.5, 0.6]}), "baseline") == []


def test_a_metric_that_is_no_accuracy_is_refused():
    with pytest.raises(InputError, match="'loss' is not an accuracy; choose one of accuracy"):
        compare(study({"baseline": [0.5]}), "baseline", metric="loss")
    with pytest.raises(InputError, match="'loss'"):
        summarize(study({"baseline": [0.5]}), metric="loss")


def test_the_same_cell_twice_is_refused():
    rows = study({"baseline": [0.5], "x": [0.5]})
    with pytest.raises(InputError, match=r"two rows for arm 'x', data 'digits'.*split 0, seed 0"):
        compare([*rows, rows[1]], "baseline")


def test_missing_pairs_are_counted_and_named():
    rows = [
        *study({"baseline": [0.5, 0.5, 0.5, 0.5], "x": [0.6, 0.61]}, per_split=2),
        row("x", 1, 0, None, status="diverged"),
        row("x", 7, 7, 0.6),
    ]
    rows[0] = replace(rows[0], status="crashed", metrics=None)
    rows[1] = replace(rows[1], metrics={"accuracy": math.nan})
    found = only(rows)
    assert found.pairs == 0
    assert found.mean is None
    assert found.headline == "x - baseline: no pair finished in both arms, so nothing can be said"
    assert found.missing == [
        "split 0 seed 0 (baseline crashed)",
        "split 0 seed 1 (baseline has no such metric)",
        "split 1 seed 0 (x diverged)",
        "split 1 seed 1 (x was not planned)",
        "split 7 seed 7 (baseline was not planned)",
    ]
    assert found.notes == [f"5 pairs missing: {', '.join(found.missing)}"]


def test_many_missing_pairs_are_named_in_part():
    rows = study({"baseline": [0.5] * 20, "x": [0.6] * 10})
    rows += [row("x", i, 0, None, status="waiting") for i in range(10, 20)]
    found = only(rows)
    assert (found.pairs, len(found.missing)) == (10, 10)
    assert found.verdict == "helps"
    assert found.notes[0].startswith("10 pairs missing: split 10 seed 0 (x has not run), ")
    assert found.notes[0].endswith("split 15 seed 0 (x has not run) and 4 more")


def test_an_arm_without_pairs_still_counts_in_the_family():
    rows = study({"baseline": [0.5] * 7, "x": [0.6] * 7})
    rows += [row("dead", i, 0, None, status="crashed") for i in range(7)]
    alive, dead = compare(rows, "baseline")
    assert (alive.p_value, alive.p_holm) == (2 * 0.5**7, 4 * 0.5**7)
    assert (dead.p_holm, dead.verdict) == (1.0, "not shown")


def test_the_spread_between_splits_is_shown_when_seeds_share_them():
    arm = [0.5, 0.52, 0.52, 0.54, 0.49, 0.49]
    found = only(study({"baseline": [0.5] * 6, "x": arm}, per_split=2))
    assert found.split_means == pytest.approx({0: 1.0, 1: 3.0, 2: -1.0})
    assert found.by_split == "mean by split: +1.00, +3.00, -1.00"
    assert found.sentence.endswith(found.by_split)
    one = only(study({"baseline": [0.5] * 6, "x": arm}, per_split=6))
    assert one.by_split == "all pairs share split 0"
    many = only(study({"baseline": [0.5] * 20, "x": [0.5 + i / 1000 for i in range(20)]}, 2))
    assert many.by_split == "mean by split: +0.05 to +1.85"
    alone = only(study({"baseline": [0.5] * 6, "x": arm}))
    assert alone.by_split == ""


def test_families_are_separate_for_each_data_and_model():
    rows = []
    for data, model in itertools.product(("d1", "d2"), ("m1", "m2")):
        columns = {"baseline": [0.5] * 6, "x": [0.6] * 6}
        rows += study(columns, data=data, model=model)
    found = compare(rows, "baseline")
    assert [(f.data, f.model) for f in found] == [
        ("d1", "m1"), ("d1", "m2"), ("d2", "m1"), ("d2", "m2"),
    ]  # fmt: skip
    assert all(f.p_holm == f.p_value == 0.03125 and f.verdict == "helps" for f in found)


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_cells_changes_nothing(shuffler):
    columns = {"baseline": [0.50, 0.52, 0.51], "x": [0.50, 0.53, 0.55], "y": [0.4, 0.6, 0.5]}
    rows = study(columns)
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    by_arm = {found.arm: found for found in compare(shuffled, "baseline")}
    assert by_arm == {found.arm: found for found in compare(rows, "baseline")}


def test_summaries_agree_with_scipy():
    values = [0.81, 0.85, 0.79, 0.9]
    rows = [*study({"a": values}), row("a", 9, 9, None, status="crashed"), row("b", 0, 0, 0.5)]
    a, b = summarize(rows)
    percent = [100 * value for value in values]
    low, high = stats.t.interval(0.95, 3, stats.tmean(percent), stats.sem(percent))
    assert (a.n, a.unfinished, b.n, b.unfinished) == (4, 1, 1, 0)
    assert (a.low, a.high) == (pytest.approx(low), pytest.approx(high))
    assert a.sd == pytest.approx(stats.tstd(percent))
    assert (b.mean, b.sd, b.low, b.high) == (50.0, None, None, None)
    assert [value for *_, value in a.values] == pytest.approx(percent)


def test_the_interval_of_nothing_and_of_one():
    assert interval([]).mean is None
    assert interval([3.0]).mean == 3.0
    assert interval([3.0]).low is None
