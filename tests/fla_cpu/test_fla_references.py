"""Outputs, states and gradients beside fla's own reference functions, one per operator."""

from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu import attention, decay, delta, delta_variants

torch.set_num_threads(1)
Inputs = dict[str, Tensor]
Answer = Sequence[Tensor | None]
Case = tuple[str, Callable[[Inputs], Answer], Callable[[ModuleType, Inputs], Answer]]
LENGTH = 71


def inputs(names: str) -> Inputs:
    """Leaves of two sequences, three heads (values: six), eight key and six value features."""
    torch.manual_seed(0)
    shape = (2, LENGTH, 3)
    tensors = {
        "q": torch.randn(*shape, 8),
        "k": F.normalize(torch.randn(*shape, 8), dim=-1),
        "p": F.normalize(torch.randn(*shape, 8), dim=-1),
        "v": torch.randn(*shape, 6),
        "wide": torch.randn(2, LENGTH, 6, 6),
        "beta": torch.rand(*shape),
        "wide_beta": torch.rand(2, LENGTH, 6),
        "g": F.logsigmoid(torch.randn(*shape)),
        "wide_gk": F.logsigmoid(torch.randn(2, LENGTH, 6, 8)),
        "gk": F.logsigmoid(torch.randn(*shape, 8)),
        "s0": torch.randn(2, 3, 8, 6),
        "wide_s0": torch.randn(2, 6, 8, 6),
        "z0": torch.rand(2, 1, 3, 8) * 100,
        "positive": torch.rand(*shape, 8) + 0.1,
        "erase": torch.rand(*shape, 8),
        "write": torch.rand(*shape, 6),
        "a": -F.normalize(torch.randn(*shape, 8), dim=-1),
        "b": 0.5 * F.normalize(torch.randn(*shape, 8), dim=-1),
        "x": torch.randn(2, LENGTH, 5),
        "gx": F.logsigmoid(torch.randn(2, LENGTH, 5)),
        "h0": torch.randn(2, 5),
        "sink": torch.randn(3),
        "wide_q": torch.randn(2, LENGTH, 6, 8),
        "slots": torch.randn(*shape, 5),
        "gslots": F.logsigmoid(torch.randn(*shape, 5)),
        "slot_keys": torch.randn(2, 3, 8, 5),
        "slot_values": torch.randn(2, 3, 5, 6),
        "twice_k": F.normalize(torch.randn(2, 2 * LENGTH, 3, 8), dim=-1),
        "twice_v": torch.randn(2, 2 * LENGTH, 3, 6),
        "twice_beta": torch.rand(2, 2 * LENGTH, 3),
    }
    return {name: tensors[name].requires_grad_() for name in names.split()}


def heads_first(*tensors: Tensor) -> list[Tensor]:
    return [tensor.transpose(1, 2) for tensor in tensors]


def delta_reference(module: ModuleType, t: Inputs) -> Answer:
    output, state = module.delta_rule_recurrence(*heads_first(t["q"], t["k"], t["v"], t["beta"]), t["s0"])
    return output.transpose(1, 2), state


def rwkv7_reference(module: ModuleType, t: Inputs) -> Answer:
    ordered = heads_first(t["q"], t["positive"], t["v"], t["a"], t["b"], t["gk"])
    output, state = module.dplr_recurrence(*ordered, t["s0"])
    return output.transpose(1, 2), state


def linear_ours(t: Inputs) -> Answer:
    output, states = attention.chunk_linear_attn(
        t["positive"], t["k"].abs(), t["v"], initial_state=(t["s0"], t["z0"]), output_final_state=True
    )
    assert isinstance(states, tuple)
    assert states[0] is not None
    return output, states[0], states[1]


def linear_reference(module: ModuleType, t: Inputs) -> Answer:
    output, states = module.naive_recurrent_linear_attn(
        t["positive"], t["k"].abs(), t["v"], None, (t["s0"], t["z0"]), True, True
    )
    return (output, *states)


def slots_ours(t: Inputs) -> Answer:
    states = (t["slot_keys"], t["slot_values"])
    output, last = attention.chunk_gsa(
        t["wide_q"], t["k"], t["v"], t["slots"], t.get("gslots"), None, states, True
    )  # fmt: skip
    return (output, *last)


def slots_reference(module: ModuleType, t: Inputs) -> Answer:
    states = (t["slot_keys"], t["slot_values"])
    output, last = module.naive_recurrent_gsa(
        t["wide_q"], t["k"], t["v"], t["slots"], t.get("gslots"), None, states, True
    )
    return (output, *last)


