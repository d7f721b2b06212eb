"""Options of fla's operators: implemented as in fla, or refused by name, never ignored."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from services.engineer.checks.metering import Meter
from services.fla_cpu import attention, decay, delta, delta_variants
from services.fla_cpu.names import OPERATORS

torch.set_num_threads(1)
Operator = Callable[..., tuple[Tensor, Tensor | None]]
RECURRENT_GLA = cast("Operator", OPERATORS["simple_gla"]["fused_recurrent_simple_gla"])
RECURRENT_GSA = cast("Operator", OPERATORS["gsa"]["fused_recurrent_gsa"])


def heads(*features: int, length: int = 40, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(1, length, 2, *((size,) if size else ()), dtype=dtype) * 0.5 for size in features]


def test_an_option_that_would_change_the_result_is_refused_by_name() -> None:
    """An ignored option would silently give a wrong result."""
    q, k, v, g = heads(4, 4, 4, 0)

    with pytest.raises(TypeError, match="reverse"):
        RECURRENT_GLA(q, k, v, g, reverse=True)
    with pytest.raises(TypeError, match="head_first was removed from fla; leave it out"):
        delta.chunk_delta_rule(q, k, v, g.sigmoid(), head_first=False)
    with pytest.raises(TypeError, match="output_attentions"):
        decay.parallel_retention(q, k, v, output_attentions=True)
    with pytest.raises(TypeError, match="reverse"):
        RECURRENT_GSA(q, k, v, k, reverse=True)
    with pytest.raises(TypeError, match="return_intermediate_states"):
        delta_variants.chunk_kda(q, k, v, F.logsigmoid(k), g.sigmoid(), return_intermediate_states=True)
    with pytest.raises(TypeError, match="the option gv is not available"):
        decay.fused_recurrent_gla(q, k, v, F.logsigmoid(k), gv=F.logsigmoid(v))


def test_options_that_only_tune_a_kernel_are_taken() -> None:
    """A program written for a GPU may set them."""
    q, k, v, beta = heads(4, 4, 4, 0)
    plain, _ = delta.chunk_delta_rule(q, k, v, beta.sigmoid())
    tuned, _ = delta.chunk_delta_rule(q, k, v, beta.sigmoid(), chunk_size=16, chunk_indices=None)

    assert torch.equal(plain, tuned)


def test_the_recurrent_form_of_linear_attention_does_not_normalise_by_itself() -> None:
    """The chunked form does: fla's defaults differ."""
    q, k, v = (tensor.abs() for tensor in heads(4, 4, 4))
    recurrent, _ = attention.fused_recurrent_linear_attn(q, k, v)

    assert torch.allclose(recurrent, attention.chunk_linear_attn(q, k, v, normalize=False)[0])
    assert not torch.allclose(recurrent, attention.chunk_linear_attn(q, k, v)[0])


def test_gates_and_betas_can_be_computed_inside_the_operator() -> None:
    """g = −e^{A} softplus(raw + bias), β = 2σ(logits), and unit queries and keys."""
    q, k, v, raw, logits = heads(4, 4, 4, 0, 0)
    rate, bias = torch.tensor([0.1, -0.5]), torch.tensor([0.3, 0.2])
    inside, _ = delta.chunk_gated_delta_rule(
        q, k, v, raw, logits,
        use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, A_log=rate, dt_bias=bias,
        use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True,
    )  # fmt: skip
    g, beta = -rate.exp() * F.softplus(raw + bias), 2 * torch.sigmoid(logits)
    outside, _ = delta.chunk_gated_delta_rule(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, g, beta)

    assert torch.allclose(inside, outside, atol=1e-4)


@pytest.mark.parametrize("operator", [delta.chunk_gated_delta_rule, decay.chunk_simple_gla, RECURRENT_GLA])
def test_states_can_have_the_values_first(operator: Operator) -> None:
    """Given and returned as [b, h, d_v, d_k]."""
    q, k, v, g = heads(4, 4, 3, 0)
    state = torch.randn(1, 2, 4, 3)
    output, last = operator(q, k, v, F.logsigmoid(g), initial_state=state, output_final_state=True)
    other, turned = operator(
        q, k, v, F.logsigmoid(g),
        initial_state=state.transpose(-1, -2), output_final_state=True, state_v_first=True,
    )  # fmt: skip
    assert last is not None
    assert turned is not None

    assert torch.equal(output, other)
    assert torch.equal(last, turned.transpose(-1, -2))


def test_a_state_or_boundaries_that_do_not_fit_are_named() -> None:
    """Broadcasting would give a wrong answer."""
    q, k, v = heads(4, 4, 3)

    with pytest.raises(ValueError, match="initial_state"):
        decay.chunk_simple_gla(q, k, v, initial_state=torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="cu_seqlens"):
        decay.chunk_simple_gla(q, k, v, cu_seqlens=torch.tensor([0, 12]))


