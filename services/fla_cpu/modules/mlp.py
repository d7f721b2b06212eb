"""The gated feed-forward block."""

import torch.nn.functional as F
from torch import Tensor, nn


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)) (GLU variants, arXiv:2002.05202)."""

    def __init__(
        self,
        hidden_size: int,
        hidden_ratio: int | None = None,
        intermediate_size: int | None = None,
        hidden_act: str = "swish",
        fuse_swiglu: bool = True,
    ) -> None:
        super().__init__()
        del fuse_swiglu
        if hidden_act not in ("swish", "silu"):
            raise ValueError(f"hidden_act is {hidden_act!r}; choose swish or silu")
        if intermediate_size is None:
            intermediate_size = 256 * -(-int(hidden_size * (hidden_ratio or 4) * 2 / 3) // 256)
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor, **options: object) -> Tensor:
        """[…, hidden] → […, hidden]."""
        del options
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down
