"""The command line: suggestions for names, one message per error, JSON output."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import grpc.aio
import pytest

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import SettingsError
from services.chassis.events import body_of
from services.console.cli import refusal
from services.console.commands.show import measures
from services.console.options import complete_candidates, complete_runs
from services.contracts import candidate_pb2
from services.contracts import events_pb2 as events
from services.local.engineer_tools import require_effective
from services.local.plan import RunOptions, changed_settings, run_settings
from services.local.settings import ClientSettings, did_you_mean
from services.store.backends import opened
from services.store.importing import events_of
from services.store.published import Published
from services.store.steering import policy_of
from tests.console.conftest import System, asi_arch, bare_environment
from tests.console.published_events import whole_way


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (RunOptions(scale="tinny"), "--scale is 'tinny'; did you mean tiny?"),
        (RunOptions(without=["cogniton"]), "--without is 'cogniton'; did you mean cognition?"),
        (RunOptions(policies=["verfy=1"]), "--policy is 'verfy'; did you mean verify?"),
        (RunOptions(baselines=["delta_nett"]), "--baselines is 'delta_nett'; did you mean delta_net"),
        (RunOptions(fitness="zzz"), "--fitness is 'zzz'; choose one of standardised-gain-1, paper, code."),
    ],
)
def test_an_unknown_flag_value_comes_with_a_suggestion(flags: RunOptions, sentence: str) -> None:
    """Or with all that there are, where nothing is near."""
    with pytest.raises(SettingsError) as raised:
        run_settings(flags)

    assert str(raised.value).startswith(sentence)


def test_a_service_that_does_not_answer_is_named_with_the_setting_of_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deadline's own words say nothing about where to look; a refusal's own words do."""
    monkeypatch.setenv("ASI_ARCHIVE_ADDRESS", "store.example:50051")
    nothing = grpc.aio.Metadata()
    late = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, "Deadline Exceeded")
    refused = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, nothing, nothing, "no run is called r9")

    assert "(Deadline Exceeded). Is it up, and is ASI_ARCHIVE_ADDRESS right (store.example:50051)?" in refusal(late)
    assert refusal(refused) == "no run is called r9"
    monkeypatch.delenv("ASI_ARCHIVE_ADDRESS")
    monkeypatch.setenv("ASI_DATA_DIR", "here")
    assert refusal(late) == "a service does not answer (Deadline Exceeded): see its log in here/logs"


def test_an_override_is_tried_before_anything_starts() -> None:
    """By the engineer's own rules, in a process without torch."""
    with pytest.raises(SettingsError, match=r"--set: The scale has no field 'stepz' \(did you mean steps\?\)"):
        require_effective(options := RunOptions(overrides=["stepz=3"]), run_settings(options))
    require_effective(options := RunOptions(overrides=["steps=3"]), run_settings(options))


def test_a_setting_of_a_run_is_declared_once_for_flags_files_and_the_record(tmp_path: Path) -> None:
    """A file holds the flags' names; mistakes are named with their place."""
    file = tmp_path / "run.toml"
    file.write_text('seeds = 3\nhours = 0.5\nbaselines = "delta_net,gla"\n[set]\ntokens = 20000\n')
    settings = run_settings(RunOptions.read(tomllib.loads(file.read_text())))

    assert settings.candidate_seeds == 3
    assert settings.budget.seconds == 1800
    assert list(settings.baselines) == ["delta_net", "gla"]
    assert dict(settings.scale_overrides) == {"tokens": "20000"}
    with pytest.raises(SettingsError, match=r"run\.toml: 'seedz' is not a setting .*; did you mean seed or seeds\?"):
        RunOptions.read({"seedz": 3}, "run.toml")
    with pytest.raises(SettingsError, match="--judge-times is 0: Input should be greater than or equal to 1"):
        RunOptions.read({"judge_times": 0})


