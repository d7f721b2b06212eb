"""Policies of a run from the command line to the wire: typed, and refused with what is possible."""

from pathlib import Path

import pytest

from services.archive.policies import OF_PAPER, OF_PROMOTION, POLICIES, parse_policies
from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.chassis.events import body_of, first
from services.contracts import events_pb2
from services.local.engineer_tools import require_effective
from services.local.launch import Start, run_locally
from services.local.plan import CONTINUED, RunOptions, changed_settings, run_settings
from services.local.settings import ClientSettings
from services.report.progress import Progress
from services.store.backends import opened
from services.store.importing import events_of
from services.store.published import Published
from services.store.steering import policy_of


def test_policies_are_recorded_with_their_types() -> None:
    """No text is compared with text later on."""
    options = RunOptions(policies=["prune=on", "prune_from=0.25", "leakage=probe", "verify_seeds=3", "flops=+0.1"])
    policies = run_settings(options).policies

    assert {field.name: value for field, value in policies.ListFields()} == {
        "prune": True, "prune_from": 0.25, "leakage": "probe", "verify_seeds": 3, "flops": "+0.1",
        "search": "informed",
    }  # fmt: skip
    assert policies.prune is True


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("experiments=4", "policy experiments must be at most 3, not 4"),
        ("prune=yes", "policy prune is 'yes'; choose on or off"),
        ("leakage=ignore", "policy leakage is 'ignore'; choose one of investigate, probe, paper"),
        ("match=depth", "policy match is 'depth'; choose one of none, width"),
        ("search=blind", "policy search is 'blind'; choose one of informed, surrogate, bandit, random"),
        ("objectives=", "policy objectives is empty: give it a value, or leave it out"),
        ("prune_from=1.5", "policy prune_from must be a share between 0 and 1, not 1.5"),
        ("prune_from=half", "policy prune_from must be a number from 0, not 'half'"),
        ("verify=-1", "policy verify must be a whole number from 0, not '-1'"),
        ("verify=2.5", "policy verify must be a whole number from 0, not '2.5'"),
        ("level=nan", "policy level must be a number from 0, not 'nan'"),
        ("level=5", "policy level must be between 0 and 1, not 5"),
        ("parameters=-1", "policy parameters must be a share as 0.1, .* or none, not '-1'"),
        ("flops=nan", "policy flops must be a share as 0.1, .* or none, not 'nan'"),
    ],
)
def test_an_impossible_value_is_refused_with_the_possible_ones(policy: str, message: str) -> None:
    """It would otherwise be silently off."""
    with pytest.raises(SettingsError, match=message.replace("(", r"\(")):
        run_settings(RunOptions(policies=[policy]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"promotion": "paper", "policy": {"verify": "0"}}, "policy verify must be at least 1, not 0"),
        ({"promotion": "halving", "policy": {"verify_seeds": "1"}}, "raise verify_seeds, or its seeds"),
        ({"baselines": "delta_net,gla,gla"}, "gla is named twice among baselines"),
        ({"candidates": 2**40}, "--candidates is 1099511627776: it is too large"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(values: dict[str, object], message: str) -> None:
    """Not by that of a field of the code."""
    with pytest.raises(SettingsError, match=message):
        run_settings(RunOptions.read(values))


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    """Wherever it comes from."""
    with pytest.raises(ValueError, match="policy verfy is unknown; choose one of ablations, block"):
        parse_policies({"verfy": "1"})

    assert len(POLICIES) == len(events_pb2.Policies.DESCRIPTOR.fields)


def test_a_policy_in_a_message_is_validated_as_well() -> None:
    """A run may be started by another program."""
    settings = events_pb2.RunSettings(scale="tiny", policies=events_pb2.Policies(leakage="perhaps"))
    with pytest.raises(ValueError, match="leakage is 'perhaps'; choose one of investigate, probe"):
        policy_of(settings)


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"seed": -1}, "--seed is -1"), ({"seed": 10**30}, "--seed is 1000"), ({"seats": 10**12}, "--seats is 1000"),
     ({"candidates": 10**12}, "--candidates is 1000"), ({"judge_times": 10**10}, "--judge-times is 1000"),
     ({"mind": "recorded:\ud800"}, "--mind"), ({"money": float("inf")}, "--money is inf: no limit is infinite"),
     ({"hours": 1e308}, "--hours is inf: no limit is infinite")],
)  # fmt: skip
def test_a_value_that_no_message_holds_is_refused_with_its_flag(options: dict[str, object], flag: str) -> None:
    """With the range, instead of a traceback."""
    with pytest.raises(SettingsError, match=flag):
        run_settings(RunOptions.read(options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"set": 5}, "f.toml: set is 5: '5' is not NAME=VALUE"),
        ({"baselines": ","}, "f.toml: baselines is ',': it holds no name"),
        ({"policy": ["=probe"]}, "f.toml: policy: '=probe' is not NAME=VALUE"),
        ({"seats": True}, "f.toml: seats is True: it cannot be true or false"),
        ({"baselines": 3}, "f.toml: baselines is 3: give names, as in"),
        ({"hours": False}, "f.toml: hours is False: it cannot be true or false"),
        ({"corpus": "hub:@train"}, "--corpus is 'hub:@train': write hub:NAME"),
    ],
)
def test_a_mistyped_setting_of_a_file_is_refused(content: dict[str, object], message: str) -> None:
    """Not ignored, and not taken for the number one."""
    with pytest.raises(SettingsError, match=message):
        RunOptions.read(content, "f.toml")


