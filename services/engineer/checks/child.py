"""The check's job in the sandboxed child: builds mixers and runs them on inputs from the host.

Candidate code runs in this process. The host bases its verdicts on the arrays returned for its own inputs; results of
`child_probes` can only reject a program.

begin       program, settings → ready
probe       the name of one of `child_probes` → finding
parameters  layer, offset → the layer's parameters from that offset on, as many as fit a message; whether those are all
forward     state, layers, arithmetic, inputs [batch, length, width] and, for gradients, a direction → output, gradient;
            several layers are stacked as residual blocks
place       as forward, and the length of a prefix → the line whose results for the prefix depend on what follows it;
            without a length → the line that draws random numbers
end         → the child returns
An exception of the program is returned as `raised`; the child then waits for the next request.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import cast
from weakref import WeakSet, WeakValueDictionary

import numpy as np
import torch
import torch.utils.checkpoint
from numpy.typing import NDArray
from torch import nn

from services.engineer.checks.child_probes import run_probe
from services.engineer.checks.place import Draws, line_of_length
from services.engineer.checks.remote import State
from services.engineer.checks.report import JSON, ArithmeticName, CheckSettings
from services.engineer.checks.subject import (
    ARITHMETICS,
    SINGLE,
    Subject,
    checkpoint_in_modes,
    output_of,
    randomise,
    seeded,
)
from services.engineer.construction import MixerSizes, block_layout, construct, mixer_of_layer
from services.engineer.program import execute, explain, prepare_child, traceback_tail
from services.sandbox.wire import Arrays, Channel, Message

Answer = tuple[str, dict[str, JSON], Arrays]
MESSAGE_BYTES, MESSAGE_ARRAYS = 256 << 20, 4096
_NOTHING = nullcontext()


def run(channel: Channel) -> None:
    """Receive one program with its settings, then serve requests until `end`."""
    begin = channel.receive()
    settings = CheckSettings.from_json(cast("dict[str, object]", begin.header["settings"]))
    prepare_child()
    torch.utils.checkpoint.checkpoint = checkpoint_in_modes
    subject = Subject(partial(build, str(begin.header["program"]), settings.whole_model, settings.layers), settings)
    channel.send("ready")
    handlers: dict[str, Callable[[Subject, Message], Answer]] = {
        "probe": _probe,
        "parameters": _parameters,
        "forward": _forward,
        "place": _place,
    }
    while (request := channel.receive()).kind != "end":
        try:
            channel.send(*handlers[request.kind](subject, request))
        except Exception as error:  # noqa: BLE001 - candidate code may raise anything; the host decides what it means
            channel.send("raised", {"message": explain(error)[:800], "traceback": traceback_tail(error)})


def build(
    program: str, whole_model: bool, layers: int, width: int, heads: int, layer: int, arithmetic: ArithmeticName
) -> nn.Module:
    """The program's mixer at these sizes.

    The program is executed anew for each arithmetic: tensors that it keeps in its module, a class or a cache have the
    precision of the forward that made them. Layers that share parameters get those of a mixer that was built, and
    perhaps changed, for another forward. In its place, such a layer is built after those before it, in a new module.
    """
    mixer_at = partial(_mixer, program, whole_model, layers, width, heads)
    random = torch.get_rng_state()
    mixer = mixer_at(layer, arithmetic)
    if not _MIXERS and any(_PARAMETERS.get(id(parameter)) is parameter for parameter in mixer.parameters()):
        with seeded(0):
            execute(program, arithmetic, anew=True)
        for index in range(layer + 1):
            torch.set_rng_state(random)
            mixer = mixer_at(index, arithmetic)
    _MIXERS.add(mixer)
    _PARAMETERS.update((id(parameter), parameter) for parameter in mixer.parameters())
    return mixer


_MIXERS = WeakSet[nn.Module]()
"""The mixers in use: several if they are stacked, and may share parameters."""
_PARAMETERS = WeakValueDictionary[int, nn.Parameter]()
"""The parameters of all mixers that were built, by their identity."""


def _mixer(
    program: str, whole_model: bool, layers: int, width: int, heads: int, layer: int, arithmetic: ArithmeticName
) -> nn.Module:
    with seeded(0):
        module = execute(program, arithmetic)
    if whole_model:
        block_layout(module)  # raises for an unknown layout
    sizes = MixerSizes(width, heads, layer, whole_model, layers)
    return construct(mixer_of_layer(module, program, sizes), sizes)


def _probe(subject: Subject, request: Message) -> Answer:
    layer = request.integer("layer")
    of_layer = subject if layer == subject.layer else replace(subject, layer=layer)
    return "finding", asdict(run_probe(str(request.header["probe"]), of_layer)), {}


def _parameters(subject: Subject, request: Message) -> Answer:
    # A list around the mixer finds parameters that its own overridden methods leave out.
    model = nn.ModuleList([subject.at_scale(request.integer("layer"), SINGLE)])
    remaining = list(model.named_parameters())[request.integer("offset") :]
    arrays, size = dict[str, NDArray[np.float32]](), 0
    for name, value in remaining:
        size += value.numel() * 8
        if arrays and (size > MESSAGE_BYTES or len(arrays) == MESSAGE_ARRAYS):
            break
        arrays[name] = (torch.view_as_real(value) if value.is_complex() else value).detach().float().numpy()
    return "parameters", {"last": len(arrays) == len(remaining)}, arrays


def _forward(subject: Subject, request: Message, within: AbstractContextManager[object] = _NOTHING) -> Answer:
    """One forward `within` a context of newly built mixers, with the host's seed."""
    header, seed = request.header, request.integer("seed")
    arithmetic = ARITHMETICS[str(header["arithmetic"])]
    state = State(header["randomised"] is True, header["training"] is True)
    mixers = [subject.at_scale(layer, arithmetic) for layer in cast("list[int]", header["layers"])]
    for mixer in mixers:
        if state.randomised:
            randomise(mixer, seed)
        mixer.train(state.training)
    direction = request.arrays.get("direction")
    inputs = torch.from_numpy(request.arrays["inputs"].copy()).to(arithmetic.dtype)
    inputs.requires_grad_(direction is not None)
    with torch.set_grad_enabled(direction is not None), seeded(seed), arithmetic.active(), within:
        output = output_of(mixers[0](inputs)) if len(mixers) == 1 else _stacked(mixers, inputs)
    arrays = {"output": output.detach().to(arithmetic.dtype).numpy()}
    if direction is not None:
        weights = torch.from_numpy(direction.copy()).to(output.dtype)
        loss = torch.where((weights != 0) & output.isfinite(), output * weights, 0.0).sum()
        if not loss.requires_grad:
            raise RuntimeError(
                "the output has no gradient: remove torch.no_grad() and torch.inference_mode() from forward"
            )
        arithmetic.backward(loss)
        arrays["gradient"] = (torch.zeros_like(inputs) if inputs.grad is None else inputs.grad).numpy()
    return "output", {}, arrays


def _place(subject: Subject, request: Message) -> Answer:
    if "part" not in request.header:
        with suppress(Exception):
            _forward(subject, request, draws := Draws())
        return "place", {"line": draws.first_line}, {}

    def forward(inputs: torch.Tensor) -> object:
        return _forward(subject, replace(request, arrays={"inputs": inputs.numpy()}))

    tolerance = ARITHMETICS[str(request.header["arithmetic"])].tolerance
    inputs = torch.from_numpy(request.arrays["inputs"])
    return "place", {"line": line_of_length(forward, inputs, request.integer("part"), tolerance)}, {}


def _stacked(mixers: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for mixer in mixers:
        output = output_of(mixer(nn.functional.rms_norm(x, x.shape[-1:])))
        x = x + (output.to(x.dtype) if output.dtype == torch.float64 else output)  # as in training
    return x
