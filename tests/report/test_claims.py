"""Output about a finished run: claims, cards, sections of the report, ablations, early stopping."""

import csv
from pathlib import Path

import pytest

from services.archive.policies import climb_of_run
from services.chassis.errors import NotPossible
from services.console.commands.ablate import components_of
from services.console.commands.run import PRESET
from services.contracts import candidate_pb2 as pb
from services.local.plan import RunOptions, run_settings
from services.report.claims import card_markdown, cards, claims, sentences
from services.report.comparisons import Trained, move_effects, part_row, parts
from services.report.compute import costs, drafts, of_run, replay_row, replays, stopped_in_the_run, too_few
from services.report.dataset import Dataset
from services.report.discoveries import discoveries
from services.report.figures import stopping
from services.report.lineage import ablations, what_pays
from services.report.page import write_report
from services.report.rows import gain_over, root_among, row
from tests.report.example_run import ablation, finished_run, status


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_claims_of_a_run_come_with_their_certainty() -> None:
    """Held or not, in the same words, with names instead of ids."""
    lines = sentences(finished_run(confirmed=1, refuted=1))

    assert lines[0] == "Found: 1 confirmed of 2 finalists, out of 12 candidates tried."
    assert "confirmed  Net4 (c000004): held-out loss 0.0500 nats below Net2" in lines[1]
    assert "refuted    Net5 (c000005): held-out loss 0.0200 nats above Net2" in lines[2]
    assert "adjusted p 0.02 for 12 tried" in lines[1]


def test_the_power_of_the_tests_is_that_at_the_level_of_the_run() -> None:
    """A stricter run finds larger gains only, and an unknown level has no power."""
    records, settings, gains = finished_run(), status().settings, []
    for level in (0.05, 0.001):
        settings.promotion, settings.policies.level = "halving", level
        gains.append(float(sentences(records, settings)[-1].split()[4]))

    assert 0 < gains[0] < gains[1]
    assert "would have been confirmed" not in sentences(records)[-1]


def test_a_run_without_finalists_says_so() -> None:
    """A run without findings says so."""
    assert "nothing to claim" in sentences(finished_run(confirmed=0, refuted=0))[0]


def test_a_run_lists_candidates_outside_the_budget() -> None:
    """This explains a search without finalists."""
    records = finished_run(confirmed=0, refuted=0, proposals=3)
    records[4].training.seeds[0].measurements.parameters = 900_000
    settings = status().settings
    settings.policies.flops = "none"

    assert "relative to the root: 1." in sentences(records, settings)[0]


def test_the_preset_is_a_possible_run() -> None:
    """Two stages at scale tiny, the second with more data and seeds."""
    settings = run_settings(RunOptions.read(PRESET))
    climb = climb_of_run(settings)

    assert settings.scale_overrides["tokens"] == "600000"
    assert [(stage.scale, stage.seeds, dict(stage.overrides)) for stage in climb.stages] == [
        ("tiny", 5, {"tokens": "1000000"})
    ]


def test_only_confirmed_discoveries_have_a_model_card() -> None:
    """With claim, evidence, comparison, cost and lineage; what was not measured is left out."""
    records = finished_run(confirmed=1, refuted=2)
    (card,) = cards(status(), records)

    assert [claim["outcome"] for claim in claims(records)] == ["confirmed", "refuted", "refuted"]
    assert "0.0500 nats below Net2" in card.claim
    assert card.lineage == ("Net1", "Net4")
    assert "Strongest of 3 controls (Net1, Net2, Net3): Net2." in card_markdown(card)
    assert "for 12 trials" in card_markdown(card)
    assert card.cost == ("400,000 parameters.", "2,400,000 tokens trained on, all seeds and stages.",
                         "0.1 hours of wall time.")  # fmt: skip


def test_cards_come_in_the_order_of_their_effects() -> None:
    """And a verdict without a test has none, whatever it says."""
    records = finished_run(confirmed=3, refuted=0)
    records[3].discovery.ClearField("interval")

    assert [card.id for card in cards(status(), records)] == ["c000006", "c000005"]


