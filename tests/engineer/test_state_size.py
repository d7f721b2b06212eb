"""How much a mixer keeps from token to token, against what its rendered program can carry."""

import pytest
import torch

from services.contracts import candidate_pb2 as pb
from services.engineer.construction import MixerSizes
from services.engineer.program import load_mixer
from services.engineer.records import add_state_size
from services.engineer.scales import load_scale
from services.mixers.description import CATALOGUE, Features, Inputs, Memory, Mixer, Path, state_size
from services.mixers.render import render

pytestmark = pytest.mark.usefixtures("prepared_child")

WIDTH, HEADS, HALF = 8, 2, 24
OTHERS = {
    "canon and wide features": Mixer(
        inputs=Inputs(shift="canon", convolved="v"),
        features=Features(map="hedgehog", norm="none"),
        memory=Memory(rule="linear", write="one", decay="sigmoid", normalised=True),
    ),
    "shared keys": Mixer(inputs=Inputs(key_width="shared", convolved="")),
    "half keys": Mixer(inputs=Inputs(key_width="half"), memory=Memory(decay="mamba")),
    "trapezoid": Mixer(inputs=Inputs(convolved=""), memory=Memory(rule="linear", decay="sigmoid", form="trapezoid")),
    "mesa": Mixer(inputs=Inputs(convolved=""), memory=Memory(rule="linear", decay="sigmoid", form="mesa")),
    "window": Mixer(inputs=Inputs(convolved=""), memory=Memory(rule="none"), paths=(Path(kind="window", size=4),)),
    "routed": Mixer(inputs=Inputs(convolved=""), memory=Memory(rule="none"), paths=(Path(kind="routed"),)),
    "dilated": Mixer(inputs=Inputs(convolved=""), memory=Memory(rule="none"), paths=(Path(kind="dilated", size=3),)),
}


def carried(mixer: Mixer) -> int:
    """The rank of what later outputs tell of earlier inputs: no state that is smaller can carry it."""
    torch.manual_seed(0)
    module = load_mixer(render(mixer, "Probe", "a probe"), MixerSizes(width=WIDTH, heads=HEADS, layer=0))
    later = torch.randn(1, HALF, WIDTH)

    def outputs(earlier: torch.Tensor) -> torch.Tensor:
        mixed = module(torch.cat([earlier, later], dim=1))
        result: torch.Tensor = (mixed[0] if isinstance(mixed, tuple) else mixed)[0, HALF:]
        return result

    differentiate = torch.autograd.functional.jacobian
    jacobian = differentiate(outputs, torch.randn(1, HALF, WIDTH))  # type: ignore[no-untyped-call]
    return int(torch.linalg.matrix_rank(jacobian.reshape(HALF * WIDTH, HALF * WIDTH), rtol=1e-4))


@pytest.mark.parametrize("mixer", [*CATALOGUE.values(), *OTHERS.values()], ids=[*CATALOGUE, *OTHERS])
def test_no_more_values_are_carried_over_than_the_state_holds(mixer: Mixer) -> None:
    """Measured on the program itself, which knows nothing of the formula."""
    assert 0 < carried(mixer) <= state_size(mixer, WIDTH, HEADS)


def test_the_size_is_that_of_matrices_convolutions_and_windows() -> None:
    """DeltaNet: two matrices of 32 × 32, and three inputs of 64 channels that remember three tokens each."""
    assert state_size(CATALOGUE["delta_net"], 64, 2) == 2 * 32 * 32 + 3 * 3 * 64
    assert state_size(OTHERS["window"], 64, 2) == 3 * 2 * 64
    assert state_size(OTHERS["dilated"], 64, 2) == 2 * 4 * 64


@pytest.mark.parametrize(("rule", "known"), [("delta", True), ("of a later version", False)])
def test_a_description_of_another_version_has_no_state_size(rule: str, known: bool) -> None:
    """During an upgrade of the system, a researcher may be newer than an engineer."""
    record = pb.Candidate()
    record.proposal.description.update({"memory": {"rule": rule}})
    training = pb.Training(seeds=[pb.SeedResult()])
    add_state_size(training, record, load_scale("tiny"))

    assert training.seeds[0].measurements.HasField("state_size") is known
