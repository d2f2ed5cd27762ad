"""R02: a thread that is not the leader execs; its number becomes the pid."""

from faults import PYTHON, has, profile

SCRIPT = """
import os, sys, threading
if len(sys.argv) > 1:
    def after():
        for i in range(20000000):
            pass
    after()
    sys.exit(5)
again = [sys.executable, sys.argv[0], "again"]
threading.Thread(target=os.execv, args=(sys.executable, again)).start()
threading.Event().wait()
"""


def test_it_goes_on_as_the_leader(out, tmp_path):
    script = tmp_path / "again.py"
    script.write_text(SCRIPT)
    done, summary, stacks = profile(out, PYTHON, str(script))
    assert (done.returncode, done.stderr) == (5, b"")
    assert any(has(s, "after") for s, _ in stacks)
    leaders = [t for t in summary["threads"] if t["tid"] == t["pid"]]
    assert leaders and all(t["role"] == "main" for t in leaders if t["user_s"] > 0.05)
