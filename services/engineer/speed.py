"""The speed of this machine at a scale: of training, with a few steps of the root baseline, and of fla's functions."""

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import monotonic, thread_time
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.domain.zoo import baselines
from services.engineer.data import Corpus
from services.engineer.evaluation.scoring import QUICK_ROWS
from services.engineer.evaluation.tasks import ITEMS
from services.engineer.precision import pass_seconds
from services.engineer.scales import Scale
from services.engineer.training.host import JOB
from services.engineer.training.protocol import ask, limits_of, measured, number
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job
from services.fla_cpu.names import FEATURE_MAPS, L2NORMS, MODULES, OPERATORS, TOP
from services.sandbox import JSON, Array, Channel, Child, Limits, Sandbox, SandboxUnavailable

_STEPS = 3
_MEASURED_SECONDS = 1.5
"""Least duration of a measurement: shorter ones differ by a factor of two on a busy machine."""
_SECONDS = 120.0
_EVALUATION_SPEEDUP = 3.0
"""Evaluating a token takes a third of the time of training on it, as there is no backward pass."""
_OVERHEAD_SECONDS = 4.0
"""Starting processes and the harness, for one evaluation."""


async def measure_speed(
    sandbox: Sandbox, scale: Scale, corpus: Corpus, trainings: int, at_least: float = _MEASURED_SECONDS
) -> float:
    """Tokens per second of each of `trainings` concurrent trainings. Raises SandboxUnavailable.

    To keep the measurement short, a step has at most two micro-batches and nothing is compiled. The steps are repeated
    until each training has run for `at_least` seconds.
    """
    batch = min(scale.batch, 2 * scale.micro_batch)
    scale = replace(scale, batch=batch, compile=False, tokens=scale.tokens_per_step, per_device=1)
    job = Job(baselines()[0].program, 0, scale, corpus)
    tokens = np.stack(list(job.batches(0, _STEPS))).astype(np.uint16)
    ready = asyncio.Barrier(trainings)

    async def training() -> float:
        async with sandbox.child(JOB, limits_of(scale)) as child:
            await ask(child, "begin", job.header(), {}, expect="ready", timeout=_SECONDS)
            await _train(child, tokens[:1])  # the first step allocates memory
            steps, seconds = 0, 0.0
            async with ready:
                while seconds < at_least:
                    seconds += await _train(child, tokens)
                    steps += len(tokens)
            return steps * scale.tokens_per_step / seconds

    try:
        speeds = await asyncio.gather(*(training() for _ in range(trainings)))
    except TrainingFailed as failed:
        raise SandboxUnavailable(f"the speed could not be measured: {failed.message}") from failed
    return sum(speeds) / len(speeds)


def training_seconds(scale: Scale, tokens_per_second: float) -> float:
    """An estimate of the duration of one training with its evaluation at that speed."""
    questions = len(scale.tasks) * (scale.task_limit or ITEMS)
    blocks = scale.heldout_blocks + scale.evaluations * QUICK_ROWS + scale.check_truncations + questions
    return (scale.tokens + blocks * scale.context / _EVALUATION_SPEEDUP) / tokens_per_second + _OVERHEAD_SECONDS


async def _train(child: Child, tokens: Array) -> float:
    start = monotonic()
    await ask(child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=_SECONDS)
    return monotonic() - start


COSTS_JOB = "services.engineer.speed:run_costs"
MAX_TOKENS = 1024  # of the measured batch
_COST_REPEATS = 3
_COST_SECONDS = 30.0  # CPU time, after which the remaining functions are omitted
PER_CHANNEL = (
    *("chunk_gla", "chunk_kda", "chunk_gdn2", "chunk_gsa"),
    *("fused_recurrent_kda", "fused_recurrent_gdn2", "fused_recurrent_gsa"),
)
"""Operators with a decay per key channel or slot instead of one per head."""

SQUARED = ("parallel_based", "parallel_rebased")
"""Operators whose memory grows with the square of the key's size, and the size that they are meant for."""
SQUARED_SIZE = 16


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
    limits = Limits(
        memory_bytes=2 << 30, cpu_seconds=2 * _COST_SECONDS, wall_seconds=4 * _COST_SECONDS, threads=scale.threads
    )
    length = min(scale.context, MAX_TOKENS)
    rows = max(1, min(scale.micro_batch, MAX_TOKENS // length))
    header: dict[str, JSON] = {"rows": rows, "length": length, "heads": scale.heads, "width": scale.width}
    header |= {"precision": scale.precision, "threads": scale.threads}
    answer = await measured(sandbox, COSTS_JOB, limits, header, "the cost of fla's functions")
    linear = number(answer, "linear")
    by_name = cast("Mapping[str, float]", answer.header["seconds"])
    return FunctionCosts(rows * length, linear, {name: seconds / linear for name, seconds in by_name.items()})


def run_costs(channel: Channel) -> None:
    """The child's job: time every function, except those that fail at these sizes."""
    request = channel.receive()
    rows, length, heads, width = (request.integer(name) for name in ("rows", "length", "heads", "width"))
    precision = str(request.header["precision"])
    torch.set_num_threads(request.integer("threads"))
    torch.manual_seed(0)
    layer, x = nn.Linear(width, width, bias=False), torch.randn(rows, length, width, requires_grad=True)
    linear = pass_seconds(lambda: layer(x), precision, 4 * _COST_REPEATS)
    start, by_part = thread_time(), dict[object, float]()
    seconds: dict[str, JSON] = {}
    for name, part, call in _calls(rows, length, heads, width):
        if part not in by_part and thread_time() - start < _COST_SECONDS:
            try:
                by_part[part] = pass_seconds(call, precision, _COST_REPEATS)
            except (RuntimeError, ValueError):
                continue
        if part in by_part:
            seconds[name] = by_part[part]
    channel.send("measured", {"linear": linear, "seconds": seconds})


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
