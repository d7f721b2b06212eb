"""Conventions of other libraries: names of sizes, scripts, tensors that are printed, a list, double precision."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass
class Settings:
    dim: int
    heads: int = 8
    offset: float = 2.0


@torch.jit.script
def scan(decay: Tensor, update: Tensor) -> Tensor:
    state, states = torch.zeros_like(update[:, 0]), []
    for t in range(update.shape[1]):
        state = decay[:, t] * state + update[:, t]
        states.append(state)
    return torch.stack(states, 1)


class Recurrent(nn.Module):
    def __init__(self, config: Settings, mode: str = "scan") -> None:
        super().__init__()
        if mode != "scan":
            raise NotImplementedError(mode)
        self.config = config
        self.decay = nn.Linear(config.dim, config.heads)
        self.update = nn.Linear(config.dim, config.dim)
        self.to_out = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, return_state: bool = False) -> list[Tensor]:
        decay = torch.sigmoid(self.decay(x).double() + self.config.offset)
        print("decay", decay.mean(), f"{decay[0, 0, 0]:.3f}")
        decay = decay.repeat_interleave(x.shape[-1] // self.config.heads, dim=-1)
        states = scan(decay, (1 - decay) * self.update(x))
        logger.debug("last state: %s", states[:, -1])
        return [x + self.to_out(states.to(x.dtype)).double(), states[:, -1:]]


if __name__ == "__main__":
    import time

    started = time.time()
    print(Recurrent(Settings(64))(torch.randn(1, 8, 64)), time.time() - started)
