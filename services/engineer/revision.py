"""Repairs of programs that broke in training: by a language model, or by rules without one.

Each rule matches one kind of slip that an error message names and changes only the line at fault. What no rule matches
is not guessed at: the candidate is rejected with its error.
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

Repaired = tuple[str, str]
_LINE = re.compile(r'File "<candidate_[0-9a-f]+>", line (\d+)')
_CREATORS = frozenset(
    {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randn", "tensor", "tril", "zeros"}
)


def repaired(program: str, error: str) -> Repaired | None:
    """The repaired program and what was changed, or None when no rule applies."""
    for pattern, rule in _RULES:
        if match := pattern.search(error):
            result = rule(program, error, match)
            if result is not None and result[0] != program:
                return result
    return None


def _contiguity(program: str, error: str, match: re.Match[str]) -> Repaired | None:
    """`view` needs memory in one piece, `reshape` copies where it has to."""
    del match
    line = _line(error)
    changed = _replace_line(program, line, lambda text: text.replace(".view(", ".reshape("))
    return changed, f"line {line}: view became reshape, since the tensor is not contiguous"


def _types(program: str, error: str, match: re.Match[str]) -> Repaired | None:
    """Products of tensors of two types: the later operands are cast to the first one's."""
    del match
    line = _line(error)
    tree = parse(program)
    for node in ast.walk(tree):
        if getattr(node, "lineno", None) == line and (changed := _cast_operands(program, node)):
            return changed, f"line {line}: operands are cast to the type of the first"
    return None


def _cast_operands(program: str, node: ast.AST) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        return _cast(program, node.left, [node.right])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        operands = [arg for arg in node.args if not isinstance(arg, ast.Constant)]
        if node.func.attr in ("einsum", "matmul", "bmm", "mm") and len(operands) > 1:
            return _cast(program, operands[0], operands[1:])
    return None


def _cast(program: str, first: ast.expr, others: list[ast.expr]) -> str | None:
    name = ast.get_source_segment(program, first)
    if name is None:
        return None
    for other in reversed(others):
        program = _insert_around(program, other, "(", f").to(({name}).dtype)")
    return program


def _device(program: str, error: str, match: re.Match[str]) -> Repaired | None:
    """Tensors created without a device lie on the CPU: they follow the input's."""
    del error, match
    tree = parse(program)
    argument = _input_of_forward(tree)
    forward = next((one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "forward"), None)
    if argument is None or forward is None:
        return None
    calls = [node for node in ast.walk(forward) if isinstance(node, ast.Call) and _creates_on_the_cpu(node)]
    for call in sorted(calls, key=lambda call: (-(call.end_lineno or 0), -(call.end_col_offset or 0))):
        program = _insert_before_end(program, call, f", device={argument}.device")
    return program, f"tensors made in forward follow the device of {argument}"


def _creates_on_the_cpu(node: ast.Call) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "torch"
        and node.func.attr in _CREATORS - {"tril"}
        and bool(node.args)
        and not any(keyword.arg == "device" for keyword in node.keywords)
    )


def _unexpected(program: str, error: str, match: re.Match[str]) -> Repaired | None:
    """A function called with a usual argument that it does not name takes **kwargs from now on."""
    del error
    function, argument = match["function"].rsplit(".", 1)[-1], match["argument"]
    for node in ast.walk(parse(program)):
        if isinstance(node, ast.FunctionDef) and node.name == function and node.args.kwarg is None:
            last = _last_argument(node)
            if last is not None:
                return _insert_around(program, last, "", ", **kwargs"), f"{function} takes {argument} by **kwargs"
    return None


def _missing(program: str, error: str, match: re.Match[str]) -> Repaired | None:
    """A parameter of forward that callers leave out becomes None by default."""
    del error
    function, argument = match["function"].rsplit(".", 1)[-1], match["argument"]
    for node in ast.walk(parse(program)):
        if isinstance(node, ast.FunctionDef) and node.name == function and not node.args.defaults:
            names = [arg.arg for arg in node.args.args]
            if argument in names[2:] and argument == names[-1]:
                return _insert_around(
                    program, node.args.args[-1], "", "=None"
                ), f"{function}: {argument} is None by default"
    return None


def _last_argument(node: ast.FunctionDef) -> ast.AST | None:
    """What `**kwargs` can be put behind."""
    arguments = node.args
    if arguments.kwonlyargs:
        return arguments.kw_defaults[-1] or arguments.kwonlyargs[-1]
    if arguments.vararg:
        return arguments.vararg
    return arguments.defaults[-1] if arguments.defaults else (arguments.args[-1] if arguments.args else None)


def _input_of_forward(tree: ast.Module) -> str | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "forward" and len(node.args.args) > 1:
            return node.args.args[1].arg
    return None


