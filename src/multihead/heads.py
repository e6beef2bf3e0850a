"""What stands on the backbone's hidden states: logits over a vocabulary.

Shapes: D d_model, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VocabularyHead(nn.Module):
    """Hidden states to logits: the last linear map of section 3.4 of the paper (arXiv:1706.03762), without bias.

    Args:
        d_model: Width of the hidden states.
        vocab_size: Number of logits.
        tied: The embedding [V, D] to share (Press and Wolf 2017, arXiv:1608.05859); None makes a matrix of its own,
            initialised as embeddings are.
    """

    def __init__(self, d_model: int, vocab_size: int, tied: nn.Parameter | None = None):
        super().__init__()
        if tied is None:
            tied = nn.Parameter(torch.empty(vocab_size, d_model))
            nn.init.normal_(tied, std=d_model**-0.5)
        assert tied.shape == (vocab_size, d_model), f"tied weight is {tuple(tied.shape)}, not {(vocab_size, d_model)}"
        self.weight = tied

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return F.linear(hidden, self.weight)
