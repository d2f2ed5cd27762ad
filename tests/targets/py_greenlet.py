"""A greenlet that runs while its parent's frames lie below it on the C stack, which do
not belong to it. Needs the module greenlet."""
import time

import greenlet


def spin_greenlet(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def child():
    spin_greenlet(0.3)


def parent():
    greenlet.greenlet(child).switch()


parent()
print("end", flush=True)
