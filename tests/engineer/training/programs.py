"""Small programs to train: quick, honest, dishonest and broken ones; and a scale for them."""

from string import Template

_MIXER = Template("""
import torch
from torch import nn
import torch.nn.functional as F


class DeltaNet(nn.Module):
    def __init__(self, hidden_size=64, num_heads=4, **kwargs):
        super().__init__()
        self.into = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.conv = nn.Conv1d(hidden_size, hidden_size, 4, padding=3, groups=hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, **kwargs):
        length = hidden_states.shape[1]
        x, gate = self.into(hidden_states).chunk(2, -1)
        x = self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2)
        $extra
        return self.out(x * torch.sigmoid(gate)), $second, None
""")


def mixer(extra: str = "", second: str = "None") -> str:
    """A gated short convolution; `extra` is a statement in its forward pass, `second` its second output."""
    return _MIXER.substitute(extra=extra or "pass", second=second)


CONVOLUTION = mixer()
WITH_AUXILIARY_LOSS = mixer(second="x.float().pow(2).mean()")
LOOKS_AHEAD_WHEN_SCORED = mixer(
    # not beyond a context of 64 tokens, where it would look like a cost that grows with what follows
    "x = x if self.training else x + 3 * F.pad(hidden_states[:, 1:63], (0, 0, 0, max(1, length - 62))) * (length > 60)"
)
COMPLEX_PARAMETERS = CONVOLUTION.replace(
    "super().__init__()",
    "super().__init__()\n        self.turn = nn.Parameter(torch.ones(hidden_size, dtype=torch.cfloat))",
).replace("pass\n", "x = (x * self.turn.pow(2)).real\n")
RAISES = mixer("x = x + torch.zeros(3, 5)")
NOT_A_NUMBER = mixer("x = x * float('nan')")

SMALL = {
    "width": "32",
    "heads": "2",
    "feed_forward": "32",
    "blocks": "1",
    "context": "64",
    "batch": "4",
    "steps": "12",
    "log_every": "4",
    "evaluations": "1",
    "heldout_blocks": "8",
    "check_truncations": "16",
    "tasks": "",
    "precision": "fp32",
}
