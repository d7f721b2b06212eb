"""A program's own recurrence replaced by a kernel of flash-linear-attention, where both are shown to compute the same.

    python -m services.engineer.substitution FILE [--device cuda] [--out FAST.py]

Proposed is every module-level function of q, k, v and what an operator takes beside them (a write strength, a decay),
in every reading of its arguments: heads or time first, decays as logarithms or factors, per head or per feature,
scaled or not, normalised or not. For each reading the program is rewritten so that the function calls the operator; the
slow form stays beside it. A rewriting is taken if outputs and gradients of both forms agree at awkward lengths, on
inputs that the program cannot foresee. That is evidence, not proof: a function that treats particular values otherwise
can pass. It costs the candidate nothing that is not measured, as the rewritten program is what is trained and scored.
"""

import argparse
import ast
import asyncio
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.domain.syntax import parse
from services.engineer.checks.subject import DOUBLE, SINGLE
from services.engineer.program import execute, prepare_child
from services.engineer.scales import Scale, load_scale
from services.engineer.training.ports import JSON, Array, Channel, Message, Sandbox
from services.engineer.training.protocol import ask, limits_of
from services.engineer.training.result import TrainingFailed
from services.sandbox import Sandbox as RealSandbox

JOB = "services.engineer.substitution:run"
LENGTHS = (1, 63, 64, 100)
TRIED_LENGTH = 5
BATCH, HEADS, FEATURES = 2, 3, 16
TOLERANCE: Mapping[str, float] = {"cpu": 1e-6, "cuda": 3e-2}
"""Of the largest difference relative to the largest value: float64 on a CPU, bfloat16 on a GPU."""
SECONDS = 120.0
SLOW = "_slow_"
_NAMES = {
    "q": ("q", "query", "queries"),
    "k": ("k", "key", "keys"),
    "v": ("v", "value", "values"),
    "beta": ("beta", "betas", "b", "strength", "write_strength"),
    "g": ("g", "gk", "log_decay", "decay", "alpha", "gate", "forget", "f", "w"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}


@dataclass(frozen=True)
class Operator:
    """An operator of fla: what it takes beside q, k and v, and whether its decay is per feature of the keys."""

    module: str
    name: str
    extra: frozenset[str]
    decay_per_feature: bool = False
    erases: bool = False


OPERATORS = (
    Operator("fla.ops.delta_rule", "chunk_delta_rule", frozenset({"beta"}), erases=True),
    Operator("fla.ops.gated_delta_rule", "chunk_gated_delta_rule", frozenset({"beta", "g"}), erases=True),
    Operator("fla.ops.kda", "chunk_kda", frozenset({"beta", "g"}), decay_per_feature=True, erases=True),
    Operator("fla.ops.simple_gla", "chunk_simple_gla", frozenset({"g"})),
    Operator("fla.ops.gla", "chunk_gla", frozenset({"g"}), decay_per_feature=True),
    Operator("fla.ops.simple_gla", "chunk_simple_gla", frozenset()),
)


@dataclass(frozen=True)
class Reading:
    """How a function's arguments are read for one operator."""

    function: str
    operator: Operator
    heads_first: bool
    factors: bool  # decays are factors between 0 and 1, not logarithms
    scaled: bool  # reads are divided by the root of the features
    normalised: bool  # queries and keys are normalised inside

    def sentence(self) -> str:
        """What is replaced by what."""
        return f"{self.function} by {self.operator.module}.{self.operator.name}"


@dataclass(frozen=True)
class Substitution:
    """A reading that held: the program with the fast form, and the largest relative difference seen."""

    reading: Reading
    program: str
    difference: float
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """A function that looked like a recurrence and is none that an operator computes."""

    function: str
    reason: str


def functions(program: str) -> dict[str, ast.FunctionDef]:
    """Module-level functions whose required arguments are those of a recurrence."""
    found = {}
    for node in parse(program).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith(SLOW):
            roles = _roles(node)
            if roles is not None and {"q", "k", "v"} <= set(roles.values()):
                found[node.name] = node
    return found


def readings(node: ast.FunctionDef) -> Iterator[Reading]:
    """Every way to read a function's arguments, the usual ones first."""
    roles = _roles(node) or {}
    extra = frozenset(roles.values()) - {"q", "k", "v"}
    for operator in OPERATORS:
        if operator.extra == extra:
            factors, normalised = (
                (False, True) if "g" in extra else (False,),
                (False, True) if operator.erases else (False,),
            )
            for choice in itertools.product((False, True), factors, (True, False), normalised):
                yield Reading(node.name, operator, *choice)


def rewritten(program: str, reading: Reading) -> str:
    """The program whose function calls the operator; the slow form stays under another name.

    An argument beyond those of the recurrence that is not at its default leads to the slow form.
    """
    node = functions(program)[reading.function]
    lines = program.splitlines(keepends=True)
    first = node.lineno - 1
    lines[first] = lines[first].replace(f"def {node.name}", f"def {SLOW}{node.name}", 1)
    end = node.end_lineno or len(lines)
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], "\n\n", _fast(node, reading), *lines[end:]])


