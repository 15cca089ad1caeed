"""The optimizer: Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for the matrices inside layers, Adam
(Kingma and Ba, arXiv 1412.6980) for embedding and norms."""

from __future__ import annotations

import torch

# The quintic Newton-Schulz iteration's coefficients, from the page above.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearly the closest semi-orthogonal matrices to a batch [n, rows, columns]."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(-1, -2)
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.transpose(-1, -2) if tall else x).float()


class Muon:
    """Matrices of one shape are handled as one batch."""

    def __init__(self, model, learning_rate=0.01, adam_learning_rate=2e-3, momentum=0.95, decay=0.03):
        self.learning_rate, self.adam_learning_rate = learning_rate, adam_learning_rate
        self.momentum, self.decay = momentum, decay
        self.steps = 0
        self.matrices: dict[tuple[int, ...], list] = {}
        self.others = []
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                self.matrices.setdefault(tuple(parameter.shape), []).append(parameter)
            else:
                self.others.append(parameter)
        self.velocity = {
            shape: torch.zeros(len(group), *shape, device=group[0].device)
            for shape, group in self.matrices.items()
        }
        self.first_moment = [torch.zeros_like(parameter) for parameter in self.others]
        self.second_moment = [torch.zeros_like(parameter) for parameter in self.others]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One step with learning rates times `scale`."""
        self.steps += 1
        for shape, group in self.matrices.items():
            gradient, velocity = torch.stack([parameter.grad for parameter in group]), self.velocity[shape]
            velocity.mul_(self.momentum).add_(gradient)
            update = orthogonal(gradient + self.momentum * velocity) * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_mul_(group, 1 - self.learning_rate * scale * self.decay)
            torch._foreach_add_(group, list(update.unbind(0)), alpha=-self.learning_rate * scale)
        for parameter, first, second in zip(self.others, self.first_moment, self.second_moment):
            first.lerp_(parameter.grad, 0.1)
            second.lerp_(parameter.grad.square(), 0.05)
            mean, square = first / (1 - 0.9**self.steps), second / (1 - 0.95**self.steps)
            parameter.sub_(self.adam_learning_rate * scale * mean / (square.sqrt() + 1e-10))

    def state_dict(self) -> dict:
        return {
            "steps": self.steps,
            "velocity": self.velocity,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
        }

    def load_state_dict(self, state: dict) -> None:
        self.steps = state["steps"]
        for shape, velocity in self.velocity.items():
            velocity.copy_(state["velocity"][shape])
        for name in ("first_moment", "second_moment"):
            for own, saved in zip(getattr(self, name), state[name]):
                own.copy_(saved)