def _line(error: str) -> int:
    """The last line of the program in the traceback; 0 without one."""
    found = _LINE.findall(error)
    return int(found[-1]) if found else 0


def _replace_line(program: str, line: int, change: Callable[[str], str]) -> str:
    lines = program.splitlines(keepends=True)
    if 0 < line <= len(lines):
        lines[line - 1] = change(lines[line - 1])
    return "".join(lines)


def _insert_around(program: str, node: ast.AST, before: str, after: str) -> str:
    start, end = _offsets(program, node)
    return program[:start] + before + program[start:end] + after + program[end:]


def _insert_before_end(program: str, node: ast.AST, text: str) -> str:
    _, end = _offsets(program, node)
    return program[: end - 1] + text + program[end - 1 :]


def _offsets(program: str, node: ast.AST) -> tuple[int, int]:
    """Where a node begins and ends in the text; ast counts columns in bytes."""
    lines = program.splitlines(keepends=True)

    def offset(line: int, column: int) -> int:
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    return (
        offset(node.lineno, node.col_offset),  # type: ignore[attr-defined]
        offset(node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
    )


_RULES: tuple[tuple[re.Pattern[str], Callable[[str, str, re.Match[str]], Repaired | None]], ...] = (
    (re.compile(r"view size is not compatible"), _contiguity),
    (re.compile(r"(same dtype|expected scalar type|must have the same dtype|dtypes? .* (do not|don't) match)"), _types),
    (re.compile(r"Expected all tensors to be on the same device"), _device),
    (re.compile(r"(?P<function>[\w.]+)\(\) got an unexpected keyword argument '(?P<argument>\w+)'"), _unexpected),
    (re.compile(r"(?P<function>[\w.]+)\(\) missing 1 required positional argument: '(?P<argument>\w+)'"), _missing),
)


@dataclass(frozen=True)
class Failure:
    """What went wrong: the program, the whole error (traceback, last metrics or the watcher's reason), its kind.

    `history` tells what was tried before.
    """

    program: str
    error: str
    kind: str
    history: str = ""


@dataclass(frozen=True)
class Repair:
    """The program to try next, and what was changed, in a sentence."""

    program: str
    what: str


class Reviser(Protocol):
    """Repairs programs, or says that it cannot."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """None when there is nothing that it would change."""
        ...


class OfflineReviser:
    """Repairs without a language model: dtype, device, shape and signature slips; all else is given up at once."""

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """As the port says."""
        del job, record
        if failure.kind != "error":
            return None
        found = repaired(failure.program, failure.error)
        return Repair(*found) if found else None


class RepairAnswer(BaseModel):
    """The repaired program, or none where the idea itself does not work."""

    model_config = ConfigDict(extra="ignore")
    what: str = Field(min_length=3, max_length=600, description="what was changed and why, in a sentence")
    program: Annotated[str, Block("python")] = ""


def revise_request(record: pb.Candidate, failure: Failure) -> Request[RepairAnswer]:
    """The question that is put, and that `asi-arch prompt revise` shows."""
    prompt = load_prompt("services.engineer", "revise")
    messages = prompt.messages(program=failure.program, error=failure.error, history=failure.history or "Nothing.")
    return Request(Role.REVISE, record.run, record.id, messages, RepairAnswer, prompt.version)


class RunReviser:
    """Repairs by whatever mind the run has: the rules that an error dictates without one."""

    def __init__(self, minds: Minds) -> None:
        self._minds = minds
        self._offline = OfflineReviser()

    async def revise(self, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
        """As the port says. Raises what the mind raises."""
        mind = await self._minds.mind(record.request.mind, job)
        if mind is None:
            return await self._offline.revise(job, record, failure)
        answer = (await mind.ask(revise_request(record, failure))).answer
        return Repair(answer.program, answer.what) if answer.program.strip() else None


async def revise_question(
    settings: EngineerSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """About the candidate's last failure in training. Raises NotPossible for one that never failed there."""
    del settings, archive, role
    return plain(revise_request(record, last_failure(record)))


def last_failure(record: pb.Candidate) -> Failure:
    """The program that broke last, its error, and what was repaired before. Raises NotPossible where none did."""
    if revisions := record.training.revisions:
        history = "\n".join(f"- {revision.repair}" for revision in revisions[:-1])
        return Failure(revisions[-1].program, revisions[-1].error, "error", history)
    error = record.rejection.evidence.fields["error"].string_value
    if record.rejection.stage != "train" or not error:
        raise NotPossible(f"candidate {record.id} never failed in training, so there is nothing to repair")
    return Failure(record.proposal.program, error, record.rejection.evidence.fields["kind"].string_value)