def test_a_card_is_that_of_its_own_round_and_stage() -> None:
    """Its controls, and the parameters and data of the trainings that the claim rests on."""
    records = finished_run(confirmed=2, refuted=0)
    records[4].discovery.controls.remove("c000003")
    for seed in records[4].verifications[0].training.seeds:
        seed.measurements.parameters, seed.measurements.data_fingerprint = 20_000_000, "of the larger stage"
    by_id = {card.id: card for card in cards(status(), records)}

    assert by_id["c000004"].compared.startswith("Strongest of 3 controls (Net1, Net2, Net3)")
    assert by_id["c000005"].compared.startswith("Strongest of 2 controls (Net1, Net2)")
    assert by_id["c000005"].cost[0] == "20,000,000 parameters."
    assert "Held-out text that no selection has seen, of data of the larger st." in by_id["c000005"].evidence


def test_a_claim_holds_its_gain_on_text_of_another_source() -> None:
    """Paired by seed with the strongest control, where both were scored there."""
    records = finished_run(confirmed=1, refuted=0)
    for record, base in ((records[1], 2.5), (records[3], 2.4)):
        for index, seed in enumerate(record.verifications[0].training.seeds):
            seed.other_text, seed.other_text_loss = "documentation", base + 0.01 * index * (1 + (base < 2.45))

    assert "another source" not in " ".join(sentences(finished_run(confirmed=1, refuted=0)))
    assert "on text of another source (documentation): +0.0900 [+0.0652, +0.1148]" in " ".join(sentences(records))

    records[3].verifications[0].training.seeds[0].other_text = "python-source"

    assert "another source" not in " ".join(sentences(records))


def test_losses_on_another_text_are_not_compared_with_the_root() -> None:
    """Neither in a list nor in the count of candidates that are better than the strongest control."""
    records, settings = finished_run(), status().settings
    before, root = of_run("r1", records).scaling.successes, root_among(records, settings)
    better = min(records, key=lambda record: record.training.loss)
    for seed in better.training.seeds:
        seed.measurements.data_fingerprint = "another text"
    after = of_run("r1", records).scaling.successes

    assert root is not None
    assert row(better, root)["loss_difference"] is None
    assert row(records[1], root)["loss_difference"] == pytest.approx(records[1].training.loss - root.training.loss)
    assert after == before - 1


def test_costs_are_reported_per_result() -> None:
    """Everything that was used, for each proposal that was accepted and for each claim that held."""
    about = status()
    about.spent.training_seconds, about.spent.tokens, about.spent.money = 1200.0, 24_000, 6.0
    records = finished_run(confirmed=2, refuted=1, proposals=12)
    totals = costs(about, records)
    nothing = costs(about, finished_run(confirmed=0))

    per_proposal = {"count": 12, "training_seconds": 100.0, "tokens": 2000.0, "dollars": 0.5}
    per_discovery = {"count": 2, "training_seconds": 600.0, "tokens": 12_000.0, "dollars": 3.0}
    trainings = [record.training for record in records]
    trainings += [verification.training for record in records for verification in record.verifications]
    seconds = sum(seed.measurements.seconds for training in trainings for seed in training.seeds)
    by_kind: dict[str, float] = dict(totals["training_seconds_by_kind"])  # type: ignore[call-overload]
    assert totals["per_accepted_proposal"] == per_proposal
    assert by_kind["verification"] > 0
    assert sum(by_kind.values()) == pytest.approx(seconds)
    about.spent.training_seconds = seconds + 30.0
    assert costs(about, records)["training_seconds_by_kind"] == {**by_kind, "without result": pytest.approx(30.0)}
    assert totals["per_confirmed_discovery"] == {**per_discovery, "gain": pytest.approx(0.0505)}
    assert set(dict(nothing["per_confirmed_discovery"]).values()) == {0, None}  # type: ignore[call-overload]