def test_a_single_pair_of_a_file_needs_no_list() -> None:
    """As on the command line; true and false remain possible where they mean something."""
    content = {"set": "tokens=5", "policy": {"verify": 2}, "random_parent": True, "without": "judge, analysis"}
    options = RunOptions.read(content, "f.toml")

    assert (options.overrides, options.policies, options.random_parent) == ({"tokens": "5"}, {"verify": "2"}, True)
    assert options.without == ("judge", "analysis")


async def test_the_recording_of_an_unknown_run_is_refused_before_services_start(tmp_path: Path) -> None:
    """All proposals of such a run would fail, after its baselines were trained."""
    settings = ClientSettings(data_dir=tmp_path)
    with pytest.raises(NotFound, match="--mind recorded:r9: "):
        await run_locally(settings, RunOptions(mind="recorded:r9"), Start(), Progress(quiet=True))
    assert not settings.lock_file.exists()


@pytest.mark.parametrize("start", [Start("r1"), Start("r1", fork="r0"), Start("r1", fork="r1")])
async def test_a_name_that_is_taken_is_refused_before_services_start(tmp_path: Path, start: Start) -> None:
    """As far as the archive shows it: the services would take a minute to start on a busy machine."""
    settings = ClientSettings(data_dir=tmp_path)
    async with opened(settings.archive_url) as archive:
        started = [first(run, "started", "console") for run in ("r0", "r1")]
        for event in started:
            event.run_started.settings.CopyFrom(run_settings(RunOptions()))
        started[1].time.seconds += 1
        forked = first("r1", "forked", "console")
        forked.run_forked.CopyFrom(
            events_pb2.RunForked(of_run="r0", at_sequence=1, settings=run_settings(RunOptions()))
        )
        messages = [
            Logged(sequence, subject_of(event), body_of(event))
            for sequence, event in enumerate([*started, *([forked] if start.fork == "r1" else [])], 1)
        ]
        await archive.apply(messages)

    with pytest.raises(SettingsError, match="a run called r1 exists already: choose another --run"):
        await run_locally(settings, RunOptions(), start, Progress(quiet=True))
    assert not settings.lock_file.exists()


@pytest.mark.parametrize("start", [Start("i1", resume=True), Start("r2", fork="i1"), Start(fork="i1@1")])
async def test_a_run_of_imported_records_is_not_continued(tmp_path: Path, start: Start) -> None:
    """It has no seats and no baseline to compare with: it would never end."""
    settings = ClientSettings(data_dir=tmp_path)
    events = events_of("i1", [Published(1, "m", None, 2.0)], "asi-arch")
    async with opened(settings.archive_url) as archive:
        await archive.apply([Logged(at, subject_of(event), body_of(event)) for at, event in enumerate(events, 1)])

    with pytest.raises(NotPossible, match=r"run i1 was imported from asi-arch and no candidate .* --seed-program"):
        await run_locally(settings, RunOptions(candidates=3), start, Progress(quiet=True))
    assert not settings.lock_file.exists()


@pytest.mark.parametrize(
    ("changes", "flag"), [({}, "--scale .*own.toml: "), ({"set": ["blocks=1"]}, "--scale .*own.toml with --set: ")]
)
def test_a_fault_of_a_scale_file_names_the_file(changes: dict[str, object], flag: str, tmp_path: Path) -> None:
    """It is not one of --set, which need not have been given."""
    (tmp_path / "own.toml").write_text('base = "tiny"\ntokenz = 5\n')
    options = RunOptions.read({"scale": str(tmp_path / "own.toml"), **changes})

    with pytest.raises(SettingsError, match=f"{flag}The scale has no field 'tokenz'"):
        require_effective(options, run_settings(options))


