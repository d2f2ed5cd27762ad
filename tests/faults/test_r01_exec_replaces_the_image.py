"""R01: the same pid, a new image: its samples have the new image's symbols."""

from faults import PYTHON, STUCK, dump, has, profile, python_names
from harness import eventually

SPIN = """
import os, sys, time

def {name}():
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass

{name}()
{then}
"""


def test_samples_are_split_by_image(out, tmp_path):
    second = tmp_path / "second.py"
    second.write_text(SPIN.format(name="after", then="sys.exit(7)"))
    first = tmp_path / "first.py"
    then = f"os.execv(sys.executable, [sys.executable, {str(second)!r}])"
    first.write_text(SPIN.format(name="before", then=then))
    done, summary, stacks = profile(out, "sh", "-c", f"exec {PYTHON} {first}")
    assert done.returncode == 7
    assert any(has(s, "before") for s, _ in stacks)
    assert any(has(s, "after") for s, _ in stacks)
    assert not any(has(s, "before") and has(s, "after") for s, _ in stacks)
    # The interpreter starts twice, in a tenth of the samples: there its half-made
    # state is rejected, not guessed, and an image may be gone before it is read.
    assert summary["quality"]["rejected"] <= summary["quality"]["samples"] / 5
    assert summary["quality"]["complete_pct"] >= 95


def test_dumps_before_and_after(process):
    script = f'read line; exec {PYTHON} {STUCK} deadlock'
    shell = process(["sh", "-c", f"echo up; {script}"])
    shell.until(b"up")
    (main,) = dump(shell.pid)["threads"]
    assert main["state"] == "io" and python_names(main) == []
    shell.send(b"\n")
    shell.until(b"READY")
    look = dump(shell.pid)
    assert "deadlock" in python_names(look["threads"][0])
    assert eventually(
        lambda: all(t["complete"] for t in dump(shell.pid)["threads"]), "whole stacks"
    )