@pytest.mark.slow
def test_the_report_draws_the_curve_once_there_are_discoveries(tmp_path: Path) -> None:
    """Four of them: a line with its band, the relation between the stages, and the data as CSV."""
    page = write_report(status(), finished_run(confirmed=4, refuted=1), tmp_path)
    text = page.read_text(encoding="utf-8")

    assert [row["discoveries"] for row in table(tmp_path / "discovery-curve.csv")] == ["1", "2", "3", "4"]
    assert (tmp_path / "discovery-curve.png").stat().st_size > 5000
    assert (tmp_path / "discovery-curve.svg").exists()
    assert "discoveries per hour, with the 95 % band" in text
    assert "Scaling of discovery" in text
    assert len(table(tmp_path / "stages-0-1.csv")) == 8
    assert "Rank correlation" in text
    assert "<article" in text


def test_the_report_says_why_a_figure_is_missing() -> None:
    """No confirmed discovery is no curve, but it is told what was tried and spent."""
    data = Dataset(status(), finished_run(confirmed=0, refuted=1))
    curve = next(drawing for drawing in discoveries(data) if drawing.name == "discovery-curve")
    (none,) = ablations(data)

    assert curve.figure is None
    assert curve.missing.startswith("none of the claims tried (1) was confirmed in")
    assert "no candidate was ablated" in none.missing


def test_an_ablation_shows_what_a_component_brings() -> None:
    """The most first; what could not be left out last, with its reason; noise between seeds widens the interval."""
    records = finished_run()
    original = records[5]
    failed = pb.Candidate(id="a000099", kind=pb.KIND_ABLATION, rejection=pb.Rejection(reason="nothing remains"))
    failed.request.CopyFrom(pb.Request(number=99, ablation_of=original.id, without_component="delta-rule"))
    own = [ablation(original, "output-gate", 0.03, 20), ablation(original, "short-convolution", 0.2, 21), failed]
    components = parts(original, [*records, *own])
    plain = gain_over(own[0], original)

    assert [part.component for part in components] == ["short-convolution", "output-gate", "delta-rule"]
    assert part_row(components[0])["verdict"] == "carries"
    assert part_row(components[2])["reason"] == "nothing remains"
    assert components[1].gain is not None
    assert plain is not None
    assert components[1].gain.interval.low < plain.interval.low
    assert plain.conclusion == "better with this seed"


def test_a_gain_counts_only_seeds_that_were_measured_on_the_same_data() -> None:
    """As its interval does: a loss on another text, or after fewer steps, says nothing."""
    first, second = finished_run()[:2]
    second.training.seeds[1].loss = 9.0
    second.training.seeds[1].measurements.data_fingerprint = "another text"
    gain = gain_over(first, second)

    second.training.seeds[0].stopped = "By 25% of the steps it fell behind."

    assert gain_over(first, second) is None
    assert gain is not None
    assert gain.seeds == 1
    assert gain.mean == pytest.approx(first.training.seeds[0].loss - second.training.seeds[0].loss)


def test_effects_weigh_ablations_and_children_of_one_move_by_their_pairs() -> None:
    """Several moves at once, or a training that was stopped, say nothing about one move."""
    records = finished_run()
    controls, children = records[:3], records[3:8]
    for child, moves in zip(children, (["mamba"], ["mamba"], ["gate"], ["gate", "skip"], ["shift"]), strict=True):
        child.proposal.moves.extend(moves)
    children[4].training.seeds[0].stopped = "By 50% of the steps it fell behind."
    for control, drift in zip(controls, (0.1, -0.1, 0.05), strict=True):
        control.training.seeds[1].loss += drift
    cut = [ablation(children[0], "output-gate", 0.5, 20), ablation(children[1], "output-gate", 0.4, 21)]
    trained = [
        Trained(candidate, candidate, 1, "text", seed, loss + 0.001 * seed)
        for candidate, loss in ((children[2].id, 1.4), ("without_copy", 1.6))
        for seed in (1, 2, 3)
    ]
    effects = {(effect.source, effect.move): effect for effect in move_effects([*records[:8], *cut], trained)}

    assert set(effects) == {
        ("ablation", "output-gate"), ("ablation", f"{children[2].id} against without_copy"),
        ("proposal", "mamba"), ("proposal", "gate"),
    }  # fmt: skip
    assert effects["ablation", "output-gate"].pairs == 2
    assert effects["ablation", "output-gate"].verdict == "pays, or the program was lucky"
    assert effects["ablation", "output-gate"].gain == pytest.approx(0.45)
    assert effects["ablation", f"{children[2].id} against without_copy"].gain == pytest.approx(0.2)
    assert effects["ablation", f"{children[2].id} against without_copy"].verdict == "pays"
    assert (effects["proposal", "mamba"].pairs, effects["proposal", "gate"].pairs) == (2, 1)
    assert effects["proposal", "gate"].interval.low < 0 < effects["proposal", "gate"].interval.high
    assert effects["proposal", "gate"].verdict == "not told apart"


