"""R03: a child by fork alone is a process of its own, with its parent's mappings."""

import pytest

from faults import PYTHON, has, profile

SCRIPT = """
import os
def in_child():
    for i in range(20000000):
        pass
pid = os.fork()
if pid == 0:
    in_child()
    os._exit(3)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("options", [(), ("--no-children",)], ids=["children", "none"])
def test_forked_child(out, tmp_path, options):
    script = tmp_path / "fork.py"
    script.write_text(SCRIPT)
    done, summary, stacks = profile(out, PYTHON, str(script), options=options)
    assert done.returncode == 3
    in_child = [s for s, _ in stacks if has(s, "in_child")]
    pids = {t["pid"] for t in summary["threads"]}
    if options:
        assert in_child == [] and len(pids) == 1
    else:
        assert in_child and len(pids) == 2
        assert summary["quality"]["complete_pct"] >= 99
