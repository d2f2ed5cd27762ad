"""Ways to be stuck or busy, for the tests of dumps: py_stuck.py MODE.

Prints READY (and what a test must know) once it is where it should be. SIGUSR1
makes it write its own account of all threads' stacks to stderr, from a C signal
handler, so also without the interpreter lock."""

import atexit
import faulthandler
import hashlib
import os
import select
import signal
import sys
import tempfile
import threading
import time


def ready(*words):
    print("READY", *words, flush=True)


def forever():
    threading.Event().wait()


def deadlock():
    """Two threads, each with the lock that the other wants."""
    lock_a, lock_b = threading.Lock(), threading.Lock()
    both = threading.Barrier(2)

    def loader():
        with lock_a:
            both.wait()
            ready(os.getpid())
            with lock_b:
                pass

    threading.Thread(target=loader, name="loader").start()
    with lock_b:
        both.wait()
        with lock_a:
            pass


def gil():
    """A native loop that keeps the interpreter lock from everybody else."""


    def starved():
        both.wait()
        while True:
            sum(range(100))

    both = threading.Barrier(2)
    threading.Thread(target=starved, name="starved", daemon=True).start()
    both.wait()
    ready()
    pow(7, 10**9, 3**400000)


def hashing():
    """A native loop that has let the interpreter lock go."""
    ready()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


def openmp():
    """A child that was forked after OpenMP had started its threads."""
    import torch

    torch.set_num_threads(2)
    numbers = torch.ones(1 << 21)
    (numbers + 1).sum()
    pid = os.fork()
    if pid == 0:
        in_child(numbers)
    ready(pid)
    os.waitpid(pid, 0)


def in_child(numbers):
    (numbers + 1).sum()
    os._exit(0)


def at_exit():
    """In a function of atexit, which waits for ever."""

    def last_words():
        ready()
        forever()

    atexit.register(last_words)


def many():
    """200 threads at the same place."""
    import torch  # noqa: F401  a process of real size

    both = threading.Barrier(201)

    def member():
        both.wait()
        forever()

    for i in range(200):
        threading.Thread(target=member, name=f"member-{i}", daemon=True).start()
    both.wait()
    ready()
    forever()


def busy():
    """Pure Python that never waits."""
    ready()
    while True:
        spin(1000)


def spin(n):
    while n:
        n -= 1


def sleep():
    ready()
    time.sleep(1000000)


def pipes():
    """Five threads that wait for pipes that nobody writes to, each by its own call."""
    r, w = os.pipe()
    fifo = os.path.join(tempfile.mkdtemp(), "fifo")
    os.mkfifo(fifo)
    polled, epolled = select.poll(), select.epoll()
    polled.register(r)
    epolled.register(r, select.EPOLLIN)
    waits = {"read": lambda: os.read(r, 1), "poll": polled.poll,
             "select": lambda: select.select([r], [], []), "epoll": epolled.poll,
             "open": lambda: open(fifo)}
    for name, wait in waits.items():
        threading.Thread(target=wait, name=name, daemon=True).start()
    ready(r, epolled.fileno(), fifo)
    forever()


def undumpable():
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    sleep()


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    globals()[sys.argv[1]]()
