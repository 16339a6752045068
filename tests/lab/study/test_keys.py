"""Keys on the command line that are no keys."""

import pytest

from convprior.errors import InputError
from convprior.lab.study import load_study
from convprior.lab.study.keys import assignment


def test_a_comment_is_no_assignment():
    with pytest.raises(InputError, match="must be KEY=VALUE"):
        assignment("# = 5")


def test_arms_that_are_no_table_are_told_in_a_sentence():
    with pytest.raises(InputError, match=r"arms in arms\.a\.seed is a value and cannot be a table"):
        load_study(overrides=["arms=5", "arms.a.seed=1"])
