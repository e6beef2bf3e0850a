# %% [markdown]
# # 5. Feed-forward, residuals and layer norm
#
# Attention moves information between tokens. Three more parts turn it into a network that can be deep: a feed-forward
# network that works on each token, residual connections that keep the gradient alive, and layer normalisation that
# keeps numbers in range. Dropout is a fourth, small part. This chapter takes them one by one, and measures what each
# does.

# %%
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from multihead.config.model import ModelConfig
from multihead.model.transformer import FeedForward, MultiHeadAttention, Scope

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
torch.manual_seed(0)
torch.set_printoptions(precision=3, sci_mode=False)
plt.rcParams["font.size"] = 11
D = 64
EVERYTHING = Scope(torch.float32)  # hides nothing
CONFIG = ModelConfig(d_model=D, num_heads=4, d_ff=4 * D, dropout=0.0)

# %% [markdown]
# ## The feed-forward network
#
# It is a network with one hidden layer (Vaswani et al. 2017, section 3.3):
#
# $$
# \text{FFN}(x) = \max(0,\; x W_1 + b_1)\, W_2 + b_2
# $$
#
# $W_1$ makes the vector wider, in the paper from 512 to 2,048 numbers. $\max(0, \cdot)$, which is called **ReLU**, sets
# negative numbers to zero.
# $W_2$ makes it narrow again. The same network works on **each token by itself**. It sees no other token.

# %%
feed_forward = FeedForward(CONFIG)
x = torch.randn(1, 5, D)  # five tokens
with torch.no_grad():
    by_hand = (x @ feed_forward.up.weight.T + feed_forward.up.bias).clamp(min=0) @ feed_forward.down.weight.T
    by_hand = by_hand + feed_forward.down.bias
    together = feed_forward(x)
    alone = torch.cat([feed_forward(x[:, [place]]) for place in range(5)], dim=1)
assert torch.allclose(by_hand, together, atol=1e-6)
assert torch.allclose(alone, together, atol=1e-6)  # no token changes another one
print(f"{(feed_forward.up(x) > 0).float().mean():.0%} of the hidden numbers are above zero")

# %% [markdown]
# Why is it needed? Attention only takes weighted means of values, and the values are linear in its input. The
# feed-forward is what computes something nonlinear from each token. And why the $\max$? Without it, the feed-forward
# would be linear too: two matrices in a row are one matrix. The next block shows it.
#
# ```{admonition} A usual mistake: "The feed-forward network is a minor detail"
# :class: warning
# With $d_\text{ff} = 4 D$, it has $8 D^2$ weights. Attention has $4 D^2$. So two thirds of an encoder layer are
# feed-forward. In a decoder layer with cross-attention, which has attention twice, it is one half.
# Geva et al. (2021, arXiv:2012.14913) read it as a memory: a column of $W_1$ recognises a pattern, and the row of $W_2$
# with the same number says what follows from it.
# ```

# %%
with torch.no_grad():
    two_maps = (x @ feed_forward.up.weight.T) @ feed_forward.down.weight.T
    one_map = x @ (feed_forward.down.weight @ feed_forward.up.weight).T
assert torch.allclose(two_maps, one_map, atol=1e-5)

attention = MultiHeadAttention(CONFIG)
matrices = {
    name: sum(p.numel() for p in part.parameters() if p.dim() == 2)
    for name, part in (("attention", attention), ("feed-forward", feed_forward))
}
print({name: f"{count / sum(matrices.values()):.0%}" for name, count in matrices.items()})
assert matrices == {"attention": 4 * D**2, "feed-forward": 8 * D**2}

# %% [markdown]
# ## Layer normalisation by hand
#
# Layer norm takes one vector and does two things (Ba et al. 2016, arXiv:1607.06450):
#
# 1. It **computes** the mean and the variance of the numbers of this vector, subtracts the mean, and divides by the
#    standard deviation.
# 2. It multiplies each number by a learned $\gamma_i$ and adds a learned $\beta_i$. They start at 1 and 0.
#
# Take the vector $(1, 2, 3, 6)$. The mean is $3$. The differences are $-2, -1, 0, 3$. The variance is $(4 + 1 + 0 + 9)
# / 4 = 3.5$, and its root is $1.871$. The result is $(-1.069, -0.535, 0, 1.604)$.

# %%
vector = torch.tensor([1.0, 2.0, 3.0, 6.0])
norm = nn.LayerNorm(4)
print(norm(vector).detach())
assert torch.allclose(norm(vector), torch.tensor([-1.069, -0.535, 0.0, 1.604]), atol=1e-3)
assert {name: tuple(p.shape) for name, p in norm.named_parameters()} == {"weight": (4,), "bias": (4,)}  # gamma and beta

