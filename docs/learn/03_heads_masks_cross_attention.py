# %% [markdown]
# # 3. Many heads, masks and cross-attention
#
# Chapter 2 computed one map for one sentence. A real attention layer differs in three ways:
#
# 1. It computes several maps at once, its **heads**.
# 2. It must not look everywhere. A **mask** hides some places.
# 3. It may look at another sentence. That is **cross-attention**.
#
# Two words are needed before chapter 6 builds them. An **encoder** is a stack of such layers that reads a text, and
# each token may look at the whole text. A **decoder** is a stack that writes a text. Each of its tokens may look only
# at itself and at the tokens before it, and at the output of an encoder, if there is one.

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import nn

from multihead.config.model import ModelConfig
from multihead.model.transformer import MultiHeadAttention, Scope, Transformer
from multihead.tasks.attention import attention_weights

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
torch.manual_seed(0)
plt.rcParams["font.size"] = 11
EVERYTHING = Scope(torch.float32)  # hides nothing

# %% [markdown]
# ## Why one map is not enough
#
# One map gives one weighted mean. Imagine that a token must know its left and its right neighbour. If it looks at both
# with equal weights, it gets the mean of the two. A mean with equal weights has no order: it no longer knows which
# token was on the left.
#
# Let us measure that. The input is a row of 10 random digits. At each place, the model must name the digit on the left
# and the digit on the right (the row is a ring). The model is a single attention layer of the library, between an
# embedding and a linear output. It also gets its place, as an embedding of the numbers 0 to 9 (chapter 4 is about
# places).

# %%
T, V, D = 10, 10, 32  # places, digits, width


class Neighbours(nn.Module):
    """Names the left and the right neighbour of each digit, by one attention layer with H heads."""

    def __init__(self, H: int):
        super().__init__()
        self.digits, self.places = nn.Embedding(V, D), nn.Embedding(T, D)
        self.attention = MultiHeadAttention(ModelConfig(d_model=D, num_heads=H))
        self.output = nn.Linear(D, 2 * V)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return self.digits(x) + self.places.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.attention(self.embed(x), EVERYTHING)).unflatten(-1, (2, V))  # [B, T, 2, V]


def train(H: int, steps: int) -> tuple[Neighbours, float]:
    """The trained model, and the share of neighbours that it names rightly on new rows."""
    torch.manual_seed(0)
    model = Neighbours(H)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps + 1):
        x = torch.randint(V, (1000 if step == steps else 64, T))
        labels = torch.stack((x.roll(1, 1), x.roll(-1, 1)), dim=-1)  # left and right, [B, T, 2]
        logits = model(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), labels.flatten())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model, (logits.argmax(-1) == labels).float().mean().item()


models, right, parameters = {}, {}, {}
for H in (1, 2, 4):
    models[H], right[H] = train(H, 600 if FULL else 120)
    parameters[H] = sum(p.numel() for p in models[H].parameters())
    print(f"{H} heads, {parameters[H]:,} parameters: {right[H]:.1%} right")

assert len(set(parameters.values())) == 1
if FULL:
    assert abs(right[1] - 0.58) < 0.05
    assert right[2] > 0.99 and right[4] > 0.99

# %% [markdown]
# All three models have the same number of parameters. With one head, 58 % of the answers are right. With two heads,
# more than 99 % are. A model that knows both digits and not their order guesses one of two. In one case of ten the
# digits are equal anyway, so it has $0.1 + 0.9 \cdot 0.5 = 55\ \%$. The 3 points more are not chance: on 20,000
# answers, one standard error is about 0.35 points. They may come from weights that are not exactly equal (we did not
# test it).
#
# A head that looks at the left neighbour only would also have 55 %. So the number alone does not say what the head
# does, but the maps do. The single head looks left and right at once. Of the two heads, each takes one side.

# %%
x = torch.randint(V, (1, T))
with torch.no_grad():
    maps = {H: attention_weights(models[H].attention, models[H].embed(x), EVERYTHING)[0] for H in (1, 2)}  # [H, T, T]
shown = {"one head": maps[1][0], "two heads: the first": maps[2][0], "two heads: the second": maps[2][1]}
figure, row = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
for axes, (title, weights) in zip(row, shown.items(), strict=True):
    image = axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="place that is looked at", ylabel="place that looks")
    axes.set_xticks(range(T))
    axes.set_yticks(range(T))
