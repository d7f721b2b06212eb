"""What a mixer's forward accepts."""

import inspect

from torch import nn


def accepts(mixer: nn.Module, name: str) -> bool:
    """Whether forward names that argument; being swallowed by **kwargs does not count."""
    return name in inspect.signature(mixer.forward).parameters
