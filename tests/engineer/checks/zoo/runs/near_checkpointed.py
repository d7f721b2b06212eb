import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class DeltaNet(nn.Module):
    """Parts that are computed again in the backward pass, with casts, new tensors and dropout."""

    def __init__(self, hidden_size=64, dropout=0.1, **kwargs):
        super().__init__()
        self.decay = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Dropout(dropout))

    def average(self, decay, value):
        with torch.autocast(decay.device.type, enabled=False):
            decay, value = torch.sigmoid(decay.float()), value.float()
            state, outputs = torch.zeros(value.shape[0], value.shape[2], device=value.device), []
            for t in range(value.shape[1]):
                state = decay[:, t] * state + (1 - decay[:, t]) * value[:, t]
                outputs.append(state)
            return torch.stack(outputs, 1)

    def forward(self, hidden_states):
        decay, value = self.decay(hidden_states), self.value(hidden_states)
        averaged = checkpoint(self.average, decay, value, use_reentrant=False)
        return checkpoint(self.out, averaged.to(value.dtype), use_reentrant=True)