def _fast(node: ast.FunctionDef, reading: Reading) -> str:
    roles = _roles(node) or {}
    by_role = {role: name for name, role in roles.items()}
    others = {name: default for name, default in _defaults(node).items() if name not in roles}
    operator = reading.operator
    guard = " or ".join(
        f"{name} is not {value!r}" if value is None else f"{name} != {value!r}" for name, value in others.items()
    )
    given = ", ".join([*roles, *(f"{name}={name}" for name in others)])
    body = [f'"""{SLOW}{node.name} by a kernel of flash-linear-attention: both were seen to compute the same."""']
    if guard:
        body += [f"if {guard}:", f"    return {SLOW}{node.name}({given})"]
    body += ["import torch", f"from {operator.module} import {operator.name}", f"kind = {by_role['v']}.dtype"]
    for role, name in by_role.items():
        if reading.heads_first:
            body.append(f"{name} = {name}.transpose(1, 2)")
        if role == "g" and reading.factors:
            body.append(f"{name} = torch.log({name})")
        if role != "g":
            body.append(f"{name} = {name}.bfloat16() if {name}.is_cuda else {name}")
    call = [f"{role}={name}" for role, name in by_role.items()]
    call.append(f"scale={'None' if reading.scaled else '1.0'}")
    call += ["use_qk_l2norm_in_kernel=True"] if reading.normalised else []
    body.append(f"output, _ = {operator.name}({', '.join(call)})")
    body.append(f"return output{'.transpose(1, 2)' if reading.heads_first else ''}.to(kind)")
    return f"def {node.name}({ast.unparse(node.args)}):\n" + "".join(f"    {line}\n" for line in body) + "\n"


def _roles(node: ast.FunctionDef) -> dict[str, str] | None:
    """Arguments by what they are; None where one without a plain default is none of a recurrence, or two are alike."""
    defaults = _defaults(node)
    if node.args.vararg or node.args.kwarg or node.args.posonlyargs:
        return None
    names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
    roles = {name: _ROLES[name] for name in names if name in _ROLES and name not in defaults}
    required = [name for name in names if name not in defaults]
    return roles if len(set(roles.values())) == len(roles) and set(required) == set(roles) else None


