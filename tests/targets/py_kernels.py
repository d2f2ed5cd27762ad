"""Burns SECONDS of CPU time of this thread in hand-written kernels of a library.
usage: py_kernels.py dgemm|sgemm|convolution|linear|hash|deflate SECONDS"""

import ctypes
import sys
import time


def gemm(name, number):
    """A matrix product of OpenBLAS itself, whichever library numpy uses."""
    n = 512
    product = getattr(ctypes.CDLL("libopenblas.so.0"), name)
    matrix = number * (n * n)
    a, b, c = matrix(), matrix(), matrix()
    one, size = number(1.0), ctypes.c_int(n)
    row_major, no_transpose = 101, 111
    return lambda: product(row_major, no_transpose, no_transpose, size, size, size, one,
                           a, size, b, size, one, c, size)


def dgemm():
    return gemm("cblas_dgemm", ctypes.c_double)


def sgemm():
    return gemm("cblas_sgemm", ctypes.c_float)


def convolution():
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layer = torch.nn.Conv2d(32, 32, 3, padding=1)
    image = torch.ones(4, 32, 56, 56)
    return lambda: layer(image)


def linear():
    """oneDNN's own matrix product: torch takes BLAS for plain tensors."""
    import torch
    from torch.utils import mkldnn

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layer = mkldnn.to_mkldnn(torch.nn.Linear(512, 512))
    rows = torch.ones(256, 512).to_mkldnn()
    return lambda: layer(rows)


def hashed():
    import hashlib

    data = bytes(1 << 20)
    return lambda: (hashlib.sha256(data), hashlib.sha3_256(data), hashlib.md5(data))


def deflate():
    import zlib

    data = bytes(i * i % 251 for i in range(1 << 18))
    return lambda: zlib.decompress(zlib.compress(data))


def main():
    works = {"dgemm": dgemm, "sgemm": sgemm, "convolution": convolution, "linear": linear,
             "hash": hashed, "deflate": deflate}
    once = works[sys.argv[1]]()
    end = time.thread_time() + float(sys.argv[2])
    while time.thread_time() < end:
        once()


main()
