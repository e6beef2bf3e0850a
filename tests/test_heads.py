"""The vocabulary head: a product with its own matrix or with the embedding."""

import pytest
import torch
import torch.nn.functional as F

from multihead.config.model import ModelConfig
from multihead.heads import VocabularyHead
from multihead.transformer import Transformer


def test_a_tied_head_shares_storage_and_gradient_with_the_embedding():
    config = ModelConfig(d_model=8, num_heads=2, d_ff=8, num_decoder_layers=1, max_len=8)
    model = Transformer(config, source_vocab_size=None, target_vocab_size=11)
    head = VocabularyHead(8, 11, model.decoder.embedding.weight)
    assert head.weight is model.decoder.embedding.weight
    assert head.weight.data_ptr() == model.decoder.embedding.weight.data_ptr()
    hidden = torch.randn(2, 3, 8)
    torch.testing.assert_close(head(hidden), hidden @ model.decoder.embedding.weight.T)
    head(hidden).sum().backward()
    assert model.decoder.embedding.weight.grad.any()


def test_an_untied_head_has_a_matrix_of_its_own():
    torch.manual_seed(0)
    head = VocabularyHead(64, 200)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    assert head(torch.randn(5, 64)).shape == (5, 200)
    assert head.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)


def test_a_tied_weight_of_another_shape_is_a_defect():
    with pytest.raises(AssertionError, match=r"tied weight is \(4, 8\), not \(5, 8\)"):
        VocabularyHead(8, 5, torch.nn.Parameter(torch.zeros(4, 8)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [0, 5, 700])
def test_the_chunked_loss_and_its_gradients_are_torchs(count, smoothing):
    head = VocabularyHead(16, 50)
    hidden, labels = torch.randn(count, 16, requires_grad=True), torch.randint(50, (count,))
    loss = head.loss(hidden, labels, smoothing)
    ours = torch.autograd.grad(loss * 3, (hidden, head.weight))
    expected = F.cross_entropy(head(hidden), labels, reduction="sum", label_smoothing=smoothing)
    torchs = torch.autograd.grad(expected * 3, (hidden, head.weight))
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head.loss(hidden, labels, smoothing), expected, atol=0.1, rtol=1e-2)