CASES: dict[str, tuple[str, Callable[[Inputs], Answer], str, Callable[[ModuleType, Inputs], Answer]]] = {
    "delta": (
        "q k v beta s0",
        lambda t: delta.chunk_delta_rule(t["q"], t["k"], t["v"], t["beta"], None, t["s0"], True),
        "delta_rule",
        delta_reference,
    ),
    "gated delta": (
        "q k v beta g s0",
        lambda t: delta.chunk_gated_delta_rule(t["q"], t["k"], t["v"], t["g"], t["beta"], 0.7, t["s0"], True),
        "gated_delta_rule",
        lambda m, t: m.naive_recurrent_gated_delta_rule(t["q"], t["k"], t["v"], t["beta"], t["g"], 0.7, t["s0"], True),
    ),
    "kda with shared keys": (
        "q k wide wide_beta wide_gk wide_s0",
        lambda t: delta.fused_recurrent_gated_delta_rule(
            t["q"], t["k"], t["wide"], None, t["wide_gk"], None, t["wide_beta"], None, t["wide_s0"], True
        ),
        "kda",
        lambda m, t: m.naive_recurrent_kda(
            t["q"], t["k"], t["wide"], t["wide_gk"], t["wide_beta"], None, t["wide_s0"], True
        ),
    ),
    "gated delta net 2": (
        "q k v gk erase write s0",
        lambda t: delta_variants.chunk_gdn2(
            t["q"], t["k"], t["v"], t["gk"], t["erase"], t["write"], None, t["s0"], True
        ),
        "gdn2",
        lambda m, t: m.naive_recurrent_gdn2(
            t["q"], t["k"], t["v"], t["gk"], t["erase"], t["write"], None, t["s0"], True
        ),
    ),
    "comba": (
        "q k v p beta g s0",
        lambda t: delta_variants.chunk_comba(t["q"], t["k"], t["v"], t["p"], t["g"], t["beta"], None, t["s0"], True),
        "comba",
        # the reference decays before it erases, unlike fla's kernels, which ours follows (see tests of the kernels)
        lambda m, t: m.naive_recurrent_comba(
            t["q"], t["k"], t["v"], t["p"] * torch.exp(-t["g"])[..., None], t["beta"], t["g"], None, t["s0"], True
        ),
    ),
    "rwkv 7": (
        "q gk positive v a b s0",
        lambda t: delta_variants.chunk_rwkv7(
            t["q"], t["gk"], t["positive"], t["v"], t["a"], t["b"], 8**-0.5, t["s0"], output_final_state=True
        ),
        "generalized_delta_rule/dplr",
        rwkv7_reference,
    ),
    "gla": (
        "q k v gk s0",
        lambda t: decay.chunk_gla(t["q"], t["k"], t["v"], t["gk"], None, t["s0"], True),
        "gla",
        lambda m, t: m.naive_recurrent_gla(t["q"], t["k"], t["v"], t["gk"], t["s0"], True),
    ),
    "simple gla": (
        "q k v g s0",
        lambda t: decay.chunk_simple_gla(t["q"], t["k"], t["v"], t["g"], None, None, t["s0"], True),
        "simple_gla",
        lambda m, t: m.naive_recurrent_simple_gla(t["q"], t["k"], t["v"], t["g"], None, t["s0"], True),
    ),
    "retention": (
        "q k v",
        lambda t: (decay.chunk_retention(t["q"], t["k"], t["v"])[0],),
        "retention",
        lambda m, t: (m.naive_retention(*heads_first(t["q"], t["k"], t["v"])).transpose(1, 2),),
    ),
    "normalised linear": ("positive k v s0 z0", linear_ours, "linear_attn", linear_reference),
    "based": (
        "q k v",
        lambda t: (attention.parallel_based(t["q"], t["k"], t["v"]),),
        "based",
        lambda m, t: (m.naive_parallel_based(*heads_first(t["q"], t["k"], t["v"])).transpose(1, 2),),
    ),
    "rebased": (
        "q k v",
        lambda t: (torch.as_tensor(attention.parallel_rebased(t["q"], t["k"], t["v"], use_normalize=False)),),
        "rebased",
        lambda m, t: (m.naive_parallel_rebased(*heads_first(t["q"], t["k"], t["v"]), None, False).transpose(1, 2),),
    ),
    "gated slots with shared keys": (
        "wide_q k v slots gslots slot_keys slot_values",
        slots_ours,
        "gsa",
        slots_reference,
    ),
    "bounded memory with shared keys": ("wide_q k v slots slot_keys slot_values", slots_ours, "gsa", slots_reference),
    "gated delta product": (
        "q twice_k twice_v g twice_beta s0",
        lambda t: delta.chunk_gated_delta_product(
            t["q"], t["twice_k"], t["twice_v"], t["g"], t["twice_beta"], 2, 0.7, t["s0"], True
        ),
        "gated_delta_product",
        lambda m, t: m.naive_recurrent_gated_delta_product(
            t["q"], t["twice_k"], t["twice_v"], t["g"], t["twice_beta"], 0.7, None, t["s0"], True, 2
        ),
    ),
    "hgrn": (
        "x gx h0",
        lambda t: decay.chunk_hgrn(t["x"], t["gx"], t["h0"], True),
        "hgrn",
        lambda m, t: m.naive_recurrent_hgrn(t["x"], t["gx"], t["h0"], True),
    ),
    "attention with all options": (
        "q k v g sink",
        lambda t: (attention.parallel_attn(t["q"], t["k"], t["v"], t["g"], 0.5, 20, sink_bias=t["sink"]),),
        "attn",
        lambda m, t: (m.naive_parallel_attn(t["q"], t["k"], t["v"], 0.5, 20, g=t["g"], sink_bias=t["sink"])[0],),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_results_agree_with_the_reference_of_fla(case: str, reference: Callable[[str], ModuleType]) -> None:
    """Outputs, final states and all gradients, from an initial state where there is one."""
    names, ours, module, theirs = CASES[case]
    tensors = inputs(names)
    first, second = ours(tensors), theirs(reference(module), tensors)
    weights = [None if output is None else torch.randn_like(output) for output in second]

    def with_gradients(outputs: Answer) -> list[Tensor]:
        present = [output for output in outputs if output is not None]
        present_weights = [weight for weight in weights if weight is not None]
        total = torch.stack(
            [(output * weight).sum() for output, weight in zip(present, present_weights, strict=True)]
        ).sum()
        return [*present, *torch.autograd.grad(total, list(tensors.values()))]

    for tensor, other in zip(with_gradients(first), with_gradients(second), strict=True):
        assert torch.allclose(tensor, other, atol=3e-5 * max(1.0, other.abs().max().item()))