figure.colorbar(image, ax=row, label="weight")
plt.show()

# %% [markdown]
# The paper gives the same reason in one sentence: "With a single attention head, averaging inhibits this" (section
# 3.2.2). In its experiments one head was 0.9 BLEU worse than the best number of heads, and too many heads were worse
# again (table 3, rows A).
#
# ## Heads in code
#
# With $H$ heads of $K = D / H$ dimensions, queries, keys and values still have $D$ numbers. They are cut into $H$
# pieces. Each piece makes its own map. The results are put side by side, and the matrix $W_O$ mixes them.


# %%
def multi_head(layer: MultiHeadAttention, x: torch.Tensor, H: int) -> torch.Tensor:
    """Multi-head self-attention of x [T, D] with the matrices of a layer of the library."""
    query, key, value = layer.query(x), layer.key(x), layer.value(x)  # [T, D] each
    heads = []
    for q, k, v in zip(query.chunk(H, 1), key.chunk(H, 1), value.chunk(H, 1), strict=True):  # [T, K] each
        weights = (q @ k.T / k.size(1) ** 0.5).softmax(dim=1)
        heads.append(weights @ v)
    return layer.output(torch.cat(heads, dim=1))


with torch.no_grad():
    layer, embedded = models[4].attention, models[4].embed(x)
    by_hand = multi_head(layer, embedded[0], 4)
    from_library = layer(embedded, EVERYTHING)[0]
print(f"largest difference: {(by_hand - from_library).abs().max():.1e}")
assert (by_hand - from_library).abs().max() < 1e-5

# %% [markdown]
# ```{admonition} A usual mistake: "Each head sees its own part of the embedding"
# :class: warning
# The pieces are cut from queries, keys and values, not from $x$. Before the cut, the matrices mix all $D$ numbers of
# $x$. So every head reads the whole vector. The next block shows it by a gradient: the first head's query depends on
# every number of $x$.
# ```
#
# Putting heads side by side and multiplying by $W_O$ is the same as giving each head its own rows of $W_O$ and
# **adding** the results. So no head needs the result of another one, and each head adds its own part to the output.

# %%
x0 = embedded[0, 0].clone().requires_grad_()
layer.query(x0).chunk(4)[0].sum().backward()
assert x0.grad is not None and (x0.grad != 0).all()  # all D numbers of x

side_by_side = torch.randn(T, D)  # stands for the joined heads
parts = zip(side_by_side.chunk(4, 1), layer.output.weight.T.chunk(4, 0), strict=True)
added = torch.stack([head @ rows for head, rows in parts]).sum(0) + layer.output.bias
assert torch.allclose(added, layer.output(side_by_side), atol=1e-5)

# %% [markdown]
# ```{admonition} Exercise 3.1
# How many parameters has an attention layer with $D = 512$ and biases, with 8 heads? With 16 heads? First compute it
# with a pencil.
# ```

# %% tags=["hide-cell"]
for H in (8, 16):
    layer = MultiHeadAttention(ModelConfig(d_model=512, num_heads=H))
    assert sum(p.numel() for p in layer.parameters()) == 4 * (512 * 512 + 512)  # the same

# %% [markdown]
# ## Masks
#
# A mask says which keys a query may look at. In this library a mask is boolean, and True means "may be looked at". (In
# `nn.MultiheadAttention` of PyTorch it is the other way round: there True means "hidden".) A hidden key gets the score
# $-\infty$ **before** the softmax. Then its weight is exactly 0, and the other weights still sum to 1.
#
# ```{admonition} A usual mistake: "A mask sets weights to zero"
# :class: warning
# If you set weights to zero **after** the softmax, the rest no longer sums to 1, and the hidden tokens have already
# changed the other weights through the denominator. In the next block the row sums to 0.58 instead of 1.
# ```

# %%
scores = torch.tensor([1.0, 0.0, 1.0])
allowed = torch.tensor([True, True, False])
rightly = scores.masked_fill(~allowed, -torch.inf).softmax(0)
wrongly = scores.softmax(0) * allowed
print("before the softmax:", rightly, "sum", rightly.sum().item())
print("after the softmax: ", wrongly, "sum", round(wrongly.sum().item(), 3))
assert torch.allclose(rightly[:2], scores[:2].softmax(0)) and rightly[2] == 0
assert abs(wrongly.sum().item() - 0.578) < 1e-3

