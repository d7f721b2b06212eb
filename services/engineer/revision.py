"""Repairs programs that failed in training, by a language model or, without one, by rules.

Each rule matches an error message and changes only the line at fault. If no rule matches, the candidate is rejected
with its error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from services.chassis.errors import NotPossible
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.domain.syntax import parse
from services.engineer.settings import EngineerSettings
from services.llm.minds import Minds
from services.llm.port import Block, Request, Role
from services.llm.prompts import load_prompt, plain

_LINE = re.compile(r'File "<candidate_[0-9a-f]+>", line (\d+)')
_CREATORS = frozenset({"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "zeros"})


@dataclass(frozen=True)
class Repair:
    """The repaired program, and a sentence about the change."""

    program: str
    what: str


def repair_by_rules(program: str, error: str) -> Repair | None:
    """The first change that a rule makes, or None if no rule applies."""
    for pattern, rule in _RULES:
        if match := pattern.search(error):
            result = rule(program, error, match)
            if result is not None and result.program != program:
                return result
    return None


def _contiguity(program: str, error: str, match: re.Match[str]) -> Repair | None:
    """Replace `view`, which needs contiguous memory, by `reshape`."""
    del match
    line, lines = _line(error), program.splitlines(keepends=True)
    if 0 < line <= len(lines):
        lines[line - 1] = lines[line - 1].replace(".view(", ".reshape(")
    return Repair("".join(lines), f"line {line}: view became reshape, since the tensor is not contiguous")


def _types(program: str, error: str, match: re.Match[str]) -> Repair | None:
    """In products of tensors of different types, cast the later operands to the type of the first."""
    del match
    line = _line(error)
    for node in ast.walk(parse(program)):
        if getattr(node, "lineno", None) == line and (changed := _cast_operands(program, node)):
            return Repair(changed, f"line {line}: operands are cast to the type of the first")
    return None


def _cast_operands(program: str, node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _cast(program, node.left, [node.right])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        operands = [arg for arg in node.args if not isinstance(arg, ast.Constant)]
        if node.func.attr in ("einsum", "matmul", "bmm", "mm") and len(operands) > 1:
            return _cast(program, operands[0], operands[1:])
    return None


def _cast(program: str, first: ast.expr, operands: list[ast.expr]) -> str | None:
    name = ast.get_source_segment(program, first)
    if name is None:
        return None
    for operand in reversed(operands):
        program = _insert_around(program, operand, "(", f").to(({name}).dtype)")
    return program


def _device(program: str, error: str, match: re.Match[str]) -> Repair | None:
    """Create tensors on the input's device instead of on the CPU."""
    del error, match
    functions = [node for node in ast.walk(parse(program)) if isinstance(node, ast.FunctionDef)]
    forwards = [function for function in functions if function.name == "forward"]
    inputs = [forward.args.args[1].arg for forward in forwards if len(forward.args.args) > 1]
    if not inputs:
        return None
    calls = [node for node in ast.walk(forwards[0]) if isinstance(node, ast.Call) and _creates_on_cpu(node)]
    for call in sorted(calls, key=lambda call: (-(call.end_lineno or 0), -(call.end_col_offset or 0))):
        _, end = _offsets(program, call)
        program = program[: end - 1] + f", device={inputs[0]}.device" + program[end - 1 :]
    return Repair(program, f"tensors made in forward follow the device of {inputs[0]}")


def _creates_on_cpu(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and node.func.attr in _CREATORS
        and bool(node.args)
        and not any(keyword.arg == "device" for keyword in node.keywords)
    )


def _unexpected(program: str, error: str, match: re.Match[str]) -> Repair | None:
    """Add **kwargs to a function that is called with an unexpected keyword argument."""
    del error
    function, argument = match["function"].rsplit(".", 1)[-1], match["argument"]
    for node in ast.walk(parse(program)):
        if isinstance(node, ast.FunctionDef) and node.name == function and node.args.kwarg is None:
            last = _last_argument(node)
            if last is not None:
                changed = _insert_around(program, last, "", ", **kwargs")
                return Repair(changed, f"{function} takes {argument} by **kwargs")
    return None


def _missing(program: str, error: str, match: re.Match[str]) -> Repair | None:
    """Make the last parameter of a function None by default if callers omit it."""
    del error
    function, argument = match["function"].rsplit(".", 1)[-1], match["argument"]
    for node in ast.walk(parse(program)):
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.args.defaults:
            names = [arg.arg for arg in node.args.args]
            if argument in names[2:] and argument == names[-1]:
                changed = _insert_around(program, node.args.args[-1], "", "=None")
                return Repair(changed, f"{function}: {argument} is None by default")
    return None


