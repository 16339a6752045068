"""How the compiled path is compiled, kept on disk and run in threads."""

import runpy

import pytest

from convprior.errors import InputError
from convprior.local.engine import compiling, threads


def test_compiles_where_nothing_can_be_kept_on_disk(monkeypatch):
    def refusing(real):
        def compile_only(*arguments, cache=False, **options):
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return real(*arguments, **options)

        return compile_only

    for name in ("njit", "cfunc"):
        monkeypatch.setattr(compiling, name, refusing(getattr(compiling, name)))
    assert compiling.compiled(lambda a, b: a + b)(2, 3) == 5
    assert compiling.compiled_callback(lambda a, b: None, 2).address


def test_an_error_in_a_thread_is_raised():
    def work(part, first, last):
        if part == 1:
            raise InputError("it went wrong")

    with pytest.raises(InputError, match="it went wrong"):
        threads.run(work, [(0, 1), (1, 2), (2, 3)])


def test_what_other_sources_were_compiled_to_is_forgotten(tmp_path):
    (tmp_path / "sums.nbi").write_text("compiled long ago")
    compiling.forget_older(tmp_path)
    assert not list(tmp_path.glob("*.nbi"))
    (tmp_path / "sums.nbi").write_text("compiled just now")
    compiling.forget_older.__wrapped__(tmp_path)
    assert list(tmp_path.glob("*.nbi"))


def test_a_broken_cache_is_compiled_again(tmp_path):
    path = tmp_path / "adding.py"
    path.write_text("def add(a, b):\n    return a + b\n")
    scope = runpy.run_path(str(path))
    assert compiling.compiled(scope["add"])(1, 2) == 3
    (index,) = tmp_path.rglob("*.nbi")
    index.write_bytes(b"not an index")
    assert compiling.compiled(scope["add"])(1, 2) == 3
    assert index.read_bytes() != b"not an index"
