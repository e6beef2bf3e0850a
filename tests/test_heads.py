"""The vocabulary head: a product with its own matrix or with the embedding."""

import pytest
import torch

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
