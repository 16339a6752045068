"""What every test shares, and the Python blocks of the documentation and the README as tests."""

import os
import signal
import tempfile

import torch
from hypothesis import settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser as MarkdownBlocks
from sybil.parsers.myst import PythonCodeBlockParser as MystBlocks

# No network, no access to the user's data or cache, one thread for each pytest worker.
_cache = tempfile.TemporaryDirectory(prefix="convprior-tests-")
os.environ["CONVPRIOR_CACHE"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("CONVPRIOR_DATA", None)
torch.set_num_threads(1)

# In the background of a script Python ignores Ctrl-C, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples everywhere, and no deadline: a busy machine is not a failure.
settings.register_profile("convprior", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("convprior")

# A page is one program: its blocks share their names and run in order.
pytest_collect_file = (
    Sybil(parsers=[MystBlocks()], patterns=["docs/**/*.md", "docs/*.md"])
    + Sybil(parsers=[MarkdownBlocks()], patterns=["README.md"])
).pytest()
