"""Stacks that other profilers get wrong, one case after the other, each running for a
while in its own `spin_CASE`. Prints one JSON object: for each case the names that must
stand on the stack next to each other, innermost first (null: at least one native frame
or more lies between), and for `lines` the line. Cases that this Python lacks are left
out. usage: py_cases.py [SECONDS-OF-CPU-PER-CASE]
"""
import functools
import json
import sys
import threading
import time

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
EXPECTED = {}
QUALIFIED = sys.version_info >= (3, 11)


def case(function):
    name = function.__name__
    names = function()
    if names:
        EXPECTED[name] = names
    return function


def named(qualified):
    """As co_qualname, where there is one, else as co_name."""
    return qualified if QUALIFIED else qualified.split(".")[-1]


def make_spin(name):
    """A function of this name of its own, so that each case is found by it."""
    space = {"clock": time.thread_time}
    exec("def spin_%s(seconds):\n"
         "    end = clock() + seconds\n"
         "    while clock() < end:\n"
         "        pass\n" % name, space)
    return space["spin_" + name]


# Sort key, generator, __init__, functools.reduce and recursion (T4).
SPIN_NESTED = make_spin("nested")


def recurse(n):
    if n == 0:
        SPIN_NESTED(SECONDS)
    else:
        recurse(n - 1)


def key(item):
    if item == 1:
        recurse(3)
    return item


def generate():
    yield sorted([2, 1], key=key)


class Consumer:
    def __init__(self):
        for self.item in generate():
            pass


def combine(total, item):
    if item == 2:
        Consumer()
    return total


def outer():
    functools.reduce(combine, [1, 2])


@case
def nested():
    outer()
    return ["spin_nested", "recurse", "recurse", "recurse", "recurse", "key", None,
            "generate", named("Consumer.__init__"), "combine", None, "outer"]


# A class called so often that its call is specialised (T5).
SPIN_INIT = make_spin("init")


class Made:
    def __init__(self, last):
        if last:
            SPIN_INIT(SECONDS)


def make_many():
    for i in range(3000):
        Made(i == 2999)


@case
def init():
    make_many()
    return ["spin_init", named("Made.__init__"), "make_many", "init"]


# More frames than others keep, where the C stack bears it (T8).
SPIN_DEEP = make_spin("deep")


def dive(n):
    if n == 0:
        SPIN_DEEP(SECONDS)
    else:
        dive(n - 1)


@case
def deep():
    if sys.version_info < (3, 11):
        return None
    sys.setrecursionlimit(6000)
    try:
        dive(4999)
    except RecursionError:  # -X perf: each call takes C stack
        return None
    return ["spin_deep"] + ["dive"] * 5000 + ["deep"]


# A name of 3000 characters and a line table of 100 KB (T8, T9).
SPIN_LONG = make_spin("long")
LONG_NAME = "n" * 3000


@case
def long():
    space = {"spin_long": SPIN_LONG, "seconds": SECONDS}
    exec("def %s():\n spin_long(seconds)\n" % LONG_NAME, space)
    space[LONG_NAME]()
    return ["spin_long", LONG_NAME, "long"]


SPIN_LINES = make_spin("lines")
LINES = 20000


@case
def lines():
    space = {"spin_lines": SPIN_LINES, "seconds": SECONDS, "x": 1}
    text = "def many():\n" + "    x = [0, 1]\n" * LINES + "    spin_lines(seconds)\n"
    exec(compile(text, "many.py", "exec"), space)
    space["many"]()
    return ["spin_lines", "many", "lines"]


# Code objects that are freed as soon as they have run (T10).
SPIN_CHURN = make_spin("churn")


@case
def churn():
    end = time.thread_time() + SECONDS
    n = 0
    while time.thread_time() < end:
        n += 1
        exec(compile("def f%d(): pass\nfor i in range(2000): f%d()\n" % (n, n),
                     "churn%d.py" % n, "exec"), {})
    SPIN_CHURN(SECONDS)
    return ["spin_churn", "churn"]


# Coroutines that await each other.
SPIN_AWAIT = make_spin("await")


async def third():
    SPIN_AWAIT(SECONDS)


async def second():
    await third()


async def first():
    await second()


@case
def awaits():
    import asyncio

    asyncio.run(first())
    return ["spin_await", "third", "second", "first"]


# Another interpreter on the same thread (T19).
@case
def subinterpreter():
    text = ("import time\n"
            "def spin_subinterpreter(seconds):\n"
            "    end = time.thread_time() + seconds\n"
            "    while time.thread_time() < end:\n"
            "        pass\n"
            "def inside():\n"
            "    spin_subinterpreter(%f)\n"
            "inside()\n" % (3 * SECONDS))  # it is found a moment after it was made
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = __import__(name)
            break
        except ImportError:
            pass
    else:
        return None
    other = interpreters.create()
    interpreters.run_string(other, text)
    return ["spin_subinterpreter", "inside", "<module>", None, "subinterpreter"]


# A dict display that calls back: up to 3.10 the evaluation needs the register that
# holds its frame for something else meanwhile.
SPIN_HASH = make_spin("hash")


class Hashed:
    def __hash__(self):
        SPIN_HASH(SECONDS)
        return 1


@case
def hashes():
    {Hashed(): 1}
    return ["spin_hash", named("Hashed.__hash__"), None, "hashes"]


# C that knows nothing of Python calls back (ctypes), and so does tracing.
SPIN_CALLBACK = make_spin("callback")


@case
def callback():
    import ctypes

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    seen = []

    def compare(a, b):
        if not seen:
            seen.append(a)
            SPIN_CALLBACK(SECONDS)
        return 0

    ctypes.CDLL(None).qsort((ctypes.c_int * 3)(3, 1, 2), 3, 4, kind(compare))
    return ["spin_callback", named("callback.<locals>.compare"), None, "callback"]


SPIN_TRACE = make_spin("trace")


@case
def trace():
    def tracer(frame, event, arg):
        if frame.f_code.co_name == "traced":
            sys.settrace(None)
            SPIN_TRACE(SECONDS)

    def traced():
        pass

    sys.settrace(tracer)
    traced()
    return ["spin_trace", named("trace.<locals>.tracer"), None,
            named("trace.<locals>.traced"), "trace"]


# Names and files that are not ASCII, or not even UTF-8.
SPIN_NAMES = make_spin("names")


@case
def names():
    import os

    space = {"spin": SPIN_NAMES, "seconds": SECONDS}
    # Up to 3.13 CPython with -X perf fails itself where a file's name is no UTF-8.
    plain = "perf" in getattr(sys, "_xoptions", {}) and sys.version_info < (3, 14)
    exec(compile("def \u043a\u043b\u044e\u0447_\u6771(): spin(seconds)\n",
                 os.fsdecode(b"a;b\n.py" if plain else b"a\xff;b\n.py"), "exec"), space)
    space["\u043a\u043b\u044e\u0447_\u6771"]()
    return ["spin_names", "\u043a\u043b\u044e\u0447_\u6771", "names"]


# What runs as an object dies, or between two instructions.
SPIN_GONE = make_spin("gone")


class Gone:
    def __del__(self):
        SPIN_GONE(SECONDS)


@case
def gone():
    Gone()
    return ["spin_gone", named("Gone.__del__"), None, "gone"]


# A thread that Python gave a name.
SPIN_THREAD = make_spin("thread")


def run_thread():
    SPIN_THREAD(SECONDS)


@case
def thread():
    t = threading.Thread(target=run_thread, name="worker one")
    t.start()
    t.join()
    return ["spin_thread", "run_thread", named("Thread.run")]


print(json.dumps(EXPECTED), flush=True)