# %% [markdown]
# ```{admonition} A usual mistake: "Layer norm learns the mean and the variance"
# :class: warning
# It learns $\gamma$ and $\beta$, and nothing else: $2 D$ numbers. Mean and variance are computed anew for every vector,
# in training and in prediction alike. There is no running average, so `eval()` changes nothing. (Batch norm is the one
# that keeps averages.)
# ```
#
# ```{admonition} A usual mistake: "Layer norm normalises over the batch, or over the sentence"
# :class: warning
# It normalises one vector of one token. Other tokens and other sentences have no influence.
# ```
#
# ```{admonition} A usual mistake: "Layer norm makes the numbers normally distributed"
# :class: warning
# It shifts and scales. A vector with one huge number still has one huge number.
# ```
#
# The next block shows all three. It also shows what layer norm forgets: the size of its input. A vector and ten times
# this vector give the same result.

# %%
norm = nn.LayerNorm(D)
x = torch.randn(2, 5, D)
with torch.no_grad():
    y = norm(x)
    assert torch.allclose(norm(x[:1, 2:3]), y[:1, 2:3], atol=1e-6)  # one token alone
    assert torch.equal(norm.eval()(x), y)  # prediction as training
    assert torch.allclose(norm(10 * x), y, atol=1e-4)  # the size is forgotten
    spike = torch.zeros(D)
    spike[0] = 1000.0
    print(
        f"largest number after the norm of a spike: {norm(spike).max():.2f}, mean of the others "
        f"{norm(spike)[1:].mean():.2f}"
    )
    assert norm(spike).max() > 7

# %% [markdown]
# **RMS norm** (Zhang and Sennrich 2019, arXiv:1910.07467) leaves out the mean and $\beta$. It divides by the root of
# the mean square. In the library it is `model.norm=rms_norm`.
#
# ```{admonition} Exercise 5.1
# What does layer norm give for a vector whose numbers are all equal? Its variance is 0. Why is the result not infinite?
# ```

# %% tags=["hide-cell"]
assert torch.equal(nn.LayerNorm(4)(torch.full((4,), 5.0)), torch.zeros(4))
# The differences from the mean are 0, and a small epsilon is added to the variance, so this is 0 / sqrt(epsilon).
assert nn.LayerNorm(4).eps == 1e-5

# %% [markdown]
# ## Residual connections
#
# A sub-layer $f$ (attention or feed-forward) does not replace its input. It adds to it: $x + f(x)$ (He et al. 2016,
# arXiv:1512.03385). So there is a straight way from the output to the input, the **stream** $x$, to which all
# sub-layers add. On this way the gradient is 1, if nothing else stands on it.
#
# Residuals and norms can be wired in several ways. We compare four:
#
# | name | what a sub-layer does |
# | --- | --- |
# | plain | $f(x)$ |
# | residual | $x + f(x)$ |
# | post | $\text{norm}(x + f(x))$, the paper of 2017 |
# | pre | $x + f(\text{norm}(x))$, the library's default; one more norm stands at the very end |
#
# We build stacks of 2 to 32 layers from the library's attention and feed-forward, with random weights. The input is
# random, and so are the labels. We look at the gradient of one matrix in each layer. (Each number is the geometric mean
# of four seeds.)


# %%
class Block(nn.Module):
    """Attention and feed-forward, wired in one of four ways."""

    def __init__(self, wiring: str):
        super().__init__()
        self.wiring = wiring
        self.attention, self.feed_forward = MultiHeadAttention(CONFIG), FeedForward(CONFIG)
        self.norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D)])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for f, norm in zip((lambda y: self.attention(y, EVERYTHING), self.feed_forward), self.norms, strict=True):
            if self.wiring == "plain":
                x = f(x)
            elif self.wiring == "residual":
                x = x + f(x)
            elif self.wiring == "post":
                x = norm(x + f(x))
            else:
                x = x + f(norm(x))
        return x


def stack(wiring: str, depth: int) -> nn.Sequential:
    """A stack of blocks; with ``pre``, a norm at the end."""
    return nn.Sequential(*(Block(wiring) for _ in range(depth)), nn.LayerNorm(D) if wiring == "pre" else nn.Identity())


