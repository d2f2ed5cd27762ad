"""Calls short functions for ever; every second a line: rounds so far, wall ns, CPU ns."""

import time


def b(x):
    return x + 1


def c(x):
    return x - 1


def a(x):
    return b(x) if x & 1 else c(x)


def work():
    rounds = 0
    while True:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for _ in range(1000):
                a(rounds)
                rounds += 1
        print(rounds, time.monotonic_ns(), time.thread_time_ns(), flush=True)


work()
