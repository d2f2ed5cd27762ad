"""R10, R15: a pid and a thread id that somebody else has now: nothing of the one is
told of the other."""

import os

import pytest

from faults import PYTHON, STACKSAMPLE, profile

LAST = "/proc/sys/kernel/ns_last_pid"
pytestmark = pytest.mark.skipif(
    not os.access(LAST, os.W_OK), reason=f"needs root and {LAST}"
)

HELP = """
import os, sys, threading, time

def ask_for(number):
    # Somebody else on the machine may be faster.
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(number - 1))

def burn():
    end = time.thread_time() + 0.15
    while time.thread_time() < end:
        pass
"""
THREADS = HELP + """
def body(wanted):
    seen.append(threading.get_native_id())
    if wanted in (None, seen[-1]):
        burn()

seen = []
first = threading.Thread(target=body, args=(None,), name="first")
first.start()
first.join()
number = seen[0]
while seen[-1] != number or len(seen) == 1:
    ask_for(number)
    second = threading.Thread(target=body, args=(number,), name="second")
    second.start()
    second.join()
print(number)
"""
PROCESSES = HELP + """
import signal

def child_one():
    print("ONE", os.getpid(), flush=True)
    signal.pause()

def child_two():
    print("TWO", os.getpid(), flush=True)
    signal.pause()

print("READY", flush=True)
number = os.fork()
if number == 0:
    child_one()
sys.stdin.readline()
os.kill(number, 9)
os.waitpid(number, 0)
while True:
    ask_for(number)
    pid = os.fork()
    if pid == 0:
        if os.getpid() == number:
            child_two()
        os._exit(0)
    if pid == number:
        break
    os.waitpid(pid, 0)
os.waitpid(number, 0)
"""


def test_thread_id(out):
    done, summary, _ = profile(out, PYTHON, "-c", THREADS)
    assert done.returncode == 0, done.stderr
    number = int(done.stdout)
    rows = [t for t in summary["threads"] if t["tid"] == number]
    assert len(rows) >= 2, "the two are not one thread"
    names = [t["name"] for t in rows]
    assert names.count("first") <= 1 and names.count("second") <= 1
    assert max(t["wall_s"] for t in rows) < summary["time"]["total"]["wall_s"]


def test_pid_between_two_looks(process):
    """One dump that looks again and again keeps what it knows of a process."""
    parent = process([PYTHON, "-c", PROCESSES])
    (number,) = map(int, parent.line(b"ONE"))
    words = [STACKSAMPLE, "dump", "--quick", "--no-native", "--interval", "0.01s"]
    looks = process([*words, "--repeat", "100000", str(parent.pid)])
    looks.until(b"child_one")
    parent.send(b"next\n")
    assert parent.line(b"TWO") == [str(number).encode()]
    start = looks.until(b"child_two")
    end = looks.until(b"looked once", start)
    looks.until(b"looked once", end)
    assert b"child_one" not in looks.text[start:]
