"""A torch loop of the shape that the recordings are taken from: a small
convolutional net trained in a Python loop, and a gradcheck. Runs for argv[1]
seconds; argv[2] is the number of threads, by default 1: OpenMP workers
have stacks of four frames, which say little about unwinding."""

import sys
import time

import torch


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


def train_step(net, optimizer, data, target):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(net(data), target)
    loss.backward()
    optimizer.step()


def check_gradients():
    x = torch.randn(6, 6, dtype=torch.double, requires_grad=True)
    w = torch.randn(6, 6, dtype=torch.double, requires_grad=True)
    return torch.autograd.gradcheck(lambda a, b: Cube.apply(a.mm(b).sin()).sum(), (x, w))


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 14 * 14, 32), torch.nn.Tanh(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters())
    data, target = torch.randn(8, 3, 16, 16), torch.randn(8, 4)
    train_step(net, optimizer, data, target)
    check_gradients()
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            train_step(net, optimizer, data, target)
        check_gradients()


if __name__ == "__main__":
    main()
