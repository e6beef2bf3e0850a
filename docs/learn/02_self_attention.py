# %% [markdown]
# # 2. Self-attention
#
# After chapter 1, each token is a vector. The vector of "bank" is the same in "river bank" and in "bank account". To
# change that, tokens must exchange information. **Self-attention** is how they do it. It is a weighted mean: each token
# gets the mean of all tokens, and decides itself how much each of them counts.
#
# This chapter computes self-attention three times: by hand, in four lines of PyTorch, and with the library. The three
# results are equal.

# %%
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from multihead.config.model import ModelConfig
from multihead.model.transformer import MultiHeadAttention, Scope
from multihead.tasks.attention import attention_weights

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)
plt.rcParams["font.size"] = 11

# %% [markdown]
# ## Three words, two numbers each
#
# We take the sentence "cat sees dogs". To compute by hand, each word gets only two numbers. We invent them. The matrix
# $X$ has one row for each word.

# %%
words = ["cat", "sees", "dogs"]
X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # [T, D]: T = 3 words, D = 2 numbers

# %% [markdown]
# ## The first matrix product: scores
#
# How much should "cat" look at "dogs"? The simplest answer is their **dot product**: multiply number by number, and
# add. It is large if the vectors point in the same direction.
#
# $$
# \text{cat} \cdot \text{dogs} = 1 \cdot 1 + 0 \cdot 1 = 1
# $$
#
# All nine dot products together are one matrix product, $S = X X^\top$.

# %%
S = X @ X.T  # [T, T]; `.T` swaps rows and columns
print(S)
assert S.tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 2]]

# %% [markdown]
# ## From scores to shares: the softmax
#
# A mean needs weights that are positive and sum to 1. The **softmax** makes them: take $e$ to the power of each score,
# and divide by the sum of the row. For the row of "cat", the scores are 1, 0, 1:
#
# $$
# e^1 = 2.718, \quad e^0 = 1, \quad e^1 = 2.718, \quad \text{sum} = 6.437
# $$
#
# $$
# \frac{2.718}{6.437} = 0.422, \quad \frac{1}{6.437} = 0.155, \quad \frac{2.718}{6.437} = 0.422
# $$
#
# Each **row** sums to 1. The columns need not. The matrix of these weights is also called a **map**.

# %%
A = S.softmax(dim=1)  # along the row
print(A)
assert torch.allclose(A[0], torch.tensor([0.422, 0.155, 0.422]), atol=5e-4)
assert torch.allclose(A.sum(1), torch.ones(3))
assert not torch.allclose(A.sum(0), torch.ones(3), atol=0.1)

# %% [markdown]
# ## The second matrix product: the mean
#
# The new vector of "cat" is the weighted mean of all three words (we round only the result):
#
# $$
# 0.4223 \cdot (1, 0) + 0.1554 \cdot (0, 1) + 0.4223 \cdot (1, 1) = (0.845, 0.578)
# $$
#
# For all words at once, this is $Y = A X$. Two matrix products and a softmax between them: that is self-attention.

# %%
Y = A @ X  # [T, D]
print(Y)
assert torch.allclose(Y[0], torch.tensor([0.845, 0.578]), atol=1e-3)

# %% [markdown]
# ## What is missing: learned matrices
#
# Nothing was learned so far. And the rule "look at what is like you" is a poor one. A verb wants to look at its
# subject, which is not like it. So each word gets three vectors, by three learned matrices:
#
# - the **query** $q = x W_Q$ is used when the word looks,
# - the **key** $k = x W_K$ is used when the word is looked at,
# - the **value** $v = x W_V$ is what the word gives if it is looked at.
#
# The scores are products of queries and keys, and the mean is one of values. The scores are also divided by $\sqrt{K}$,
# where $K$ is the number of dimensions of a key. The next section says why. This is equation 1 of the paper (Vaswani et
# al. 2017, arXiv:1706.03762, section 3.2.1):
#
# $$
# \text{Attention}(Q, K, V) = \text{softmax}\left(\frac{Q K^\top}{\sqrt{K}}\right) V
# $$
#
# The $K$ below the root is a number (the paper writes $d_k$), the one in $Q K^\top$ is the matrix of all keys. $V$ is
# the matrix of all values. (In chapter 1, $V$ was the number of entries.) We invent three small matrices. The first one
# swaps the two numbers of a word and doubles them.

# %%
W_Q = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
W_K = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
W_V = torch.tensor([[1.0, 2.0], [0.0, 1.0]])


