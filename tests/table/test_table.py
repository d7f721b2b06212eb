"""The table: its lattice, its files, what it answers, and that a simulated search spends what it says."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from services.mixers.description import CATALOGUE
from services.mixers.description import Path as MixerPath
from services.mixers.render import render
from services.table.analysis import effects
from services.table.lattice import cells, find, neighbours
from services.table.policies import POLICIES
from services.table.records import Record, append, pack, read, read_all
from services.table.table import Choice, NotMeasured, Search, Table
from tests.table.synthetic import synthetic_records


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(synthetic_records())


def test_the_lattice_has_more_than_a_thousand_architectures_which_all_differ() -> None:
    names, structures = {cell.name for cell in cells()}, {cell.structure for cell in cells()}

    assert len(cells()) == len(names) == len(structures) >= 1000


def test_every_cell_is_found_by_its_name_its_structure_and_its_mixer() -> None:
    for cell in cells()[::97]:
        assert find(cell.name) is find(cell.structure) is find(cell.mixer) is cell
    assert find("gated_delta_net").mixer.structure() == CATALOGUE["gated_delta_net"].structure()
    with pytest.raises(ValueError, match="no architecture 'retnet'"):
        find("retnet")


def test_the_prior_knows_mixers_beyond_the_table_by_what_they_have_in_common() -> None:
    """RetNet's rotary phases are not in the table, and DeltaNet with a value skip and another path neither."""
    names = ("delta_net_value_skip", "gated_delta_net", "delta_net", "linear_attention")
    beyond = CATALOGUE["delta_net_value_skip"].model_copy(update={"paths": (MixerPath(kind="window", size=16),)})

    *known, retnet, extended = Table.load().prior([*(CATALOGUE[name] for name in names), CATALOGUE["retnet"], beyond])

    assert known == sorted(known, reverse=True)
    assert known[-1] < retnet < 0 < extended < known[0]


def test_every_cell_renders_to_a_program() -> None:
    for cell in cells():
        compile(render(cell.mixer, "Cell"), cell.name, "exec")


def test_neighbours_are_mutual_within_a_rule_and_one_move_leads_to_the_other_rule() -> None:
    for cell in cells()[::53]:
        near = neighbours(cell.structure)
        across = [other for other in near if other.values[0] != cell.values[0]]

        assert len(across) == 1
        assert all(cell in neighbours(other.structure) for other in near if other not in across)


def test_effects_come_from_pairs_that_differ_in_one_value_and_name_the_move_between_them() -> None:
    """Only cells with the gate are better, by 0.1; a fifth of the cells is not measured."""
    rng = random.Random(1)
    records = [
        Record(cell.name, "mini-half", 1, loss=2.0 - 0.1 * ("swish" in cell.values) + rng.gauss(0, 0.01))
        for cell in rng.sample(cells(), k=900)
    ]
    effect_of = {(effect.dimension, effect.value): effect for effect in effects(Table(records))}
    gate = effect_of.pop(("gate", "swish"))

    assert gate.low < 0.1 < gate.high
    assert 300 < gate.pairs < 450
    assert effect_of["decay", "mamba"].move == "decay_mamba"
    assert all(abs(effect.gain) < 0.01 for effect in effect_of.values())
    assert sum(effect.low <= 0 <= effect.high for effect in effect_of.values()) >= len(effect_of) - 2


def test_a_partial_line_is_ignored_and_the_next_line_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "piece.jsonl"
    first, second = Record("a", "mini", 1, loss=2.0), Record("b", "mini", 1, loss=2.1, curve=((10, 3.0, None),))
    append(path, first)
    with path.open("a") as file:
        file.write(json.dumps({"cell": "c", "scale": "mini"})[:-8])
    append(path, second)

    assert list(read(path)) == [first, second]


def test_a_packed_table_reads_back_equal_and_packs_to_the_same_bytes(tmp_path: Path) -> None:
    records = sorted(synthetic_records(seeds=(1,))[:20], key=lambda record: record.key)
    pack(records, tmp_path / "one.jsonl.gz")
    pack(reversed(records), tmp_path / "two.jsonl.gz")

    assert list(read(tmp_path / "one.jsonl.gz")) == records == read_all(tmp_path)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


