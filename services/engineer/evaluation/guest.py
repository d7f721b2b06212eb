"""The scoring child: trained weights in, hidden states or gradients out. It never learns what will be made of them."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from services.engineer.program import prepare_guest
from services.engineer.training.guest import build_model, failure, load_model_arrays, load_random_arrays, to_array
from services.engineer.training.model import LanguageModel, autocast
from services.engineer.training.ports import Array, Channel, Message
from services.engineer.training.sizes import ModelSizes


def run(channel: Channel) -> None:
    """The job: `begin` with program, sizes and weights → ready; then orders until `end`.

    read       tokens [rows, length] → hidden states, float32 [rows, length, width], after the final norm
    gradients  tokens [rows, length + 1], weights → gradients of the mean loss
    """
    begin = channel.receive()
    try:
        model = _model(begin)
        channel.send("ready", {}, {})
        while (order := channel.receive()).kind != "end":
            if order.kind == "read":
                channel.send("hidden", {}, {"hidden": _hidden(model, order, begin)})
            else:
                channel.send("gradients", {}, _gradients(model, order, begin))
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; the host gets all of it
        channel.send("failed", failure(error), {})


def _model(begin: Message) -> LanguageModel:
    header = begin.header
    prepare_guest(int(cast("int", header["threads"])), str(header["device"]))
    sizes = ModelSizes.from_message(begin)
    model = build_model(str(header["program"]), sizes, seed=0, device=str(header["device"]))
    load_model_arrays(model, begin.arrays)
    return model.eval()


def _hidden(model: LanguageModel, order: Message, begin: Message) -> NDArray[np.float32]:
    device = str(begin.header["device"])
    tokens = torch.from_numpy(order.arrays["tokens"].astype(np.int64)).to(device)
    load_random_arrays(order.arrays)
    model.train(order.header["training"] is True)
    with torch.no_grad(), autocast(device, str(begin.header["precision"])):
        hidden, _ = model.hidden(tokens)
    states: NDArray[np.float32] = hidden.float().cpu().numpy()
    return states


def _gradients(model: LanguageModel, order: Message, begin: Message) -> dict[str, Array]:
    device, precision = str(begin.header["device"]), str(begin.header["precision"])
    load_model_arrays(model, order.arrays, parameters_only=True)
    load_random_arrays(order.arrays)
    model.train().zero_grad(set_to_none=True)
    rows = torch.from_numpy(order.arrays["tokens"].astype(np.int64)).to(device)
    for part in torch.split(rows, int(cast("int", order.header["micro_batch"]))):
        with autocast(device, precision):
            loss, _ = model(part[:, :-1], part[:, 1:])
        torch.autograd.backward(loss * (len(part) / len(rows)))
    return {name: to_array(value.grad) for name, value in model.named_parameters() if value.grad is not None}