def test_inputs_that_do_not_fit_together_are_named() -> None:
    """Slots of other heads, steps that are not there, a bonus per token, and a gate without its rate."""
    q, k, v, g = heads(4, 4, 3, 0)

    with pytest.raises(ValueError, match="slots"):
        attention.chunk_gsa(q, k, v, k[:, :, :1])
    with pytest.raises(ValueError, match="multiple of the heads of k"):
        attention.chunk_gsa(q[:, :, [0, 1, 0]], k, v, k)
    with pytest.raises(ValueError, match="3 steps for each of the 40 tokens"):
        delta.chunk_gated_delta_product(q, k, v, g, g, 3)
    with pytest.raises(ValueError, match="u be"):
        decay.chunk_rwkv6(q, k, v, F.logsigmoid(k), k)
    with pytest.raises(ValueError, match="A_log"):
        delta_variants.fused_recurrent_kda(q, k, v, k, g, use_gate_in_kernel=True)


def test_a_gate_of_keys_has_a_bound_if_it_is_given_one() -> None:
    """lower_bound · σ(e^{A} · (g + bias)), without A for A = 0."""
    (raw,) = heads(4)
    rate, bias = torch.tensor([0.5, -0.5]), torch.arange(8.0)
    shifted = raw + bias.reshape(2, 4)

    assert torch.allclose(
        delta_variants.fused_kda_gate(raw, rate, bias, -5.0),
        -5.0 * torch.sigmoid(rate.exp().unsqueeze(-1) * shifted),
    )
    assert torch.allclose(delta_variants.fused_kda_gate(raw, None, bias, -5.0), -5.0 * torch.sigmoid(shifted))
    assert torch.allclose(
        delta_variants.fused_kda_gate(raw, rate, bias), -rate.exp().unsqueeze(-1) * F.softplus(shifted)
    )


def test_rebased_attention_can_return_its_parts() -> None:
    """The sum of values and that of weights, heads first; their quotient is the output."""
    q, k, v = heads(4, 4, 3)
    both, output = attention.parallel_rebased(q, k, v, return_both=True), attention.parallel_rebased(q, k, v)
    unscaled = attention.parallel_rebased(q / 2, k, v, use_scale=False)
    assert isinstance(output, Tensor)
    assert isinstance(unscaled, Tensor)

    assert torch.allclose((both[0] / (both[1].unsqueeze(-1) + 1e-5)).transpose(1, 2), output, atol=1e-5)
    assert torch.allclose(unscaled, output, atol=1e-5), "the scale is 1/√4"


def test_half_precision_is_computed_in_float32_under_autocast() -> None:
    """Also by the operators that do not share the code of the others."""
    q, k, v, s = heads(8, 8, 6, 5, length=70)
    operators: dict[str, Callable[..., Tensor]] = {
        "slots": lambda q, k, v, s: attention.chunk_gsa(q, k, v, s, F.logsigmoid(s))[0],
        "bounded memory": lambda q, k, v, s: attention.chunk_abc(q, k, v, s)[0],
        "based": lambda q, k, v, _s: attention.parallel_based(q, k, v),
        "lightnet": lambda q, k, v, _s: attention.chunk_lightnet(q, k, v)[0],
        "rwkv 7": lambda q, k, v, _s: delta_variants.chunk_rwkv7(q, F.logsigmoid(k), k, v, -k / 4, k / 4)[0],
        "rwkv 6": lambda q, k, v, _s: decay.chunk_rwkv6(q, k, v, F.logsigmoid(k), k[0, 0])[0],
    }
    half = [tensor.bfloat16() for tensor in (q, k, v, s)]
    for name, operator in operators.items():
        exact = operator(*(tensor.double() for tensor in half))
        with torch.autocast("cpu", torch.bfloat16):
            output = operator(*half)

        assert output.dtype == torch.bfloat16, name
        assert torch.allclose(output.double(), exact, atol=0.02, rtol=0.02), name


def test_packed_normalised_linear_attention_continues_each_sequence() -> None:
    """Both parts of the state are kept for every sequence."""
    q, k, v = (tensor.abs() for tensor in heads(4, 4, 4))
    boundaries = torch.tensor([0, 15, 15, 40])
    packed, states = attention.chunk_linear_attn(q, k, v, output_final_state=True, cu_seqlens=boundaries)
    assert isinstance(states, tuple)
    assert states[0] is not None
    again, _ = attention.chunk_linear_attn(q, k, v, initial_state=(states[0], states[1]), cu_seqlens=boundaries)
    _, state = attention.chunk_linear_attn(q[:, 15:], k[:, 15:], v[:, 15:], output_final_state=True)
    assert isinstance(state, tuple)
    assert state[0] is not None
    alone, _ = attention.chunk_linear_attn(q[:, 15:], k[:, 15:], v[:, 15:], initial_state=(state[0], state[1]))

    assert torch.allclose(packed[:, :15], attention.chunk_linear_attn(q[:, :15], k[:, :15], v[:, :15])[0], atol=1e-6)
    assert torch.allclose(again[:, 15:], alone, atol=1e-6)