def test_own_programs_become_baselines_and_seeds(tmp_path: Path) -> None:
    """The first name is the root; what is given as a seed is no control."""
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(f'"""What {name} is good for."""\n')
    options = RunOptions.read(
        {"baselines": f"{tmp_path / 'mine.py'},delta_net", "seed_program": [str(tmp_path / "other.py")]}
    )
    settings = run_settings(options)
    policy = policy_of(settings)

    assert list(settings.baselines) == ["mine", "delta_net"]
    assert [program.motivation for program in settings.programs] == [
        "What mine is good for.",
        "What other is good for.",
    ]
    assert (policy.seed_programs, policy.controls[-1]) == (("other",), "mine")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gla.py", "x = 1", "gla.py has the name of a program of the zoo: rename the file"),
        ("1st.py", "x = 1", "begin the name with a letter"),
        ("mine.py", "x = (", r"is not a Python program: .* \(mine\.py, line 1\)"),
        ("mine.py", "\n", r"mine\.py is empty: give a file"),
        ("mine.py", f"x = {'1' * 100_000}", "more than 98304 bytes"),
        ("mine.txt", None, "cannot be read: No such file"),
    ],
)
def test_an_impossible_program_is_refused_with_its_file(
    tmp_path: Path, name: str, content: str | None, sentence: str
) -> None:
    """Before anything starts."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=sentence):
        run_settings(RunOptions(seed_programs=(str(tmp_path / name),)))


def test_a_fork_applies_given_settings_and_keeps_the_rest() -> None:
    """What would make its history incomparable is refused."""
    policies = {"objectives": "loss,parameters", "leakage": "probe"}
    source = run_settings(RunOptions(seats=5, candidates=9, without=("judge",), policies=policies))
    forked = changed_settings(source, RunOptions(seed=7, hours=1.0, policies={"leakage": "paper"}))

    assert (forked.seats, forked.seed, forked.ablations.without_judge) == (5, 7, True)
    assert (forked.policies.objectives, forked.policies.leakage) == ("loss,parameters", "paper")
    assert (forked.budget.seconds, forked.budget.HasField("candidates")) == (3600, False)
    with pytest.raises(SettingsError, match="--seeds cannot differ in a fork"):
        changed_settings(source, RunOptions(candidate_seeds=2))


def test_the_overview_imports_no_command_and_unknown_commands_get_a_suggestion(tmp_path: Path) -> None:
    """`--help` answers at once."""
    code = "import sys, services.console.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    wrong = subprocess.run(
        [sys.executable, "-m", "services.console", "statsu"], capture_output=True, text=True, check=False,
        env=bare_environment(tmp_path),
    )  # fmt: skip

    assert not {"pydantic", "google.protobuf", "grpc", "nats", "numpy"} & set(loaded)
    assert (wrong.returncode, wrong.stderr) == (2, "asi-arch: no command is called statsu; did you mean status?\n")


def test_a_query_imports_neither_the_bus_nor_grpc_nor_numerical_libraries() -> None:
    """`status`, `list`, `show` and `tree` read a file, `check` imports its tool on use: these imports take longer."""
    modules = ("store.reader", "store.backends.sqlite", "console.commands.status", "console.commands.list",
               "console.commands.show", "console.commands.tools")  # fmt: skip
    code = f"import sys, {', '.join(f'services.{name}' for name in modules)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    unneeded = {"nats", "grpc", "fsspec", "aiohttp", "numpy", "scipy", "structlog", "prometheus_client"}
    assert not unneeded & set(loaded)


def test_a_check_ends_with_its_tools_status_and_refuses_an_unknown_setting(tmp_path: Path) -> None:
    """The tool runs in the command's process, and reads the settings while its sandbox starts."""
    program = tmp_path / "program.py"
    program.write_text("import socket\n")
    command = [sys.executable, "-m", "services.console", "check", str(program)]
    refused, misspelt = (
        subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        for environment in (bare_environment(tmp_path), bare_environment(tmp_path, ASI_DATADIR="x"))
    )

    assert (refused.returncode, refused.stderr) == (1, "")
    assert "import of socket is not allowed" in refused.stdout
    assert (misspelt.returncode, misspelt.stdout) == (2, "")
    assert misspelt.stderr.startswith("asi-arch: ASI_DATADIR is not a setting of the console; did you mean ASI_DATA")


