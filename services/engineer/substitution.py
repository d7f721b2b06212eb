"""Replaces recurrences in a program by kernels of flash-linear-attention, if both agree.

    python -m services.engineer.substitution FILE [--device cuda] [--out FAST.py]

Candidates for replacement are module-level functions of q, k, v and an operator's other arguments (a write strength, a
decay). All readings of the arguments are tried: heads or time first, decays as logarithms or factors, per head or per
feature, scaled or not, normalised or not. For each reading the program is rewritten so that the function calls the
operator, and the original is kept under another name. A rewritten program is accepted if outputs and gradients agree at
several lengths on random inputs, first on the CPU, where rounding is small and no kernel is compiled. This is no proof,
but the rewritten program is the one that is trained and scored.
"""

import argparse
import ast
import asyncio
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.domain.syntax import lines_of, parse
from services.engineer.checks.compare import relative_gap
from services.engineer.scales import Scale, load_scale
from services.engineer.training.protocol import ask, limits_of
from services.engineer.training.result import TrainingFailed
from services.sandbox import JSON, Sandbox

JOB = "services.engineer.program:run_functions"
LENGTHS = (1, 63, 64, 100)
FIRST_LENGTH = 5  # rejects most readings quickly
BATCH, HEADS, FEATURES = 2, 3, 16
TOLERANCE: Mapping[str, float] = {"cpu": 1e-6, "cuda": 3e-2}
"""Limit on the largest difference relative to the largest value: float64 on a CPU, bfloat16 on a GPU."""
SECONDS: Mapping[str, float] = {"cpu": 120.0, "cuda": 900.0}
"""Limit on a test; on a GPU fla first compiles and times a hundred or more variants of an operator's kernels."""
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
    """An operator of fla and its arguments besides q, k and v."""

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
    """One interpretation of a function's arguments as those of an operator."""

    function: str
    operator: Operator
    heads_first: bool
    factors: bool  # decays are factors between 0 and 1, not logarithms
    scaled: bool  # reads are divided by the root of the features
    normalised: bool  # queries and keys are normalised inside


@dataclass(frozen=True)
class Substitution:
    """An accepted reading: the rewritten program, and the largest relative difference at the tested lengths."""

    reading: Reading
    program: str
    difference: float
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """A function with the arguments of a recurrence that no operator computes."""

    function: str
    reason: str


def functions(program: str) -> dict[str, ast.FunctionDef]:
    """Module-level functions whose required arguments are those of a recurrence."""
    nodes = [node for node in parse(program).body if isinstance(node, ast.FunctionDef)]
    return {
        node.name: node
        for node in nodes
        if not node.name.startswith(SLOW) and {"q", "k", "v"} <= set(_roles(node).values())
    }


def readings(node: ast.FunctionDef) -> Iterator[Reading]:
    """All readings of a function's arguments, the usual ones first."""
    extra = frozenset(_roles(node).values()) - {"q", "k", "v"}
    for operator in OPERATORS:
        if operator.extra == extra:
            factors = (False, True) if "g" in extra else (False,)
            normalised = (False, True) if operator.erases else (False,)
            for choice in itertools.product((False, True), factors, (True, False), normalised):
                yield Reading(node.name, operator, *choice)


def rewrite(program: str, reading: Reading) -> str:
    """The program with the function replaced by a call of the operator; the original stays under another name.

    The original is called when other arguments than those of the recurrence do not have their defaults.
    """
    node = functions(program)[reading.function]
    lines = lines_of(program)
    first = node.lineno - 1
    lines[first] = lines[first].replace(f"def {node.name}", f"def {SLOW}{node.name}", 1)
    end = node.end_lineno or len(lines)
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], "\n\n", _fast(node, reading), *lines[end:]])


def _fast(node: ast.FunctionDef, reading: Reading) -> str:
    roles = _roles(node)
    by_role = {role: name for name, role in roles.items()}
    optional = {name: default for name, default in _defaults(node).items() if name not in roles}
    operator = reading.operator
    guard = " or ".join(
        f"{name} is not {value!r}" if value is None else f"{name} != {value!r}" for name, value in optional.items()
    )
    arguments = ", ".join([*roles, *(f"{name}={name}" for name in optional)])
    body = [f'"""{SLOW}{node.name} by a kernel of flash-linear-attention, which agreed in a test."""']
    if guard:
        body += [f"if {guard}:", f"    return {SLOW}{node.name}({arguments})"]
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


def _roles(node: ast.FunctionDef) -> dict[str, str]:
    """The roles of arguments by name; none if a required argument has no role, or two have the same."""
    if node.args.vararg or node.args.kwarg or node.args.posonlyargs:
        return {}
    defaults = _defaults(node)
    required = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs) if argument.arg not in defaults]
    roles = {name: _ROLES[name] for name in required if name in _ROLES}
    return roles if len(set(roles.values())) == len(required) else {}


