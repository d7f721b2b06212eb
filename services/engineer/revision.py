"""Repairs programs that failed in training, by a language model or, without one, by rules.

Each rule matches an error message and changes only the line at fault. If no rule matches, the candidate is rejected
with its error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.chassis.errors import NotPossible
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.domain.syntax import lines_of, parse
from services.engineer.settings import EngineerSettings
from services.llm.minds import Minds
from services.llm.port import Block, Request, Role
from services.llm.prompts import load_prompt

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


def _contiguity(program: str, error: str, _match: re.Match[str]) -> Repair | None:
    """Replace `view`, which needs contiguous memory, by `reshape`."""
    line, lines = _line(error), lines_of(program)
    if 0 < line <= len(lines):
        lines[line - 1] = lines[line - 1].replace(".view(", ".reshape(")
    return Repair("".join(lines), f"line {line}: view became reshape, since the tensor is not contiguous")


def _types(program: str, error: str, _match: re.Match[str]) -> Repair | None:
    """In products of tensors of different types, cast the later operands to the type of the first."""
    line = _line(error)
    for node in ast.walk(parse(program)):
        operands = _operands(node) if getattr(node, "lineno", None) == line else []
        if len(operands) > 1:
            first = ast.get_source_segment(program, operands[0])
            for operand in reversed(operands[1:]):
                program = _insert_around(program, operand, "(", f").to(({first}).dtype)")
            return Repair(program, f"line {line}: operands are cast to the type of the first")
    return None


def _operands(node: ast.AST) -> list[ast.expr]:
    """The operands of a product of tensors; none for other nodes."""
    match node:
        case ast.BinOp(left, ast.MatMult(), right):
            return [left, right]
        case ast.Call(ast.Attribute(attr="einsum" | "matmul" | "bmm" | "mm"), arguments):
            return [argument for argument in arguments if not isinstance(argument, ast.Constant)]
    return []


def _device(program: str, _error: str, _match: re.Match[str]) -> Repair | None:
    """Create tensors on the input's device instead of on the CPU."""
    functions = [node for node in ast.walk(parse(program)) if isinstance(node, ast.FunctionDef)]
    forwards = [function for function in functions if function.name == "forward"]
    inputs = [forward.args.args[1].arg for forward in forwards if len(forward.args.args) > 1]
    if not inputs:
        return None
    ends = [_offsets(program, node)[1] for node in ast.walk(forwards[0]) if _creates_on_cpu(node)]
    for end in sorted(ends, reverse=True):
        program = program[: end - 1] + f", device={inputs[0]}.device" + program[end - 1 :]
    return Repair(program, f"tensors made in forward follow the device of {inputs[0]}")


def _creates_on_cpu(node: ast.AST) -> bool:
    match node:
        case ast.Call(ast.Attribute(ast.Name("torch"), function), [_, *_], keywords):
            return function in _CREATORS and all(keyword.arg != "device" for keyword in keywords)
    return False


def _unexpected(program: str, _error: str, match: re.Match[str]) -> Repair | None:
    """Add **kwargs to a function that is called with an unexpected keyword argument."""
    for node in _called(program, match):
        parts = [part for part in ast.iter_child_nodes(node.args) if part not in node.args.posonlyargs]
        if parts and node.args.kwarg is None:
            last = max(parts, key=lambda part: _offsets(program, part))
            changed = _insert_around(program, last, "", ", **kwargs")
            return Repair(changed, f"{node.name} takes {match['argument']} by **kwargs")
    return None


def _missing(program: str, _error: str, match: re.Match[str]) -> Repair | None:
    """Make the last parameter of a function None by default if callers omit it."""
    argument = match["argument"]
    for node in _called(program, match):
        names = [arg.arg for arg in node.args.args]
        if not node.args.defaults and argument in names[2:] and argument == names[-1]:
            changed = _insert_around(program, node.args.args[-1], "", "=None")
            return Repair(changed, f"{node.name}: {argument} is None by default")
    return None


def _called(program: str, match: re.Match[str]) -> Iterator[ast.FunctionDef]:
    """The program's functions of the name in an error message."""
    name = match["function"].rsplit(".", 1)[-1]
    return (node for node in ast.walk(parse(program)) if isinstance(node, ast.FunctionDef) and node.name == name)


def _line(error: str) -> int:
    """The last line of the program in the traceback; 0 without one."""
    lines = _LINE.findall(error)
    return int(lines[-1]) if lines else 0


def _insert_around(program: str, node: ast.AST, before: str, after: str) -> str:
    start, end = _offsets(program, node)
    return program[:start] + before + program[start:end] + after + program[end:]


def _offsets(program: str, node: ast.AST) -> tuple[int, int]:
    """The start and end of a node in the text; ast counts columns in bytes."""
    lines = lines_of(program)

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


async def revise(minds: Minds | None, job: Job, record: pb.Candidate, failure: Failure) -> Repair | None:
    """A repair, if there is one, by the run's language model or else by rules. Raises the errors of `Mind.ask`."""
    mind = await minds.mind(record.request.mind, job) if minds else None
    if mind is None:
        return repair_by_rules(failure.program, failure.error) if failure.kind == "error" else None
    answer = (await mind.ask(revise_request(record, failure))).answer
    return Repair(answer.program, answer.what) if answer.program.strip() else None


async def revise_question(
    settings: EngineerSettings, archive: archive_pb2_grpc.ArchiveAsyncStub, record: pb.Candidate, role: Role
) -> Request[BaseModel]:
    """The request about a candidate's last failure in training. Raises NotPossible if there is none."""
    del settings, archive, role
    return revise_request(record, last_failure(record))


def last_failure(record: pb.Candidate) -> Failure:
    """The candidate's last failure in training. Raises NotPossible if there is none."""
    if revisions := record.training.revisions:
        history = "\n".join(f"- {revision.repair}" for revision in revisions[:-1])
        return Failure(revisions[-1].program, revisions[-1].error, "error", history)
    error = record.rejection.evidence.fields["error"].string_value
    if record.rejection.stage != "train" or not error:
        raise NotPossible(f"candidate {record.id} has not failed in training: there is nothing to repair")
    return Failure(record.proposal.program, error, record.rejection.evidence.fields["kind"].string_value)
