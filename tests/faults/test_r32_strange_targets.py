"""R32: our parent and the first process: looked at or refused, never a deadlock.
(Ourselves and kernel threads: tests/e2e/test_dump.py.)"""

from faults import STACKSAMPLE, dump
from harness import run


def test_parent():
    done = run(["sh", "-c", f'"{STACKSAMPLE}" dump --quick --no-children $$; echo $?; true'])
    lines = done.stdout.decode().splitlines()
    assert lines[-1] == "0", done.stderr
    assert any("wait4(" in x or "child" in x for x in lines)


def test_parent_with_ourselves_below_it():
    done = run(["sh", "-c", f'"{STACKSAMPLE}" dump --quick $$; echo $?; true'])
    assert done.stdout.decode().splitlines()[-1] in ("0", "1"), done.stderr


def test_first_process():
    dump(1, "--no-children", want=(0, 1, 2))
