"""The training child, which serves the host's requests.

begin    program, sizes, plan, seed → ready: names of the parameters, FLOPs
train    tokens [steps, batch, context + 1] → metrics: loss and gradient norm of each step
weights  → weights: parameters and buffers
save     → saved: everything that the next step depends on
compiled → compiled: compiler caches
restore  arrays of `saved` → restored
end      → the child returns
An exception of the candidate is returned as `failed` with its traceback, and ends the child.

This module executes the candidate's program. It is imported only in children, and outside the sandbox by `distributed`.
"""

import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from services.engineer.construction import MixerSizes, block_layout
from services.engineer.program import execute, load_mixer, prepare_child
from services.engineer.training.compiled import ARRAY, pack, unpack
from services.engineer.training.model import LanguageModel, autocast, cast_floats
from services.engineer.training.sizes import ModelSizes, Plan, sizes_in
from services.engineer.training.trainer import Trainer
from services.sandbox import JSON, Array, Channel, Message

with torch.autograd.profiler.record_function("loaded"):
    pass  # torch imports a part of itself at its first label, which an optimiser sets where no file can be opened

_MODEL, _OPTIMISER, _RANDOM = "model/", "optimiser/", "random/"


def model_arrays(model: nn.Module) -> dict[str, Array]:
    """Parameters and all buffers, including non-persistent ones such as step counters."""
    return {_MODEL + name: to_array(tensor) for name, tensor in _named_tensors(model).items()}


def load_model_arrays(model: nn.Module, arrays: Mapping[str, Array], parameters_only: bool = False) -> None:
    """Load arrays of `model_arrays`. Raises ValueError unless both have the same tensors, in the same shapes."""
    advice = "create all parameters and buffers in __init__, with fixed sizes"
    tensors = dict(model.named_parameters()) if parameters_only else _named_tensors(model)
    created = {name for name in arrays if name.startswith(_MODEL)} - {_MODEL + name for name in tensors}
    if created:  # with other values in each process
        raise ValueError(
            f"The saved state has the tensor {min(created)[len(_MODEL) :]}, a new model lacks it: {advice}."
        )
    for name, tensor in tensors.items():
        array = arrays.get(_MODEL + name)
        tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if array is None or tuple(array.shape) != tuple(tensor.shape):
            raise ValueError(f"The saved state has no tensor {name} of shape {tuple(tensor.shape)}: {advice}.")
        with torch.no_grad():
            tensor.copy_(from_array(array).to(tensor.dtype))


def all_arrays(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Array]:
    """Model, optimiser moments and random generators: everything that the next step depends on."""
    arrays = model_arrays(model)
    for name, parameter in model.named_parameters():
        moments = optimiser.state.get(parameter, {})
        arrays |= {f"{_OPTIMISER}{name}/{key}": to_array(torch.as_tensor(value)) for key, value in moments.items()}
    arrays[_RANDOM + "cpu"] = to_array(torch.get_rng_state())
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # not on a GPU that this training does not use
        arrays[_RANDOM + "cuda"] = to_array(torch.cuda.get_rng_state())
    return arrays


def load_all_arrays(model: nn.Module, optimiser: torch.optim.Optimizer, arrays: Mapping[str, Array]) -> None:
    load_model_arrays(model, arrays)
    names = {parameter: name for name, parameter in model.named_parameters()}
    complex_names = {name for parameter, name in names.items() if parameter.is_complex()}
    order = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        if name.startswith(_OPTIMISER):
            parameter, key = name.removeprefix(_OPTIMISER).rsplit("/", 1)
            value = from_array(array)
            moments.setdefault(order.index(parameter), {})[key] = (
                torch.view_as_complex(value) if parameter in complex_names and value.ndim else value
            )
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    load_random_arrays(arrays)


def load_random_arrays(arrays: Mapping[str, Array]) -> None:
    """Set the random generators to the states in `arrays`, if there are any."""
    if _RANDOM + "cpu" in arrays:
        torch.set_rng_state(from_array(arrays[_RANDOM + "cpu"]))
    if _RANDOM + "cuda" in arrays:
        torch.cuda.set_rng_state(from_array(arrays[_RANDOM + "cuda"]))


def to_array(tensor: Tensor) -> Array:
    """A tensor as a numpy array; bfloat16 becomes float32, and complex numbers a last axis of two real ones."""
    plain = tensor.detach().cpu().contiguous()
    plain = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array


