"""Burns CPU in one way until this process has used SECONDS of it, then says what
the kernel counted for it. usage: py_work.py faults|tensors|python|openmp SECONDS

faults: temporaries of 32 MB, so that most of the time is the kernel's; tensors: the
same by torch, of 40 MB, which the C library always maps and unmaps;
python: nothing but the interpreter; openmp: torch on two OpenMP threads.
"""

import resource
import sys
import time


def temporaries():
    """Three arrays of 32 MB a round: faulted in page by page, and given back."""
    import numpy

    ones = numpy.ones(4 << 20)

    def once():
        _ = (ones + 1.0) - ones

    return once


def tensors():
    import torch

    torch.set_num_threads(1)
    ones = torch.ones(5 << 20, dtype=torch.float64)

    def once():
        _ = (ones + 1.0) - ones

    return once


def interpreted():
    def once():
        total = 0
        for i in range(20_000):
            total += i * i % 7
        return total

    return once


def parallel():
    import torch

    torch.set_num_threads(2)
    ones = torch.ones(1 << 18, dtype=torch.float64)

    def once():
        for _ in range(8):
            torch.sin_(ones)

    return once


def main():
    works = {"faults": temporaries, "tensors": tensors, "python": interpreted,
             "openmp": parallel}
    work = works[sys.argv[1]]()
    until = time.process_time() + float(sys.argv[2])
    while time.process_time() < until:
        work()
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime, used.ru_stime, flush=True)


if __name__ == "__main__":
    main()