# %% [markdown]
# **Padding.** A batch is a rectangle, but sentences have different lengths. Short ones are filled up with `<pad>`.
# Those tokens are not part of the sentence, so nobody may look at them. The test is simple: a sentence must give the
# same result alone and in a batch. We check it with a whole encoder of the library (its weights are random, which does
# not matter here).

# %%
config = ModelConfig(d_model=D, num_heads=4, d_ff=64, num_encoder_layers=2, num_decoder_layers=2, dropout=0.0)
transformer = Transformer(config, source_vocab_size=50, target_vocab_size=50).eval()
PAD = 0
alone = torch.tensor([[7, 8, 9]])
batch = torch.tensor([[7, 8, 9, PAD, PAD], [11, 12, 13, 14, 15]])
mask = batch != PAD  # [B, S]
with torch.no_grad():
    expected = transformer.encode(alone)[0]
    with_mask = transformer.encode(batch, mask)[0, :3]
    without_mask = transformer.encode(batch)[0, :3]
print(f"with the mask, the difference is {(with_mask - expected).abs().max():.0e}")
print(f"without it, {(without_mask - expected).abs().max():.2f}")
assert (with_mask - expected).abs().max() < 1e-5 < 0.1 < (without_mask - expected).abs().max()

# %% [markdown]
# ```{admonition} A usual mistake: "Padded tokens produce no output"
# :class: warning
# The mask hides padded **keys**. A padded token still is a query, and gets some vector. This vector has no meaning.
# Nobody looks at it, and the loss must skip it (in PyTorch, its label is -100).
# ```
#
# **Causal mask.** A model that writes a text word by word must not see the words that it has yet to write. So a token
# may look only at itself and at tokens before it (section 3.2.3 of the paper). The test: change the last token. The
# vectors of all earlier tokens must not change at all.

# %%
text, changed = torch.tensor([[4, 5, 6, 7]]), torch.tensor([[4, 5, 6, 30]])
with torch.no_grad():
    memory = transformer.encode(alone)
    causal = (transformer.decode(text, memory=memory) - transformer.decode(changed, memory=memory)).abs().amax(-1)[0]
    free = (transformer.encode(text) - transformer.encode(changed)).abs().amax(-1)[0]
print("change of each vector, decoder:", [round(c, 2) for c in causal.tolist()])
print("change of each vector, encoder:", [round(c, 2) for c in free.tolist()])
assert (causal[:3] < 1e-6).all() and causal[3] > 0.1
assert (free > 1e-3).all()

# %% [markdown]
# The causal mask is one reason why training is fast. All words of a target sentence are predicted at once, in one pass,
# and none sees its own answer (chapter 7 calls it teacher forcing). The next figure shows the masks. Blue means "may be
# looked at". A decoder whose padding stands on the right needs no padding mask for its own tokens: for a real token,
# padding lies in the future.

# %%
real = torch.tensor([True, True, True, True, False])  # four tokens and one <pad>
triangle = torch.ones(5, 5, dtype=torch.bool).tril()
masks = {"none": torch.ones(5, 5, dtype=torch.bool), "padding": real.expand(5, 5), "causal": triangle}
names = ["The", "dog", "sleeps", ".", "<pad>"]
figure, row = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
for axes, (title, allowed) in zip(row, masks.items(), strict=True):
    axes.imshow(allowed.numpy(), cmap="Blues", vmin=0, vmax=1.6)
    for query, key in (~allowed).nonzero().tolist():
        axes.text(key, query, r"$-\infty$", ha="center", va="center", fontsize=10)
    axes.set(title=title, xlabel="key")
    axes.set_xticks(range(5), names, rotation=90)
    axes.set_yticks(range(5), names)
row[0].set_ylabel("query")
plt.show()

# %% [markdown]
# ```{admonition} Exercise 3.2
# Which vectors of a decoder change if you change the **first** token of the text? First guess, then measure with
# `transformer.decode`.
# ```

# %% tags=["hide-cell"]
with torch.no_grad():
    first = torch.tensor([[30, 5, 6, 7]])
    change = (transformer.decode(text, memory=memory) - transformer.decode(first, memory=memory)).abs().amax(-1)[0]
assert (change > 1e-3).all()  # all of them: every token may look at the first one

