"""Short functions called by turns, for as long as is asked, in one thread or several; how
much of its time each thread spent in them, it measures itself. Prints a JSON list, an
object a thread: {"tid", "b", "c", "all"} in seconds of the thread's CPU clock.
usage: py_shares.py SECONDS [THREADS]
"""
import json
import random
import sys
import threading
import time

# Rounds of a loop, some 100 and 35 us, so that what a call takes does not count, and
# never alike: samples come at even distances.
RANDOM = random.Random(1)
LONG = [RANDOM.randrange(1000, 3000) for _ in range(1000)]
SHORT = [RANDOM.randrange(300, 1000) for _ in range(1000)]
CALLS = {("a", "b"), ("a", "c"), ("b", "turn"), ("c", "turn"), ("work", "a")}


def turn(n):
    for _ in range(n):
        pass


def b(n):
    turn(n)


def c(n):
    turn(n)


def a(i, clock=time.thread_time_ns):
    """What one of the two took, and what asking for the time takes."""
    start = clock()
    if i & 1:
        b(LONG[i])
    else:
        c(SHORT[i])
    end = clock()
    return end - start, clock() - end


def work(seconds, out):
    begin = time.thread_time_ns()
    until = begin + int(seconds * 1e9)
    took, rounds, asking = [0, 0], 0, 0
    while time.thread_time_ns() < until:
        for i in range(1000):
            spent, asked = a(i)
            took[i & 1] += spent
            asking += asked
        rounds += 1000
    end = time.thread_time_ns()
    # Half of each asking lies within what was measured.
    clock = asking / rounds * (rounds / 2)
    out.append({"tid": threading.get_native_id(), "b": (took[1] - clock) / 1e9,
                "c": (took[0] - clock) / 1e9, "all": (end - begin) / 1e9})


def main():
    seconds, out = float(sys.argv[1]), []
    threads = [threading.Thread(target=work, args=(seconds, out))
               for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0)]
    for t in threads:
        t.start()
    if not threads:
        work(seconds, out)
    for t in threads:
        t.join()
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
