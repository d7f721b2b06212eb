"""From a search to a verdict: finalists and controls are trained again, and the claim is decided by statistics."""

import json

import pytest

from tests.console.conftest import bare_environment
from tests.loop.conftest import UNREPEATED, Command, command_line, micro_flags, rows_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command line where a run with verification has ended."""
    asi_arch = command_line(bare_environment(tmp_path_factory.mktemp("searched"), COLUMNS="120"))
    asi_arch(
        "run", "--candidates", "2", "--baselines", "delta_net,linear_attention", *micro_flags(), *UNREPEATED, "--json",
        "--promotion", "halving", "--policy", "eta=2", "--policy", "parameters=none", "--policy", "flops=none",
        "--policy", "stages=tiny:steps=8:seeds=2,tiny:seeds=3",
    )  # fmt: skip
    return asi_arch


def test_a_run_verifies_its_finalist_and_reports_the_outcome(searched: Command) -> None:
    """Fresh seeds, fresh held-out data, one verdict; the archive equals its replay."""
    rows = [row for row in rows_of(searched("list", "--json")) if row["kind"] != "ablation"]
    records = [json.loads(searched("show", str(row["id"]), "--json").stdout) for row in rows]
    finalists = [record for record in records if "discovery" in record]

    assert len(finalists) <= 1
    if any(row["kind"] == "proposal" and row["fitness"] is not None for row in rows):
        (finalist,) = finalists
        seeds = [
            [seed["seed"] for seed in verification["training"]["seeds"]] for verification in finalist["verifications"]
        ]
        assert seeds == [["1001", "1002"], ["1101", "1102", "1103"]]
        assert finalist["discovery"]["control"] == "c000001"
        assert finalist["discovery"]["tried"] == 2
        assert finalist["discovery"]["outcome"] in ("confirmed", "refuted", "undecided")
        (claim,) = json.loads(searched("gallery", "--json").stdout)
        assert (claim["card"] is not None) == claim["confirmed"]
    replayed = json.loads(searched("replay", "--json").stdout)
    assert replayed["agrees"]
    assert replayed["digest"] == replayed["live_digest"]


def test_an_ablation_is_trained_like_any_candidate_and_compared(searched: Command) -> None:
    """After the run is over, once per component; what cannot be left out is told with its reason."""
    flags = ("--component", "short-convolution", "--component", "output-normalisation", "--json")
    parts = rows_of(searched("ablate", "c000001", *flags))
    again = rows_of(searched("ablate", "c000001", "--component", "short-convolution", "--json"))

    assert {part["component"] for part in parts} == {"short-convolution", "output-normalisation"}
    assert all(isinstance(part["brings"], float) and part["low"] < part["high"] for part in parts)  # type: ignore[operator]
    assert again == [part for part in parts if part["component"] == "short-convolution"]
    rows = rows_of(searched("list", "--json"))
    assert [row["parent"] for row in rows if row["kind"] == "ablation"] == ["c000001", "c000001"]
    assert searched("ablate", "c000001", "--component", "warp-drive", ok=False).returncode == 1
    assert json.loads(searched("replay", "--json").stdout)["agrees"]
