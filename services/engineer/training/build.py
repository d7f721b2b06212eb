"""From a program's text to a language model. Guest side: this executes the candidate."""

import torch
from torch import nn

from services.engineer.program import MixerSizes, load_mixer
from services.engineer.training.model import LanguageModel
from services.engineer.training.sizes import ModelSizes


def build_model(program: str, sizes: ModelSizes, seed: int, device: str) -> LanguageModel:
    """The model with fresh initial values drawn from `seed`, on `device`, in float32."""
    torch.manual_seed(seed)

    def make_mixer(layer: int) -> nn.Module:
        mixer: nn.Module = load_mixer(program, MixerSizes(width=sizes.width, heads=sizes.heads, layer=layer))
        return mixer

    return LanguageModel(make_mixer, sizes).to(device)
