"""The scoring child: it receives trained weights and returns hidden states or gradients, but never sees targets."""

import numpy as np
import torch
from numpy.typing import NDArray

from services.engineer.program import prepare_child
from services.engineer.training import child as training
from services.engineer.training.compiled import unpack
from services.engineer.training.model import NOT_COUNTED, LanguageModel, autocast
from services.engineer.training.sizes import sizes_in
from services.sandbox import JSON, Array, Channel, Message


def run(channel: Channel) -> None:
    """The job: `begin` with program, sizes and weights → ready; then requests until `end`, served as in training.

    read       tokens [rows, length] → hidden states, float32 [rows, length, width], after the final norm
    gradients  tokens [rows, length + 1], weights → gradients of the mean loss; with a mask `answers` [rows, length],
               over those targets alone
    """
    training.serve(channel, _begin)


def _begin(begin: Message) -> tuple[dict[str, JSON], training.Handlers]:
    device = str(begin.header["device"])
    unpack(begin.arrays)
    prepare_child(begin.integer("threads"), device)
    model = training.build_model(str(begin.header["program"]), sizes_in(begin), seed=0, device=device)
    training.load_model_arrays(model, begin.arrays)
    return {}, {
        "read": lambda request: ("hidden", {}, {"hidden": _hidden(model, request, begin)}),
        "gradients": lambda request: ("gradients", {}, _gradients(model, request, begin)),
    }


def _hidden(model: LanguageModel, request: Message, begin: Message) -> NDArray[np.float32]:
    device = str(begin.header["device"])
    tokens = torch.from_numpy(request.arrays["tokens"].astype(np.int64)).to(device)
    training.load_random_arrays(request.arrays)
    model.train(request.header["training"] is True)
    with torch.no_grad(), autocast(device, str(begin.header["precision"])):
        hidden, _ = model.hidden(tokens)
    states: NDArray[np.float32] = hidden.float().cpu().numpy()
    return states


def _gradients(model: LanguageModel, request: Message, begin: Message) -> dict[str, Array]:
    device, precision = str(begin.header["device"]), str(begin.header["precision"])
    training.load_model_arrays(model, request.arrays, parameters_only=True)
    training.load_random_arrays(request.arrays)
    model.train().zero_grad(set_to_none=True)
    rows = torch.from_numpy(request.arrays["tokens"].astype(np.int64)).to(device)
    targets, size = rows[:, 1:], request.integer("micro_batch")
    if "answers" in request.arrays:
        answers = torch.from_numpy(request.arrays["answers"].astype(np.bool_)).to(device)
        targets = targets.masked_fill(~answers, NOT_COUNTED)
    for part, aims in zip(torch.split(rows, size), torch.split(targets, size), strict=True):
        with autocast(device, precision):
            loss, _ = model(part[:, :-1], aims)
        torch.autograd.backward(loss * (len(part) / len(rows)))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: training.to_array(gradient) for name, gradient in gradients.items() if gradient is not None}