def gradients(wiring: str, depth: int, seed: int) -> torch.Tensor:
    """The norm of the gradient of the matrix W2 in each layer, from the first layer to the last one."""
    torch.manual_seed(seed)
    layers, head = stack(wiring, depth), nn.Linear(D, 100)
    nn.init.normal_(head.weight, std=D**-0.5)
    x, labels = torch.randn(16, 12, D), torch.randint(100, (16, 12))
    F.cross_entropy(head(layers(x)).flatten(0, 1), labels.flatten()).backward()
    blocks = [module for module in layers if isinstance(module, Block)]
    return torch.tensor([block.feed_forward.down.weight.grad.norm().item() for block in blocks])  # type: ignore


wirings = ("plain", "residual", "post", "pre")
depths = (2, 4, 8, 16, 32) if FULL else (2, 4)
seeds = 4 if FULL else 1
measured = {
    (wiring, depth): torch.stack([gradients(wiring, depth, seed) for seed in range(seeds)]).log().mean(0).exp()
    for wiring in wirings
    for depth in depths
}

deep = depths[-1]
figure, both = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
for wiring, marker in zip(wirings, ("v", "x", "s", "o"), strict=True):
    both[0].plot(range(1, deep + 1), measured[wiring, deep], marker=marker, markersize=4, label=wiring)
both[0].set(yscale="log", xlabel="layer", ylabel="norm of the gradient", title=f"A stack of {deep} layers")
both[0].legend(loc="center right", bbox_to_anchor=(1, 0.25))
for wiring, marker, colour in (("post", "s", "tab:green"), ("pre", "o", "tab:red")):
    for layer, name, style in ((0, "first", "--"), (-1, "last", "-")):
        norms = [measured[wiring, depth][layer].item() for depth in depths]
        both[1].plot(depths, norms, style, marker=marker, color=colour, label=f"{wiring}, {name} layer")
both[1].plot(
    depths, [norms[0] * (depths[0] / depth) ** 0.5 for depth in depths], "k:", label=r"falls with $1/\sqrt{L}$"
)
both[1].set(xlabel="depth L of the stack", ylabel="norm of the gradient", title="First and last layer", ylim=(0, None))
both[1].set_xscale("log", base=2)
both[1].set_xticks(depths, [str(depth) for depth in depths])
both[1].legend()
plt.show()

for wiring in wirings:
    for layer, name in ((0, "first"), (-1, "last")):
        row = [f"{measured[wiring, depth][layer]:9.1e}" for depth in depths]
        print(f"{wiring:9} {name:5} layer, depth {depths}:", *row)

# %%
if FULL:
    first, last = (
        {wiring: torch.stack([measured[wiring, depth][layer] for depth in depths]) for wiring in wirings}
        for layer in (0, -1)
    )
    assert first["plain"][-1] < 1e-7 and last["plain"][-1] < 1e-7  # vanished
    assert first["residual"][-1] > 1e4 and last["residual"][-1] > 1e4  # exploded
    assert last["post"].min() > 0.4 and last["post"].max() < 0.8  # nearly the same at every depth
    assert abs(last["pre"][0] - 0.38) < 0.05 and abs(last["pre"][-1] - 0.12) < 0.03
    scaled = last["pre"] * torch.tensor(depths).sqrt()
    assert scaled.max() / scaled.min() < 1.5  # falls with the root of the depth
    assert first["post"].min() > 0.4 and first["post"].max() < 1.2
    assert first["pre"].min() > 0.4 and first["pre"].max() < 0.8
    assert first["pre"][-1] > 4 * last["pre"][-1] and first["post"][-1] < 2 * last["post"][-1]

# %% [markdown]
# Each wiring does something else to the gradient, **before any training**:
#
# - **plain**: it vanishes in all layers. With 32 layers it is more than ten million times smaller than with 2. The
#   gradient of the first layer shrinks on its way back. That of the last layer has no way back. It is small because the
#   numbers themselves have become small on their way forward.
# - **residual** without norms: it explodes. Each layer adds to the stream, the next one gets a larger input, and adds
#   more.
# - **post**: the norm keeps the stream in range. It also stands on the straight way, after every sum. So the gradient
#   on this way is no longer 1: each norm divides it by the size of the sum, and what comes back through $f$ is added.
#   Here the two are in balance. The last layer has a gradient between 0.5 and 0.7 at every depth, and the first layer
#   one between 0.5 and 1.1.
# - **pre**: nothing stands on the straight way but the norm at the very end. The first layer keeps its gradient,
#   between 0.5 and 0.7 at every depth. That of the last layer falls about as $1 / \sqrt{L}$ for $L$ layers, from 0.38
#   to 0.12: the stream grows with each layer, and the norm at the end divides by its size. With 32 layers, the first
#   layer has more than five times the gradient of the last one.
#
# So with random weights, post does *not* starve the first layers in our measurement. What pre changes at the start are
# the last layers: they begin gently.
#
# For the last layer, Xiong et al. (2020, arXiv:2002.04745, theorem 1) prove upper bounds that behave like our numbers:
# constant in $L$ for post, and falling with $1 / \sqrt{L}$ for pre. They conclude that post needs a **warm-up**: the
# learning rate must start small, because the large gradients near the output would otherwise spoil the first steps. Pre
# does not need it.
#
# ## Does it matter in training?
#
# We train stacks of 12 layers on the task of chapter 3: name the left and the right neighbour of each digit. Pre and
# post get the same data, the same 150 steps and the same largest learning rate. Post also gets a second try, with a
# warm-up over the first half. Chapter 4 warned of single seeds, so each post gets three. In each step we also compare
# the gradient of the first layer with that of the last one.


