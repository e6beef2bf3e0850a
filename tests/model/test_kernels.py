"""Attention and products by other kernels are those of torch's own."""

import ctypes
import math
import platform

import pytest
import torch
import torch.nn.functional as F

from multihead.model import kernels
from multihead.model.kernels import attend, product


def heads(count: int, length: int, keys: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (length, keys, keys)
    return [torch.randn(count, 3, size, 8, generator=generator).requires_grad_() for size in sizes]


def masks(length: int, keys: int) -> dict[str, torch.Tensor | None]:
    rows = torch.ones(4, 1, 1, keys, dtype=torch.bool)
    rows[1:, ..., keys - 2 :] = False
    bias = torch.randn(1, 3, length, keys, generator=torch.Generator().manual_seed(1))
    hidden = bias.clone()
    hidden[..., 0, 1:] = -math.inf
    return {"none": None, "boolean": rows, "added": bias, "added, with infinities": hidden}


@pytest.mark.parametrize("mask", masks(5, 7))
def test_short_attention_and_its_gradients_are_those_of_the_fused_kernel(mask):
    tensors, shown = heads(4, 5, 7), masks(5, 7)[mask]
    ours = attend(*tensors, shown, False, 0.0)
    expected = F.scaled_dot_product_attention(*tensors, shown)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for found, wanted in zip(
        torch.autograd.grad(ours, tensors, upstream), torch.autograd.grad(expected, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_causal_attention_sees_what_stands_before():
    tensors = heads(2, 6, 6)
    expected = F.scaled_dot_product_attention(*tensors, is_causal=True)
    torch.testing.assert_close(attend(*tensors, None, True, 0.0), expected)
    with torch.no_grad():
        torch.testing.assert_close(attend(*tensors, None, True, 0.0), expected)
        found = attend(*(tensor.bfloat16() for tensor in tensors), None, True, 0.0)
        torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.03)


def test_long_sequences_single_queries_and_grouped_heads_go_to_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "_attend_plainly", None)  # would fail
    long = heads(1, 2, kernels.SHORT + 1)
    attend(*long, None, False, 0.0)
    attend(*heads(1, 1, 4), None, False, 0.0)  # as does a single query
    with torch.no_grad():
        attend(*heads(1, 5, 7), None, False, 0.0)  # and what wants no gradient
    query, key, value = heads(1, 2, 4)
    grouped = attend(query, key[:, :1], value[:, :1], None, False, 0.0)
    torch.testing.assert_close(grouped, attend_reference(query, key[:, :1], value[:, :1]))


def attend_reference(query, key, value):
    weights = (query @ key.mT / math.sqrt(query.size(-1))).softmax(-1)
    return weights @ value


def test_bfloat16_is_attended_to_in_float32_where_gradients_are_wanted():
    tensors = [t.detach().bfloat16().requires_grad_() for t in heads(4, 5, 7)]
    ours = attend(*tensors, None, False, 0.0)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(*[t.float() for t in tensors]).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_product_is_the_matrix_product(dtype):
    left, right = torch.randn(33, 20).to(dtype), torch.randn(17, 20).to(dtype)
    torch.testing.assert_close(product(left, right), left @ right.T)
    torch.testing.assert_close(product(left, right.T.contiguous().T), left @ right.T)  # whatever lies how in memory


def test_freed_memory_is_kept_by_glibcs_own_words(monkeypatch):
    told = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    kernels.keep_freed_memory()
    assert told == [(-3, 32 * 2**20), (-1, 2**31 - 1)]  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_glibc_takes_these_words():
    library = ctypes.CDLL(None)
    assert library.mallopt(-3, 2**25) == 1 and library.mallopt(-1, 2**31 - 1) == 1


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    kernels.keep_freed_memory()
