"""Modules by the equations in their docstrings."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from services.fla_cpu import features, gates, norms, shapes
from services.fla_cpu.convolution import ShortConvolution, causal_conv1d_update, token_shift
from services.fla_cpu.layers import (
    Cache,
    get_layer_cache,
    repad_hidden_states,
    unpad_hidden_states,
    unpad_input,
    update_layer_cache,
)

torch.set_num_threads(1)


def convolution() -> tuple[ShortConvolution, Tensor]:
    torch.manual_seed(0)
    return ShortConvolution(6, 4, bias=True), torch.randn(2, 11, 6)


def test_a_short_convolution_is_the_sum_of_its_taps() -> None:
    """The last tap lies on the present token."""
    layer, x = convolution()
    assert layer.bias is not None
    past = F.pad(x, (0, 0, 3, 0))
    expected = layer.bias + sum(past[:, tap : tap + 11] * layer.weight[:, 0, tap] for tap in range(4))

    assert torch.allclose(layer(x)[0], F.silu(expected), atol=1e-6)


def test_a_short_convolution_continues_from_its_cache() -> None:
    """In parts, and token by token, where the cache is changed in place."""
    layer, x = convolution()
    full, end = layer(x, output_final_state=True)
    first, cache = layer(x[:, :2], output_final_state=True)
    second, state = layer(x[:, 2:7], cache=cache, output_final_state=True)
    with torch.no_grad():
        rest = [layer(x[:, t : t + 1], cache=state, output_final_state=True) for t in range(7, 11)]

    assert torch.allclose(torch.cat([first, second, *(step for step, _ in rest)], dim=1), full, atol=1e-6)
    assert torch.allclose(state, end)
    assert torch.equal(cache, layer(x[:, :2], output_final_state=True)[1]), "only one token changes a cache"


def test_one_token_of_each_sequence_updates_a_cache_in_place() -> None:
    """Side by side or end to end, as in decoding."""
    layer, x = convolution()
    full, end = layer(x, output_final_state=True)
    _, cache = layer(x[:, :10], output_final_state=True)
    packed = cache.clone()
    weight, bias = layer.weight.squeeze(1), layer.bias
    apart, state = causal_conv1d_update(x[:, 10:], cache, None, weight, bias, "silu")
    together, _ = causal_conv1d_update(x[:, 10].unsqueeze(0), packed, None, weight, bias, "silu")

    assert torch.allclose(apart, full[:, 10:], atol=1e-6)
    assert torch.allclose(together[0], full[:, 10], atol=1e-6)
    assert state is cache
    assert torch.equal(cache, end)
    assert torch.equal(packed, end)


def test_a_short_convolution_keeps_packed_sequences_apart() -> None:
    """And padded places out."""
    layer, x = convolution()
    packed, states = layer(x[:1], cu_seqlens=torch.tensor([0, 3, 11]), output_final_state=True)
    alone, state = layer(x[:1, 3:], output_final_state=True)
    mask = torch.ones(2, 11)
    mask[:, :3] = 0

    assert torch.allclose(packed[:, 3:], alone, atol=1e-6)
    assert torch.allclose(states[1:], state)
    assert torch.allclose(layer(x, mask=mask)[0][:, 3:], layer(x[:, 3:])[0], atol=1e-6)


def test_a_short_convolution_takes_half_precision_and_computes_in_float32() -> None:
    """With or without autocast the same numbers come out."""
    layer, x = convolution()
    half = x.bfloat16()
    plain, _ = layer(half)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = layer(half)

    assert plain.dtype == torch.bfloat16
    assert torch.equal(plain, cast)
    assert torch.equal(plain, layer(half.float())[0].bfloat16())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (norms.RMSNorm(8), nn.RMSNorm(8, eps=1e-5)),
        (norms.LayerNorm(8, bias=True), nn.LayerNorm(8)),
        (norms.GroupNorm(2, 8, bias=True), nn.GroupNorm(2, 8)),
    ],
)
def test_norms_agree_with_torch(ours: nn.Module, theirs: nn.Module) -> None:
    """With a residual added first, and the sum returned on demand; half precision in gives half precision out."""
    x, residual = torch.randn(5, 8), torch.randn(5, 8)
    output, total = ours(x, residual=residual, prenorm=True)

    assert torch.allclose(output, theirs(x + residual), atol=1e-5)
    assert torch.equal(total, x + residual)
    assert ours(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "gate", "centred"),
    [
        (gates.FusedRMSNormGated(8), F.silu, False),
        (gates.FusedRMSNormGated(8, activation="sigmoid"), torch.sigmoid, False),
        (gates.FusedRMSNormSwishGate(8), F.silu, False),
        (gates.FusedLayerNormGated(8), F.silu, True),
    ],
)
def test_gated_norms_multiply_by_the_activated_gate(
    layer: nn.Module, gate: Callable[[Tensor], Tensor], centred: bool
) -> None:
    """Norm first, gate after."""
    x, g = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    plain = F.layer_norm(x, (8,)) if centred else F.rms_norm(x, (8,), eps=1e-5)

    assert torch.allclose(layer(x, g), plain * gate(g), atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (norms.RMSNormLinear(8), nn.RMSNorm(8, eps=1e-5)),
        (norms.LayerNormLinear(8, bias=True), nn.LayerNorm(8)),
        (norms.GroupNormLinear(2, 8), nn.GroupNorm(2, 8)),
    ],
)
def test_norms_may_be_followed_by_a_projection(ours: nn.Module, plain: nn.Module) -> None:
    """With the weights of the call, a residual added first, and the sum returned on demand."""
    x, residual, weight, bias = torch.randn(5, 8), torch.randn(5, 8), torch.randn(3, 8), torch.randn(3)
    output, total = ours(x, weight, bias, residual=residual, prenorm=True)

    assert torch.allclose(output, F.linear(plain(x + residual), weight, bias), atol=1e-4)
    assert torch.equal(total, x + residual)


@pytest.mark.parametrize("centred", [False, True])
def test_gated_norms_may_be_followed_by_a_projection(centred: bool) -> None:
    """W (norm(x) · silu(gate)) + b, as a function and as a module."""
    x, g, weight, bias = torch.randn(5, 8), torch.randn(5, 8), torch.randn(3, 8), torch.randn(3)
    layer = gates.FusedLayerNormSwishGateLinear(8) if centred else gates.FusedRMSNormSwishGateLinear(8)
    function = gates.layer_norm_swish_gate_linear if centred else gates.rms_norm_swish_gate_linear
    expected = F.linear((F.layer_norm(x, (8,)) if centred else F.rms_norm(x, (8,))) * F.silu(g), weight, bias)
    output, total = function(x, g, layer.weight, None, weight, bias, prenorm=True)

    assert torch.allclose(layer(x, g, weight, bias), expected, atol=1e-4)
    assert torch.allclose(output, expected, atol=1e-4)
    assert torch.equal(total, x)


def test_norms_of_mamba_2_are_gated_before_or_after() -> None:
    """By default RMSNorm after its gate and LayerNorm before it; in groups of features."""
    x, z = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    after, grouped = gates.RMSNormGated(8), gates.RMSNormGated(8, group_size=4, norm_before_gate=True)
    before, plain = gates.LayerNormGated(8), gates.RMSNormGated(8)
    nn.init.uniform_(after.weight)  # type: ignore[arg-type]
    groups = F.rms_norm(x.reshape(3, 5, 2, 4), (4,), eps=1e-5).flatten(-2)

    assert torch.allclose(after(x, z), F.rms_norm(x * F.silu(z), (8,), after.weight, 1e-5), atol=1e-5)
    assert torch.allclose(grouped(x, z), groups * F.silu(z), atol=1e-5)
    assert torch.allclose(before(x, z), F.layer_norm(x, (8,)) * F.silu(z), atol=1e-5)
    assert torch.allclose(plain(x), F.rms_norm(x, (8,), eps=1e-5), atol=1e-5)
    assert after.bias is None


def test_feature_maps_with_products_keep_each_pair_once() -> None:
    """d(d+1)/2 products: the width is what a projection after it is built for."""
    x, y = torch.randn(2, 4), torch.randn(2, 4)
    taylor, rebased = features.TaylorFeatureMap(4), features.RebasedFeatureMap(4, normalize=False)
    dot = (x * y).sum(-1)

    assert taylor(x).shape == (2, 1 + 4 + 10)
    assert torch.allclose((taylor(x) * taylor(y)).sum(-1), 1 + dot / 2 + (dot / 2).square() / 2, atol=1e-5)
    assert torch.allclose((rebased(x) * rebased(y)).sum(-1), dot.square() / 4, atol=1e-5)


def test_the_projection_of_fast_weights_uses_both_signs() -> None:
    """relu(−x), not −relu(x): features stay positive."""
    x = torch.randn(3, 4)
    both = torch.cat([x.relu(), (-x).relu()], dim=-1)

    assert torch.allclose(features.DPFPFeatureMap(4, nu=1)(x), both * both.roll(1, -1))


def test_rotary_products_depend_on_the_distance_alone() -> None:
    """Also from an offset, and in packed sequences."""
    layer = features.RotaryEmbedding(8)
    x = torch.randn(1, 1, 1, 8).expand(1, 6, 1, 8)
    q, k = layer(x, x)
    later, _ = layer(x[:, :2], x[:, :2], seqlen_offset=4)
    packed, _ = layer(x, x, cu_seqlens=torch.tensor([0, 4, 6]))

    assert torch.allclose((q[:, 3] * k[:, 1]).sum(), (q[:, 5] * k[:, 3]).sum(), atol=1e-5)
    assert torch.allclose(later, q[:, 4:], atol=1e-5)
    assert torch.allclose(packed[:, 4:], q[:, :2], atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_by_tables_is_that_of_the_module(interleaved: bool) -> None:
    """From an offset for each sequence, of the first features alone, and in place."""
    layer, x = features.RotaryEmbedding(8, interleaved=interleaved), torch.randn(2, 4, 3, 10)
    angles = torch.arange(9.0)[:, None] * layer.inv_freq
    tables = angles.cos(), angles.sin()
    offsets = torch.tensor([0, 5])
    expected, _ = layer(x, x, seqlen_offset=offsets)
    packed, _ = layer(x[:1], x[:1], cu_seqlens=torch.tensor([0, 3, 4]))

    assert torch.allclose(features.rotary_embedding(x, *tables, interleaved, False, offsets), expected, atol=1e-5)
    edges = torch.tensor([0, 3, 4])
    assert torch.allclose(features.rotary_embedding(x[:1], *tables, interleaved, cu_seqlens=edges), packed, atol=1e-5)
    features.rotary_embedding(x, *tables, interleaved, True, offsets)
    assert torch.allclose(x, expected, atol=1e-5)


def test_a_token_shift_continues_from_its_cache() -> None:
    """Each sequence from its own last token, side by side or packed."""
    x = torch.randn(2, 5, 3)
    full = token_shift(x)
    _, cache = token_shift(x[:, :2], output_cache=True)
    rest, last = token_shift(x[:, 2:], cache=cache, output_cache=True)
    edges = torch.tensor([0, 3, 6])
    packed, ends = token_shift(x[:, 2:].reshape(1, 6, 3), edges, cache=cache.squeeze(1), output_cache=True)
    assert isinstance(full, Tensor)

    assert torch.equal(rest, full[:, 2:])
    assert torch.equal(packed.reshape(2, 3, 3), full[:, 2:])
    assert last.shape == cache.shape == ends.shape == (2, 1, 3)
    assert torch.equal(last, x[:, -1:])
    assert torch.equal(ends, x[:, -1:])


def test_a_token_shift_starts_anew_in_each_sequence() -> None:
    """δ_t = x_{t−1} − x_t with zero before the first."""
    x = torch.randn(1, 5, 3)
    shifted = token_shift(x, cu_seqlens=torch.tensor([0, 2, 5]))

    assert isinstance(shifted, Tensor)
    assert torch.equal(shifted[:, 2], -x[:, 2])
    assert torch.equal(shifted[:, 3], x[:, 2] - x[:, 3])


def test_a_token_shift_of_an_empty_sequence_keeps_its_cache() -> None:
    """Padded boundaries must not change the other sequences."""
    x, cache = torch.randn(1, 5, 3), torch.randn(5, 3)
    shifted, ends = token_shift(x, torch.tensor([0, 0, 2, 2, 5, 5]), cache, output_cache=True)
    expected, last = token_shift(x, torch.tensor([0, 2, 5]), cache[[1, 3]], output_cache=True)

    assert torch.equal(shifted, expected)
    assert torch.equal(ends[[1, 3]], last)
    assert torch.equal(ends[[0, 2, 4]].squeeze(1), cache[[0, 2, 4]])


def test_padding_is_removed_and_restored() -> None:
    """Left padding, as in generation."""
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    packed, indices, boundaries = unpad_hidden_states(x, None, mask, 4)
    assert boundaries is not None
    _, _, rows, (edges, _), longest = unpad_input(x[:, -1:], (x,), mask, 1)

    assert packed.shape == (1, 6, 3)
    assert boundaries.tolist() == [0, 2, 6]
    assert torch.equal(repad_hidden_states(packed, indices, 2, 4), x * mask.unsqueeze(-1))
    assert (rows.tolist(), edges.tolist(), longest) == ([0, 1], [0, 1, 2], (1, 4))


def test_a_layer_finds_its_own_state_in_the_cache() -> None:
    """And is told when it has no number."""
    layer, cache = nn.Identity(), Cache()
    with pytest.raises(ValueError, match="layer_idx"):
        get_layer_cache(layer, cache)
    setattr(layer, "layer_idx", 1)  # noqa: B010 - modules declare no such attribute
    update_layer_cache(layer, cache, recurrent_state=torch.ones(2), offset=3)
    state = get_layer_cache(layer, cache)

    assert state is not None
    assert torch.equal(torch.as_tensor(state["recurrent_state"]), torch.ones(2))


def test_keys_and_values_are_appended_to_those_in_the_cache() -> None:
    """As layers of softmax attention expect; those with a window keep as many."""
    keys = torch.arange(6.0).reshape(1, 6, 1)
    for window, kept in ((None, keys), (4, keys[:, 2:])):
        cache = Cache()
        for start, end in ((0, 5), (5, 6)):
            part = keys[:, start:end]
            state = cache.update(attn_state=(part, -part), offset=end - start, cache_kwargs={"window_size": window})
        held = state["attn_state"]

        assert isinstance(held, tuple)
        assert torch.equal(held[0], kept)
        assert torch.equal(held[1], -kept)
        assert cache.get_seq_length() == 6


def test_packed_tokens_and_chunks_have_sequence_indices() -> None:
    """Boundaries 0, 3, 3, 8: the second sequence is empty."""
    edges = torch.tensor([0, 3, 3, 8])

    assert shapes.prepare_position_ids(edges).tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert shapes.prepare_sequence_ids(edges).tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    assert shapes.prepare_chunk_indices(edges, 4).tolist() == [[0, 0], [2, 0], [2, 1]]
    assert shapes.prepare_chunk_offsets(edges, 4).tolist() == [0, 1, 1, 3]
