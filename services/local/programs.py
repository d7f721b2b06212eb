"""The user's own programs: read from files, and checked before the run starts."""

import ast
import asyncio
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import grpc.aio

from services.chassis.errors import SettingsError
from services.chassis.rpc import channel
from services.contracts import checker_pb2, checker_pb2_grpc
from services.contracts import events_pb2 as pb
from services.domain.zoo import baselines as zoo
from services.local.settings import ClientSettings

SUFFIX = ".py"
MAX_BYTES = 96 * 1024
MAX_BYTES_TOGETHER = 160 * 1024
"""Programs are part of the event that starts the run, which must stay below 256 KiB."""
CHECK_SECONDS = 300.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def read_programs(flag: str, paths: Iterable[str]) -> list[pb.GivenProgram]:
    """The programs in files and in the folders among them. Raises SettingsError that names the flag and the file."""
    files: list[Path] = []
    for text in paths:
        path = Path(text)
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise SettingsError(f"{flag}: the folder {path} contains no file that ends in {SUFFIX}.")
        files += inside
    return [_read(flag, path) for path in files]


def _read(flag: str, path: Path) -> pb.GivenProgram:
    try:
        program = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{flag}: {path} is not text in UTF-8.") from None
    if not program.strip():
        raise SettingsError(f"{flag}: {path} is empty: give a file that holds a Python program.")
    if len(program.encode()) > MAX_BYTES:
        raise SettingsError(f"{flag}: {path} has more than {MAX_BYTES} bytes: write it shorter.")
    if not _NAME.fullmatch(path.stem):
        raise SettingsError(
            f"{flag}: {path.name} would name the program {path.stem!r}: begin the name with a letter, and use letters, "
            "digits, _ and - only."
        )
    try:
        motivation = ast.get_docstring(ast.parse(program, path.name)) or f"A program given by hand, {path.name}."
    except (SyntaxError, ValueError) as error:
        raise SettingsError(f"{flag}: {path} is not a Python program: {error}.") from None
    return pb.GivenProgram(name=path.stem, program=program, motivation=motivation)


def require_distinct(programs: Sequence[pb.GivenProgram]) -> None:
    """Raises SettingsError for names that come twice or belong to the zoo, and for programs too large together."""
    names = [program.name for program in programs]
    zoo_names = {baseline.name for baseline in zoo()}
    for name in names:
        if names.count(name) > 1 or name in zoo_names:
            namesake = "another file" if name not in zoo_names else "a program of the zoo"
            raise SettingsError(f"{name}{SUFFIX} has the name of {namesake}: rename the file.")
    size = sum(program.ByteSize() for program in programs)
    if size > MAX_BYTES_TOGETHER:
        raise SettingsError(f"the given programs have {size} bytes together, {MAX_BYTES_TOGETHER} are allowed.")


async def check_programs(client: ClientSettings, settings: pb.RunSettings) -> str | None:
    """Check programs as candidates are; a sentence if no engineer answers. Raises SettingsError for a fatal verdict."""
    if not settings.programs:
        return None
    async with channel(client.checker_address, client) as connection:
        stub = checker_pb2_grpc.CheckerStub(connection)
        requests = [
            checker_pb2.CheckRequest(
                program=program.program, stage=settings.scale, scale_overrides=settings.scale_overrides
            )
            for program in settings.programs
        ]
        answers = await asyncio.gather(
            *(stub.Check(request, timeout=CHECK_SECONDS * len(requests)) for request in requests),
            return_exceptions=True,
        )
    for program, answer in zip(settings.programs, answers, strict=True):
        if isinstance(answer, grpc.aio.AioRpcError) and answer.code() is grpc.StatusCode.UNAVAILABLE:
            return "no engineer answers: the given programs are checked when they are trained"
        if isinstance(answer, BaseException):
            raise answer
        fatal = next((verdict for verdict in answer.verdicts if verdict.outcome == "fail"), None)
        if fatal is not None:
            raise SettingsError(f"the program {program.name} fails the check {fatal.probe}: {fatal.message}")
    return None
