"""Greenlets that run where others' frames lie below them on the C stack, which do not
belong to them: those of the parent, or what is left of frames that have returned. Needs
the module greenlet."""
import functools
import re
import time

import greenlet


def spin_greenlet(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def child():
    spin_greenlet(0.3)


def again():
    greenlet.getcurrent().parent.switch()
    spin_greenlet(0.3)


def parent():
    greenlet.greenlet(child).switch()


def begin_deep(n, begun):
    """Each call goes through C, and so takes C stack."""
    if n > 0:
        max([n], key=lambda _: begin_deep(n - 1, begun) or 0)
    else:
        begun.switch()


def fill_deep(n):
    """Other C functions on the same stack."""
    if n > 0:
        re.sub("a", lambda _: functools.reduce(lambda *_: fill_deep(n - 1), "ab") or "", "a")


def main():
    parent()
    begun = greenlet.greenlet(again)
    begin_deep(10, begun)
    fill_deep(10)
    begun.switch()
    print("end", flush=True)


main()
