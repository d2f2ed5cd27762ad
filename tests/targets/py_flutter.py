"""Calls short functions by turns, some through C, for ever. Possible stacks,
innermost first: [b|c]; a is always called by work, through `sorted` too.
"""
import sys


def b(x):
    return x + 1


def c(x):
    return x - 1


def a(x):
    return b(x) if x & 1 else c(x)


def through_c(x):
    return sorted((x, x + 1), key=a)


class Made:
    def __init__(self, x):
        self.x = a(x)


def items(n):
    for i in range(n):
        yield a(i)


def work():
    x = 0
    while True:
        x = a(x & 7)
        through_c(x)
        Made(x)
        for _ in items(2):
            x += 1


print("end", flush=True)
work()