def test_a_comparison_says_which_is_better_in_each_measure() -> None:
    """Less is better for a loss and for time, more for accuracy; nothing is said of what was not measured."""
    first, second = (candidate_pb2.Candidate(id=name) for name in ("c1", "c2"))
    first.training.CopyFrom(candidate_pb2.Training(loss=1.4, benchmark=0.4))
    second.training.CopyFrom(candidate_pb2.Training(loss=1.5, benchmark=0.5))
    for candidate, value in ((first, 30.0), (second, 40.0)):
        candidate.training.seeds.add().scores.add(task="wikitext", metric="perplexity", value=value)
    better = {measure["measure"]: measure["better"] for measure in measures(first, second)}

    assert better["loss"] == better["wikitext"] == "c1"
    assert better["benchmark"] == "c2"
    assert better["fitness"] is None


def test_near_names_keep_their_spelling() -> None:
    """Case does not count as a difference."""
    assert did_you_mean("deltanett", ["DeltaNet", "GLA"]) == "; did you mean DeltaNet?"
    assert did_you_mean("xyz", ["DeltaNet"]) == ""


async def test_unknown_runs_and_candidates_come_with_similar_names(system: System, started: events.Event) -> None:
    """One sentence, status 1."""
    await system.bus.publish(started)
    await whole_way(system.bus)
    await system.until("draining")
    candidate = await system.asi_arch("show", "c00001")
    run = await system.asi_arch("status", "--run", "r1 1")

    assert (candidate.status, run.status) == (1, 1)
    assert candidate.err.startswith("asi-arch: run r1 has no candidate 'c00001'; did you mean c000001")
    assert run.err == "asi-arch: no run is called r1 1; did you mean r1?\n"


async def test_a_run_is_named_by_argument_or_by_option(system: System, started: events.Event) -> None:
    """Two different ones are a mistake."""
    await system.bus.publish(started)
    await system.until("baselines")
    by_place = await system.asi_arch("status", "r1", "--json")
    by_flag = await system.asi_arch("status", "--run", "r1")
    listed = await system.asi_arch("list", "r1")
    both = await system.asi_arch("status", "r1", "--run", "r2")

    assert json.loads(by_place.out)["run"] == "r1"
    assert (by_flag.status, listed.status) == (0, 0)
    assert both.status == 2


@pytest.mark.slow
async def test_every_command_with_output_supports_json(system: System, started: events.Event) -> None:
    """With names that scripts may rely on."""
    await system.bus.publish(started)
    await whole_way(system.bus)
    await whole_way(system.bus)
    await system.until("finished")
    row = {"id", "name", "run", "parent", "kind", "stage", "state", "loss", "benchmark", "judge", "fitness",
           "parameters", "seconds", "reason"}  # fmt: skip
    needed: dict[str, set[str]] = {
        "status": {"run", "phase", "settings", "spent"},
        "list": row,
        "show c000001": {"id", "proposal", "training", "verdict"},
        "tree": {"id", "parent", "name", "fitness", "loss", "state", "kind"},
        "runs": {"run", "phase"},
        "lineage c000001": row,
        "compare c000001 c000002": {"measure", "c000001", "c000002", "difference", "better"},
        "diff c000001 c000002": {"run", "first", "second", "difference"},
        "cost": {"run", "wall_seconds", "training_seconds", "gpu_seconds", "tokens", "dollars"},
        "dead": set(),
        "gallery": set(),
        "audit c000001 --no-rerun": {"candidate", "chain", "rerun"},
    }
    for command, names in needed.items():
        result = await system.asi_arch(*command.split(), "--json")
        content = json.loads(result.out)
        first = content[0] if isinstance(content, list) and content else content

        assert result.status == 0, result.err
        assert names <= set(first), command
    effects = await system.asi_arch("ablate", "--json")
    assert (effects.status, effects.out) == (1, "[]\n")
    assert "no two programs of the run differ" in effects.err
    for verb in ("pause", "resume", "stop"):
        result = await system.asi_arch(verb)
        assert (result.status, result.out) == (1, "")
        assert f"run r1 is finished, so there is nothing to {verb}" in result.err


