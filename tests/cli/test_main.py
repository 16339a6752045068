"""What becomes of errors that reach the top."""

import errno
import sys

import pytest

from convprior import cli
from convprior.__main__ import main


def test_a_forbidden_path_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/images")

    monkeypatch.setattr(cli, "app", forbidden)
    monkeypatch.setattr(sys, "argv", ["convprior", "report", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert (
        capsys.readouterr().err == "error: /secret/images: Permission denied; change its rights\n"
    )
