"""`asi-arch run` and `asi-arch discover`: a whole run on this machine, or in services that run already.

`discover` is `run` with settings under which the best candidates are also verified.
"""

import asyncio
import functools
import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from services.chassis import logs
from services.chassis.bus.subjects import run_name
from services.chassis.errors import SettingsError
from services.console.options import INTERRUPTED, Json, print_json
from services.console.tables import listing, mixed_conditions, pairs, paragraph, rejections, say, styled
from services.local.launch import Outcome, Start, join, run_locally
from services.local.plan import GROUPS, SETTINGS, RunOptions, flag_of
from services.local.settings import ClientSettings, client_settings
from services.report.progress import Progress
from services.report.rows import clock, ranked

R = TypeVar("R")
_keyword = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)


def takes_run_options(function: Callable[..., R]) -> Callable[..., R]:
    """Replace a command's parameter `options` by one flag per setting and `--settings FILE`; flags win."""

    @functools.wraps(function)
    def command(context: typer.Context, settings_file: Path | None, **arguments: Any) -> R:
        values = {}
        for name, field in SETTINGS.items():
            value, source = arguments.pop(name), context.get_parameter_source(name)
            if source and source.name == "COMMANDLINE":
                values[flag_of(name, field)] = value
        if settings_file is not None:
            content = _content(settings_file)
            RunOptions.read(content, str(settings_file))  # so that its errors name the file
            values = {**content, **values}
        return function(options=RunOptions.read(values), **arguments)

    own = dict(inspect.signature(function, eval_str=True).parameters)
    del own["options"]
    settings_help = "settings as TOML: the flags below, without dashes"
    file = Annotated[Path | None, typer.Option("--settings", metavar="FILE", help=settings_help)]
    parameters = [
        _keyword("context", annotation=typer.Context),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.values()),
        _keyword("settings_file", default=None, annotation=file),
        *_flags(),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _flags() -> list[inspect.Parameter]:
    """One command-line parameter per setting."""
    parameters = []
    for panel, group in GROUPS.items():
        for name, field in group.model_fields.items():
            kind, default = field.annotation, field.default
            if kind not in (str, int, float, bool, int | None, float | None):  # lists and tables: repeated flags
                kind, default = (str, "") if name == "baselines" else (list[str], [])
            minimum = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
            metavar = "NAME=VALUE" if name in ("overrides", "policies") else None
            option = typer.Option(
                f"--{flag_of(name, field).replace('_', '-')}", help=field.description, rich_help_panel=panel,
                min=minimum, metavar=metavar, show_default="default:" not in (field.description or ""),
            )  # fmt: skip
            kind = Annotated[kind, option]  # type: ignore[assignment]
            parameters.append(_keyword(name, default=default, annotation=kind))
    return parameters


def _content(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"--settings {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--settings {path} is not TOML: {error}.") from None


Name = Annotated[str | None, typer.Option("--run", metavar="NAME", help="name of the run; default: r1, r2, …")]


def _valid(name: str | None) -> str | None:
    """The name itself. Raises SettingsError if no run can have it."""
    try:
        return None if name is None else run_name(name)
    except ValueError as error:
        raise SettingsError(f"--run: {error}.") from None


@takes_run_options
def run(
    options: RunOptions,
    name: Name = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue --run, or the newest run")] = False,
    joins: Annotated[
        bool, typer.Option("--join", help="start the run in services that run already, beside their other runs")
    ] = False,
    fork: Annotated[
        str, typer.Option(metavar="RUN[@EVENT]", help="begin with that run's history up to an event (sequence or id)")
    ] = "",
    as_json: Json = False,
) -> None:
    """Run the whole search on this machine: baselines, then new candidates, to a ranked summary."""
    if joins and resume:
        raise typer.BadParameter("--join starts a run; `asi-arch resume` continues one in services that run already")
    start = Start(_valid(name), fork, resume)
    if joins:
        logs.configure_for_people()
        joined = asyncio.run(join(client_settings(), options, start, Progress(quiet=as_json)))
        print_json({"run": joined}) if as_json else say(f"run {joined} has begun; see `asi-arch watch`")
    else:
        run_to_end(options, start, as_json)


def run_to_end(options: RunOptions, start: Start, as_json: bool) -> None:
    """Run, and print how it ended. Raises typer.Exit: 130 after an interruption, 1 for a run without any score."""
    logs.configure_for_people()
    settings = client_settings()
    outcome = asyncio.run(run_locally(settings, options, start, Progress(quiet=as_json)))
    if as_json:
        print_json(ranked(outcome.rows))
    else:
        _print_outcome(settings, outcome)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not any(row["fitness"] is not None for row in outcome.rows):
        raise typer.Exit(1)


def _print_outcome(settings: ClientSettings, outcome: Outcome) -> None:
    """The ranking, the findings with their certainty, and the locations of all results."""
    from services.report.claims import sentences

    status = outcome.status
    say(listing(ranked(outcome.rows)))
    if warning := mixed_conditions(outcome.rows):
        say(styled(paragraph(warning), fg="yellow"))
    for text in rejections(outcome.rows):
        say(paragraph(text, indent=2))
    if status.settings.promotion not in ("", "none") and not outcome.interrupted:
        for line in sentences(outcome.records, status.settings):
            say(paragraph(line, indent=4))
    end = "paused" if outcome.interrupted else status.stop_reason or status.phase
    say(f"run {status.run}: {end}; {clock(status.spent.seconds)}")
    paths = [("report", outcome.report), ("archive", settings.archive_place),
              ("event log", settings.log_place), ("service logs", settings.data_dir / "logs")]  # fmt: skip
    say(pairs([(f"  {title}", str(path)) for title, path in paths if path is not None]))
    if outcome.interrupted:
        say(f"continue with: asi-arch run --resume --run {status.run}")


# Sized for half an hour on two idle CPU cores: a third is the search, the rest second trainings on more data. Programs
# may have 10 % more or fewer parameters than the root, and 10 % more operations.
PRESET = {
    "scale": "tiny",
    "candidates": 8,
    "baseline_seeds": 2,
    "baselines": ("delta_net", "gated_delta_net", "delta_net_value_skip", "gated_delta_net_window"),
    "promotion": "halving",
    "set": {"tokens": "600000"},
    "policy": {"eta": "4", "stages": "tiny:tokens=1000000:seeds=5", "parameters": "0.1", "flops": "+0.1"},
}


def discover(
    name: Name = None,
    candidates: Annotated[int, typer.Option(min=1, help="proposals; every fourth is trained again")] = 8,
    mind: Annotated[str, typer.Option(help="offline, openai, openai+offline or recorded:RUN")] = "offline",
    seed: Annotated[int, typer.Option(min=0, help="seed of all random draws of the run")] = 1,
    as_json: Json = False,
) -> None:
    """Search, then verify the best candidates with fresh seeds and data against the strongest controls.

    Takes about half an hour on two idle CPU cores. The same as `asi-arch run` with these flags: --scale tiny
    --baselines delta_net,gated_delta_net,delta_net_value_skip,gated_delta_net_window --baseline-seeds 2
    --set tokens=600000 --promotion halving --policy eta=4 --policy stages=tiny:tokens=1000000:seeds=5
    --policy parameters=0.1 --policy flops=+0.1 --candidates 8.
    """
    options = RunOptions.read({**PRESET, "candidates": candidates, "mind": mind, "seed": seed})
    run_to_end(options, Start(_valid(name)), as_json)
