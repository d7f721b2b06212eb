"""Operators beside loops over tokens in double precision: lengths, states, packed sequences and gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu import attention, decay, delta, delta_variants
from services.fla_cpu.names import OPERATORS
from services.fla_cpu.shapes import MILD, Memory, run

torch.set_num_threads(1)
Inputs = dict[str, Tensor]
Outcome = tuple[Tensor, tuple[Tensor, ...]]
LENGTHS = (1, 31, 64, 77)
HEADS, KEYS, VALUES, SLOTS, STEPS = 2, 4, 3, 6, 3


def inputs(names: str, length: int, batch: int = 2, strength: float = 1.0) -> Inputs:
    """Leaves by name; log decays g…, rates in (0, 1) and unit keys where an operator needs them."""
    generator = torch.Generator().manual_seed(length)

    def noise(*features: int, tokens: int = length) -> Tensor:
        return torch.randn(batch, tokens, HEADS, *features, generator=generator, dtype=torch.float64)

    tensors = {
        "q": noise(KEYS),
        "k": F.normalize(noise(KEYS), dim=-1),
        "v": noise(VALUES),
        "s": noise(SLOTS) * strength,
        "gs": F.logsigmoid(noise(SLOTS)) * strength,
        "gk": F.logsigmoid(noise(KEYS)) * strength,
        "gv": F.logsigmoid(noise(VALUES)) * strength,
        "g": F.logsigmoid(noise()),
        "raw": noise(KEYS),
        "beta": noise().sigmoid(),
        "rate": noise(KEYS).sigmoid(),
        "a": -F.normalize(noise(KEYS), dim=-1),
        "b": 0.5 * F.normalize(noise(KEYS), dim=-1),
        "p": F.normalize(noise(KEYS), dim=-1),
        "w": noise(VALUES).sigmoid(),
        "ks": F.normalize(noise(KEYS, tokens=STEPS * length), dim=-1),
        "vs": noise(VALUES, tokens=STEPS * length),
        "betas": noise(tokens=STEPS * length).sigmoid(),
        "u": noise(KEYS)[0, 0],
        "A": noise(tokens=1)[0, 0],
        "bias": noise(KEYS, tokens=1)[0, 0].flatten(),
    }
    return {name: tensors[name].requires_grad_() for name in names.split()}


@dataclass(frozen=True)
class Case:
    """An operator: its inputs, the shapes of its states for one sequence, a call, and one step of its recurrence."""

    names: str
    states: tuple[tuple[int, ...], ...]
    call: Callable[[Inputs, Sequence[Tensor] | None, Tensor | None], tuple[Tensor, object]]
    step: Callable[[Inputs, list[Tensor]], tuple[Tensor, list[Tensor]]]


def write(k: Tensor, v: Tensor) -> Tensor:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def read(q: Tensor, state: Tensor) -> Tensor:
    return (q.unsqueeze(-1) * state).sum(-2)


def first(states: Sequence[Tensor] | None) -> Tensor | None:
    return None if states is None else states[0]


def slots(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    keys = states[0] * t["gs"].exp().unsqueeze(-2) + write(t["k"], t["s"])
    values = states[1] * t["gs"].exp().unsqueeze(-1) + write(t["s"], t["v"])
    return read(read(t["q"] * KEYS**-0.5, keys).softmax(-1), values), [keys, values]


def softmax_over_time(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Each key feature's mean of the values, weighted by e^k, and the sum of its weights."""
    total = states[1][:, 0] + t["k"].exp()
    memory = (states[0] * states[1][:, 0].unsqueeze(-1) + write(t["k"].exp(), t["v"])) / total.unsqueeze(-1)
    return read(t["q"] * KEYS**-0.5, memory), [memory, total.unsqueeze(1)]