async def test_without_any_run_each_command_says_so_and_creates_nothing(tmp_path: Path) -> None:
    """Not even an empty archive."""
    empty = tmp_path / "empty"
    for command in (("backup", "copy.db"), ("export", "r1"), ("replay",)):
        result = await asi_arch(bare_environment(empty), *command)

        assert result.status == 1
        assert result.err == f"asi-arch: there is no archive in {empty} yet: start a run with `asi-arch run`\n"
    assert not empty.exists()


def test_completion_knows_the_runs_and_candidates_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From folders alone: a shell does not wait."""
    monkeypatch.setenv("ASI_DATA_DIR", str(tmp_path))
    for candidate in ("c000001", "c000002", "c000002-verification"):
        (tmp_path / "work" / "r1" / candidate).mkdir(parents=True)
    (tmp_path / "runs" / "r2").mkdir(parents=True)

    class Context:
        params = {"run": "r1"}  # noqa: RUF012 - what typer gives is as simple

    assert sorted(complete_runs("r")) == ["r1", "r2"]
    assert complete_candidates(Context(), "c00000") == ["c000001", "c000002"]  # type: ignore[arg-type]


def test_locations_are_shown_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ending of a run is copied into notes and issues."""
    for name in ("ASI_ARCHIVE_URL", "ASI_NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    files = ClientSettings(data_dir=tmp_path)
    assert (files.archive_place, files.log_place) == (f"{tmp_path}/archive.db", f"{tmp_path}/nats")

    monkeypatch.setenv("ASI_ARCHIVE_URL", "mongodb://me:secret@db:27017/asi?replicaSet=rs0")
    monkeypatch.setenv("ASI_NATS_URL", "nats://me:secret@broker:4222")
    elsewhere = ClientSettings(data_dir=tmp_path, nats_url="nats://me:secret@broker:4222")
    assert elsewhere.archive_place == "mongodb://db:27017/asi?replicaSet=rs0"
    assert elsewhere.log_place == "nats://broker:4222"

    monkeypatch.setenv("ASI_ARCHIVE_URL", "sqlite:////srv/asi/archive.db")
    assert elsewhere.archive_place == "sqlite:////srv/asi/archive.db"


async def test_a_locale_without_the_letters_of_a_name_ends_no_command(tmp_path: Path) -> None:
    """Tables have replacements then, JSON escapes, and programs their UTF-8."""
    events_ = events_of("i1", [Published(1, "漢字", None, 2.0, "x = '漢字'\x0c\n")], "asi-arch")
    async with opened(f"sqlite:///{tmp_path}/archive.db") as archive:
        await archive.apply([Logged(at, subject_of(event), body_of(event)) for at, event in enumerate(events_, 1)])

    def printed(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "services.console", *arguments]
        environment = bare_environment(tmp_path, PYTHONIOENCODING="latin-1")
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout

    assert b"c000001  ??" in printed("list")
    assert json.loads(printed("list", "--json"))[0]["name"] == "漢字"
    assert printed("show", "c000001", "--program").decode() == "x = '漢字'\x0c\n"


def test_a_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    """As under a supervisor: what the command does is worth more than what it prints."""
    command = f"exec {sys.executable} -m services.console table query delta_net >&-"
    environment = bare_environment(tmp_path)
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
