"""`python -m services.engineer.tools`: check or train the program in a file, or print the prompt of a repair.

Exit status: 0, 1 for a rejected program or a failed training, or 2 for bad input.
"""

import argparse
import asyncio
import json
import math
import os
import stat
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from time import monotonic

from services.chassis.errors import SettingsError, Transient
from services.domain.ladder import HUB, SCALE_FILE, SCALES, corpus_overrides, parse_scale_file
from services.domain.syntax import MAX_BYTES
from services.engineer.checks.report import CheckReport, CheckSettings, Verdict, report_text
from services.engineer.scales import Scale, ScaleError, load_scale, overrides_of
from services.engineer.training.result import Metrics, TrainingFailed, TrainingResult
from services.sandbox import PRELOAD_CHECKS, PRELOAD_COMPILER, Sandbox, SandboxUnavailable

LARGEST = 2**32 - 1
LINE_CHARACTERS = 300
LINE_SECONDS = 15.0
BAR = 16
REMOTE_SECONDS = 300.0
CLEAR = "\r\x1b[K"
BYTES = 256
COMPILER_WORDS = (
    "checkpoint", "torch.compiler", "flex_attention", "dynamo", "higher_order", "functorch", "torch.func", "forward_ad",
)  # fmt: skip
"""Words in programs for which torch imports its compiler, which takes a second and is impossible in a check."""


async def main(arguments: argparse.Namespace) -> int:
    for name, least in (("steps", 1), ("seed", 0)):
        if (value := getattr(arguments, name, None)) is not None and not least <= value <= LARGEST:
            raise ScaleError(f"--{name} is {value}; give a whole number from {least} to {LARGEST}.")
    program = await asyncio.to_thread(_read, arguments.file)
    arguments.scale, overrides = await asyncio.to_thread(_scale, arguments)
    data = Path(os.environ.get("ASI_DATA_DIR", ".data")) / "data"
    if arguments.command == "train":
        return await _train(arguments, data, overrides, program)
    if address := os.environ.get("ASI_CHECKER_ADDRESS"):
        report = await _check_remotely(address, arguments, overrides, program)
    else:
        report = await _check_locally(arguments, data, overrides, program)
    print(json.dumps(asdict(report), indent=2) if arguments.json else report_text(report, arguments.verbose))
    return 0 if report.passed else 1


async def _check_locally(
    arguments: argparse.Namespace, data: Path, overrides: dict[str, str], program: str
) -> CheckReport:
    """Check in a sandbox of this process, which starts quickly as it needs neither torch nor a corpus."""
    scale = load_scale(arguments.scale, overrides)
    vocabulary = BYTES if scale.of_bytes else await asyncio.to_thread(_vocabulary, scale, data)
    preparation = asyncio.create_task(asyncio.to_thread(_prepare_check))
    needs_compiler = any(word in program for word in COMPILER_WORDS)
    preload = (*PRELOAD_CHECKS, *PRELOAD_COMPILER) if needs_compiler else PRELOAD_CHECKS
    async with Sandbox(preload=preload) as sandbox:  # its fork server imports torch meanwhile
        await preparation
        from services.engineer.checks.host import check, check_thoroughly, stage_settings
        from services.engineer.checks.screen import screen_apart

        settings, screened = await asyncio.gather(
            stage_settings(scale, vocabulary, sandbox), screen_apart(program, sandbox)
        )
        if arguments.exempt_from_cost:
            settings = replace(settings, exempt=(*settings.exempt, "cost"))
        return await (check_thoroughly if arguments.thorough else check)(program, sandbox, settings, screened)


def _prepare_check() -> None:
    """Import the host's side of a check and read the shared settings. Raises SettingsError for an invalid one."""
    from services.chassis.settings import ServiceSettings, load

    import_module("services.engineer.checks.host")
    load(ServiceSettings, "console")