def test_the_report_shows_effects_as_figure_and_table(tmp_path: Path) -> None:
    """The table of mixers alone, where the run has no pair."""
    drawing = what_pays(Dataset(status(), finished_run()))
    gains = [float(str(row[2])) for row in drawing.cells]

    assert drawing.figure is not None
    assert drawing.tabulated
    assert {row[0] for row in drawing.cells} == {"table"}
    assert gains == sorted(gains, reverse=True)
    assert "intervals (grey) contain zero" in drawing.caption


def test_a_component_that_cannot_be_ablated_is_refused_with_a_message() -> None:
    """How it is computed is no component to leave out, and what was not trained cannot be compared."""
    original = finished_run()[3]

    assert components_of(original, ()) == ["short-convolution", "output-gate"]
    with pytest.raises(NotPossible, match="no component warp-drive"):
        components_of(original, ["warp-drive"])
    original.training.ClearField("loss")
    with pytest.raises(NotPossible, match="not trained"):
        components_of(original, ())


def test_stopping_is_replayed_over_whole_trainings_only() -> None:
    """Those that the rule itself has cut short say nothing about what it would have saved."""
    records = finished_run(proposals=30)
    rows = [replay_row(rule) for rule in replays(records)]
    drawn = stopping(Dataset(status(), records))

    assert {row["trainings"] for row in rows} == {36}
    assert all(0 <= float(str(row["saved"])) < 1 for row in rows)
    assert drawn.figure is not None
    assert stopped_in_the_run(records) == ""
    cut = records[-1].training.seeds[0]
    cut.stopped = "By 50% of the steps it fell behind."
    del cut.curve[10:]
    assert stopped_in_the_run(records) == "The run itself stopped 1 of 36 trainings, which saved 1.4% of the steps."
    few = finished_run(proposals=0)[:2]
    assert replays(few) == []
    assert "4 whole trainings" in too_few(few)


def test_the_pass_rate_of_first_drafts_is_reported_by_prompt_version() -> None:
    """The rates of two versions of a prompt can be compared."""
    first = pb.Candidate(kind=pb.KIND_PROPOSAL, proposal=pb.Proposal(name="A", prompt_version="propose-5"))
    second = pb.Candidate(kind=pb.KIND_PROPOSAL, proposal=pb.Proposal(name="B", prompt_version="propose-5"))
    second.proposal.novelty_history.extend(["it repeats c000001: the same", "the check fails: causality: sees 9"])
    never = pb.Candidate(kind=pb.KIND_PROPOSAL, calls=[pb.Call(role="propose", prompt_version="propose-4")])
    never.rejection.evidence.update({"refused": ["the check fails: finite: NaN"]})
    baseline = pb.Candidate(kind=pb.KIND_BASELINE, proposal=pb.Proposal(name="DeltaNet", mind="zoo"))

    assert drafts([first, second, never, baseline]) == {
        "propose-4": {"asked": 1, "passed_at_first": 0, "rate": 0.0, "repeats": 0, "failed_checks": 1},
        "propose-5": {"asked": 2, "passed_at_first": 1, "rate": 0.5, "repeats": 1, "failed_checks": 1},
    }


def test_a_report_that_cannot_be_written_names_its_folder(tmp_path: Path) -> None:
    """A full disk has no name of its own; the run whose report it is has ended well."""
    (tmp_path / "report").touch()

    with pytest.raises(NotPossible, match=f"the report cannot be written to {tmp_path}/report: File exists"):
        write_report(status(), finished_run(), tmp_path / "report")
