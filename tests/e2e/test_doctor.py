"""`stacksample doctor`: one row a capability, each tried for real, and a status
that says whether `run` will work fully."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from deny_perf import denied
from harness import DENY_PERF, STACKSAMPLE, run

ROWS = [
    "perf, own processes",
    "perf, kernel frames",
    "ptrace, own processes",
    "engine that is used",
    "read memory of a child",
    "attach to any process",
    "ring memory",
    "python ",
]
ROW = re.compile(r"^(?P<what>.{25,}?) +(?P<works>yes|part|no) +(?P<rest>.*)$")
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
PARANOID = int(pathlib.Path("/proc/sys/kernel/perf_event_paranoid").read_text())


def doctor(*words, prefix=(), **env):
    done = run([*prefix, STACKSAMPLE, "doctor", *words], env={**os.environ, **env})
    rows = [ROW.match(line) for line in done.stdout.decode("ascii").splitlines()]
    assert all(rows), done.stdout
    return done, {m["what"].strip(): m for m in rows}


def test_a_row_for_each_capability():
    done, rows = doctor(PYTHON=sys.executable)
    found = list(rows)
    for i, name in enumerate(ROWS):
        assert found[i].startswith(name)
    needed = [m["works"] for name, m in rows.items()
              if name in ROWS and not name.startswith(("attach", "ptrace"))]
    if rows["engine that is used"]["works"] == "no":
        assert done.returncode == 2
    else:
        assert done.returncode == (0 if set(needed) == {"yes"} else 1)
    assert done.stderr == b""


@pytest.mark.parametrize("ptrace, works, status", [(False, "part", 1), (True, "no", 2)])
def test_where_perf_is_refused(ptrace, works, status):
    """The engine that takes its place is tried for real, and named."""
    done = run(denied(STACKSAMPLE, "doctor", ptrace=ptrace))
    rows = {m["what"].strip(): m for m in map(ROW.match, done.stdout.decode().splitlines())}
    assert rows["perf, own processes"]["works"] == "no"
    assert rows["ptrace, own processes"]["works"] == ("no" if ptrace else "yes")
    assert rows["engine that is used"]["works"] == works
    assert rows["engine that is used"]["rest"].startswith("none" if ptrace else "ptrace")
    assert done.returncode == status


def test_the_interpreter_was_read():
    _, rows = doctor(PYTHON=sys.executable)
    row = rows[f"python {sys.executable}"]
    version = ".".join(str(n) for n in sys.version_info[:2])
    assert row["rest"].startswith(version)
    assert f"pytest {pytest.__version__}" in row["rest"]


def test_nothing_of_the_folder_is_imported(tmp_path):
    for name in ("importlib", "email", "zipfile", "csv", "torch", "pytest"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    done = subprocess.run(
        [STACKSAMPLE, "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1, 2)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("python", ["/nonexistent/python", "no-such-python", "/bin/false"])
def test_no_interpreter(python):
    done, rows = doctor(PYTHON=python)
    (row,) = [m for name, m in rows.items() if name.startswith("python")]
    assert row["works"] == "no"
    assert "PYTHON=" in row["rest"]
    assert not any("libtorch" in name for name in rows)
    assert done.returncode in (0, 1, 2)  # `run` does not need it


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_unprivileged(tmp_path):
    if not os.access(STACKSAMPLE, os.X_OK) or run([*UNPRIVILEGED, "true"]).returncode != 0:
        pytest.skip("cannot run as another user")
    copy = tmp_path / "stacksample"
    copy.write_bytes(pathlib.Path(STACKSAMPLE).read_bytes())
    for folder in [copy, tmp_path, tmp_path.parent, tmp_path.parent.parent]:
        folder.chmod(0o755)
    done = run([*UNPRIVILEGED, str(copy), "doctor"])
    text = done.stdout.decode("ascii")
    memory = [line for line in text.splitlines() if line.startswith("read memory")]
    assert " yes " in memory[0]
    if PARANOID == 2 and not DENY_PERF:
        assert done.returncode == 1
        assert "sudo sysctl kernel.perf_event_paranoid=1" in text


@pytest.mark.parametrize("words", [["x"], ["--nonsense"], ["--", "x"]])
def test_usage(words):
    done = run([STACKSAMPLE, "doctor", *words])
    assert done.returncode == 64
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1


def test_help():
    done = run([STACKSAMPLE, "doctor", "--help"])
    assert done.returncode == 0
    assert b"exit status" in done.stdout
