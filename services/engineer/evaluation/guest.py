"""The scoring child: trained weights in, hidden states out. It never learns what will be asked of them."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from services.engineer.program import prepare_guest
from services.engineer.training.build import build_model
from services.engineer.training.guest import failure
from services.engineer.training.model import LanguageModel, autocast
from services.engineer.training.ports import Channel, Message
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.state import load_model_arrays


def run(channel: Channel) -> None:
    """The job: `begin` with program, sizes and weights → ready; then `read` tokens [rows, length] → hidden states.

    Hidden states are float32 [rows, length, width], after the final norm; the head is applied outside.
    """
    begin = channel.receive()
    try:
        model = _model(begin)
        channel.send("ready", {}, {})
        while (order := channel.receive()).kind != "end":
            channel.send("hidden", {}, {"hidden": _hidden(model, order, begin)})
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; the host gets all of it
        channel.send("failed", failure(error), {})


def _model(begin: Message) -> LanguageModel:
    header = begin.header
    prepare_guest(int(cast("int", header["threads"])))
    sizes = ModelSizes.from_message(begin)
    model = build_model(str(header["program"]), sizes, seed=0, device=str(header["device"]))
    load_model_arrays(model, begin.arrays)
    return model.eval()


def _hidden(model: LanguageModel, order: Message, begin: Message) -> NDArray[np.float32]:
    device = str(begin.header["device"])
    tokens = torch.from_numpy(order.arrays["tokens"].astype(np.int64)).to(device)
    with torch.no_grad(), autocast(device, str(begin.header["precision"])):
        hidden, _ = model.hidden(tokens)
    states: NDArray[np.float32] = hidden.float().cpu().numpy()
    return states
