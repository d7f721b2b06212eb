"""Division by the Euclidean length: y = x / √(Σ x² + ε) over the last dimension."""

import torch
from torch import Tensor, nn


def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """[…, d] → […, d] in the type of x, or in `output_dtype`."""
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(output_dtype or x.dtype)


l2_norm = l2norm


class L2Norm(nn.Module):
    """The same as a module without parameters."""

    def __init__(self, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.output_dtype = output_dtype

    def forward(self, x: Tensor) -> Tensor:
        """[…, d] → […, d]."""
        return l2norm(x, self.eps, self.output_dtype)