def _defaults(node: ast.FunctionDef) -> dict[str, object]:
    """Constant defaults by argument; other arguments count as required."""
    positional = node.args.args[len(node.args.args) - len(node.args.defaults) :]
    pairs = [
        *zip(positional, node.args.defaults, strict=True),
        *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
    ]
    return {argument.arg: value.value for argument, value in pairs if isinstance(value, ast.Constant)}


async def substitute(
    program: str, scale: Scale, sandbox: Sandbox, seed: int
) -> tuple[list[Substitution], list[Refusal]]:
    """Replace all recurrences that an operator computes; the last substitution's program contains all of them.

    Raises SandboxUnavailable. Failures of the program are reasons of refusals.
    """
    substitutions: list[Substitution] = []
    refusals: list[Refusal] = []
    tests = [((FIRST_LENGTH,), "cpu"), (LENGTHS, "cpu"), *([(LENGTHS, "cuda")] if scale.device == "cuda" else [])]
    for name, node in functions(program).items():
        current = substitutions[-1].program if substitutions else program
        differences = []
        for reading in readings(node):
            fast = rewrite(current, reading)
            try:
                for lengths, device in tests:
                    tested = replace(scale, device=device)
                    difference = await _difference(current, fast, reading, lengths, tested, sandbox, seed)
                    if difference > TOLERANCE[device]:
                        break
                else:
                    substitutions.append(Substitution(reading, fast, difference, LENGTHS))
                    break
            except TrainingFailed as failed:
                refusals.append(Refusal(name, failed.message))
                break
            differences.append(difference)
        else:
            closest = f"; the closest differs by {min(differences):.1e} of its size" if differences else ""
            refusals.append(Refusal(name, f"no operator of fla computes it at all lengths{closest}"))
    return substitutions, refusals


async def _difference(
    slow: str, fast: str, reading: Reading, lengths: Sequence[int], scale: Scale, sandbox: Sandbox, seed: int
) -> float:
    """The largest relative difference of outputs and gradients; infinite if a program raises. Raises TrainingFailed."""
    largest = 0.0
    header: dict[str, JSON] = {"device": scale.device, "threads": scale.threads, "roles": dict(_ROLES)}
    seconds = SECONDS[scale.device]
    limits = replace(limits_of(scale), wall_seconds=seconds, cpu_seconds=seconds * scale.threads)
    async with sandbox.child(JOB, limits) as child:
        await ask(child, "begin", header, {}, expect="ready", timeout=seconds)
        for length in lengths:
            inputs = _inputs(reading, length, seed)
            answers = []
            for program in (slow, fast):
                header |= {"program": program, "function": reading.function}
                answers.append(await ask(child, "call", header, dict(inputs), expect="called", timeout=seconds))
            if any("raised" in answer.header for answer in answers):
                return float("inf")  # the arguments do not have this reading
            original, changed = (answer.arrays for answer in answers)
            if original.keys() - changed.keys():
                return float("inf")
            gaps = [relative_gap(original[name], changed[name], floor=1e-9) for name in original]
            largest = max([largest, *gaps])
    return largest


def _inputs(reading: Reading, length: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Random arguments by role in the reading's layout; `direction` weights the output for gradients."""
    random = np.random.default_rng([seed, length])
    shape = (BATCH, length, HEADS, FEATURES)
    inputs = {role: random.standard_normal(shape) * 0.2 for role in ("q", "k", "v")}
    if "beta" in reading.operator.extra:
        inputs["beta"] = random.uniform(0.1, 0.9, shape[:3])
    if "g" in reading.operator.extra:
        factors = random.uniform(0.7, 0.99, shape if reading.operator.decay_per_feature else shape[:3])
        inputs["g"] = factors if reading.factors else np.log(factors)
    inputs["direction"] = random.standard_normal(shape)
    return {
        role: np.ascontiguousarray(np.swapaxes(value, 1, 2) if reading.heads_first else value)
        for role, value in inputs.items()
    }


async def _main(path: Path, scale: Scale, out: Path | None) -> int:
    program = await asyncio.to_thread(path.read_text, "utf-8")
    seed = int(np.random.default_rng().integers(1 << 31))
    async with Sandbox() as sandbox:
        substitutions, refusals = await substitute(program, scale, sandbox, seed)
    for accepted in substitutions:
        reading, lengths = accepted.reading, ", ".join(map(str, accepted.lengths))
        names = f"{reading.function} by {reading.operator.module}.{reading.operator.name}"
        sys.stdout.write(f"{names}: differs by {accepted.difference:.1e} at most, at lengths {lengths}\n")
    for refusal in refusals:
        sys.stdout.write(f"{refusal.function} stays as it is: {refusal.reason}\n")
    if not substitutions and not refusals:
        sys.stdout.write("the program has no function of q, k and v that could be replaced\n")
    if substitutions and out is not None:
        await asyncio.to_thread(out.write_text, substitutions[-1].program, "utf-8")
    return 0 if substitutions else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="where the rewritten program is stored")
    options = parser.parse_args()
    if not options.file.is_file():
        parser.error(f"{options.file} is no file: give one that holds a Python program")
    sys.exit(asyncio.run(_main(options.file, load_scale("tiny", {"device": options.device}), options.out)))
