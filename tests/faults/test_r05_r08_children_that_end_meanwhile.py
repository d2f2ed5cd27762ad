"""R05, R08, R13, R30: processes and threads that end while they are looked at are no
errors; a zombie is taken for ended; a later look works."""

from faults import PYTHON, dump, python_names, untraced

CHURN = """
import os, sys, threading

zombie = os.fork()
if zombie == 0:
    os._exit(0)

def threads():
    while True:
        t = threading.Thread(target=int)
        t.start()
        t.join()

def children():
    while True:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

threading.Thread(target=threads, daemon=True).start()
threading.Thread(target=threads, daemon=True).start()
print("READY", zombie, flush=True)
children()
"""


def test_churn_of_threads_and_children(process):
    churn = process([PYTHON, "-c", CHURN])
    (zombie,) = map(int, churn.line(b"READY"))
    for _ in range(15):
        look = dump(churn.pid)
        assert look["processes"][0]["pid"] == churn.pid
        assert zombie not in [p["pid"] for p in look["processes"]]
        assert look["threads"][0]["tid"] == churn.pid
        assert all(t["name"] != "?" for t in look["threads"])
    assert any("children" in python_names(dump(churn.pid)["threads"][0]) for _ in range(20))
    assert untraced(churn.pid)