def lightnet(t: Inputs, states: Sequence[Tensor] | None, edges: Tensor | None) -> tuple[Tensor, object]:
    before = None if states is None else (states[0], states[1].log())
    output, last = attention.chunk_lightnet(t["q"], t["k"], t["v"], None, before, True, cu_seqlens=edges)
    assert last[0] is not None
    return output, (last[0], last[1].exp())


def bonus(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    update = write(t["k"], t["v"])
    output = read(t["q"] * KEYS**-0.5, states[0] + t["u"].unsqueeze(-1) * update)
    return output, [states[0] * t["gk"].exp().unsqueeze(-1) + update]


def low_rank(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    kept = states[0] * t["gk"].exp().unsqueeze(-1) if "gk" in t else states[0]
    state = kept + write(t["b"], read(t["a"], states[0])) + write(t["k"], t["v"])
    return read(t["q"] * KEYS**-0.5, state), [state]


def rwkv7(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    output, after = low_rank({**t, "a": -t["p"], "b": t["p"] * t["rate"]}, states)
    return output * KEYS**0.5, after


def erase(state: Tensor, p: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    return state + write(k, beta.unsqueeze(-1) * (v - read(p, state)))


def comba(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What is erased is read before the decay."""
    decayed = states[0] * t["g"].exp()[..., None, None]
    state = decayed + write(t["k"], t["beta"].unsqueeze(-1) * (t["v"] - read(t["p"], states[0])))
    return read(t["q"] * KEYS**-0.5, state), [state]


def product(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    state = states[0] * t["g"].exp()[..., None, None]
    for step in range(STEPS):
        state = erase(state, t["ks"][:, step], t["ks"][:, step], t["vs"][:, step], t["betas"][:, step])
    return read(t["q"] * KEYS**-0.5, state), [state]


def kda(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    g = -t["A"].exp().unsqueeze(-1) * F.softplus(t["raw"] + t["bias"].reshape(HEADS, KEYS))
    state = erase(states[0] * g.exp().unsqueeze(-1), t["k"], t["k"], t["v"], t["beta"])
    return read(t["q"] * KEYS**-0.5, state), [state]


def gdn2(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    g = -2.0 * torch.sigmoid(t["A"].exp().unsqueeze(-1) * t["raw"])
    state = states[0] * g.exp().unsqueeze(-1)
    state = state + write(t["k"], t["w"] * t["v"] - read(t["rate"] * t["k"], state))
    return read(t["q"] * KEYS**-0.5, state), [state]


def values_decay(t: Inputs, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    state = states[0] * t["gv"].exp().unsqueeze(-2) + write(t["k"], t["v"])
    return read(t["q"] * KEYS**-0.5, state), [state]


ONE = ((HEADS, KEYS, VALUES),)
RECURRENT_GSA = cast("Callable[..., tuple[Tensor, object]]", OPERATORS["gsa"]["fused_recurrent_gsa"])
CASES = {
    "gated slots": Case(
        "q k v s gs",
        ((HEADS, KEYS, SLOTS), (HEADS, SLOTS, VALUES)),
        lambda t, s, e: attention.chunk_gsa(
            t["q"], t["k"], t["v"], t["s"], t["gs"], None, None if s is None else (s[0], s[1]), True, cu_seqlens=e
        ),
        slots,
    ),
    "gated slots, recurrent": Case(
        "q k v s gs",
        ((HEADS, KEYS, SLOTS), (HEADS, SLOTS, VALUES)),
        lambda t, s, e: RECURRENT_GSA(
            t["q"], t["k"], t["v"], t["s"], t["gs"], None, None if s is None else (s[0], s[1]), True, cu_seqlens=e
        ),
        slots,
    ),
    "lightnet": Case("q k v", ((HEADS, KEYS, VALUES), (1, HEADS, KEYS)), lightnet, softmax_over_time),
    "rwkv 6": Case(
        "q k v gk u",
        ONE,
        lambda t, s, e: decay.chunk_rwkv6(t["q"], t["k"], t["v"], t["gk"], t["u"], None, first(s), True, e),
        bonus,
    ),
    "values decay": Case(
        "q k v gv",
        ONE,
        lambda t, s, e: run(
            decay.chunkwise_values, t["q"], (t["k"], t["v"], t["gv"]), t["v"], None, Memory(first(s), True, e)
        ),
        values_decay,
    ),
    "diagonal and low rank": Case(
        "q k v a b gk",
        ONE,
        lambda t, s, e: delta_variants.chunk_dplr_delta_rule(
            t["q"], t["k"], t["v"], t["a"], t["b"], t["gk"], None, first(s), True, e, safe_gate=True, chunk_size=64
        ),
        low_rank,
    ),
    "identity and low rank": Case(
        "q k v a b",
        ONE,
        lambda t, s, e: delta_variants.chunk_iplr_delta_rule(
            t["q"], t["k"], t["v"], t["a"], t["b"], None, first(s), True, e
        ),
        low_rank,
    ),
    "rwkv 7, recurrent": Case(
        "q k v p rate gk",
        ONE,
        lambda t, s, e: delta_variants.fused_mul_recurrent_rwkv7(
            t["q"], t["gk"], t["k"], t["v"], t["p"], t["rate"], 1.0, first(s), True, cu_seqlens=e
        ),
        rwkv7,
    ),
    "comba, recurrent": Case(
        "q k v p g beta",
        ONE,
        lambda t, s, e: delta_variants.fused_recurrent_comba(
            t["q"], t["k"], t["p"], t["v"], t["g"], t["beta"], None, first(s), True, cu_seqlens=e
        ),
        comba,
    ),
    "gated delta product": Case(
        "q ks vs g betas",
        ONE,
        lambda t, s, e: delta.chunk_gated_delta_product(
            t["q"], t["ks"], t["vs"], t["g"], t["betas"], STEPS, None, first(s), True, cu_seqlens=e
        ),
        product,
    ),
    "kda with its gate": Case(
        "q k v raw beta A bias",
        ONE,
        lambda t, s, e: delta_variants.fused_recurrent_kda(
            t["q"], t["k"], t["v"], t["raw"], t["beta"], t["A"], t["bias"], None, first(s), True,
            use_gate_in_kernel=True, cu_seqlens=e,
        ),
        kda,
    ),
    "gated delta net 2 with a bounded gate": Case(
        "q k v raw rate w A",
        ONE,
        lambda t, s, e: delta_variants.fused_recurrent_gdn2(
            t["q"], t["k"], t["v"], t["raw"], t["rate"], t["w"], t["A"], None, None, first(s), True,
            use_gate_in_kernel=True, lower_bound=-2.0, cu_seqlens=e,
        ),
        gdn2,
    ),
}  # fmt: skip
WHOLE = ("u", "A", "bias")
"""Parameters, which have no token dimension."""


def part(tensors: Inputs, start: int, end: int) -> Inputs:
    """The tokens from `start` to `end`."""
    return {
        name: tensor if name in WHOLE else tensor[:, start * tokens : end * tokens]
        for name, tensor in tensors.items()
        for tokens in [STEPS if name in ("ks", "vs", "betas") else 1]
    }


def loop(case: Case, tensors: Inputs, states: Sequence[Tensor]) -> Outcome:
    """The recurrence, token by token."""
    current, outputs = list(states), []
    for t in range(tensors["q"].shape[1]):
        token = part(tensors, t, t + 1)
        token = {name: x if name in WHOLE or name in ("ks", "vs", "betas") else x[:, 0] for name, x in token.items()}
        output, current = case.step(token, current)
        outputs.append(output)
    return torch.stack(outputs, dim=1), tuple(current)


def start(case: Case, sequences: int) -> list[Tensor]:
    """Positive initial states: a sum of exponentials is."""
    torch.manual_seed(3)
    return [(torch.rand(sequences, *shape, dtype=torch.float64) + 0.5).requires_grad_() for shape in case.states]


def called(case: Case, tensors: Inputs, states: Sequence[Tensor] | None, edges: Tensor | None = None) -> Outcome:
    output, last = case.call(tensors, states, edges)
    ends = last if isinstance(last, tuple) else (last,)
    assert all(isinstance(end, Tensor) for end in ends)
    return output, ends


def agree(ours: Outcome, theirs: Outcome, leaves: Sequence[Tensor]) -> None:
    """Outputs, final states and gradients."""
    pairs = list(zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True))
    weights = [torch.randn_like(other) for _, other in pairs]
    for tensor, other in pairs:
        assert torch.allclose(tensor, other, atol=1e-9)
    totals = [torch.stack([(pair[side] * w).sum() for pair, w in zip(pairs, weights, strict=True)]) for side in (0, 1)]
    for tensor, other in zip(*(torch.autograd.grad(total.sum(), list(leaves)) for total in totals), strict=True):
        assert torch.allclose(tensor, other, atol=1e-8)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_its_recurrence_from_any_state(name: str, length: int) -> None:
    """Outputs, final states, and the gradients of inputs and initial states."""
    case = CASES[name]
    tensors, states = inputs(case.names, length), start(case, 2)

    agree(called(case, tensors, states), loop(case, tensors, states), [*tensors.values(), *states])


@pytest.mark.parametrize("name", CASES)
def test_a_sequence_without_a_state_starts_at_zero(name: str) -> None:
    """As in every layer while it is trained."""
    case = CASES[name]
    tensors, zeros = inputs(case.names, 40), [torch.zeros_like(state) for state in start(case, 2)]

    agree(called(case, tensors, None), loop(case, tensors, zeros), list(tensors.values()))


@pytest.mark.parametrize("name", CASES)
def test_packed_sequences_have_their_own_states(name: str) -> None:
    """cu_seqlens counts tokens, also where an operator takes several steps per token."""
    case = CASES[name]
    tensors, states = inputs(case.names, 70, batch=1), start(case, 3)
    edges = [(0, 20), (20, 21), (21, 70)]
    alone = [
        called(case, part(tensors, begin, end), [state[index : index + 1] for state in states])
        for index, (begin, end) in enumerate(edges)
    ]
    together = torch.cat([output for output, _ in alone], dim=1)
    ends = tuple(torch.cat(parts) for parts in zip(*(last for _, last in alone), strict=True))

    packed = called(case, tensors, states, torch.tensor([0, 20, 21, 70]))
    agree(packed, (together, ends), [*tensors.values(), *states])


@pytest.mark.parametrize("name", CASES)
def test_an_empty_packed_sequence_keeps_its_state(name: str) -> None:
    """As in fla, whose users pad cu_seqlens with empty sequences."""
    case = CASES[name]
    tensors, states = inputs(case.names, 30, batch=1), start(case, 5)
    full = called(case, tensors, [state[[1, 3]] for state in states], torch.tensor([0, 20, 30]))
    ends = (torch.cat([s[:1], e[:1], s[2:3], e[1:], s[4:]]) for s, e in zip(states, full[1], strict=True))

    packed = called(case, tensors, states, torch.tensor([0, 0, 20, 20, 30, 30]))
    agree(packed, (full[0], tuple(ends)), [*tensors.values(), *states])


@pytest.mark.parametrize("name", ["gated slots", "rwkv 6", "values decay"])
def test_strong_decays_are_exact_where_their_inverse_would_overflow(name: str) -> None:
    """Then a chunk is halved instead of being scaled as a whole."""
    case = CASES[name]
    tensors, states = inputs(case.names, 50, strength=20.0), start(case, 2)
    strongest = next(tensor for key, tensor in tensors.items() if key.startswith("g"))
    assert strongest.cumsum(1).abs().amax() > MILD

    agree(called(case, tensors, states), loop(case, tensors, states), [*tensors.values(), *states])
