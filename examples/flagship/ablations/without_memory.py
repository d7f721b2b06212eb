"""DenseLagDeltaNet without the delta memory: the token and the last two inputs alone."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class DeltaNet(nn.Module):
    """y_t = c * x_t + W_1 x_{t-1} + W_2 x_{t-2}."""

    def __init__(self, hidden_size=1024, num_heads=4, lags=2, layer_idx=None, **kwargs):
        super().__init__()
        self.layer_idx = layer_idx
        self.lags = lags
        # the local part: the token itself by a weight per channel, each earlier one by a matrix
        self.present = nn.Parameter(torch.ones(hidden_size))
        self.lag_proj = nn.Linear(lags * hidden_size, hidden_size, bias=False)
        # in unit-variance inputs: the token stands at 1, each lag at about 0.4
        nn.init.normal_(self.lag_proj.weight, std=0.4 * hidden_size**-0.5)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if attention_mask is not None:  # padding is neither written nor read
            x = x * attention_mask[:, -x.shape[1] :, None].to(x.dtype)
        length = x.shape[1]
        earlier = torch.cat([F.pad(x, (0, 0, lag, 0))[:, :length] for lag in range(1, self.lags + 1)], dim=-1)
        return self.present * x + self.lag_proj(earlier), None, past_key_values
