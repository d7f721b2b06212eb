"""The jobs that time a machine's precisions and fla's functions. They run in a child."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from time import thread_time
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.engineer.scales import BF16, FP32
from services.engineer.training.model import autocast
from services.fla_cpu.names import FEATURE_MAPS, L2NORMS, MODULES, OPERATORS, TOP
from services.sandbox import JSON, Channel

_COST_REPEATS = 3
PER_CHANNEL = (
    *("chunk_gla", "chunk_kda", "chunk_gdn2", "chunk_gsa"),
    *("fused_recurrent_kda", "fused_recurrent_gdn2", "fused_recurrent_gsa"),
)
"""Operators with a decay per key channel or slot instead of one per head."""

SQUARED = ("parallel_based", "parallel_rebased")
"""Operators whose memory grows with the square of the key's size, and the size that they are meant for."""
SQUARED_SIZE = 16


def run_precisions(channel: Channel) -> None:
    """A job: time one projection, forward and backward, in both precisions."""
    request = channel.receive()
    torch.set_num_threads(request.integer("threads"))
    if request.header["device"] == "cuda":  # all GPUs that support bf16 have tensor cores for it
        torch.zeros(1, device="cuda")  # raises where jobs cannot use the GPU: each candidate would be blamed for that
        bf16 = 0.5 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        channel.send("measured", {"fp32": 1.0, "bf16": bf16})
        return
    channel.send("measured", {"fp32": _seconds(FP32), "bf16": _seconds(BF16)})


def _seconds(precision: str) -> float:
    layer, x = nn.Linear(128, 256, bias=False), torch.randn(2048, 128, requires_grad=True)
    return pass_seconds(lambda: layer(x), precision, repeats=5)


def pass_seconds(call: Callable[[], Any], precision: str, repeats: int) -> float:
    """The least CPU time of this thread for a forward and backward.

    The process clock may not advance for a while in a confined child, which gave a time of zero.
    """
    best = float("inf")
    for _ in range(repeats):
        start = thread_time()
        with autocast("cpu", precision):
            output = call()
            loss = (output[0] if isinstance(output, tuple) else output).float().sum()
        torch.autograd.backward(loss)
        best = min(best, thread_time() - start)
    return best


def run_costs(channel: Channel) -> None:
    """A job: time every function of fla, except those that fail at these sizes, and list what programs may import."""
    request = channel.receive()
    rows, length, heads, width = (request.integer(name) for name in ("rows", "length", "heads", "width"))
    precision, limit = str(request.header["precision"]), cast("float", request.header["seconds"])
    torch.set_num_threads(request.integer("threads"))
    torch.manual_seed(0)
    layer, x = nn.Linear(width, width, bias=False), torch.randn(rows, length, width, requires_grad=True)
    linear = pass_seconds(lambda: layer(x), precision, 4 * _COST_REPEATS)
    start, by_part = thread_time(), dict[object, float]()
    seconds: dict[str, JSON] = {}
    for name, part, call in _calls(rows, length, heads, width):
        if part not in by_part and thread_time() - start < limit:
            try:
                by_part[part] = pass_seconds(call, precision, _COST_REPEATS)
            except (RuntimeError, ValueError):
                continue
        if part in by_part:
            seconds[name] = by_part[part]
    channel.send("measured", {"linear": linear, "seconds": seconds, "modules": _importable()})


def _importable() -> JSON:
    """The names that a mixer can import from fla without CUDA, such as "fla.modules: RMSNorm, …"."""
    modules = {f"fla.ops.{package}": operators for package, operators in OPERATORS.items() if package != "utils"}
    modules |= {"fla.modules": TOP}
    modules |= {f"fla.modules.{name}": MODULES[name] for name in ("feature_map", "l2norm", "token_shift")}
    return [f"{name}: {', '.join(sorted(names))}" for name, names in sorted(modules.items())]


def _calls(rows: int, length: int, heads: int, width: int) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """The name of each function or class, the object, and a call of it with tensors of these sizes."""
    x, size = torch.randn(rows, length, width, requires_grad=True), width // heads
    tensors = {name: torch.randn(rows, length, heads, size) for name in ("q", "k", "v", "p", "r", "a", "b", "w", "s")}
    tensors |= {name: F.normalize(tensors[name], dim=-1) for name in ("q", "k", "p", "r", "a")}
    tensors |= {"kk": tensors["p"], "u": torch.randn(heads, size)}
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
    if name in SQUARED:
        arguments |= {key: tensors[key][..., :SQUARED_SIZE] for key in ("q", "k")}
    steps = {"num_householder": 1} if "num_householder" in parameters else {}
    return lambda: function(**arguments, **steps)


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
    own = list(inspect.signature(part.forward).parameters)  # type: ignore[attr-defined]
    if "hidden_size" in required:
        gate = [x] if own[2:3] in (["g"], ["gate"], ["z"]) else []
        projection = [torch.randn(x.shape[-1], x.shape[-1]), None] if "weight" in own else []
        return lambda: module(x, *gate, *projection)
    return (lambda: module(q, q)) if "dim" in required else (lambda: module(q))
