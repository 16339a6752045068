"""The documentation builds without a warning, and says nothing that the files do not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_documentation_builds_without_warnings(tmp_path: Path) -> None:
    command = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html", "-d"]
    result = subprocess.run(
        [
            sys.executable,
            *command,
            str(tmp_path / "trees"),
            str(ROOT / "docs"),
            str(tmp_path / "x"),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "x" / "index.html").is_file()
