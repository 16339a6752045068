"""Studies: arms x data x models x splits x seeds, tuned alike, run as resumable cells, compared.

:func:`load_study` reads a study file, :func:`run_study` runs what its folder still lacks, and
:func:`read_study` says what is in a folder. A cell is one training run, named by the hash of its
recipe; the folder is the only memory, so a status is always what the files say.
"""

from convprior.lab.study.design import Arm, Cell, Range, Slot, Study, Tune, Variant
from convprior.lab.study.files import load_recipe, load_study
from convprior.lab.study.parse import parse_study
from convprior.lab.study.presets import list_presets
from convprior.lab.study.rows import Row, Status
from convprior.lab.study.run import Outcome, read_study, run_study
from convprior.lab.study.schema import recipe_keys, recipe_schema, study_schema
from convprior.lab.study.tune import Trial, Tuning, read_tunings

__all__ = [
    "Arm",
    "Cell",
    "Outcome",
    "Range",
    "Row",
    "Slot",
    "Status",
    "Study",
    "Trial",
    "Tune",
    "Tuning",
    "Variant",
    "list_presets",
    "load_recipe",
    "load_study",
    "parse_study",
    "read_study",
    "read_tunings",
    "recipe_keys",
    "recipe_schema",
    "run_study",
    "study_schema",
]