def _last_argument(node: ast.FunctionDef) -> ast.AST | None:
    """The node after which `**kwargs` can be inserted."""
    arguments = node.args
    if arguments.kwonlyargs:
        return arguments.kw_defaults[-1] or arguments.kwonlyargs[-1]
    if arguments.vararg:
        return arguments.vararg
    return arguments.defaults[-1] if arguments.defaults else (arguments.args[-1] if arguments.args else None)


def _line(error: str) -> int:
    """The last line of the program in the traceback; 0 without one."""
    lines = _LINE.findall(error)
    return int(lines[-1]) if lines else 0


def _insert_around(program: str, node: ast.AST, before: str, after: str) -> str:
    start, end = _offsets(program, node)
    return program[:start] + before + program[start:end] + after + program[end:]


def _offsets(program: str, node: ast.AST) -> tuple[int, int]:
    """The start and end of a node in the text; ast counts columns in bytes."""
    lines = program.splitlines(keepends=True)

    def offset(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return (
        offset(node.lineno, node.col_offset),  # type: ignore[attr-defined]
        offset(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
    )


_RULES: tuple[tuple[re.Pattern[str], Callable[[str, str, re.Match[str]], Repair | None]], ...] = (
    (re.compile(r"view size is not compatible"), _contiguity),
    (re.compile(r"(same dtype|expected scalar type|must have the same dtype|dtypes? .* (do not|don't) match)"), _types),
    (re.compile(r"Expected all tensors to be on the same device"), _device),
    (re.compile(r"(?P<function>[\w.]+)\(\) got an unexpected keyword argument '(?P<argument>\w+)'"), _unexpected),
    (re.compile(r"(?P<function>[\w.]+)\(\) missing 1 required positional argument: '(?P<argument>\w+)'"), _missing),
)


@dataclass(frozen=True)
class Failure:
    """A failed program, its error (traceback, last metrics or the watcher's reason) and kind, and earlier repairs."""

    program: str
    error: str
    kind: str
    history: str = ""


class Reviser(Protocol):
    """Repairs programs."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """The repair, or None if the program cannot be repaired."""


class OfflineReviser:
    """Repairs dtype, device, shape and signature errors by rules, without a language model."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """The repair, if a rule applies."""
        del job, record
        return repair_by_rules(failure.program, failure.error) if failure.kind == "error" else None


class RepairAnswer(BaseModel):
    """The repaired program; an empty one if the idea cannot work."""

    model_config = ConfigDict(extra="ignore")
    what: str = Field(min_length=3, max_length=600, description="what was changed and why, in a sentence")
    program: Annotated[str, Block("python")] = ""


def revise_request(record: pb.Candidate, failure: Failure) -> Request[RepairAnswer]:
    """The request to the language model, which `asi-arch prompt revise` shows."""
    prompt = load_prompt("services.engineer", "revise")
    messages = prompt.messages(program=failure.program, error=failure.error, history=failure.history or "Nothing.")
    return Request(Role.REVISE, record.run, record.id, messages, RepairAnswer, prompt.version)


class RunReviser:
    """Repairs by the run's language model or, without one, by rules."""

    def __init__(self, minds: Minds) -> None:
        self._minds = minds

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """The repair, if any. Raises the errors of `Mind.ask`."""
        mind = await self._minds.mind(record.request.mind, job)
        if mind is None:
            return await OfflineReviser().revise(job, record, failure)
        answer = (await mind.ask(revise_request(record, failure))).answer
        return Repair(answer.program, answer.what) if answer.program.strip() else None


async def revise_question(
    settings: EngineerSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The request about a candidate's last failure in training. Raises NotPossible if there is none."""
    del settings, archive, role
    return plain(revise_request(record, last_failure(record)))


def last_failure(record: pb.Candidate) -> Failure:
    """The candidate's last failure in training. Raises NotPossible if there is none."""
    if revisions := record.training.revisions:
        history = "\n".join(f"- {revision.repair}" for revision in revisions[:-1])
        return Failure(revisions[-1].program, revisions[-1].error, "error", history)
    error = record.rejection.evidence.fields["error"].string_value
    if record.rejection.stage != "train" or not error:
        raise NotPossible(f"candidate {record.id} has not failed in training: there is nothing to repair")
    return Failure(record.proposal.program, error, record.rejection.evidence.fields["kind"].string_value)
