"""A diagonal recurrence with complex eigenvalues as complex parameters, computed as a long convolution."""

import math

import torch
from torch import Tensor, nn


class Resonator(nn.Module):
    def __init__(self, d_model: int, d_state: int = 8) -> None:
        super().__init__()
        real, imaginary = torch.full((d_model, d_state), -0.5), math.pi * torch.arange(d_state).expand(d_model, -1)
        self.eigenvalues = nn.Parameter(torch.complex(real, imaginary))
        self.weights = nn.Parameter(torch.randn(d_model, d_state, dtype=torch.cfloat) / d_state)
        self.output = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        time = 0.1 * torch.arange(length, device=x.device)
        rate = torch.complex(-torch.nn.functional.softplus(-self.eigenvalues.real), self.eigenvalues.imag)
        kernel = (self.weights[..., None] * torch.exp(rate[..., None] * time)).sum(1).real
        spectrum = torch.fft.rfft(x.transpose(1, 2).float(), 2 * length) * torch.fft.rfft(kernel.float(), 2 * length)
        return self.output(torch.fft.irfft(spectrum, 2 * length)[..., :length].transpose(1, 2).to(x.dtype))
