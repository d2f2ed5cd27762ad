"""The demo's victim: a real, slow gradient test, as people write them.

A vectorised simulation of a damped, driven oscillator over a few hundred
thousand points is checked by torch's own gradcheck in float64. Its tensors
are large and short-lived, so the kernel clears pages all the time; a matrix
product and a part in pure Python stand beside it.
"""

import math

import torch

POINTS = 400_000
STEPS = 12
DT = 0.05


def simulate(stiffness, damping, drive, start):
    """Position moments after STEPS of the oscillator, for every start point."""
    position, velocity = start[0], start[1]
    for step in range(STEPS):
        force = -stiffness * position - damping * velocity
        force = force + drive * torch.sin(position + step * DT)
        velocity = velocity + DT * force
        position = position + DT * velocity
    return torch.stack([position.mean(), (position * position).mean(), velocity.mean()])


def starting_points():
    generator = torch.Generator().manual_seed(7)
    return torch.rand((2, POINTS), generator=generator, dtype=torch.float64)


def parameters(*values):
    return [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]


class TestOscillator:
    def setup_method(self):
        torch.set_num_threads(2)
        self.start = starting_points()

    def test_gradient_of_moments(self):
        inputs = parameters(1.5, 0.2, 0.7)
        assert torch.autograd.gradcheck(
            lambda *p: simulate(*p, self.start), inputs, eps=1e-6, atol=1e-5
        )

    def test_gradient_after_warm_up(self):
        for round_ in range(2):
            inputs = parameters(1.1 + 0.1 * round_, 0.4, 0.2)
            assert torch.autograd.gradcheck(
                lambda *p: simulate(*p, self.start), inputs, eps=1e-6, atol=1e-5
            )


def test_matmul_chain_is_stable():
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(3)
    matrix = torch.rand((700, 700), generator=generator, dtype=torch.float64)
    matrix = matrix / matrix.sum(dim=1, keepdim=True)
    state = matrix
    for _ in range(60):
        state = state @ matrix
    assert torch.allclose(state.sum(dim=1), torch.ones(700, dtype=torch.float64))


def reference_moments(stiffness, damping, drive, points):
    """The same simulation, point by point, in plain Python."""
    total = 0.0
    for position, velocity in points:
        for step in range(STEPS):
            force = -stiffness * position - damping * velocity
            force += drive * math.sin(position + step * DT)
            velocity += DT * force
            position += DT * velocity
        total += position
    return total / len(points)


def test_simulation_agrees_with_plain_python():
    start = starting_points()[:, :200_000]
    expected = reference_moments(1.5, 0.2, 0.7, start.t().tolist())
    moments = simulate(*parameters(1.5, 0.2, 0.7), start)
    assert math.isclose(moments[0].item(), expected, rel_tol=1e-9)
