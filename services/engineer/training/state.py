"""A model's and optimiser's whole state as named arrays, and back, exactly. Guest side."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from services.engineer.training.ports import Array

_MODEL, _OPTIMISER, _RANDOM = "model/", "optimiser/", "random/"


def model_arrays(model: nn.Module) -> dict[str, Array]:
    """Parameters and all buffers, the non-persistent ones too: a step counter is part of what was trained."""
    return {_MODEL + name: to_array(tensor) for name, tensor in _named_tensors(model).items()}


def load_model_arrays(model: nn.Module, arrays: Mapping[str, Array], parameters_only: bool = False) -> None:
    """Put arrays of `model_arrays` back. Raises ValueError naming a tensor that is missing or has another shape."""
    for name, tensor in (dict(model.named_parameters()) if parameters_only else _named_tensors(model)).items():
        array = arrays.get(_MODEL + name)
        if array is None or tuple(array.shape) != tuple(tensor.shape):
            raise ValueError(f"The saved state has no tensor {name} of shape {tuple(tensor.shape)}.")
        with torch.no_grad():
            tensor.copy_(from_array(array).to(tensor.dtype))


def all_arrays(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Array]:
    """Model, optimiser moments and random generators: everything that the next step depends on."""
    arrays = model_arrays(model)
    for name, parameter in model.named_parameters():
        moments = optimiser.state.get(parameter, {})
        arrays |= {f"{_OPTIMISER}{name}/{key}": to_array(torch.as_tensor(value)) for key, value in moments.items()}
    arrays[_RANDOM + "cpu"] = to_array(torch.get_rng_state())
    if torch.cuda.is_available():
        arrays[_RANDOM + "cuda"] = to_array(torch.cuda.get_rng_state())
    return arrays


def load_all_arrays(model: nn.Module, optimiser: torch.optim.Optimizer, arrays: Mapping[str, Array]) -> None:
    """Put arrays of `all_arrays` back, so that the next step equals that of an uninterrupted run."""
    load_model_arrays(model, arrays)
    names = {parameter: name for name, parameter in model.named_parameters()}
    order = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        if name.startswith(_OPTIMISER):
            parameter, key = name.removeprefix(_OPTIMISER).rsplit("/", 1)
            moments.setdefault(order.index(parameter), {})[key] = from_array(array)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    load_random_arrays(arrays)


def load_random_arrays(arrays: Mapping[str, Array]) -> None:
    """Set the generators to the states among `arrays`; others stay as they are."""
    if _RANDOM + "cpu" in arrays:
        torch.set_rng_state(from_array(arrays[_RANDOM + "cpu"]))
    if torch.cuda.is_available() and _RANDOM + "cuda" in arrays:
        torch.cuda.set_rng_state(from_array(arrays[_RANDOM + "cuda"]))


def to_array(tensor: Tensor) -> Array:
    """A tensor on the host as numpy; bfloat16, which numpy lacks, becomes float32 without loss."""
    plain = tensor.detach().cpu().contiguous()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


def from_array(array: Array) -> Tensor:
    """A tensor with memory of its own."""
    return torch.from_numpy(np.array(array, copy=True))


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