def _scale(arguments: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """The scale's name, and overrides from its file, --corpus and --set, in increasing priority. Raises ScaleError."""
    scale, own_scale = str(arguments.scale), dict[str, str]()
    if scale.endswith(SCALE_FILE):
        try:
            scale, own_scale = parse_scale_file(_read(Path(scale), "a scale as TOML"), scale)
        except (ScaleError, ValueError) as error:
            raise ScaleError(f"--scale {str(error).removesuffix('.')}.") from None
    corpus = str(arguments.corpus or "")
    if corpus and not corpus.startswith(HUB):
        corpus = str(Path(corpus).absolute())
    options = overrides_of(arguments.set)
    overrides = {**own_scale, **(corpus_overrides(corpus) if corpus else {}), **options}
    try:
        load_scale(scale, overrides)
    except ScaleError as error:
        raise ScaleError(f"--scale {arguments.scale}{' with --set' if options else ''}: {error}") from None
    return scale, overrides


def _vocabulary(scale: Scale, cache: Path) -> int:
    from services.engineer.data import CorpusError, open_corpus

    try:
        return open_corpus(scale, cache, os.environ.get("ASI_ENGINEER_TEXT_SEED")).tokens.vocabulary
    except CorpusError as error:
        raise ScaleError(str(error)) from None


async def _check_remotely(
    address: str, arguments: argparse.Namespace, overrides: dict[str, str], program: str
) -> CheckReport:
    """Check by a running engineer. Raises ScaleError for bad input, Transient if no engineer answers."""
    import grpc.aio
    from google.protobuf.json_format import MessageToDict

    from services.chassis.rpc import channel, require_server
    from services.chassis.settings import ServiceSettings, load
    from services.contracts import checker_pb2, checker_pb2_grpc

    request = checker_pb2.CheckRequest(
        program=program, stage=arguments.scale, scale_overrides=overrides,
        exempt_from_cost=arguments.exempt_from_cost, thorough=arguments.thorough,
    )  # fmt: skip
    async with channel(address, load(ServiceSettings, "console")) as connection:
        await require_server(connection, address, "ASI_CHECKER_ADDRESS")
        try:
            answer = await checker_pb2_grpc.CheckerStub(connection).Check(request, timeout=REMOTE_SECONDS)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                reason = (
                    f"the check has not ended within {REMOTE_SECONDS:g} s: the engineer at {address} is busy, or scale "
                    f"{arguments.scale} is too large for its CPU, on which checks run"
                )
            raise (ScaleError if error.code() is grpc.StatusCode.INVALID_ARGUMENT else Transient)(reason) from None
    verdicts = tuple(
        Verdict(verdict.probe, verdict.outcome, verdict.message, MessageToDict(verdict.evidence))  # type: ignore[arg-type]
        for verdict in answer.verdicts
    )
    parameters = answer.parameters if answer.HasField("parameters") else None
    return CheckReport(answer.passed, verdicts, answer.seconds, parameters, answer.isolation)


async def _train(arguments: argparse.Namespace, data: Path, overrides: dict[str, str], program: str) -> int:
    from services.chassis import logs
    from services.engineer.data import CorpusError
    from services.engineer.evaluation.tasks import EvaluationUnavailable
    from services.engineer.stages import Stages
    from services.engineer.training.host import train  # imports torch, which takes seconds and a check does not need
    from services.engineer.training.protocol import limits_of

    if arguments.steps is not None:
        overrides["steps"] = str(arguments.steps)
    logs.configure_for_people()
    progress = _Progress(arguments.json and not arguments.label, arguments.label)
    silence = asyncio.create_task(progress.report_silence())
    try:
        async with Sandbox() as sandbox:
            stages = Stages(sandbox, data, text_seed=os.environ.get("ASI_ENGINEER_TEXT_SEED"))
            stage = await stages.open(arguments.scale, overrides)
            progress.work = f"step 1 (the limit is {limits_of(stage.scale).wall_seconds:.0f} s)"
            result = await train(program, arguments.seed, stage.scale, stage.corpus, sandbox, on_progress=progress)
    except TrainingFailed as failed:
        if arguments.json:
            print(json.dumps({"failed": failed.kind, "reason": failed.message, "evidence": failed.evidence}, indent=2))
        else:
            print(_failure_text(failed.kind, failed.message, failed.log_tail, arguments.scale))
        return 1
    except (CorpusError, EvaluationUnavailable) as error:
        raise ScaleError(str(error)) from None
    finally:
        silence.cancel()
    print(json.dumps(asdict(result), indent=2) if arguments.json else _result_text(result, stage.settings))
    return 0


def _failure_text(kind: str, message: str, log: str, scale: str) -> str:
    text = f"\nthe training failed: {message}\n{_log_of_program(log)[-3000:]}".rstrip()
    if kind == "error":
        text += f"\n`asi-arch check` with the same file and --scale {scale} tells what to change in the program"
    return text


def _log_of_program(log: str) -> str:
    """The end of a child's log without the engineer's own frames, which precede the program's in a traceback.

    Of a traceback without frames of the program its last line is kept. Long lines are cut.
    """
    from services.engineer.program import FILE_PREFIX  # imports torch

    before, traceback, frames = log.rpartition("Traceback (most recent call last):\n")
    if traceback:
        _, own, rest = frames.partition(f'  File "{FILE_PREFIX}')
        log = before + (own + rest if own else frames.rstrip().rpartition("\n")[2])
    return "".join(line[:LINE_CHARACTERS].rstrip() + "\n" for line in log.splitlines())


class _Progress:
    """Shows a progress bar on a terminal, else a line every 15 seconds. The remaining time never increases.

    With a label, by which trainings at once are told apart, it begins each line, and there is no bar.
    """

    def __init__(self, quiet: bool = False, label: str = "") -> None:
        self._quiet = quiet
        self._start = f"{label}: " if label else ""
        self._bar = sys.stderr.isatty() and not label
        self._last_line = -LINE_SECONDS
        self._seconds_left = math.inf
        self._heard = monotonic()
        self.work = "the data and the sandbox"

    async def report_silence(self) -> None:
        """Say every LINE_SECONDS what is waited for, as of a program that hangs until its limit."""
        said = self._heard
        while not self._quiet:
            await asyncio.sleep(0.2)
            if monotonic() - max(said, self._heard) >= LINE_SECONDS:
                said = monotonic()
                waited = said - self._heard
                sys.stderr.write(f"{CLEAR * self._bar}{self._start}waiting for {self.work} for {waited:.0f} s\n")

    def __call__(self, metrics: Metrics) -> None:
        from services.engineer.records import training_progress

        if self._quiet:
            return
        self._heard = monotonic()
        self.work = "the evaluation" if metrics.step == metrics.steps else f"a step after {metrics.step}"
        self._seconds_left = min(self._seconds_left, training_progress(metrics).seconds_left)
        text = (
            f"step {metrics.step}/{metrics.steps}  loss {metrics.train_loss:.4f}  "
            f"{metrics.tokens_per_second:,.0f} tokens/s  {self._seconds_left:.0f} s left"
        )
        if self._bar:
            filled = BAR * metrics.step // metrics.steps
            sys.stderr.write(f"{CLEAR}{'━' * filled}{'─' * (BAR - filled)}  {text}")
            if metrics.step == metrics.steps:
                sys.stderr.write(f"{CLEAR}evaluating …\r")  # overwritten by the longer result
            sys.stderr.flush()
        elif monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = monotonic()
            sys.stderr.write(f"{self._start}{text}\n")


def _result_text(result: TrainingResult, settings: CheckSettings) -> str:
    measurements, limit = result.measurements, settings.most_parameters or math.inf
    excess = f": a run allows at most {limit:,.0f}" if measurements.parameters > limit else ""
    lines = [
        f"loss           {result.loss:.4f} ± {result.loss_stderr:.4f} nats per token",
        f"bits per byte  {result.bits_per_byte:.4f}",
    ]
    if result.benchmark is not None:
        lines.append(f"benchmark      {result.benchmark:.3f}")
    for score in result.scores:
        spread = "" if score.stderr is None else f" ± {score.stderr:.3f}"
        chance = "" if score.chance is None else f", {score.chance:.3f} by guessing"
        lines.append(f"  {score.task:<12} {score.value:.3f}{spread}  ({score.metric}, {score.items} items{chance})")
    lines.append(f"parameters     {measurements.parameters:,}{excess}")
    if measurements.tokens_per_second is not None:
        lines.append(f"speed          {measurements.tokens_per_second:,.0f} tokens per second")
    lines.append(f"seconds        {measurements.seconds:.0f} on {measurements.device_name}")
    if result.stopped:
        lines.append(f"stopped early: {result.stopped}")
    return "\n".join(lines)


def _read(path: Path, content_kind: str = "a Python program") -> str:
    """The text of a file, without a byte order mark. Raises ScaleError for an unsuitable file."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a FIFO or a device may not end
            kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, device or socket"
            raise ScaleError(f"{path} is {kind}: give a file that holds {content_kind}.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ScaleError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise ScaleError(f"{path} has more than {MAX_BYTES} bytes, the limit for {content_kind}.")
    if not content.strip():
        raise ScaleError(f"{path} is empty: give a file that holds {content_kind}.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScaleError(f"{path} is not text in UTF-8: byte {content[error.start]:#04x} in line {line}.") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", description="Screen and probe a program in the sandbox.")
    alone = "The program is not checked, and may have more parameters or a steeper cost than a run allows: see check."
    train = commands.add_parser("train", description=f"Train and evaluate a program with one seed. {alone}")
    for command in (check, train):
        command.add_argument("file", type=Path, help="a Python module that defines the mixer")
        command.add_argument("--scale", default="tiny", help=f"{', '.join(SCALES)} or FILE.toml; default: tiny")
        command.add_argument("--corpus", metavar="FOLDER|FILE|hub:NAME", help="own text instead of the scale's")
        command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override of the scale")
        command.add_argument("--json", action="store_true", help="machine-readable output")
    check.add_argument("--exempt-from-cost", action="store_true", help="allow quadratic cost, as of softmax attention")
    check.add_argument("--thorough", action="store_true", help="repeat the probes with several seeds")
    check.add_argument("--verbose", "-v", action="store_true", help="print the evidence of every verdict")
    train.add_argument("--steps", type=int, help="optimiser steps instead of the scale's")
    train.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    train.add_argument("--label", default="", help="print progress in lines that begin with it, also with --json")
    return parser


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == ["prompt"]:
            from services.chassis import logs
            from services.engineer.revision import revise_question
            from services.engineer.settings import EngineerSettings
            from services.llm import prompts
            from services.llm.port import Role

            logs.configure_for_people("error")
            sys.exit(prompts.main("engineer", EngineerSettings, (Role.REVISE,), revise_question, sys.argv[2:]))
        sys.exit(asyncio.run(main(_parser().parse_args())))
    except (ScaleError, SettingsError) as error:
        sys.stderr.write(f"asi-arch: {error}\n")
        sys.exit(2)
    except Transient as error:
        what = "the sandbox cannot be used on this machine: " if isinstance(error, SandboxUnavailable) else ""
        sys.stderr.write(f"asi-arch: {what}{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
