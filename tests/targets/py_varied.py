"""What programs do, each for a while by turns and hot enough for a JIT: functions,
generators that yield from others, classes, comprehensions, exceptions, recursion,
coroutines, contexts, and all of it called from C. Says first who called whom, as the
interpreter itself saw it: a JSON list of pairs of names, caller first.
usage: py_varied.py SECONDS-OF-CPU
"""
import functools
import json
import re
import sys
import time


def leaf(x):
    n = 0
    for i in range(20):
        n += i ^ x
    return n


def add(x, y):
    return x + y + leaf(x)


def inner(n):
    for i in range(n):
        yield leaf(i)


def middle(n):
    got = yield from inner(n)
    yield from inner(n)
    return got


def outer(n):
    yield from middle(n)
    yield 1


def delegate(n):
    total = 0
    for x in outer(n):
        total += x
    return total


class Shape:
    def __init__(self, size):
        self.size = size
        self.total = leaf(size)

    @property
    def area(self):
        return add(self.size, self.total)

    def __lt__(self, other):
        return leaf(self.size) < other.size

    def __len__(self):
        return leaf(3) & 7

    def __call__(self, x):
        return add(x, self.size)

    def __iter__(self):
        return inner(self.size & 7)

    @classmethod
    def make(cls, size):
        return cls(size)


class Round(Shape):
    def __init__(self, size):
        super().__init__(size)
        self.more = [leaf(i) for i in range(3)]


def classes(n):
    total = 0
    for i in range(n):
        s = Round.make(i)
        total += s.area + len(s) + s(i) + sum(s)
    return total


def comprehensions(n):
    a = [leaf(i) for i in range(n)]
    b = {i: add(i, 1) for i in range(n)}
    c = {leaf(i) for i in a}
    return sum(x for x in (leaf(y) for y in a)) + len(b) + len(c)


def failing(x):
    if x % 3 == 0:
        raise ValueError(x)
    return leaf(x)


def exceptions(n):
    total = 0
    for i in range(n):
        try:
            total += failing(i)
        except ValueError:
            total += leaf(i)
        finally:
            total += 1
    return total


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def recursion(n):
    return fib(n // 4)


def key(x):
    return leaf(x) & 15


def replace(match):
    leaf(4)
    return match.group(0)


def from_c(n):
    a = sorted(range(n), key=key)
    b = functools.reduce(add, a)
    c = sum(map(leaf, a))
    d = max(a, key=lambda x: -leaf(x))
    return re.sub("a", replace, "banana" * 5), b + c + d, sorted(map(Shape, a[:5]))


def passed_on(function):
    @functools.wraps(function)
    def wrapper(*args, **kw):
        return function(*args, **kw)
    return wrapper


@passed_on
def wrapped(n, *, k=1):
    return add(n, k)


class Context:
    def __enter__(self):
        leaf(1)
        return self

    def __exit__(self, *_):
        leaf(2)
        return True


def contexts(n):
    for i in range(n):
        with Context():
            wrapped(i, k=2)
            if i & 1:
                raise KeyError(i)


def numbers(n):
    x = 0.5
    for i in range(n * 10):
        x = x * 1.0001 + i / 3.0
        if x > 1e9:
            x = 0.0
    return x


def strings(n):
    s = ""
    for i in range(n):
        s += str(i)
        "".join(c for c in f"{s[-5:]}-{i!r}")
    return s


async def third(n):
    return leaf(n)


async def second(n):
    return await third(n) + await third(n + 1)


async def first(n):
    return sum([await second(i) for i in range(n)])


def coroutines(n):
    try:
        first(n).send(None)
    except StopIteration as e:
        return e.value


def receive():
    got = 0
    while True:
        got = yield leaf(got)


def sends(n):
    g = receive()
    next(g)
    return sum(g.send(i) for i in range(n))


PARTS = (delegate, classes, comprehensions, exceptions, recursion, from_c, contexts,
         numbers, strings, coroutines, sends)


def work(seconds):
    until = time.thread_time() + seconds
    while True:
        for part in PARTS:
            for _ in range(30):
                part(40)
            if time.thread_time() >= until:
                return


def name(frame):
    code = frame.f_code
    return getattr(code, "co_qualname", code.co_name)


# What makes a generator is no call to a profile function, but is one.
SEEN = {("Shape.__iter__", "inner")}


def watch(frame, event, _):
    if event == "call" and frame.f_back:
        SEEN.add((name(frame.f_back), name(frame)))


def main():
    sys.setprofile(watch)
    work(0.2)
    sys.setprofile(None)
    print(json.dumps(sorted(SEEN)), flush=True)
    work(float(sys.argv[1]))


if __name__ == "__main__":
    main()