@pytest.mark.parametrize("policy", sorted(OF_PROMOTION))
def test_a_policy_that_nothing_would_read_is_refused(policy: str) -> None:
    """A limit of parameters that limits nothing would be taken for a result."""
    value = {"match": "width", "stages": "tiny"}.get(policy, "0.5" if policy == "level" else "4")
    options = RunOptions(policies={policy: value})

    with pytest.raises(SettingsError, match=f"--policy {policy} has no effect without --promotion paper or halving"):
        require_effective(options, run_settings(options))
    promoting = options.model_copy(update={"promotion": "paper" if policy in OF_PAPER else "halving"})
    require_effective(promoting, run_settings(promoting))


@pytest.mark.parametrize(
    ("values", "flag", "missing"),
    [
        ({"promotion": "halving", "policy": {"block": "4"}}, "policy block", {"promotion": "paper"}),
        ({"promotion": "paper", "policy": {"eta": "4"}}, "policy eta", {"promotion": "halving"}),
        ({"policy": {"prune": "on", "stopping": "none"}}, "policy prune", {"policy": {"prune": "on"}}),
        (
            {"policy": {"prune_from": "0.5"}},
            "policy prune_from",
            {"policy": {"prune_from": "0.5", "stopping": "extrapolation"}},
        ),
        ({"policy": {"experiments": "3"}}, "policy experiments", {"mind": "openai"}),
        ({"policy": {"search": "random"}, "mind": "openai"}, "policy search", {"mind": "openai+offline"}),
        ({"judge_times": 3}, "judge-times", {"mind": "openai"}),
        ({"judge_times": 3, "mind": "openai", "without": "judge"}, "judge-times", {"without": ""}),
        ({"parent_policy": "uct", "random_parent": True}, "parent-policy", {"random_parent": False}),
    ],
)
def test_an_option_that_is_read_only_with_another_is_refused_without_it(
    values: dict[str, object], flag: str, missing: dict[str, object]
) -> None:
    """Its value would be on record beside results that it did not influence."""
    options = RunOptions.read(values)

    with pytest.raises(SettingsError, match=f"--{flag} has no effect (with|beside)"):
        require_effective(options, run_settings(options))
    effective = RunOptions.read({**values, **missing})
    require_effective(effective, run_settings(effective))


def test_an_objective_that_nothing_measures_is_refused() -> None:
    """All candidates would rank last."""
    options = RunOptions.read({"set": {"tasks": ","}, "policy": {"objectives": "loss,benchmark"}})

    with pytest.raises(SettingsError, match="objectives: no task is averaged, so benchmark is not measured: see --set"):
        require_effective(options, run_settings(options))


def test_a_scale_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """A decoder's error alone does not say which file it is about."""
    (tmp_path / "own.toml").write_bytes(b"\xff")

    with pytest.raises(SettingsError, match=r"--scale .*own\.toml: "):
        RunOptions.read({"scale": str(tmp_path / "own.toml")})


def test_what_the_options_keep_for_errors_is_no_setting() -> None:
    """Neither in a file, nor in the list of what there is; options remain frozen."""
    with pytest.raises(SettingsError, match=r"f\.toml: 'changes_of_scale' is not a setting of a run; there are scale,"):
        RunOptions.read({"changes_of_scale": "--x"}, "f.toml")
    with pytest.raises(SettingsError) as raised:
        RunOptions.read({"zzzzzzz": "--x"}, "f.toml")

    assert "changes_of_scale" not in str(raised.value)


@pytest.mark.parametrize(
    "options",
    [{"seats": 3}, {"mind": "openai"}, {"baselines": "gla"}, {"set": ["steps=4"]}, {"policy": ["experiments=1"]},
     {"without": "judge"}, {"best_of": 2}, {"corpus": "hub:books"}, {"random_parent": True}],
)  # fmt: skip
def test_a_run_that_continues_has_the_settings_that_it_began_with(options: dict[str, object]) -> None:
    """Options were ignored; the flags that it was started with may be repeated."""
    began = {"scale": "mini", "seats": 2, "baselines": "delta_net,gla", "set": ["steps=3"], "mind": "offline"}
    source = run_settings(RunOptions.read(began))
    source.scale_overrides["precision"] = "fp32"  # as it was decided

    assert changed_settings(source, RunOptions.read(began), CONTINUED).seats == 2
    assert changed_settings(source, RunOptions.read({**began, "candidates": 30}), CONTINUED).budget.candidates == 30
    with pytest.raises(
        SettingsError, match=f"--{next(iter(options)).replace('_', '-')}( or --set)? cannot differ in a run that"
    ):
        changed_settings(source, RunOptions.read({**began, **options}), CONTINUED)
