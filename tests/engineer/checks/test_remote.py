"""The host's interface to a probed program: how much a child may answer, and what is counted on it."""

import numpy as np
import pytest

from services.engineer.checks.host import PROBES, probe_program
from services.engineer.checks.remote import TENSORS
from services.engineer.checks.report import CheckSettings
from services.sandbox import Sandbox
from services.sandbox.wire import PREFIX, Bounds, decode, encode, read_prefix
from tests.engineer.hostile.programs import mixer

EXEMPT = tuple(probe.name for probe in PROBES if probe.name != "parameters")
SETTINGS = CheckSettings(layers=1, exempt=EXEMPT)


@pytest.mark.asyncio(loop_scope="session")
async def test_tensors_are_limited_to_what_a_training_can_send(sandbox: Sandbox) -> None:
    """Only the training failed, for its number of arrays, and a check of still more tensors broke its protocol."""
    verdicts = []
    for tensors in (TENSORS - 5, 10_000):
        program = mixer(init=f"self.steps = nn.ParameterList(torch.zeros(1) for _ in range({tensors}))")
        verdicts += await probe_program(program, sandbox, SETTINGS)

    assert [verdict.outcome for verdict in verdicts] == ["pass", "fail"]
    assert "stack those of experts or heads" in verdicts[1].message


def test_the_state_of_a_model_with_most_tensors_fits_into_a_message() -> None:
    """Four arrays for each tensor, and the layers around 24 mixers."""
    names = [f"blocks.{number % 24}.mixer.experts.{number}.down_projection.weight" for number in range(TENSORS + 150)]
    kinds = ("model/{}", "optimiser/{}/exp_avg", "optimiser/{}/exp_avg_sq", "optimiser/{}/step")
    arrays = {kind.format(name): np.zeros(1, np.float32) for name in names for kind in kinds}
    text = b"".join(encode("saved", {}, arrays))
    size, _ = read_prefix(text[: PREFIX.size], Bounds())

    message = decode(text[PREFIX.size : PREFIX.size + size], bytearray(text[PREFIX.size + size :]), Bounds())

    assert message.arrays.keys() == arrays.keys()