def from_array(array: Array) -> Tensor:
    """A tensor with a copy of an array."""
    return torch.from_numpy(np.array(array, copy=True))


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def build_model(program: str, sizes: ModelSizes, seed: int, device: str) -> LanguageModel:
    """The model on `device` in float32, with initial values drawn from `seed`."""
    module = execute(program)  # beforehand, as its statements may set torch's generator
    torch.manual_seed(seed)

    def make_mixer(layer: int) -> nn.Module:
        source = sizes.program_of(layer, program)
        whole_model = sizes.whole_model and source == program
        return load_mixer(source, MixerSizes(sizes.width, sizes.heads, layer, whole_model, sizes.blocks))

    layout = block_layout(module) if sizes.whole_model else "sequential"
    model = LanguageModel(make_mixer, sizes, layout)
    cast_floats(model, torch.float32)  # a program may choose another precision, but its check ran in this one
    return model.to(device)


class _NoModules(nullcontext[None]):
    """Counts by module are not needed, and their hooks fail in checkpoints that are reentrant."""

    parents = frozenset({"Global"})


def flops_per_token(program: str, sizes: ModelSizes, context: int, precision: str, device: str = "cpu") -> float | None:
    """FLOPs per token, forward and backward, counted on the CPU for one row of `context` tokens.

    Counts matrix products, convolutions and attention. None on a GPU, where Triton's kernels are not counted.
    """
    if device != "cpu":
        return None
    state = torch.get_rng_state()
    model = build_model(program, sizes, seed=0, device="cpu")
    rows = torch.zeros(1, context + 1, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        with autocast("cpu", precision):
            loss, _ = model(rows[:, :-1], rows[:, 1:])
        torch.autograd.backward(loss)
    torch.set_rng_state(state)
    return int(counter.get_total_flops()) / context


Answer = tuple[str, dict[str, JSON], dict[str, Array]]
Handlers = dict[str, Callable[[Message], Answer]]


def run(channel: Channel) -> None:
    serve(channel, lambda begin: Session(begin).opened())


def serve(channel: Channel, begin: Callable[[Message], tuple[dict[str, JSON], Handlers]]) -> None:
    """Begin, send the header of `ready`, and answer requests by kind until `end`; an exception is `failed`."""
    first = channel.receive()
    try:
        ready, handlers = begin(first)
        channel.send("ready", ready, {})
        while (request := channel.receive()).kind != "end":
            channel.send(*handlers[request.kind](request))
    except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the host reports it
        trace = "".join(traceback.format_exception(error))[-8000:]
        failure = {"error": type(error).__name__, "message": str(error)[:2000], "traceback": trace}
        channel.send("failed", failure, {})


class Session:
    """One model in training."""

    def __init__(self, begin: Message) -> None:
        header = begin.header
        unpack(begin.arrays)
        self.sizes = sizes_in(begin)
        self.device = str(header["device"])
        if self.device == "cuda":  # several trainings share the device
            torch.cuda.set_per_process_memory_fraction(float(cast("float", header.get("memory_share", 1.0))))
        prepare_child(begin.integer("threads"), self.device)
        self.program, self.context = str(header["program"]), begin.integer("context")
        model = build_model(self.program, self.sizes, begin.integer("seed"), self.device)
        self.trainer = Trainer(model, Plan(**header["plan"]), self.device)  # type: ignore[arg-type]
        self.step = 0

    def opened(self) -> tuple[dict[str, JSON], Handlers]:
        """The header of the answer `ready`, and the handlers of requests."""
        model, optimiser, precision = self.trainer.model, self.trainer.optimiser, self.trainer.plan.precision
        ready: dict[str, JSON] = {
            "parameters": [name for name, _ in model.named_parameters()],
            "flops_per_token": flops_per_token(self.program, self.sizes, self.context, precision, self.device),
        }
        return ready, {
            "train": self._train,
            "weights": lambda _: ("weights", {"step": self.step}, model_arrays(model)),
            "save": lambda _: ("saved", {"step": self.step}, all_arrays(model, optimiser)),
            "restore": self._restore,
            "compiled": lambda _: ("compiled", {}, {ARRAY: pack()}),
        }

    def _train(self, request: Message) -> Answer:
        rows = torch.from_numpy(request.arrays["tokens"].astype(np.int64))
        reports = []
        for batch in rows:
            reports.append(self.trainer.step(self.step, batch))
            self.step += 1
        arrays: dict[str, Array] = {
            "loss": np.array([report.loss for report in reports]),
            "grad_norm": np.array([report.grad_norm for report in reports]),
            "auxiliary": np.array([report.auxiliary for report in reports if report.auxiliary is not None]),
        }
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        header: dict[str, JSON] = {"step": self.step, "device_memory": peak, "compiled": self.trainer.compiled}
        return "metrics", header, arrays

    def _restore(self, request: Message) -> Answer:
        load_all_arrays(self.trainer.model, self.trainer.optimiser, request.arrays)
        self.step = request.integer("step")
        return "restored", {"step": self.step}, {}