def self_attention(X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The new vectors [T, D] of X [T, D], and the weights [T, T]."""
    query, key, value = X @ W_Q, X @ W_K, X @ W_V
    scores = query @ key.T / key.size(1) ** 0.5
    weights = scores.softmax(dim=1)
    return weights @ value, weights


in_four_lines, weights = self_attention(X)
print("weights:\n", weights, "\nnew vectors:\n", in_four_lines, sep="")

# %% [markdown]
# Let us check the row of "cat" with a pencil. Its query is $(1, 0)\, W_Q = (0, 2)$. The keys are the rows of $X$, since
# $W_K$ changes nothing. The scores are 0, 2, 2. Divided by $\sqrt 2$ they are 0, 1.414, 1.414. The softmax gives 0.108,
# 0.446, 0.446: now "cat" looks mostly at other words.
#
# The figure shows this map beside the one without learned matrices. A row is a word that looks. A column is a word that
# is looked at.

# %%
assert torch.allclose(weights[0], torch.tensor([0.108, 0.446, 0.446]), atol=5e-4)


def draw(axes: plt.Axes, weights: torch.Tensor, title: str) -> None:
    """Draws a map [T, S] with its numbers."""
    axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row, column in torch.cartesian_prod(torch.arange(3), torch.arange(3)).tolist():
        axes.text(column, row, f"{weights[row, column].item():.2f}", ha="center", va="center", fontsize=13)
    axes.set_xticks(range(3), words)
    axes.set_yticks(range(3), words)
    axes.set(title=title, xlabel="is looked at (key)", ylabel="looks (query)")


figure, both = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
draw(both[0], A, "dot products of the words")
draw(both[1], weights, "with $W_Q$ and $W_K$")
plt.show()

# %% [markdown]
# ```{admonition} A usual mistake: "Queries, keys and values are three inputs"
# :class: warning
# In self-attention there is one input, $X$. All three come from it, by three matrices. The matrices are learned and
# stored. Queries, keys and values are not: they are computed anew for each sentence. (While a model writes one text, it
# may keep the keys and values of this text: the cache of chapter 8.) Nothing is looked up in a store of keys, and every
# key answers every query, only with different weights.
# ```
#
# ```{admonition} A usual mistake: "The query is the question of a word, and the key is its description"
# :class: warning
# This picture helps to remember which is which. But a single query or key means nothing. Only their product counts.
# Take any matrix $M$ that has an inverse, and replace $W_Q$ by $W_Q M$ and $W_K$ by $W_K (M^{-1})^\top$. All queries
# and keys are different now, and nothing else is. The next block shows it. What has a meaning is the product $W_Q
# W_K^\top$ (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", calls it the QK circuit).
# ```

# %%
M = torch.tensor([[3.0, 1.0], [-2.0, 5.0]])
W_Q, W_K = W_Q @ M, W_K @ torch.linalg.inv(M).T
other, other_weights = self_attention(X)
print("queries now:\n", X @ W_Q, sep="")
assert torch.allclose(other_weights, weights, atol=1e-6)
assert torch.allclose(other, in_four_lines, atol=1e-6)

# %% [markdown]
# ## The same from the library
#
# `MultiHeadAttention` is the class that all models of the library use. We give it our matrices. PyTorch's linear layers
# store a matrix transposed, so we transpose. The class has one matrix more, `output`, which mixes several heads
# (chapter 3). With one head we set it to the identity. A `Scope` says what may be attended to. Here it is everything.
# (It also names the number type in which the layer computes, because chapter 11 uses shorter numbers.)

# %%
attention = MultiHeadAttention(ModelConfig(d_model=2, num_heads=1, bias=False))
with torch.no_grad():
    for layer, matrix in ((attention.query, W_Q), (attention.key, W_K), (attention.value, W_V)):
        layer.weight.copy_(matrix.T)
    attention.output.weight.copy_(torch.eye(2))

    from_library = attention(X[None], Scope(X.dtype))[0]  # the library wants a batch: [1, T, D]
    map_of_library = attention_weights(attention, X[None], Scope(X.dtype))[0, 0]  # [T, T]

print(from_library)
assert (from_library - in_four_lines).abs().max() < 1e-6
assert (map_of_library - weights).abs().max() < 1e-6
pytorch = F.scaled_dot_product_attention(X @ W_Q, X @ W_K, X @ W_V)
assert (pytorch - in_four_lines).abs().max() < 1e-6

# %% [markdown]
# ## Why divide by the square root of K
#
# A dot product of $K$ numbers is a sum of $K$ terms. If the entries of query and key are independent with mean 0 and
# variance 1, the sum has variance $K$ (footnote 4 of the paper). So scores, and the differences between them, grow with
# $\sqrt K$. If the differences are large, the softmax is almost 1 at one place and 0 elsewhere. Then its gradient is
# small, and learning gets slow.
#
# We measure it with random queries and 10 random keys: how large is the largest weight, and how large is the derivative
# of the weights with respect to the scores? (The derivative is a matrix of 10 by 10 numbers. Its norm is the root of
# the sum of their squares.)

# %%
dimensions = [1, 4, 16, 64, 256, 1024]
repeats = 4000 if FULL else 400
largest: dict[bool, list[float]] = {True: [], False: []}
slope: dict[bool, list[float]] = {True: [], False: []}
for K in dimensions:
    query, keys = torch.randn(repeats, 1, K), torch.randn(repeats, 10, K)
    scores = (query * keys).sum(-1)  # [repeats, 10]
    assert abs(scores.std().item() / K**0.5 - 1) < 0.25
    for scaled in (True, False):
        p = (scores / K**0.5 if scaled else scores).softmax(-1)
        jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]  # of the softmax
        largest[scaled].append(p.amax(-1).mean().item())
        slope[scaled].append(jacobian.flatten(1).norm(dim=1).mean().item())

figure, both = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axes, values, label in ((both[0], largest, "largest of 10 weights"), (both[1], slope, "norm of the derivative")):
    axes.plot(dimensions, values[False], "o--", color="tab:red", label="scores as they are")
    axes.plot(dimensions, values[True], "o-", color="tab:blue", label=r"scores divided by $\sqrt{K}$")
    axes.set(xscale="log", xlabel="K, dimensions of a key", ylabel=label, ylim=(0, None))
both[0].legend()
figure.suptitle("Without the scale, the softmax saturates")
plt.show()

for K in (64, 1024):  # 64 is the size of a head in the paper
    at = dimensions.index(K)
    print(f"K = {K}: largest weight {largest[False][at]:.2f} without and {largest[True][at]:.2f} with the scale")
    print(f"K = {K}: derivative {slope[False][at]:.2f} without and {slope[True][at]:.2f} with the scale")
if FULL:
    measured = [values[scaled][3] for values in (largest, slope) for scaled in (False, True)]
    assert torch.allclose(torch.tensor(measured), torch.tensor([0.86, 0.32, 0.16, 0.35]), atol=0.02)

# %% [markdown]
# With heads of 64 dimensions, as in the paper, the largest of 10 weights is 0.86 on average without the scale: the mean
# is hardly a mean. With the scale it is 0.32, and the derivative is twice as large (0.35 against 0.16). With the scale,
# both curves are flat: the width of a head no longer matters.
#
# ```{admonition} A usual mistake: "The scale is there so that the exponential does not overflow"
# :class: warning
# It is not. Adding the same number to all scores of a row changes no weight, so a softmax can first subtract the
# largest score. Then nothing overflows, and PyTorch's softmax does not (exercise 2.1). The scale keeps the softmax in
# the range where it has a gradient.
# ```
#
# ```{admonition} A usual mistake: "Divide by the square root of the model's width"
# :class: warning
# The sum runs over the $K$ dimensions of one head. With $D = 512$ and 8 heads, $K = 64$, and the divisor is 8, not
# 22.6.
# ```
#
# ```{admonition} Exercise 2.1
# Show that a common number changes nothing: add 1,000 to all scores. What does `softmax` give? What does the formula
# $e^s / \sum e^s$ give if you compute it as it is written?
# ```

# %% tags=["hide-cell"]
scores = torch.tensor([1.0, 0.0, 1.0])
assert torch.allclose((scores + 1000).softmax(0), scores.softmax(0))
naive = (scores + 1000).exp() / (scores + 1000).exp().sum()
assert naive.isnan().all()  # infinity divided by infinity

# %% [markdown]
# ```{admonition} Exercise 2.2
# Divide the scores by a number instead of $\sqrt K$. What do the new vectors become if this number is very large? And
# if it is very small?
# ```

# %% tags=["hide-cell"]
scores = (X @ W_Q) @ (X @ W_K).T
# A very large divisor makes all scores equal, so every word gets the plain mean of all values.
assert torch.allclose((scores / 1e6).softmax(1) @ (X @ W_V), (X @ W_V).mean(0).expand(3, 2), atol=1e-4)
# A very small divisor leaves the largest score alone. If two scores are equally large, they share.
assert torch.allclose((scores / 1e-3).softmax(1)[0], torch.tensor([0.0, 0.5, 0.5]))

# %% [markdown]
# ## What it costs
#
# The map has one number for each pair of tokens: $T^2$ numbers for $T$ tokens. Twice the length is four times the work.
# The products with the weight matrices grow only with $T$. In return, any two tokens are one step apart, however long
# the text is. In a recurrent network they are up to $T$ steps apart (table 1 of the paper).
#
# ```{admonition} Exercise 2.3
# The base model of the paper has 6 layers and 8 heads. How many megabytes do the maps of its encoder take for a text of
# 1,000 tokens, with 4 bytes for each number? And for 10,000 tokens?
# ```

# %% tags=["hide-cell"]
megabytes = {T: 6 * 8 * T**2 * 4 / 1e6 for T in (1000, 10_000)}
print(megabytes)
assert megabytes == {1000: 192.0, 10_000: 19_200.0}
# So fast implementations never store the map: see Dao et al. 2022, FlashAttention, arXiv:2205.14135.

# %% [markdown]
# ## What you have learned
#
# - Self-attention is two matrix products with a softmax between them. Each token gets a weighted mean of the values of
#   all tokens.
# - Queries, keys and values are products of the same input with three learned matrices. Only the product of query and
#   key has a meaning.
# - The softmax works along the row. Each row of the map sums to 1.
# - Division by $\sqrt K$ keeps the softmax in the range where it can learn.
#
# ## Next
#
# One map can say only one thing about each pair of tokens. [Chapter 3](03_heads_masks_cross_attention.py) computes
# several maps at once, hides tokens that must not be seen, and lets one sentence look at another.
