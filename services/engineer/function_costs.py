"""Measures the time that fla's functions and modules take on this machine, which prompts state to a language model."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import thread_time
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engineer.precision import pass_seconds
from services.engineer.scales import Scale
from services.engineer.training.ports import JSON, Channel, Sandbox
from services.engineer.training.protocol import ask, number
from services.engineer.training.result import TrainingFailed
from services.fla_cpu.names import FEATURE_MAPS, L2NORMS, MODULES, OPERATORS, TOP
from services.sandbox.limits import Limits, SandboxUnavailable

JOB = "services.engineer.function_costs:run"
MAX_TOKENS = 1024  # of the measured batch
_REPEATS = 3
_SECONDS = 30.0  # CPU time, after which the remaining functions are omitted
PER_CHANNEL = ("chunk_gla", "chunk_kda", "chunk_gdn2")
"""Operators with a decay per key channel instead of one per head."""


@dataclass(frozen=True)
class FunctionCosts:
    """CPU time of fla's functions and modules, forward and backward, at a scale's sizes.

    `times` holds multiples of `linear_seconds`, the time of `nn.Linear(width, width)` on the same tokens.
    """

    tokens: int
    linear_seconds: float
    times: Mapping[str, float]


async def measure_costs(sandbox: Sandbox, scale: Scale) -> FunctionCosts:
    """Measure in a child with a training's threads and precision. Raises SandboxUnavailable."""
    limits = Limits(memory_bytes=2 << 30, cpu_seconds=2 * _SECONDS, wall_seconds=4 * _SECONDS, threads=scale.threads)
    length = min(scale.context, MAX_TOKENS)
    rows = max(1, min(scale.micro_batch, MAX_TOKENS // length))
    header: dict[str, JSON] = {"rows": rows, "length": length, "heads": scale.heads, "width": scale.width}
    header |= {"precision": scale.precision, "threads": scale.threads}
    async with sandbox.child(JOB, limits) as child:
        try:
            answer = await ask(child, "measure", header, {}, expect="measured", timeout=limits.wall_seconds)
        except TrainingFailed as failed:
            raise SandboxUnavailable(f"the cost of fla's functions could not be measured: {failed.message}") from failed
    linear = number(answer, "linear")
    by_name = cast("Mapping[str, float]", answer.header["seconds"])
    return FunctionCosts(rows * length, linear, {name: seconds / linear for name, seconds in by_name.items()})


def run(channel: Channel) -> None:
    """The child's job: time every function, except those that fail at these sizes."""
    header = channel.receive().header
    rows, length, heads, width, threads = (
        int(cast("int", header[name])) for name in ("rows", "length", "heads", "width", "threads")
    )
    precision = str(header["precision"])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layer, x = nn.Linear(width, width, bias=False), torch.randn(rows, length, width, requires_grad=True)
    linear = pass_seconds(lambda: layer(x), precision, 4 * _REPEATS)
    start, by_part = thread_time(), dict[object, float]()
    seconds: dict[str, JSON] = {}
    for name, part, call in _calls(rows, length, heads, width):
        if part not in by_part and thread_time() - start < _SECONDS:
            try:
                by_part[part] = pass_seconds(call, precision, _REPEATS)
            except (RuntimeError, ValueError):
                continue
        if part in by_part:
            seconds[name] = by_part[part]
    channel.send("measured", {"linear": linear, "seconds": seconds})


def _calls(rows: int, length: int, heads: int, width: int) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """The name of each function or class, the object, and a call of it with tensors of these sizes."""
    x, size = torch.randn(rows, length, width, requires_grad=True), width // heads
    tensors = {name: torch.randn(rows, length, heads, size) for name in ("q", "k", "v", "p", "r", "a", "b", "w")}
    tensors |= {name: F.normalize(tensors[name], dim=-1) for name in ("q", "k", "p", "r", "a")}
    tensors |= {"w": F.logsigmoid(tensors["w"]), "b": -0.5 * tensors["a"]}
    tensors |= {"gk": F.logsigmoid(torch.randn(rows, length, heads, size))}
    tensors |= {"g": F.logsigmoid(torch.randn(rows, length, heads)), "beta": torch.rand(rows, length, heads)}
    tensors = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    for parts in OPERATORS.values():
        for name, function in parts.items():
            if function is not None and not name.startswith("prepare_"):
                yield name, function, _operator_call(cast("Callable[..., Any]", function), tensors, x)
    shift = MODULES["token_shift"]["token_shift"]
    yield "token_shift", shift, lambda: cast("Callable[[Tensor], Tensor]", shift)(x)
    for name, part in (TOP | FEATURE_MAPS | L2NORMS).items():
        yield name, part, _module_call(part, tensors["q"], x, heads)


def _operator_call(
    function: Callable[..., Any], tensors: Mapping[str, Tensor], x: Tensor
) -> Callable[[], tuple[Tensor, object] | Tensor]:
    """A call with the required tensors, and with a decay and a write strength if the operator accepts them."""
    parameters = inspect.signature(function).parameters
    name = function.__name__
    if "x" in parameters:
        return lambda: function(x, F.logsigmoid(x))
    arguments = {
        key: tensors["gk" if key == "g" and name in PER_CHANNEL else key]
        for key, parameter in parameters.items()
        if key in tensors and (parameter.default is parameter.empty or key in ("g", "gk", "beta"))
    }
    if "g" in arguments:
        arguments.pop("gk", None)
    if name == "parallel_attn":
        del arguments["g"]
    return lambda: function(**arguments)


def _module_call(part: object, q: Tensor, x: Tensor, heads: int) -> Callable[[], Any]:
    """A call of a module constructed for this width, or of a function of one tensor."""
    if not isinstance(part, type):
        return lambda: cast("Callable[[Tensor], Tensor]", part)(q)
    required = [
        name
        for name, parameter in inspect.signature(part).parameters.items()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    values = {"num_groups": heads, "hidden_size": x.shape[-1], "kernel_size": 4, "dim": q.shape[-1]}
    values |= {"head_dim": q.shape[-1], "key_dim": q.shape[-1], "feature_dim": q.shape[-1]}
    module: Callable[..., Any] = part(*(values[name] for name in required))
    own = inspect.signature(part.forward).parameters  # type: ignore[attr-defined]
    if "hidden_size" in required:
        return (lambda: module(x, x)) if list(own)[2:3] in (["g"], ["gate"], ["z"]) else (lambda: module(x))
    return (lambda: module(q, q)) if "dim" in required else (lambda: module(q))
