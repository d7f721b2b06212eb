"""Requests to a child, and the validation of its answers. Runs on the host."""

from collections.abc import Mapping
from dataclasses import replace

from services.domain.statistics import LARGEST
from services.engineer.scales import Scale
from services.engineer.training.result import TrainingFailed
from services.sandbox import JSON, Array, Child, Message, Sandbox
from services.sandbox.limits import ChildDied, ChildTimeout, Limits, Malformed, SandboxUnavailable
from services.sandbox.linux import nvidia_devices

GPU_TASKS = 512
"""Processes and threads of a job that compiles kernels."""
STATE_PREFIXES = ("model/", "optimiser/", "random/")
"""The beginnings of the names of a state's arrays."""
STATE_SHARE = 4
"""A state may take this part of the memory limit of a child."""
COMPILED_BYTES = 2 << 30
"""Limit on files of compilers: kernels, their intermediate representations, and caches."""
WALL_PER_CPU = 4
"""Wall time that a training on a CPU may take, in terms of its limit: other work on the machine is not its fault."""


def limits_of(scale: Scale) -> Limits:
    """The limits of a scale's children.

    On a CPU, the scale's time limit counts the child's own processor time, and children cannot open files or start
    programs. On a GPU, Triton and torch.compile start compilers (ptxas, gcc) and load their output from the scratch
    folder; CUDA and compilers need many threads.
    """
    limits = Limits(
        memory_bytes=scale.memory_bytes,
        cpu_seconds=scale.wall_seconds * scale.threads,
        wall_seconds=scale.wall_seconds,
        threads=scale.threads,
        files=bool(nvidia_devices()),
    )
    if scale.device == "cpu":
        return replace(limits, wall_seconds=WALL_PER_CPU * scale.wall_seconds)
    return replace(limits, files=True, subprocesses=True, processes=GPU_TASKS, file_bytes=COMPILED_BYTES)


async def ask(
    child: Child,
    kind: str,
    header: Mapping[str, JSON],
    arrays: Mapping[str, Array],
    *,
    expect: str,
    timeout: float,  # noqa: ASYNC109 - it is the sandbox's own
) -> Message:
    """Send a request and return its answer of kind `expect`.

    Raises TrainingFailed: "error" with the program's traceback, "died", "timeout" or "malformed"; SandboxUnavailable if
    no answer came as the machine is overloaded.
    """
    try:
        await child.send(kind, header, arrays)
        answer = await child.receive(timeout)
    except ChildDied as error:
        raise TrainingFailed("died", error.reason, {"order": kind}, error.log_tail) from error
    except ChildTimeout as error:
        if isinstance(fault := child.fault(error), SandboxUnavailable):
            raise fault from error
        limit = f"wall_seconds, on a CPU {WALL_PER_CPU} times that"
        text = f"No answer to {kind} within {timeout:.0f} s, the rest of its time limit ({limit})."
        raise TrainingFailed("timeout", text, {"order": kind}, error.log_tail) from error
    except Malformed as error:
        raise TrainingFailed("malformed", error.reason, {"order": kind}, error.log_tail) from error
    if answer.kind == "failed":
        name, trace = answer.header.get("error"), answer.header.get("traceback") or ""
        text = f"{name}: {answer.header.get('message')}".rstrip(": ")
        raise TrainingFailed("error", text, {"order": kind, "error": name}, str(trace))
    if answer.kind != expect:
        raise TrainingFailed("malformed", f"The child answered {kind} with {answer.kind!r}.", {"order": kind})
    return answer


async def measured(sandbox: Sandbox, job: str, limits: Limits, header: Mapping[str, JSON], what: str) -> Message:
    """The answer `measured` of a child whose job measures something. Raises SandboxUnavailable if it fails."""
    async with sandbox.child(job, limits) as child:
        try:
            return await ask(child, "measure", header, {}, expect="measured", timeout=limits.wall_seconds)
        except TrainingFailed as failed:
            raise SandboxUnavailable(f"{what} could not be measured: {failed.message}") from failed


def number(message: Message, field: str) -> float:
    """A number in an answer that is a measurement. Raises TrainingFailed("malformed")."""
    value = message.header.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise TrainingFailed("malformed", f"The child's {message.kind} has no number {field}.", {"field": field})
    return float(value)


def amount(message: Message, field: str) -> float | None:
    """A finite, non-negative number in an answer, or None. Raises TrainingFailed("malformed")."""
    value = None if message.header.get(field) is None else number(message, field)
    if value is not None and not 0 <= value < 1e30:
        raise TrainingFailed("malformed", f"The child's {message.kind} has an invalid {field}.", {"field": field})
    return value


def names(message: Message, field: str) -> tuple[str, ...]:
    """A list of distinct strings in an answer. Raises TrainingFailed("malformed")."""
    values = message.header.get(field)
    texts = dict.fromkeys(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
    if not isinstance(values, list) or len(texts) != len(values):
        raise TrainingFailed("malformed", f"The child's {message.kind} has no list {field}.", {"field": field})
    return tuple(texts)


def state(message: Message, scale: Scale) -> dict[str, Array]:
    """The arrays of a model and what belongs to it. Raises TrainingFailed("malformed") for other names and sizes.

    The host holds a few states at a time, so together they need no more memory than a child may use.
    """
    if other := [name for name in message.arrays if not name.startswith(STATE_PREFIXES)]:
        raise TrainingFailed("malformed", f"The child's {message.kind} has an array {other[0]}.", {"array": other[0]})
    size, limit = sum(value.nbytes for value in message.arrays.values()), scale.memory_bytes // STATE_SHARE
    if size > limit:
        text = (
            f"Parameters, buffers and moments take {size >> 20} MiB, more than {limit >> 20} MiB: keep buffers small."
        )
        raise TrainingFailed("malformed", text, {"bytes": size, "limit": limit})
    return message.arrays


def array(message: Message, name: str, shape: tuple[int, ...]) -> Array:
    """An array of floats in an answer with this shape. Raises TrainingFailed("malformed")."""
    value = message.arrays.get(name)
    if value is None or value.shape != shape or value.dtype.kind != "f":
        text = f"The child's {message.kind} has no {name} of shape {shape}."
        raise TrainingFailed("malformed", text, {"array": name})
    return value
