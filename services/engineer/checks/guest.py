"""The check's job in the sandboxed child: builds mixers and runs them on what the host sends.

Candidate code runs in this process. What the host decides by are the arrays that come back for inputs of its own
choice; what this process claims of itself only counts against the program.

begin       program, settings → ready
claim       the name of a probe of `claims` → finding
parameters  layer, place → the layer's parameters from that place on, as many as a message takes; whether those are all
forward     state, layers, arithmetic, inputs [batch, length, width] and, for gradients, a direction → output, gradient;
            several layers are stacked as in the model, each adding to its input
end         → the child returns
What the program raises comes back as `raised`, and the next order is taken.
"""

import traceback
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from services.engineer.checks.claims import claim
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, CheckSettings
from services.engineer.checks.subject import ARITHMETICS, Subject, output_of, randomise, seeded
from services.engineer.program import MixerSizes, block_layout, execute, explained, load_mixer, prepare_guest
from services.sandbox.wire import Arrays, Channel, Message

Answer = tuple[str, dict[str, JSON], Arrays]
SENT_BYTES = 256 << 20


def run(channel: Channel) -> None:
    """Receives one program with its settings, then carries out orders until `end`."""
    begin = channel.receive()
    settings = CheckSettings.from_json(cast("dict[str, object]", begin.header["settings"]))
    prepare_guest()
    subject = Subject(partial(build, str(begin.header["program"]), settings.whole_model), settings)
    channel.send("ready")
    orders: dict[str, Callable[[Subject, Message], Answer]] = {
        "claim": _claim,
        "parameters": _parameters,
        "forward": _forward,
    }
    while (order := channel.receive()).kind != "end":
        try:
            channel.send(*orders[order.kind](subject, order))
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the host decides what it means
            tail = "".join(traceback.format_exception(error))[-2000:]
            channel.send("raised", {"message": explained(error)[:800], "traceback": tail})


def build(program: str, whole_model: bool, width: int, heads: int, layer: int) -> nn.Module:
    """The program's mixer at these sizes."""
    if whole_model:
        block_layout(execute(program))  # raises for one that there is not
    return load_mixer(program, MixerSizes(width, heads, layer, whole_model))


def _claim(subject: Subject, order: Message) -> Answer:
    return "finding", claim(str(order.header["probe"]), subject).to_json(), {}


def _parameters(subject: Subject, order: Message) -> Answer:
    model = nn.ModuleList([subject.at_scale(_number(order, "layer"))])  # finds what a mixer's own methods leave out
    named = list(model.named_parameters())[_number(order, "place") :]
    sent: dict[str, NDArray[np.float32]] = {}
    for name, value in named:
        if sent and sum(array.nbytes for array in sent.values()) + value.numel() * 4 > SENT_BYTES:
            break
        sent[name] = value.detach().float().numpy()
    return "parameters", {"last": len(sent) == len(named)}, sent


def _forward(subject: Subject, order: Message) -> Answer:
    """One forward of mixers that were never called before, with the host's seed."""
    header, seed = order.header, _number(order, "seed")
    arithmetic = ARITHMETICS[str(header["arithmetic"])]
    state = State(header["randomised"] is True, header["training"] is True)
    mixers = [arithmetic.place(subject.at_scale(layer)) for layer in cast("list[int]", header["layers"])]
    for mixer in mixers:
        if state.randomised:
            randomise(mixer, seed)
        mixer.train(state.training)
    direction = order.arrays.get("direction")
    inputs = torch.from_numpy(order.arrays["inputs"].copy()).to(arithmetic.dtype)
    inputs.requires_grad_(direction is not None)
    with torch.set_grad_enabled(direction is not None), seeded(seed), arithmetic.active():
        output = output_of(mixers[0](inputs)) if len(mixers) == 1 else _stacked(mixers, inputs)
    answer = {"output": output.detach().to(arithmetic.dtype).numpy()}
    if direction is not None:
        wanted = torch.from_numpy(direction.copy()).to(output.dtype)
        loss = torch.where((wanted != 0) & output.isfinite(), output * wanted, 0.0).sum()
        (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
        answer["gradient"] = (torch.zeros_like(inputs) if gradient is None else gradient).detach().numpy()
    return "output", {}, answer


def _stacked(mixers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for mixer in mixers:
        x = x + output_of(mixer(nn.functional.rms_norm(x, x.shape[-1:])))
    return x


def _number(order: Message, name: str) -> int:
    return int(cast("int", order.header[name]))