def test_packed_attention_is_attention_of_each_sequence() -> None:
    """Forget gates included, and keys that several heads share."""
    q, g = torch.randn(1, 40, 4, 8), F.logsigmoid(torch.randn(1, 40, 4))
    k, v = heads(8, 8)
    packed = attention.parallel_forgetting_attn(q, k, v, g, cu_seqlens=torch.tensor([0, 15, 40]))
    alone = attention.parallel_forgetting_attn(q[:, 15:], k[:, 15:], v[:, 15:], g[:, 15:])

    assert torch.allclose(packed[:, 15:], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "window", "sink"), [(None, None, None), (0.3, 7, None), (None, None, torch.arange(4.0))]
)
def test_one_step_of_decoding_is_the_last_row_of_attention(
    scale: float | None, window: int | None, sink: Tensor | None
) -> None:
    """For each of the packed sequences; scaled gates are gates times the scale."""
    q, g = torch.randn(1, 40, 4, 8), F.logsigmoid(torch.randn(1, 40, 4))
    k, v = heads(8, 8)
    edges, last = torch.tensor([0, 15, 40]), q[:, [14, 39]]
    rows = attention.parallel_attn(q, k, v, g, scale, window, edges, sink_bias=sink)[:, [14, 39]]
    for gates, scaled in ((g, False), (g / (scale or 8**-0.5), True)):
        step = attention.attn_decoding_one_step(
            last, k, v, gates, scale, edges, scaled, window_size=window, sink_bias=sink
        )

        assert torch.allclose(step, rows, atol=1e-5)
    with pytest.raises(ValueError, match="as many sequences as there are queries"):
        attention.attn_decoding_one_step(q, k, v, cu_seqlens=edges)


CORE: dict[str, tuple[Operator, tuple[int, ...]]] = {
    "based": (lambda q, k, v: (attention.parallel_based(q, k, v), None), (2, 2, 2)),
    "slots": (
        lambda q, k, v, s, g: (attention.chunk_gsa(q, k, v, s, F.logsigmoid(g))[0], None),
        (2, 2, 2, 3, 3),
    ),
    "bounded memory": (lambda q, k, v, s: (attention.chunk_abc(q, k, v, s)[0], None), (2, 2, 2, 3)),
    "rwkv 6": (
        lambda q, k, v, g, u: decay.chunk_rwkv6(q, k, v, F.logsigmoid(g), u[0, 0], output_final_state=True),
        (2, 2, 2, 2, 2),
    ),
    "delta": (lambda q, k, v, b: delta.chunk_delta_rule(q, k, v, b.sigmoid(), output_final_state=True), (2, 2, 2, 0)),
    "gated": (
        lambda q, k, v, b, g: delta.chunk_gated_delta_rule(
            q, k, v, F.logsigmoid(g), b.sigmoid(), output_final_state=True
        ),
        (2, 2, 2, 0, 0),
    ),
    "kda": (
        lambda q, k, v, b, g: delta_variants.chunk_kda(q, k, v, F.logsigmoid(g), b.sigmoid(), output_final_state=True),
        (2, 2, 2, 0, 2),
    ),
    "simple gla": (
        lambda q, k, v, g: decay.chunk_simple_gla(q, k, v, F.logsigmoid(g), output_final_state=True),
        (2, 2, 2, 0),
    ),
    "gla": (
        lambda q, k, v, g: decay.chunk_gla(q, k, v, F.logsigmoid(g), output_final_state=True),
        (2, 2, 2, 2),
    ),
}


@pytest.mark.parametrize("name", CORE)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """Across two chunks, in double precision."""
    operator, features = CORE[name]
    tensors = [tensor.requires_grad_() for tensor in heads(*features, length=35, dtype=torch.float64)]

    def tensors_of(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for output in operator(*arguments) if output is not None)

    assert torch.autograd.gradcheck(tensors_of, tensors, fast_mode=True)


@pytest.mark.parametrize("name", CORE)
def test_training_costs_in_proportion_to_the_length(name: str) -> None:
    """Bytes of forward and backward, and the largest tensor; slices by index would make the backward quadratic."""
    operator, features = CORE[name]
    costs = []
    for length in (256, 1024):
        tensors = [tensor.requires_grad_() for tensor in heads(*(4 * size for size in features), length=length)]
        with Meter() as meter:
            operator(*tensors)[0].sum().backward()  # type: ignore[no-untyped-call]
        costs.append(meter.cost)
    short, long = costs

    assert long.bytes_moved < 4.2 * short.bytes_moved
    assert long.largest_tensor <= 4 * short.largest_tensor
    assert long.peak_memory < 4.2 * short.peak_memory