# %%
def train(wiring: str, warmup_steps: int, seed: int) -> tuple[list[float], list[float]]:
    """For each step, the loss, and the gradient of the first layer divided by that of the last layer."""
    torch.manual_seed(seed)
    model = nn.ModuleList([nn.Embedding(10, D), nn.Embedding(10, D), stack(wiring, DEPTH), nn.Linear(D, 20)])
    digits, places, layers, output = model
    optimizer = torch.optim.Adam(model.parameters())
    losses, ratios = [], []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / max(1, warmup_steps))
        x = torch.randint(10, (16, 10))
        labels = torch.stack((x.roll(1, 1), x.roll(-1, 1)), dim=-1)
        logits = output(layers(digits(x) + places.weight)).unflatten(-1, (2, 10))
        loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        first, last = (layers[place].feed_forward.down.weight.grad.norm() for place in (0, DEPTH - 1))
        optimizer.step()
        losses.append(loss.item())
        ratios.append((first / last).item())
    return losses, ratios


DEPTH, STEPS = (12, 150) if FULL else (3, 6)
RECIPES = {
    "pre, no warm-up": ("pre", 0, 1),
    "post, no warm-up": ("post", 0, 3 if FULL else 1),
    "post, warm-up": ("post", 75, 3 if FULL else 1),
}
losses, ratios = {}, {}
for label, (wiring, warmup_steps, seeds) in RECIPES.items():
    runs = [train(wiring, warmup_steps, seed) for seed in range(seeds)]
    losses[label], ratios[label] = (torch.tensor(curves) for curves in zip(*runs, strict=True))  # [seeds, steps]

figure, both = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
for label, colour in zip(RECIPES, ("tab:red", "tab:green", "tab:olive"), strict=True):
    for seed, (loss, ratio) in enumerate(zip(losses[label], ratios[label], strict=True)):
        both[0].plot(loss, color=colour, linewidth=1, label=None if seed else label)
        both[1].plot(ratio[:40], color=colour, linewidth=1)
both[0].axhline(torch.tensor(10.0).log().item(), color="0.6", linewidth=1)
both[0].text(STEPS, 2.33, "guessing", color="0.4", fontsize=9, ha="right")
both[0].set(xlabel="step", ylabel="loss", ylim=(0, None), title=f"{DEPTH} layers")
both[0].legend()
both[1].axhline(1, color="0.6", linewidth=1)
both[1].set(xlabel="step", yscale="log", title="Gradient of the first layer / of the last layer")
plt.show()

ends = {label: curves[:, -10:].mean(1) for label, curves in losses.items()}  # [seeds]
sixth = {label: curves[:, 5] for label, curves in ratios.items()}  # [seeds]
for label in RECIPES:
    print(f"{label:16} loss at the end", ends[label].tolist(), "first / last layer in step 6", sixth[label].tolist())

# %%
if FULL:
    assert ends["pre, no warm-up"].max() < 0.3
    assert ends["post, warm-up"].min() > 1.8
    assert ends["post, warm-up"].max() < ends["post, no warm-up"].min() - 0.05  # in every pair of seeds
    assert sixth["post, no warm-up"].max() < 0.6 and sixth["post, no warm-up"].min() < 0.1
    assert sixth["post, warm-up"].min() > 0.6 and sixth["post, warm-up"].max() < 1.2
    assert sixth["pre, no warm-up"].min() > 1.5

