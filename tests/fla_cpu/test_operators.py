"""Our operators against token-by-token loops: lengths, continued and packed sequences, causality, precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.fla_cpu.attention import chunk_linear_attn
from services.fla_cpu.decay import chunk_gla, chunk_hgrn, chunk_simple_gla
from services.fla_cpu.delta import chunk_delta_rule, chunk_gated_delta_rule
from services.fla_cpu.delta_variants import chunk_kda

torch.set_num_threads(1)
LENGTHS = (1, 5, 63, 64, 65, 130)
Outcome = tuple[Tensor, Tensor | None]


def inputs(length: int, vector_decay: bool = False, batch: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(length)
    shape = (batch, length, 3)
    return {
        "q": torch.randn(*shape, 8, dtype=torch.float64, requires_grad=True),
        "k": F.normalize(torch.randn(*shape, 8, dtype=torch.float64), dim=-1).requires_grad_(),
        "v": torch.randn(*shape, 6, dtype=torch.float64, requires_grad=True),
        "beta": torch.rand(*shape, dtype=torch.float64).requires_grad_(),
        "g": F.logsigmoid(
            torch.randn(*shape, *((8,) if vector_decay else ()), dtype=torch.float64) * 3
        ).requires_grad_(),
    }


def token_by_token(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor | None, state: Tensor | None
) -> Outcome:
    """The recurrences as their papers write them."""
    memory = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3]) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        if g is not None:
            decay = g[:, t].exp()
            memory = memory * (decay.unsqueeze(-1) if decay.dim() == 3 else decay[..., None, None])
        value = v[:, t]
        if beta is not None:
            value = beta[:, t, :, None] * (value - (memory * k[:, t].unsqueeze(-1)).sum(-2))
        memory = memory + k[:, t].unsqueeze(-1) * value.unsqueeze(-2)
        outputs.append((memory * q[:, t].unsqueeze(-1)).sum(-2) * q.shape[-1] ** -0.5)
    return torch.stack(outputs, dim=1), memory


def agree(ours: Outcome, theirs: Outcome, tensors: list[Tensor]) -> None:
    """Outputs, states and the gradients of both."""
    assert torch.allclose(ours[0], theirs[0], atol=1e-9)
    assert ours[1] is not None
    assert theirs[1] is not None
    assert torch.allclose(ours[1], theirs[1], atol=1e-9)
    weights = torch.randn_like(theirs[0]), torch.randn_like(theirs[1])
    first = torch.autograd.grad((ours[0] * weights[0]).sum() + (ours[1] * weights[1]).sum(), tensors)
    second = torch.autograd.grad((theirs[0] * weights[0]).sum() + (theirs[1] * weights[1]).sum(), tensors)
    for tensor, other in zip(first, second, strict=True):
        assert torch.allclose(tensor, other, atol=1e-8)


CASES: dict[str, tuple[Callable[..., Outcome], tuple[str, ...]]] = {
    "delta": (chunk_delta_rule, ("beta",)),
    "gated delta": (chunk_gated_delta_rule, ("g", "beta")),
    "simple gla": (chunk_simple_gla, ("g",)),
    "linear": (chunk_simple_gla, ()),
    "gla": (chunk_gla, ("g",)),
    "kda": (chunk_kda, ("g", "beta")),
}


def names_of(case: str) -> tuple[Callable[..., Outcome], list[str], bool]:
    function, extra = CASES[case]
    return function, ["q", "k", "v", *extra], case in ("gla", "kda")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_the_chunked_form_agrees_with_the_recurrence(case: str, length: int) -> None:
    """Outputs, final states and gradients, at chunk edges and odd lengths."""
    function, names, vector = names_of(case)
    arguments = inputs(length, vector)
    tensors = {name: arguments[name] for name in names}
    ours = function(**tensors, output_final_state=True)

    agree(
        ours,
        token_by_token(arguments["q"], arguments["k"], arguments["v"], tensors.get("g"), tensors.get("beta"), None),
        list(tensors.values()),
    )


@pytest.mark.parametrize("case", CASES)
def test_a_continued_sequence_equals_the_whole(case: str) -> None:
    """The state carries everything that later tokens need."""
    function, names, vector = names_of(case)
    arguments = inputs(100, vector)
    tensors = {name: arguments[name] for name in names}
    full, end = function(**tensors, output_final_state=True)
    first, middle = function(**{name: tensor[:, :37] for name, tensor in tensors.items()}, output_final_state=True)
    second, last = function(
        **{name: tensor[:, 37:] for name, tensor in tensors.items()}, initial_state=middle, output_final_state=True
    )

    assert torch.allclose(torch.cat([first, second], dim=1), full)
    assert last is not None
    assert end is not None
    assert torch.allclose(last, end)


@pytest.mark.parametrize("case", CASES)
def test_packed_sequences_do_not_see_each_other(case: str) -> None:
    """cu_seqlens: one batch row, several sequences."""
    function, names, vector = names_of(case)
    arguments = inputs(90, vector, batch=1)
    tensors = {name: arguments[name] for name in names}
    packed, states = function(**tensors, output_final_state=True, cu_seqlens=torch.tensor([0, 20, 21, 90]))
    alone = [
        function(**{name: tensor[:, start:end] for name, tensor in tensors.items()}, output_final_state=True)
        for start, end in ((0, 20), (20, 21), (21, 90))
    ]

    assert torch.allclose(packed, torch.cat([output for output, _ in alone], dim=1))
    assert states is not None
    assert torch.allclose(states, torch.cat([state for _, state in alone if state is not None]))


@pytest.mark.parametrize("case", CASES)
def test_outputs_do_not_depend_on_later_tokens(case: str) -> None:
    """Reductions may differ in the last bits; any larger difference is a leak."""
    function, names, vector = names_of(case)
    arguments = inputs(130, vector)
    tensors = {name: arguments[name].detach().float() for name in names}
    before, _ = function(**tensors)
    changed = {name: torch.cat([tensor[:, :77], tensor[:, 77:].roll(1, 0)], dim=1) for name, tensor in tensors.items()}
    after, _ = function(**changed)

    assert torch.allclose(before[:, :77], after[:, :77], atol=1e-6)
    assert not torch.allclose(before[:, 77:], after[:, 77:], atol=1e-3)


@pytest.mark.parametrize("case", ["gated delta", "simple gla", "gla", "kda"])
@pytest.mark.parametrize("decay", [-1000.0, -1.87])
def test_the_strongest_decay_neither_overflows_nor_loses_the_gradient(case: str, decay: float) -> None:
    """e^{−1000} is zero, and its inverse must never be computed; 32 · 1.87 is just below where that is avoided."""
    function, names, vector = names_of(case)
    arguments = inputs(80, vector)
    tensors = {name: arguments[name].detach().float().requires_grad_() for name in names}
    tensors["g"] = torch.full_like(tensors["g"], decay).requires_grad_()
    output, _ = function(**tensors)
    output.sum().backward()  # type: ignore[no-untyped-call]

    assert torch.isfinite(output).all()
    assert all(tensor.grad is not None and torch.isfinite(tensor.grad).all() for tensor in tensors.values())


@pytest.mark.parametrize("case", CASES)
def test_half_precision_and_autocast_are_computed_in_float32(case: str) -> None:
    """Programs cast to bf16; the result comes back in the type of the values."""
    function, names, vector = names_of(case)
    arguments = inputs(70, vector)
    half = {name: arguments[name].detach().bfloat16() for name in names}
    exact, _ = function(**{name: tensor.double() for name, tensor in half.items()})
    with torch.autocast("cpu", torch.bfloat16):
        output, state = function(**half, output_final_state=True)

    assert output.dtype == torch.bfloat16
    assert state is not None
    assert state.dtype == torch.float32
    assert torch.allclose(output.double(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("case", CASES)
def test_gradients_may_be_taken_where_autocast_is_on(case: str) -> None:
    """They come out as without it; a program may well call `backward` there."""
    function, names, vector = names_of(case)

    def gradients(everywhere: bool) -> tuple[Tensor, ...]:
        arguments = {name: tensor.detach().float().requires_grad_() for name, tensor in inputs(70, vector).items()}
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = function(**{name: arguments[name] for name in names})
            if everywhere:
                return torch.autograd.grad(output.square().sum(), [arguments[name] for name in names])
        return torch.autograd.grad(output.square().sum(), [arguments[name] for name in names])

    for inside, outside in zip(gradients(True), gradients(False), strict=True):
        assert inside.dtype == outside.dtype
        assert (inside - outside).norm() < 0.02 * outside.norm()


def test_normalised_linear_attention_weighs_values_to_one() -> None:
    """Values that are all one come out as one."""
    arguments = inputs(70)
    output, _ = chunk_linear_attn(
        arguments["q"].abs(), arguments["k"].abs(), torch.ones_like(arguments["v"]), normalize=True
    )

    assert torch.allclose(output, torch.ones_like(output))


@pytest.mark.parametrize("length", [1, 15, 16, 50])
def test_hgrn_is_its_recurrence(length: int) -> None:
    """h_t = e^{g_t} h_{t−1} + x_t."""
    torch.manual_seed(0)
    x, g = torch.randn(2, length, 5), F.logsigmoid(torch.randn(2, length, 5))
    output, state = chunk_hgrn(x, g, output_final_state=True)
    h = torch.zeros(2, 5)
    for t in range(length):
        h = g[:, t].exp() * h + x[:, t]
        assert torch.allclose(output[:, t], h, atol=1e-5)

    assert state is not None
    assert torch.allclose(state, h, atol=1e-5)


def test_mismatched_shapes_are_named() -> None:
    """A transposed tensor is the usual mistake."""
    arguments = inputs(10)

    with pytest.raises(ValueError, match="d_k"):
        chunk_delta_rule(arguments["q"], arguments["k"].transpose(1, 2), arguments["v"], arguments["beta"])
    with pytest.raises(ValueError, match="beta"):
        chunk_delta_rule(arguments["q"], arguments["k"], arguments["v"], arguments["beta"].transpose(1, 2))
