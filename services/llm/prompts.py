"""Prompt files (a version line, then text with placeholders), and the command that shows a prompt."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import TypeVar

import grpc
import grpc.aio
from pydantic import BaseModel, JsonValue

from services.chassis.errors import NotPossible, Rejected, SettingsError, Transient, printable, sentence
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings, load
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.budget import MemoryLedger
from services.llm.openai_mind import OpenAIMind
from services.llm.port import Message, Request, Role, plain_schema


@dataclass(frozen=True)
class Prompt:
    """A prompt; `version` is recorded with every answer."""

    version: str
    system: str
    user: Template

    def messages(self, **values: str) -> tuple[Message, ...]:
        """The messages with all placeholders filled, without invisible text. Raises KeyError naming a missing one."""
        return Message("system", self.system), Message("user", printable(self.user.substitute(values)))


@lru_cache
def load_prompt(package: str, name: str) -> Prompt:
    """`prompts/<name>.md`: "version: NAME-N", the system text, a line of ---, the user text. Raises ValueError."""
    text = (files(package) / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    head, _, rest = text.partition("\n")
    system, divider, user = rest.partition("\n---\n")
    if not head.startswith("version: ") or not divider:
        raise ValueError(f"prompt {name} of {package} needs a version line, a system part, ---, and a user part")
    return Prompt(head.removeprefix("version: ").strip(), system.strip(), Template(user.strip()))


S = TypeVar("S", bound=ServiceSettings)
CHARACTERS_PER_TOKEN = 4
DESCRIBES_A_MIND = ("ASI_MIND_FILE", "ASI_MODEL")


Question = Callable[[S, "archive_pb2_grpc.ArchiveAsyncStub", pb.Candidate, Role], Awaitable[Request[BaseModel]]]
"""Builds the request of a service about a candidate. Raises NotPossible if the service has none about it."""


async def shown(request: Request[BaseModel], environment: Mapping[str, str]) -> dict[str, JsonValue]:
    """The request as JSON; `body` is None if `environment` names no model. Raises SettingsError."""
    body: JsonValue = None
    if any(environment.get(name) for name in DESCRIBES_A_MIND):
        async with OpenAIMind.from_environment(environment, MemoryLedger()) as mind:
            body = json.loads(mind.preview(request))
    return {
        "role": request.role.value,
        "version": request.prompt_version,
        "hash": request.prompt_hash,
        "messages": [{"role": message.role, "content": message.text} for message in request.messages],
        "answer": plain_schema(request.answer),
        "body": body,
    }


def as_text(request: Request[BaseModel]) -> str:
    """Version, messages and the schema of the answer as text."""
    parts = [f"version: {request.prompt_version}", f"hash: {request.prompt_hash}"]
    parts += [f"\n[{message.role}]\n{message.text}" for message in request.messages]
    return "\n".join([*parts, "\n[the answer's JSON schema]", json.dumps(plain_schema(request.answer))])


def _tokens_of_parts(request: Request[BaseModel]) -> list[tuple[str, int]]:
    """Approximate tokens of each part of the prompt, by its main headings."""
    parts: list[tuple[str, int]] = []
    for message in request.messages:
        title, length = f"[{message.role}]", 0
        for line in message.text.splitlines(keepends=True):
            if line.startswith("# ") and message.role == "user":
                parts.append((title, length))
                title, length = line.removeprefix("# ").strip().partition(":")[0], 0
            length += len(line)
        parts.append((title, length))
    rows = [(title, -(-length // CHARACTERS_PER_TOKEN)) for title, length in parts if length]
    return [*rows, ("the answer's schema", len(json.dumps(plain_schema(request.answer))) // CHARACTERS_PER_TOKEN)]


def parts_text(request: Request[BaseModel], as_json: bool) -> str:
    """Approximate tokens of each part of the prompt, as JSON or as a Markdown table."""
    rows = _tokens_of_parts(request)
    total = sum(tokens for _, tokens in rows)
    if as_json:
        parts = [{"part": title, "tokens": tokens} for title, tokens in rows]
        return json.dumps({"version": request.prompt_version, "parts": parts, "tokens": total}, indent=2)
    lines = [f"| {request.prompt_version} | tokens |", "|---|---|", *(f"| {title} | {n:,} |" for title, n in rows)]
    return "\n".join([*lines, f"| all | {total:,} |"])


def main(
    service: str, kind: type[S], roles: Sequence[Role], question: Question[S], argv: Sequence[str] | None = None
) -> int:
    """Run the command line; returns its exit status. Errors are one sentence on standard error."""
    arguments = _parser(roles).parse_args(argv)

    async def text() -> str:
        settings = load(kind, service)
        async with channel(settings.archive_address, settings) as connection:
            archive = archive_pb2_grpc.ArchiveStub(connection)
            named = archive_pb2.GetCandidateRequest(run=arguments.run, candidate=arguments.candidate)
            record = await archive.GetCandidate(named, timeout=30)
            request = await question(settings, archive, record, Role(arguments.role))
        if arguments.parts:
            return parts_text(request, arguments.json)
        if arguments.json:
            return json.dumps(await shown(request, os.environ), indent=2, ensure_ascii=False)
        return as_text(request)

    return print_result(text())


def print_result(text: Coroutine[None, None, str]) -> int:
    """Print what a command of a service's tool returns, or its error as one sentence; returns the exit status."""
    try:
        print(asyncio.run(text), flush=True)
    except BrokenPipeError:  # as in `| head`: nothing may be flushed into the pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (SettingsError, ValueError) as error:
        reason, status = str(error), 2
    except (NotPossible, Rejected, Transient, OSError) as error:
        reason, status = sentence(error), 1
    except grpc.aio.AioRpcError as error:
        reason = f"the archive: {error.details()}"
        status = 2 if error.code() is grpc.StatusCode.INVALID_ARGUMENT else 1
    else:
        return 0
    sys.stderr.write(f"asi-arch: {reason}\n")
    return status


def _parser(roles: Sequence[Role]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch prompt", description="The exact prompt that would be sent.")
    parser.add_argument("role", choices=[role.value for role in roles])
    parser.add_argument("--candidate", required=True, metavar="C", help="id or name")
    parser.add_argument("--run", default="", help="default: the newest")
    parser.add_argument("--json", action="store_true", help="with the answer's schema and the body of the request")
    parser.add_argument("--parts", action="store_true", help="only the number of tokens of each part of the prompt")
    return parser
