"""CI fails where something is skipped for a reason that nobody wrote down."""

import os
import shutil

import pytest

import harness
from harness import PYTHON, run

TEST = "import pytest\n\n@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n):\n    pytest.skip({!r})\n"


@pytest.mark.parametrize("ci, reason, status", [
    ("1", "no zsh", 0),
    ("1", "cannot fetch x: no answer", 0),
    ("1", "because of the weather", 1),
    ("", "because of the weather", 0),
])
def test_unlisted_skip_fails_in_ci(tmp_path, ci, reason, status):
    for name in ("conftest.py", "skips.txt"):
        shutil.copy(harness.ROOT / "tests" / name, tmp_path)
    (tmp_path / "test_it.py").write_text(TEST.format(reason))
    env = {k: v for k, v in os.environ.items() if k != "CI"} | ({"CI": ci} if ci else {})
    done = run([PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, env=env)
    assert done.returncode == status, done.stdout
    assert reason.encode() in done.stdout, "reasons are printed"
    assert (b"NOT IN tests/skips.txt" in done.stdout) == ("weather" in reason)
