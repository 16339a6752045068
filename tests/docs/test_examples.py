"""The examples run and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_own_loop_learns(capsys) -> None:
    accuracy = runpy.run_path(str(EXAMPLES / "own_loop.py"))["main"](epochs=3)
    assert accuracy > 0.6  # ten classes: chance is 0.1
    assert capsys.readouterr().out.count("epoch") == 3


def test_localized_network_starts_the_same_and_moves(capsys) -> None:
    moved = runpy.run_path(str(EXAMPLES / "localize_timm.py"))["main"](pretrained=False)
    difference = float(capsys.readouterr().out.split()[2])
    assert difference < 1e-5
    assert moved > 1e-6


def test_bias_loss_trains_a_network_of_timm(capsys) -> None:
    accuracy = runpy.run_path(str(EXAMPLES / "bias_loss_timm.py"))["main"](epochs=2)
    assert accuracy > 0.2  # ten classes: chance is 0.1
    assert "before adaptive_avg_pool2d" in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    tested = {"bias_loss_timm.py", "localize_timm.py", "own_loop.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
