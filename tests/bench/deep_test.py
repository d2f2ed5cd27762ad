"""A test below which the Python stack is more than 60 frames deep, as under pytest."""

import os
import time


def b(x):
    return x + 1


def c(x):
    return x - 1


def work(until):
    x = 0
    while time.thread_time() < until:
        for _ in range(1000):
            x = b(x) if x & 1 else c(x)


def dive(n, until):
    if n == 0:
        work(until)
    else:
        dive(n - 1, until)


def test_deep():
    dive(30, time.thread_time() + float(os.environ["DEEP_SECONDS"]))
