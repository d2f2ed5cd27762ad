"""R05, R08, R13, R30: processes and threads that end while they are looked at are no
errors; a zombie is taken for ended; a later look works."""

import pathlib

import pytest
from faults import PYTHON, dump, python_names, untraced

PID_MAX = int(pathlib.Path("/proc/sys/kernel/pid_max").read_text())
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


# Threads come and go until one has a number below its process'.
WRAPPED = """
import os, threading
stay, found = threading.Event(), threading.Event()
def thread():
    if threading.get_native_id() < os.getpid():
        found.set()
        stay.wait()
while not found.is_set():
    t = threading.Thread(target=thread, daemon=True)
    t.start()
    while t.is_alive() and not found.is_set():
        t.join(0.001)
print("READY", flush=True)
stay.wait()
"""


@pytest.mark.skipif(PID_MAX > 1 << 16, reason="it takes long until numbers come back here")
def test_main_thread_is_first_whatever_its_number(process):
    wrapped = process([PYTHON, "-c", WRAPPED])
    wrapped.line(b"READY")
    main, other = dump(wrapped.pid)["threads"]
    assert main["tid"] == wrapped.pid > other["tid"]


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
