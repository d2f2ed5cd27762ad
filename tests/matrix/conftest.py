"""The fixtures of the end-to-end tests."""

import importlib.util
import pathlib

_path = pathlib.Path(__file__).resolve().parents[1] / "e2e" / "conftest.py"
_spec = importlib.util.spec_from_file_location("e2e_conftest", _path)
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)

pytest_configure = _e2e.pytest_configure
_one_at_a_time, out, process = _e2e._one_at_a_time, _e2e.out, _e2e.process
