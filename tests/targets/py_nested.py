"""A stack with C between Python functions at known places: sort key, generator,
__init__, functools.reduce, recursion. Prints what the interpreter says of it, one
frame a line, innermost first, then sleeps (or with "busy" spins) on that line. With
"both SECONDS" it sleeps fifty times and then spins so long.
"""
import functools
import sys
import time

BOTH = len(sys.argv) > 2 and sys.argv[1] == "both"
BUSY = len(sys.argv) > 1 and sys.argv[1] == "busy"


def show():
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        print("%s\t%s\t%d\t%d" % (name, code.co_filename, code.co_firstlineno,
                                  frame.f_lineno))
        frame = frame.f_back
    print("end", flush=True)
    return 1000


def spin(seconds):
    while True:
        pass


def sleep_often():
    for _ in range(50):
        time.sleep(0.02)


def spin_until(end):
    while time.thread_time() < end:
        pass


def leaf(n):
    if BOTH:
        show()
        sleep_often()
        spin_until(time.thread_time() + float(sys.argv[2]))
        sys.exit()
    (spin if BUSY else time.sleep)(show())


def recurse(n):
    if n == 0:
        leaf(n)
    else:
        recurse(n - 1)


def key(item):
    recurse(3)
    return item


def generate():
    yield sorted([2, 1], key=key)


class Consumer:
    def __init__(self):
        for self.item in generate():
            pass


def combine(total, item):
    return Consumer()


def outer():
    functools.reduce(combine, [1, 2, 3])


class Main:
    def run(self):
        outer()


Main().run()