def test_a_record_of_a_build_counts_before_that_of_the_packed_table_it_began_with(tmp_path: Path) -> None:
    """Whatever their names: trained tasks are added to records that are on file already."""
    shipped = Record("cell", "mini-half", 1, loss=2.0)
    pack([shipped], tmp_path / "records.jsonl.gz")
    append(tmp_path / "mini-half-1.jsonl", replace(shipped, scores={"arithmetic": 0.3}))

    assert [record.scores for record in read_all(tmp_path)] == [{"arithmetic": 0.3}]


def test_a_query_answers_what_was_measured_and_never_estimates(table: Table) -> None:
    record = table.query("delta_net", seed=2)

    assert record.seed == 2
    assert table.query("delta_net", fidelity=0.5, seed=2).loss == record.at(0.5) != record.loss
    with pytest.raises(NotMeasured, match="seed 9"):
        table.query("delta_net", seed=9)
    with pytest.raises(NotMeasured, match="33%"):
        table.query("delta_net", fidelity=0.33)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("seats", [1, 8])
def test_every_policy_spends_its_budget_and_repeats_with_its_seed(table: Table, name: str, seats: int) -> None:
    trace = table.simulate(POLICIES[name], budget=60, seed=3, seats=seats)
    reached: dict[str, float] = {}
    for observation in trace.observations:
        reached[observation.architecture] = max(reached.get(observation.architecture, 0.0), observation.fidelity)

    assert 60 <= sum(reached.values()) < 61
    assert trace.regrets[-1] is not None
    assert trace.regrets[-1] >= 0
    assert trace == table.simulate(POLICIES[name], budget=60, seed=3, seats=seats)


def test_a_policy_that_knows_the_truth_has_no_regret_after_its_first_training(table: Table) -> None:
    def oracle(search: Search) -> str:
        return min(search.unseen(), key=table.truth.__getitem__)

    assert table.simulate(oracle, budget=5, seed=1).regret == pytest.approx(0, abs=0.02)


def test_going_on_from_a_lower_fidelity_costs_the_difference(table: Table) -> None:
    def climb(search: Search) -> Choice:
        shares = dict(search.seen)
        unfinished = [name for name, share in shares.items() if share < 1]
        return Choice(unfinished[0], 1.0) if unfinished else Choice(search.unseen()[0], 0.25)

    trace = table.simulate(climb, budget=3, seed=1)

    assert [observation.fidelity for observation in trace.observations] == [0.25, 1.0] * 3


def test_a_choice_outside_the_space_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="not in the space"):
        table.simulate(lambda _: "nobody", budget=2, seed=1)
    with pytest.raises(ValueError, match="a second time"):
        table.simulate(lambda search: search.space[0], budget=2, seed=1)


def test_failed_trainings_are_observed_without_a_loss_and_are_never_the_best() -> None:
    table = Table(synthetic_records(failing=0.3))
    trace = table.simulate(POLICIES["random"], budget=50, seed=1)

    assert any(observation.loss is None for observation in trace.observations)
    assert trace.best in table.truth


def test_the_best_of_several_finalists_counts_by_its_true_loss() -> None:
    """A single noisy training may make another one look better."""
    noisy = Table(synthetic_records(noise=0.1))
    single, five = (noisy.simulate(POLICIES["random"], budget=60, seed=3, finalists=count) for count in (1, 5))
    pairs = [(a, b) for a, b in zip(single.regrets, five.regrets, strict=True) if a is not None and b is not None]

    assert single.observations == five.observations
    assert all(b <= a for a, b in pairs)
    assert any(b < a for a, b in pairs)


def test_a_training_that_failed_with_one_seed_has_the_loss_of_the_others() -> None:
    name, other = (cell.name for cell in cells()[:2])
    records = [Record(name, "mini-half", 1, failure="stopped"), Record(name, "mini-half", 2, loss=2.0)]

    assert Table([*records, Record(other, "mini-half", 1, failure="stopped")]).truth == {name: 2.0}


def test_a_small_space_ends_a_search_early() -> None:
    table = Table(synthetic_records(seeds=(1,))[:10])

    assert len(table.simulate(POLICIES["random"], budget=50, seed=1).observations) == 10
