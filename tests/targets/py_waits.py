"""Waits in one way for some time and says, as JSON, how long: `py_waits.py KIND SECONDS`.

What is measured is a thread's time off the CPU, by its own clocks: elapsed time less
CPU time less the time on a run queue (/proc/thread-self/schedstat)."""

import json
import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time

PIECE_S = 0.05  # one wait


def clocks():
    with open("/proc/thread-self/schedstat") as f:
        cpu_ns, queue_ns, _ = map(int, f.read().split())
    return time.monotonic_ns(), cpu_ns, queue_ns


class Measured:
    """Seconds of the calling thread in a `with` block."""

    def __enter__(self):
        self.before = clocks()
        return self

    def __exit__(self, *_):
        wall, cpu, runnable = (b - a for a, b in zip(self.before, clocks()))
        self.all = {"tid": threading.get_native_id(), "wall_s": wall / 1e9,
                    "cpu_s": cpu / 1e9, "runnable_s": runnable / 1e9,
                    "off_s": (wall - cpu - runnable) / 1e9}


def pieces(seconds):
    return range(int(seconds / PIECE_S))


def sleep(seconds):
    for _ in pieces(seconds):
        time.sleep(PIECE_S)


def helped(seconds, release, wait):
    """Another thread ends each wait after its time."""
    ready = threading.Semaphore(0)

    def helper():
        for i in pieces(seconds):
            ready.acquire()
            time.sleep(PIECE_S)
            release(i)

    thread = threading.Thread(target=helper, name="helper")
    thread.start()
    for i in pieces(seconds):
        ready.release()
        wait(i)
    thread.join()


def lock(seconds):
    locks = [threading.Lock() for _ in pieces(seconds)]
    for one in locks:
        one.acquire()
    helped(seconds, lambda i: locks[i].release(), lambda i: locks[i].acquire())


def pipe(seconds):
    r, w = os.pipe()
    helped(seconds, lambda i: os.write(w, b"x"), lambda i: os.read(r, 1))


def network(seconds):
    with socket.create_server(("127.0.0.1", 0)) as server:
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
    helped(seconds, lambda i: b.send(b"x"), lambda i: a.recv(1))


def event(seconds):
    events = [threading.Event() for _ in pieces(seconds)]
    helped(seconds, lambda i: events[i].set(), lambda i: events[i].wait())


def a_queue(seconds):
    q = queue.Queue()
    helped(seconds, lambda i: q.put(i), lambda i: q.get())


def child(seconds):
    subprocess.run(["sleep", str(seconds)], check=True)


def disk(seconds):
    """Reads that go past the page cache."""
    size = 1 << 20
    buffer = mmap.mmap(-1, size)  # aligned
    with tempfile.NamedTemporaryFile(dir=os.getcwd()) as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
        fd = os.open(file.name, os.O_RDONLY | os.O_DIRECT)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.preadv(fd, [buffer], 0)
        os.close(fd)


def gil(seconds):
    """Four threads that never block, but for the interpreter."""
    found = []

    def spin():
        with Measured() as m:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sum(range(1000))
        found.append(m.all)

    threads = [threading.Thread(target=spin, name=f"spinner-{i}") for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found


def spinners(seconds):
    """More processes than CPUs."""
    for _ in range(4 * len(os.sched_getaffinity(0))):
        if os.fork() == 0:
            with Measured() as m:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    pass
            os.write(1, (json.dumps(m.all) + "\n").encode())
            os._exit(0)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return []


KINDS = {"sleep": sleep, "lock": lock, "pipe": pipe, "network": network, "event": event,
         "queue": a_queue, "child": child, "disk": disk, "gil": gil, "spinners": spinners}

if __name__ == "__main__":
    with Measured() as main:
        others = KINDS[sys.argv[1]](float(sys.argv[2]))
    for one in [main.all] if others is None else others:
        print(json.dumps(one), flush=True)
