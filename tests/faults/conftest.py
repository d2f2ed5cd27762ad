"""The fixtures of the end-to-end tests; only tests with a bundle take the lock."""

import importlib.util
import pathlib

import pytest

_path = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "conftest.py"
_spec = importlib.util.spec_from_file_location("e2e_conftest", _path)
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)

from faults import perf_lock  # noqa: E402

pytest_configure = _e2e.pytest_configure
out, process, terminal = _e2e.out, _e2e.process, _e2e.terminal


@pytest.fixture(autouse=True)
def _one_at_a_time(request):
    """Rings take locked memory that all runs of a user share."""
    if "out" not in request.fixturenames:
        yield
        return
    with perf_lock():
        yield
