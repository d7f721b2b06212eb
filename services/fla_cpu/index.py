"""Indices of packed sequences from their boundaries (cu_seqlens), lengths or masks."""

import torch
import torch.nn.functional as F
from torch import Tensor


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    """Lengths of packed sequences."""
    return cu_seqlens.diff()


def prepare_lens_from_mask(mask: Tensor) -> Tensor:
    """Number of unmasked tokens in each row of a mask [b, l]."""
    return mask.sum(dim=-1, dtype=torch.int32)


def prepare_cu_seqlens_from_lens(lens: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Boundaries of packed sequences of these lengths."""
    return F.pad(lens.cumsum(0, dtype=dtype), (1, 0))


def prepare_cu_seqlens_from_mask(mask: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Boundaries of the packed rows of a mask [b, l], without padding."""
    return prepare_cu_seqlens_from_lens(prepare_lens_from_mask(mask), dtype)


def prepare_sequence_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """The index of each token's sequence."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return _places(cu_seqlens.diff())[0].to(cu_seqlens)


def prepare_position_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """The position of each token in its sequence."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return _places(cu_seqlens.diff())[1].to(cu_seqlens)


def prepare_token_indices(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """[tokens, 2]: the sequence and the position of each token."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return torch.stack(_places(cu_seqlens.diff()), dim=1).to(cu_seqlens)


def prepare_chunk_indices(cu_seqlens: Tensor, chunk_size: int, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """[chunks, 2]: the sequence of each chunk and its index there."""
    del cu_seqlens_cpu  # fla avoids a device synchronisation with it
    return torch.stack(_places(_chunks(cu_seqlens, chunk_size)), dim=1).to(cu_seqlens)


def prepare_chunk_offsets(cu_seqlens: Tensor, chunk_size: int) -> Tensor:
    """The number of chunks before each sequence, and the total."""
    return F.pad(_chunks(cu_seqlens, chunk_size), (1, 0)).cumsum(-1)


def _chunks(cu_seqlens: Tensor, size: int) -> Tensor:
    return (cu_seqlens.diff() + size - 1).div(size, rounding_mode="floor")


def _places(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For segments of these sizes: the segment of each element, and the element's index in it."""
    segment = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return segment, torch.arange(len(segment), device=counts.device) - first[segment]
