"""A run forked from another on one machine: the same measured history, then another policy."""

import json
import time

import pytest

from tests.loop.conftest import Command, begun, micro_flags, rows_of

FIRST = ("run", "--run", "first", "--candidates", "1", "--baselines", "delta_net,linear_attention", *micro_flags())
FORK = ("run", "--fork", "first@first.c000002.archived.1", "--run", "second")


@pytest.mark.slow
def test_a_fork_keeps_what_was_measured_and_goes_on_otherwise(asi_arch: Command) -> None:
    """Baselines are not trained again; both runs are what their logs say; impossible forks are one sentence."""
    source = {row["id"]: row for row in rows_of(asi_arch(*FIRST, "--json"))}
    forked = {
        row["id"]: row for row in rows_of(asi_arch(*FORK, "--candidates", "2", "--parent-policy", "uniform", "--json"))
    }
    status = json.loads(asi_arch("status", "--run", "second", "--json").stdout)

    assert {name: forked[name]["loss"] for name in ("c000001", "c000002")} == {
        name: source[name]["loss"] for name in ("c000001", "c000002")
    }
    assert len(forked) == 4
    assert status["settings"]["parent_policy"] == "uniform"
    assert status["origin"].startswith("forked from first at ")
    for run in ("first", "second"):
        assert json.loads(asi_arch("replay", run, "--json").stdout)["agrees"] is True
    for flags, code, said in (
        (("--fork", "first", "--fitness", "code"), 2, "--fitness cannot differ in a fork"),
        (("--fork", "first", "--resume"), 2, "give one of them"),
        (("--fork", "nobody"), 1, "no run is called nobody"),
        (("--fork", "first@99999"), 1, "no event '99999'"),
    ):
        done = asi_arch("run", *flags, ok=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.slow
def test_two_runs_go_on_at_once_in_one_system(asi_arch: Command, environment: dict[str, str]) -> None:
    """The second is left to the services of the first; each is what its log says, and neither sees the other's."""
    assert "no services" in asi_arch("run", "--join", ok=False).stderr
    deadline = time.monotonic() + 240
    with begun([*FIRST[:3], "--candidates", "2", *FIRST[5:], "--json"], environment) as first:
        while asi_arch("status", "--run", "first", ok=False).returncode:
            assert first.poll() is None, "the first run ended before it began"
            assert time.monotonic() < deadline, "the first run did not start"
            time.sleep(1)
        flags = ("--candidates", "0", "--baselines", "delta_net", *micro_flags())
        joined = json.loads(asi_arch("run", "--join", "--run", "second", *flags, "--json").stdout)
        out, _ = first.communicate(timeout=240)

    assert joined == {"run": "second"}
    assert {row["run"] for row in json.loads(out)} == {"first"}
    assert [row["id"] for row in rows_of(asi_arch("list", "--run", "second", "--json"))] == ["c000001"]
    for run in ("first", "second"):
        assert json.loads(asi_arch("replay", run, "--json").stdout)["agrees"] is True
