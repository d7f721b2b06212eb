"""A token mixer, and the language model in which it was measured."""

import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from services.engineer.construction import MixerSizes, block_layout, construct, mixer_of_layer
from services.engineer.export.template.kernels import execute
from services.engineer.scales import BF16
from services.engineer.training.model import LanguageModel, autocast
from services.engineer.training.sizes import ModelSizes

__all__ = ["CARD", "SIZES", "LanguageModel", "build", "decode", "encode", "generate", "load", "logits", "mixer"]

_HERE = Path(__file__).parent
CARD: dict[str, object] = json.loads((_HERE / "card.json").read_text(encoding="utf-8"))
"""The model card."""
SIZES = ModelSizes(**json.loads((_HERE / "sizes.json").read_text(encoding="utf-8")))
"""The language model that was trained."""


@cache
def _module(file: str) -> ModuleType:
    """A program in this folder, executed once for all layers."""
    return execute(_HERE / file, f"{__name__}.{file.removesuffix('.py')}")


def mixer(width: int, heads: int, layer: int = 0) -> nn.Module:
    """The layer: hidden states [batch, length, width] → a tensor, or a tuple that begins with one."""
    file = SIZES.program_of(layer, "program.py")
    module = _module(file)
    sizes = MixerSizes(width, heads, layer, SIZES.whole_model and file == "program.py", SIZES.blocks)
    return construct(mixer_of_layer(module, (_HERE / file).read_text(encoding="utf-8"), sizes), sizes)


def build(sizes: ModelSizes = SIZES, seed: int = 0) -> LanguageModel:
    """A language model of any size with initial values."""
    torch.manual_seed(seed)
    layout = block_layout(_module("program.py")) if sizes.whole_model else "sequential"
    return LanguageModel(lambda layer: mixer(sizes.width, sizes.heads, layer), sizes, layout)


def load(device: str = "cpu") -> LanguageModel:
    """The trained language model. Raises FileNotFoundError if its weights were not kept."""
    weights = _HERE / "weights.pt"
    if not weights.is_file():
        raise FileNotFoundError("the weights of this architecture were not kept: use build() for initial values")
    model = build()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            tensor.copy_(state[name].to(tensor.dtype))
    return model.to(device).eval()


@torch.no_grad()
def logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Tokens [batch, length] → float32 logits [batch, length, vocabulary] of the next tokens.

    Computed in float32, or under autocast, as in training, for a program that mixes precisions and runs only there.
    """
    try:
        scores: Tensor = model.head(model.hidden(tokens)[0])
    except RuntimeError:
        with autocast(tokens.device.type, BF16):
            scores = model.head(model.hidden(tokens)[0])
    return scores.float()


@torch.no_grad()
def generate(model: LanguageModel, tokens: Tensor, count: int, temperature: float = 0.0, seed: int = 0) -> Tensor:
    """Append `count` tokens to tokens [batch, length], each by a forward over all of them; greedy at temperature 0."""
    source = torch.Generator(device=tokens.device).manual_seed(seed)
    for _ in range(count):
        scores = logits(model, tokens)[:, -1]
        if temperature > 0:
            probabilities = torch.softmax(scores / temperature, dim=-1)
            next_tokens = torch.multinomial(probabilities, 1, generator=source)
        else:
            next_tokens = scores.argmax(dim=-1, keepdim=True)
        tokens = torch.cat([tokens, next_tokens], dim=1)
    return tokens


def encode(text: str) -> Tensor:
    """Text as tokens [1, length]. Raises ValueError if the model's tokenizer cannot be loaded."""
    return torch.tensor([list(text.encode("utf-8")) if SIZES.vocabulary == 256 else _tokenizer().encode(text)])


def decode(tokens: Tensor) -> str:
    """Tokens [1, length] as text, with a dot for unprintable characters. Raises ValueError as `encode` does."""
    numbers = tokens[0].tolist()
    text = bytes(numbers).decode("utf-8", "replace") if SIZES.vocabulary == 256 else _tokenizer().decode(numbers)
    return "".join(sign if (sign.isprintable() and sign != "\ufffd") or sign == "\n" else "·" for sign in text)


def _tokenizer() -> Any:
    """The model's tokenizer, from the Hugging Face hub or its cache."""
    try:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(CARD["tokenizer"])
    except (ImportError, OSError) as error:
        raise ValueError(f"the tokenizer {CARD['tokenizer']} needs transformers: {error}") from None