def _defaults(node: ast.FunctionDef) -> dict[str, object]:
    """Constant defaults by argument; an argument with another kind of default counts as required."""
    positional = node.args.args[len(node.args.args) - len(node.args.defaults) :]
    pairs = [
        *zip(positional, node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    return {argument.arg: value.value for argument, value in pairs if isinstance(value, ast.Constant)}


async def substitute(
    program: str, scale: Scale, sandbox: Sandbox, seed: int
) -> tuple[list[Substitution], list[Refusal]]:
    """Replace every recurrence that an operator computes, one after another; the last program holds all of them.

    Raises SandboxUnavailable. What a program does in its child is a reason for a refusal.
    """
    taken: list[Substitution] = []
    refused: list[Refusal] = []
    for name, node in functions(program).items():
        current = taken[-1].program if taken else program
        found = None
        reasons = []
        for reading in readings(node):
            fast = rewritten(current, reading)
            try:
                difference = await _difference(current, fast, reading, (TRIED_LENGTH,), scale, sandbox, seed)
                if difference <= TOLERANCE[scale.device]:
                    difference = await _difference(current, fast, reading, LENGTHS, scale, sandbox, seed)
                if difference <= TOLERANCE[scale.device]:
                    found = Substitution(reading, fast, difference, LENGTHS)
                    break
                reasons.append(difference)
            except TrainingFailed as failed:
                refused.append(Refusal(name, failed.message))
                break
        else:
            closest = f"; the closest differs by {min(reasons):.1e} of its size" if reasons else ""
            refused.append(Refusal(name, f"no operator of fla computes it at all lengths{closest}"))
        if found is not None:
            taken.append(found)
    return taken, refused


async def _difference(
    slow: str, fast: str, reading: Reading, lengths: Sequence[int], scale: Scale, sandbox: Sandbox, seed: int
) -> float:
    """The largest relative difference of outputs and gradients of both forms; infinite where one of them raises.

    Raises TrainingFailed for a child that dies or does not answer.
    """
    largest = 0.0
    header: dict[str, JSON] = {"device": scale.device, "threads": scale.threads}
    limits = replace(limits_of(scale), wall_seconds=SECONDS, cpu_seconds=SECONDS * scale.threads)
    async with sandbox.child(JOB, limits) as child:
        await ask(child, "begin", header, {}, expect="ready", timeout=SECONDS)
        for length in lengths:
            inputs = _inputs(reading, length, seed)
            sides = []
            for program in (slow, fast):
                order: dict[str, JSON] = {"program": program, "function": reading.function, "arguments": list(inputs)}
                answer = await ask(child, "call", order, dict(inputs), expect="called", timeout=SECONDS)
                sides.append(answer)
            if any("raised" in side.header for side in sides):
                return float("inf")  # one of them takes its arguments otherwise than this reading gives them
            largest = max(largest, _gap(sides[0].arrays, sides[1].arrays))
    return largest


def _inputs(reading: Reading, length: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Random arguments in the reading's layout, by the names of roles; the last one is the direction of gradients."""
    random = np.random.default_rng([seed, length])
    shape = (BATCH, length, HEADS, FEATURES)
    made = {role: random.standard_normal(shape) * 0.2 for role in ("q", "k", "v")}
    if "beta" in reading.operator.extra:
        made["beta"] = random.uniform(0.1, 0.9, shape[:3])
    if "g" in reading.operator.extra:
        factors = random.uniform(0.7, 0.99, shape if reading.operator.decay_per_feature else shape[:3])
        made["g"] = factors if reading.factors else np.log(factors)
    made["direction"] = random.standard_normal(shape)
    return {
        role: np.ascontiguousarray(np.swapaxes(value, 1, 2) if reading.heads_first else value)
        for role, value in made.items()
    }


def _gap(slow: Mapping[str, Array], fast: Mapping[str, Array]) -> float:
    gap = 0.0
    for name, expected in slow.items():
        value = fast.get(name)
        if value is None or value.shape != expected.shape or not np.isfinite(value).all():
            return float("inf")
        away = np.abs(np.subtract(value, expected, dtype=np.float64)).max()
        gap = max(gap, float(away) / max(float(np.abs(expected).max()), 1e-9))
    return gap


def run(channel: Channel) -> None:
    """The guest: call a function of a program on the arrays that come, and send its output and gradients back."""
    begin = channel.receive().header
    device = str(begin["device"])
    prepare_child(int(cast("int", begin["threads"])), device)
    channel.send("ready", {}, {})
    while (order := channel.receive()).kind != "end":
        try:
            channel.send("called", {}, _call(order, device))
        except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything
            channel.send("called", {"raised": f"{type(error).__name__}: {str(error)[:300]}"}, {})


def _call(order: Message, device: str) -> dict[str, Array]:
    arithmetic = DOUBLE if device == "cpu" else SINGLE
    module = execute(str(order.header["program"]))
    function = getattr(module, str(order.header["function"]))
    names = [
        argument for argument in function.__code__.co_varnames[: function.__code__.co_argcount] if argument in _ROLES
    ]
    tensors = {
        role: torch.from_numpy(np.array(value)).to(device, arithmetic.dtype) for role, value in order.arrays.items()
    }
    given = {name: tensors[_ROLES[name]].requires_grad_() for name in names if _ROLES[name] in tensors}
    with arithmetic.active():
        output = function(**given)
    if not isinstance(output, Tensor):
        raise TypeError("the function returns more than one tensor")
    torch.autograd.backward((output * tensors["direction"]).sum())
    gradients = {f"gradient/{name}": value.grad for name, value in given.items()}
    found = {"output": output, **{name: value for name, value in gradients.items() if value is not None}}
    return {name: value.detach().double().cpu().numpy() for name, value in found.items()}


async def _main(path: Path, scale: Scale, out: Path | None) -> int:
    program = await asyncio.to_thread(path.read_text, "utf-8")
    async with RealSandbox() as sandbox:
        taken, refused = await substitute(program, scale, sandbox, seed=int(np.random.default_rng().integers(1 << 31)))
    for one in taken:
        lengths = ", ".join(map(str, one.lengths))
        sys.stdout.write(f"{one.reading.sentence()}: differs by {one.difference:.1e} at most, at lengths {lengths}\n")
    for refusal in refused:
        sys.stdout.write(f"{refusal.function} stays as it is: {refusal.reason}\n")
    if not taken and not refused:
        sys.stdout.write("the program has no function of q, k and v that could be replaced\n")
    if taken and out is not None:
        await asyncio.to_thread(out.write_text, taken[-1].program, "utf-8")
    return 0 if taken else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="where the program with its fast forms goes")
    options = parser.parse_args()
    chosen = load_scale("tiny", {"device": options.device})
    sys.exit(asyncio.run(_main(options.file, chosen, options.out)))