# %% [markdown]
# After 150 steps, pre has nearly solved the task: its loss is 0.09. Post without warm-up has hardly begun, with 2.13 to
# 2.22 (guessing has 2.30). With the warm-up it has 1.92 to 1.98. So the warm-up helps, in each of the three seeds, but
# not enough in these few steps.
#
# The right figure says what happens to the **first** layers. Without warm-up, the first steps damage post: in the sixth
# step, the first layer gets between 0.06 and 0.54 of the last layer's gradient, depending on the seed. Here is the fall
# towards the first layers that random weights did not show. With the warm-up it gets 0.7 to 1.0 of it. In pre the first
# layer gets about twice the gradient of the last one, although there is no warm-up. So pre keeps the way to the first
# layers open while the weights change, and post needs small steps for that.
#
# Given more steps, post can learn too: the translation models of 2017 were post, with 4,000 steps of warm-up (section
# 5.3). So our measurement says that pre is *easier to train*, not that it is better in the end.
#
# ```{admonition} Exercise 5.2
# In a pre stack nothing normalises the stream $x$ itself. Measure its size (the root of the mean square) after 1, 4 and
# 16 blocks with random weights. What does this say about the norm at the very end?
# ```

# %% tags=["hide-cell"]
torch.manual_seed(0)
x, sizes = torch.randn(16, 12, D), {}
with torch.no_grad():
    for depth in range(1, 17):
        x = Block("pre")(x)
        sizes[depth] = x.square().mean().sqrt().item()
print({depth: round(sizes[depth], 2) for depth in (1, 4, 16)})
assert sizes[1] < sizes[4] < sizes[16]
# The stream grows with depth. Without the last norm, the logits would grow with it.

# %% [markdown]
# ## Dropout's place
#
# Dropout sets each number to zero with probability $p$, and divides the others by $1 - p$, so that the mean stays. It
# works in training only. The paper puts it in two places (section 5.4): on the sum of embeddings and positions, and on
# the output of each sub-layer, **before** it is added to the stream. In the paper, which is post, and in a pre network:
#
# $$
# \text{post: } \text{norm}(x + \text{dropout}(f(x))), \qquad \text{pre: } x + \text{dropout}(f(\text{norm}(x)))
# $$
#
# ```{admonition} A usual mistake: "Dropout comes after the sum"
# :class: warning
# Then it would hit the stream itself, again in every layer. With $p = 0.1$ and 12 sub-layers, only $0.9^{12} = 28\ \%$
# of the first signal would arrive. In the right place, all of it arrives. The next block measures both.
# ```
#
# ```{admonition} A usual mistake: "Dropout is scaled in prediction"
# :class: warning
# PyTorch scales in training, so prediction does nothing at all. But you must say which of the two it is: `model.eval()`
# switches dropout off. Forget it, and the same input gives a different output each time.
# ```

# %%
dropout = nn.Dropout(0.1)
signal = torch.ones(100_000)
right, wrong = signal, signal
for _ in range(12):  # f gives zeros here, so that we see the signal alone
    right = right + dropout(torch.zeros_like(signal))
    wrong = dropout(wrong + torch.zeros_like(signal))
arrives = [(each != 0).float().mean().item() for each in (right, wrong)]
print(f"arrives: {arrives[0]:.0%} with dropout on the branch, {arrives[1]:.0%} with dropout after the sum")
assert (right == 1).all()
assert abs(arrives[1] - 0.9**12) < 0.01
assert torch.equal(dropout.eval()(signal), signal)

# %% [markdown]
# ```{admonition} Exercise 5.3
# Dropout keeps the mean of a number. Does it keep the variance? Measure it for standard normal numbers and $p = 0.5$.
# ```

# %% tags=["hide-cell"]
x = torch.randn(200_000)
y = nn.Dropout(0.5)(x)
assert abs(y.mean().item()) < 0.02
assert abs(y.var().item() - 2) < 0.05  # the mean is 0, so it grows by the factor 1 / (1 - p)

# %% [markdown]
# ## What you have learned
#
# - The feed-forward network works on each token by itself. It has two thirds of an encoder layer's weights.
# - Layer norm computes mean and variance of each vector anew. It learns $\gamma$ and $\beta$ only.
# - Without residuals the gradient vanishes with depth. Without norms it explodes.
# - With random weights, the first layers get a gradient in post and in pre. In pre that of the last layer falls with
#   $1/\sqrt L$; in post it does not.
# - In training without warm-up, the first layers of post get less gradient than the last one. Those of pre get more.
# - Dropout stands on each sub-layer's output, before the sum.
#
# ## Next
#
# All parts are ready. [Chapter 6](06_the_network.py) puts them together and trains the whole network.