# %% [markdown]
# ## Cross-attention
#
# A translator reads one sentence and writes another one. Its decoder must look at the source. So in **cross-attention**
# the queries come from the target, and the keys and values come from the encoder's output, which we call the **memory**
# (section 3.2.3 of the paper). $Y$ is the target, and $M$ is the memory. Nothing else changes:
#
# $$
# Q = Y W_Q, \qquad K = M W_K, \qquad V = M W_V
# $$
#
# The map now has $T$ rows, one for each target token, and $S$ columns, one for each source token. It needs no causal
# mask: the whole source is known. It does need the padding mask of the **source**.
#
# A small task shows what such a map learns: write the source backwards. At step $t$, the model only knows the number
# $t$. It must find out by itself where to look.


# %%
class Backwards(nn.Module):
    """Writes a row of digits backwards by one cross-attention layer."""

    def __init__(self) -> None:
        super().__init__()
        self.digits, self.places, self.steps = nn.Embedding(V, D), nn.Embedding(T, D), nn.Embedding(T, D)
        self.attention = MultiHeadAttention(ModelConfig(d_model=D, num_heads=1))
        self.output = nn.Linear(D, V)

    def sides(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What looks [B, T, D] and what is looked at [B, S, D]."""
        return self.steps.weight.expand(len(x), T, D), self.digits(x) + self.places.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        target, memory = self.sides(x)
        return self.output(self.attention(target, EVERYTHING, memory))


model = Backwards()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for _ in range(600 if FULL else 120):
    x = torch.randint(V, (64, T))
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flip(1).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

x = torch.randint(V, (1000, T))
with torch.no_grad():
    accuracy = (model(x).argmax(-1) == x.flip(1)).float().mean().item()
    target, memory = model.sides(x[:1])
    weights = attention_weights(model.attention, target, EVERYTHING, memory)[0, 0]  # [T, S]
print(f"{accuracy:.1%} of the digits are right")

figure, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
image = axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1)
axes.set(title="Cross-attention that writes backwards", xlabel="place in the source", ylabel="step of the target")
axes.set_xticks(range(T))
axes.set_yticks(range(T))
figure.colorbar(image, label="weight")
plt.show()

if FULL:
    assert accuracy > 0.99
    assert (weights.argmax(1) == torch.arange(T - 1, -1, -1)).all()

# %% [markdown]
# The map is a line from the upper right to the lower left: step 0 looks at the last place, and so on. In a translator
# the line follows the order of the words. Bahdanau et al. (2015, arXiv:1409.0473, figure 3) show such maps.
#
# ```{admonition} A usual mistake: "The map explains what the model decided"
# :class: warning
# Here it does, because the model has one layer and one head. A deep model is another matter. Its tokens have already
# exchanged information, so a weight on token 5 is not a weight on word 5. Jain and Wallace (2019, arXiv:1902.10186)
# found other maps that give the same output. Wiegreffe and Pinter (2019, arXiv:1908.04626) answer that maps can still
# help, if one tests what one claims. And many heads can be removed after training with little loss (Michel et al. 2019,
# arXiv:1905.10650).
# ```
#
# ```{admonition} Exercise 3.3
# Take the places out of the memory: `memory = digits(x)` alone, for the keys and the values. Why can no training save
# this model?
# ```

# %% tags=["hide-cell"]
digits = torch.tensor([[3, 3, 3, 3, 3, 5, 5, 5, 5, 5]])
with torch.no_grad():
    target = model.steps.weight[None]
    one = model.attention(target, EVERYTHING, model.digits(digits))
    other = model.attention(target, EVERYTHING, model.digits(digits.flip(1)))
# Without places, the source is a bag: two rows with the same digits in another order give the same output.
assert torch.allclose(one, other, atol=1e-5)

# %% [markdown]
# ## What you have learned
#
# - A head is one map. Several heads can look at several places for several reasons. The number of heads does not change
#   the number of parameters.
# - Every head reads the whole vector. The heads' results are added.
# - A mask puts $-\infty$ before the softmax. Padding masks hide tokens that do not exist. Causal masks hide the future.
# - In cross-attention, queries come from the target, and keys and values from the memory.
#
# ## Next
#
# Exercise 3.3 showed that attention sees a bag of tokens. [Chapter 4](04_positions.py) gives tokens a place.
