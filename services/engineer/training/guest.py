"""The training child: carries out the host's orders, one at a time, and knows nothing else.

begin    program, sizes, plan, seed → ready: names of the parameters, FLOPs
train    tokens [steps, batch, context + 1] → metrics: loss and gradient norm of each step; with answers
         [steps, batch, context] only the targets marked there count
weights  → weights: parameters and buffers
save     → saved: everything that the next step depends on
restore  what `saved` held → restored
end      → the child returns
Whatever a candidate raises goes back as `failed` with its traceback, and ends the child.
"""

import traceback
from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from services.engineer.program import prepare_guest
from services.engineer.training.build import build_model
from services.engineer.training.cost import flops_per_token
from services.engineer.training.ports import JSON, Array, Channel, Message
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.state import all_arrays, load_all_arrays, model_arrays
from services.engineer.training.trainer import Plan, Trainer

Answer = tuple[str, dict[str, JSON], dict[str, Array]]


def run(channel: Channel) -> None:
    """The job: begin, then orders until `end`."""
    begin = channel.receive()
    try:
        session = Session(begin)
        channel.send("ready", session.facts(), {})
        while (order := channel.receive()).kind != "end":
            channel.send(*session.answer(order))
    except Exception as error:  # noqa: BLE001 - a stranger's code may raise anything; the host gets all of it
        channel.send("failed", failure(error), {})


def failure(error: Exception) -> dict[str, JSON]:
    """An exception as the host reports it: its type, message and the last part of its traceback."""
    trace = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "message": str(error)[:2000], "traceback": trace[-8000:]}


class Session:
    """One model in training."""

    def __init__(self, begin: Message) -> None:
        header = begin.header
        self.sizes = ModelSizes.from_message(begin)
        self.device = str(header["device"])
        prepare_guest(int(cast("int", header["threads"])), self.device)
        self.program, self.context = str(header["program"]), int(cast("int", header["context"]))
        model = build_model(self.program, self.sizes, int(cast("int", header["seed"])), self.device)
        self.trainer = Trainer(model, Plan(**header["plan"]), self.device)  # type: ignore[arg-type]
        self.step = 0

    def facts(self) -> dict[str, JSON]:
        """What is known before the first step."""
        plan = self.trainer.plan
        return {
            "parameters": [name for name, _ in self.trainer.model.named_parameters()],
            "flops_per_token": flops_per_token(self.program, self.sizes, self.context, plan.precision, self.device),
        }

    def answer(self, order: Message) -> Answer:
        """Carry out one order."""
        answers: dict[str, Callable[[Message], Answer]] = {
            "train": self._train,
            "weights": lambda _: ("weights", {"step": self.step}, model_arrays(self.trainer.model)),
            "save": self._save,
            "restore": self._restore,
        }
        return answers[order.kind](order)

    def _train(self, order: Message) -> Answer:
        rows = torch.from_numpy(order.arrays["tokens"].astype(np.int64))
        reports = []
        answers = order.arrays.get("answers")
        for place, batch in enumerate(rows):
            counted = None if answers is None else torch.from_numpy(answers[place].astype(np.bool_))
            reports.append(self.trainer.step(self.step, batch, counted))
            self.step += 1
        arrays: dict[str, Array] = {
            "loss": np.array([report.loss for report in reports]),
            "grad_norm": np.array([report.grad_norm for report in reports]),
            "auxiliary": np.array([report.auxiliary for report in reports if report.auxiliary is not None]),
        }
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        header: dict[str, JSON] = {"step": self.step, "device_memory": peak, "compiled": self.trainer.compiled}
        return "metrics", header, arrays

    def _save(self, _: Message) -> Answer:
        return "saved", {"step": self.step}, all_arrays(self.trainer.model, self.trainer.optimiser)

    def _restore(self, order: Message) -> Answer:
        load_all_arrays(self.trainer.model, self.trainer.optimiser, order.arrays)
        self.step = int(cast("int", order.header["step"]))
        return "restored", {"step": self.step}, {}
