"""Calls short functions by turns, some through C: for ever, or for as many rounds
as the first argument says. CALLS lists who may call whom.
"""
import sys

CALLS = {
    ("a", "b"), ("a", "c"), ("work", "a"), ("through_c", "a"), ("__init__", "a"),
    ("Made.__init__", "a"), ("items", "a"), ("work", "through_c"),
    ("work", "__init__"), ("work", "Made.__init__"), ("work", "items"),
    ("<module>", "work"),
}


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


def work(rounds):
    x = 0
    while rounds != 0:
        rounds -= 1
        x = a(x & 7)
        through_c(x)
        Made(x)
        for _ in items(2):
            x += 1


if __name__ == "__main__":
    print("end", flush=True)
    work(int(sys.argv[1]) if len(sys.argv) > 1 else -1)
