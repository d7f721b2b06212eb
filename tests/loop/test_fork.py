"""Several runs of one system: two at once, and one that is forked from another."""

import json
import time
from pathlib import Path

import pytest

from tests.loop.conftest import UNREPEATED, Command, micro_flags, rows_of, running

FLAGS = (*micro_flags(), *UNREPEATED, "--json")
FORK = ("run", "--fork", "first@first.c000002.archived.1", "--run", "forked", "--candidates", "1", "--json")


@pytest.mark.slow
def test_two_concurrent_runs_and_a_fork_that_keeps_measurements(asi_arch: Command, environment: dict[str, str]) -> None:
    """The second is left to the services of the first; a fork does not train baselines again; an impossible fork or
    join is one sentence; each run is what its log says.
    """
    assert "no services" in asi_arch("run", "--join", ok=False).stderr
    deadline = time.monotonic() + 240
    flags = ("run", "--run", "first", "--candidates", "1", "--baselines", "delta_net,linear_attention", *FLAGS)
    with running(flags, environment) as first:
        begun = Path(environment["ASI_DATA_DIR"]) / "system.json"
        while not begun.exists() or asi_arch("status", "--run", "first", ok=False).returncode:
            assert time.monotonic() < deadline, "the first run did not start"
            time.sleep(0.5)
        joined = asi_arch("run", "--join", "--run", "second", "--candidates", "0", "--baselines", "delta_net", *FLAGS)
        out, _ = first.communicate(timeout=240)

    assert json.loads(joined.stdout) == {"run": "second"}
    source = {row["id"]: row for row in json.loads(out)}
    assert {row["run"] for row in source.values()} == {"first"}
    assert [row["id"] for row in rows_of(asi_arch("list", "--run", "second", "--json"))] == ["c000001"]

    forked = {row["id"]: row for row in rows_of(asi_arch(*FORK, "--parent-policy", "uniform"))}
    status = json.loads(asi_arch("status", "--run", "forked", "--json").stdout)
    assert len(forked) == 3
    for name in ("c000001", "c000002"):
        assert forked[name]["loss"] == source[name]["loss"]
    assert status["settings"]["parent_policy"] == "uniform"
    assert status["origin"].startswith("forked from first at ")
    for run in ("first", "second", "forked"):
        assert json.loads(asi_arch("replay", run, "--json").stdout)["agrees"] is True
    refused = asi_arch("run", "--fork", "first", "--fitness", "code", ok=False)
    assert refused.returncode == 2
    assert "--fitness cannot differ in a fork" in refused.stderr
