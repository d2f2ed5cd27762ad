"""Two threads that fill two cores with torch, unit by unit.

usage: torch_work.py LOG SECONDS

Each unit is the same work; its start, end (CLOCK_MONOTONIC) and the thread's
own CPU time go into LOG as three u64 a unit when all is done. A line "ready"
on stdout says that both threads work.
"""

import array
import sys
import threading
import time

import torch


def unit(a, b):
    c = torch.sin(a) * b + a
    return (c @ b).sum() + (c - a).abs().mean()


def work(seconds, log, barrier):
    a = torch.rand(160, 160, dtype=torch.float64)
    b = torch.rand(160, 160, dtype=torch.float64)
    for _ in range(20):
        unit(a, b)
    barrier.wait()
    end = time.monotonic_ns() + int(seconds * 1e9)
    while True:
        start = time.monotonic_ns()
        cpu = time.thread_time_ns()
        for _ in range(4):
            unit(a, b)
        log.extend((start, time.monotonic_ns(), time.thread_time_ns() - cpu))
        if start >= end:
            return


def main():
    path, seconds = sys.argv[1], float(sys.argv[2])
    torch.set_num_threads(1)
    logs = [array.array("Q"), array.array("Q")]
    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=work, args=(seconds, log, barrier)) for log in logs]
    for thread in threads:
        thread.start()
    barrier.wait()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    with open(path, "wb") as out:
        for log in logs:
            log.tofile(out)


main()
