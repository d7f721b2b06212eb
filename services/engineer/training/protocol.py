"""Asking a child and judging how it answers. Host side."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from services.engineer.scales import Scale
from services.engineer.training.ports import JSON, Array, Child, Message
from services.engineer.training.result import TrainingFailed
from services.sandbox.limits import ChildDied, ChildTimeout, Limits, Malformed
from services.sandbox.linux import graphics

GPU_TASKS = 512
"""Processes and threads of a job that compiles kernels."""
COMPILED_BYTES = 2 << 30
"""What a job's compilers may write: kernels, their intermediate forms and the caches of both."""


def limits_of(scale: Scale) -> Limits:
    """The limits of a scale's children.

    On a CPU they open no file and start no program. On a GPU Triton and torch.compile start compilers (ptxas, gcc) and
    run what those wrote to the scratch folder; CUDA and the compilers' pools of workers hold many threads.
    """
    limits = Limits(
        memory_bytes=scale.memory_bytes,
        cpu_seconds=scale.wall_seconds * scale.threads,
        wall_seconds=scale.wall_seconds,
        threads=scale.threads,
        files=bool(graphics()),
    )
    if scale.device == "cpu":
        return limits
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
    """Send one order and wait for its answer of kind `expect`.

    Raises TrainingFailed: "error" with the program's traceback, "died", "timeout" or "malformed".
    """
    try:
        await child.send(kind, header, arrays)
        answer = await child.receive(timeout)
    except ChildDied as error:
        raise TrainingFailed("died", error.reason, {"order": kind}, error.log_tail) from error
    except ChildTimeout as error:
        text = f"No answer to {kind} within {timeout:.0f} s."
        raise TrainingFailed("timeout", text, {"order": kind}, error.log_tail) from error
    except Malformed as error:
        raise TrainingFailed("malformed", error.reason, {"order": kind}, error.log_tail) from error
    if answer.kind == "failed":
        raise _raised(kind, answer)
    if answer.kind != expect:
        raise TrainingFailed("malformed", f"The child answered {kind} with {answer.kind!r}.", {"order": kind})
    return answer


def number(message: Message, field: str) -> float:
    """A finite number of an answer. Raises TrainingFailed("malformed") for anything else."""
    value = message.header.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise TrainingFailed("malformed", f"The child's {message.kind} has no number {field}.", {"field": field})
    return float(value)


def amount(message: Message, field: str) -> float | None:
    """A finite number, not negative, or None where the answer says so. Raises TrainingFailed("malformed") else."""
    value = None if message.header.get(field) is None else number(message, field)
    if value is not None and not 0 <= value < 1e30:
        raise TrainingFailed("malformed", f"The child's {message.kind} has an impossible {field}.", {"field": field})
    return value


def names(message: Message, field: str) -> tuple[str, ...]:
    """A list of different texts. Raises TrainingFailed("malformed") for anything else."""
    values = message.header.get(field)
    texts = [value for value in values if isinstance(value, str)] if isinstance(values, list) else None
    if texts is None or not isinstance(values, list) or len(set(texts)) != len(values):
        raise TrainingFailed("malformed", f"The child's {message.kind} has no list {field}.", {"field": field})
    return tuple(texts)


def array(message: Message, name: str, shape: tuple[int, ...]) -> Array:
    """An array of an answer with exactly this shape. Raises TrainingFailed("malformed") for anything else."""
    found = message.arrays.get(name)
    if found is None or found.shape != shape or found.dtype.kind != "f":
        raise TrainingFailed(
            "malformed", f"The child's {message.kind} has no {name} of shape {shape}.", {"array": name}
        )
    return found


def _raised(order: str, answer: Message) -> TrainingFailed:
    error, message = answer.header.get("error"), answer.header.get("message")
    trace = cast("str", answer.header.get("traceback") or "")
    return TrainingFailed("error", f"{error}: {message}", {"order": order, "error": error}, str(trace))
