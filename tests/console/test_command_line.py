"""The command line for people: near names, one sentence for what cannot be, JSON everywhere, narrow terminals."""

import json
from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.console.options import complete_candidates, complete_runs, near
from services.console.plan import RunOptions, require_possible_scale, run_settings
from services.console.rows import Row
from services.console.settings import ConsoleSettings
from services.console.tables import listing
from services.contracts import events_pb2 as events
from tests.console.conftest import Laboratory, bare_environment
from tests.console.lives import whole_way


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
def test_an_unknown_name_of_a_flag_comes_with_what_was_meant(flags: RunOptions, sentence: str) -> None:
    """Or with all that there are, where nothing is near."""
    with pytest.raises(SettingsError) as raised:
        run_settings(flags)

    assert str(raised.value).startswith(sentence)


def test_an_override_is_tried_before_anything_starts() -> None:
    """By the engineer's own rules, in a process without torch."""
    with pytest.raises(SettingsError, match=r"--set: The scale has no field 'stepz' \(did you mean steps\?\)"):
        require_possible_scale(run_settings(RunOptions(overrides=["stepz=3"])))
    require_possible_scale(run_settings(RunOptions(overrides=["steps=3"])))


def test_near_names_keep_their_spelling() -> None:
    """Case is no distance."""
    assert near("deltanett", ["DeltaNet", "GLA"]) == "; did you mean DeltaNet?"
    assert near("xyz", ["DeltaNet"]) == ""


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_keep_id_name_and_fitness_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole columns go, the least important first; nothing is wider than the terminal."""
    monkeypatch.setenv("COLUMNS", str(width))
    one = Row(
        id="c000001", name="FreeQueryMultiScaleHalfRotaryDeltaNet1403", run="r1", parent="c000002", kind="proposal",
        stage="tiny", state="archived", loss=5.1234, loss_difference=-0.1, benchmark=0.5, judge=10.0, fitness=0.951,
        fitness_low=0.9, fitness_high=1.0, parameters=12_345_678, seconds=123.0, precision="fp32",
        reason=None,
    )  # fmt: skip
    lines = listing([one]).splitlines()

    assert all(len(line) <= width for line in lines)
    assert any("c000001" in line and one["name"][:23] in line and "0.951" in line for line in lines)


async def test_unknown_runs_and_candidates_come_with_near_ones(laboratory: Laboratory, started: events.Event) -> None:
    """One sentence, status 1."""
    await laboratory.bus.publish(started)
    await whole_way(laboratory.bus)
    await laboratory.until("draining")
    candidate = await laboratory.asi_arch("show", "c00001")
    run = await laboratory.asi_arch("status", "--run", "r11")

    assert (candidate.status, run.status) == (1, 1)
    assert candidate.err.startswith("asi-arch: run r1 has no candidate 'c00001'; did you mean c000001")
    assert run.err == "asi-arch: no run is called r11; did you mean r1?\n"


async def test_a_run_is_named_by_place_or_by_flag(laboratory: Laboratory, started: events.Event) -> None:
    """Two different ones are a mistake."""
    await laboratory.bus.publish(started)
    await laboratory.until("baselines")
    by_place = await laboratory.asi_arch("status", "r1", "--json")
    by_flag = await laboratory.asi_arch("status", "--run", "r1")
    both = await laboratory.asi_arch("status", "r1", "--run", "r2")

    assert json.loads(by_place.out)["run"] == "r1"
    assert by_flag.status == 0
    assert both.status == 2


@pytest.mark.slow
async def test_every_command_that_tells_something_tells_it_as_json(
    laboratory: Laboratory, started: events.Event
) -> None:
    """With names that scripts may rely on."""
    await laboratory.bus.publish(started)
    await whole_way(laboratory.bus)
    await whole_way(laboratory.bus)
    await laboratory.until("finished")
    row = {"id", "name", "run", "parent", "kind", "stage", "state", "loss", "benchmark", "judge", "fitness",
           "parameters", "seconds", "reason"}  # fmt: skip
    needed: dict[str, set[str]] = {
        "status": {"run", "phase", "settings", "spent"},
        "list": row,
        "show c000001": {"id", "proposal", "training", "verdict"},
        "tree": {"id", "parent", "name", "fitness", "loss", "state", "kind"},
        "runs": {"run", "phase"},
        "lineage c000001": row,
        "compare c000001 c000002": {"measure", "c000001", "c000002", "difference"},
        "diff c000001 c000002": {"run", "first", "second", "difference"},
        "cost": {"run", "wall_seconds", "training_seconds", "gpu_seconds", "tokens", "dollars"},
        "dead": set(),
        "gallery": set(),
        "audit c000001 --no-rerun": {"candidate", "chain", "rerun"},
        "pause": {"run", "told"},
    }
    for command, names in needed.items():
        done = await laboratory.asi_arch(*command.split(), "--json")
        content = json.loads(done.out)
        first = content[0] if isinstance(content, list) and content else content

        assert done.status == 0, done.err
        assert names <= set(first), command


async def test_where_nothing_has_run_yet_each_command_says_so_and_makes_nothing(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    """Not even an empty archive."""
    empty = tmp_path / "empty"
    nowhere = Laboratory(laboratory.bus, laboratory.archive, laboratory.settings, bare_environment(empty))
    for command in (("backup", "copy.db"), ("export", "r1"), ("replay",)):
        done = await nowhere.asi_arch(*command)

        assert done.status == 1
        assert done.err == f"asi-arch: there is no archive in {empty} yet: start a run with `asi-arch run`\n"
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


def test_where_things_lie_is_said_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ending of a run is copied into notes and issues."""
    for name in ("ASI_ARCHIVE_URL", "ASI_NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    files = ConsoleSettings(data_dir=tmp_path)
    assert (files.archive_place, files.log_place) == (f"{tmp_path}/archive.db", f"{tmp_path}/nats")

    monkeypatch.setenv("ASI_ARCHIVE_URL", "mongodb://me:secret@db:27017/asi?replicaSet=rs0")
    monkeypatch.setenv("ASI_NATS_URL", "nats://me:secret@broker:4222")
    elsewhere = ConsoleSettings(data_dir=tmp_path, nats_url="nats://me:secret@broker:4222")
    assert elsewhere.archive_place == "mongodb://db:27017/asi?replicaSet=rs0"
    assert elsewhere.log_place == "nats://broker:4222"

    monkeypatch.setenv("ASI_ARCHIVE_URL", "sqlite:////srv/asi/archive.db")
    assert elsewhere.archive_place == "sqlite:////srv/asi/archive.db"
