# %% [markdown]
# # 11. From one core to many GPUs
#
# A step of training is: read a batch, compute the loss, compute the gradient, change the weights. If the batch does not
# fit, or takes too long, we cut it into pieces. This chapter shows that the pieces give *the same step*, and which
# mistakes make it another step:
#
# 1. one after the other on one device: **gradient accumulation**;
# 2. side by side on several devices: **data parallel** training;
# 3. with shorter numbers: **precision**;
# 4. with weights that are split, too: **FSDP**;
# 5. today and tomorrow: **resume**.
#
# You need chapter 6. You can read the page, or run it: `python docs/learn/11_from_one_core_to_many_gpus.py`. It needs
# no GPU.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import multihead
from multihead.config.model import ModelConfig
from multihead.model.transformer import Transformer

FULL = os.environ.get("MULTIHEAD_GUIDE") == "full"  # without it, the blocks below are cut down to seconds
RUNS = Path(tempfile.mkdtemp())  # where the chapter's runs go
torch.manual_seed(0)
plt.rcParams["font.size"] = 11


def train(*words: str) -> dict:
    """Trains as `python train.py WORDS` does, without its output."""
    return multihead.train([*words, "logger=none"], quiet=True)


# %% [markdown]
# ## One batch, whole
#
# We need a model and a batch. The model is a small decoder. The batch has eight texts of different lengths. Where a
# text has ended, the label is -100: there is nothing to predict. We compute in `float64`, so that rounding does not
# hide mistakes.

# %%
V, LENGTHS = 50, [12, 3, 9, 5, 12, 4, 2, 7]
config = ModelConfig(d_model=32, num_heads=2, d_ff=64, num_decoder_layers=2, dropout=0.0)
backbone = Transformer(config, source_vocab_size=None, target_vocab_size=V)
model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(config.d_model, V)}).double()

inputs = torch.randint(V, (len(LENGTHS), max(LENGTHS)))
labels = torch.randint(V, inputs.shape)
labels[torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None]] = -100


def loss_sum(rows: slice) -> torch.Tensor:
    """The summed loss of these rows of the batch."""
    hidden = model["backbone"].decode(inputs[rows])
    return F.cross_entropy(model["head"](hidden).flatten(0, 1), labels[rows].flatten(), reduction="sum")


def gradient() -> torch.Tensor:
    """All gradients as one vector; clears them."""
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


TOKENS = sum(LENGTHS)
(loss_sum(slice(0, 8)) / TOKENS).backward()
whole = gradient()
print(f"{TOKENS} tokens; the gradient has {len(whole):,} numbers and the length {float(whole.norm()):.3f}")

# %% [markdown]
# ## Gradient accumulation
#
# The derivative of a sum is the sum of the derivatives. So we may compute the loss of two texts, call `backward`, take
# the next two texts, and so on. PyTorch *adds* to `.grad`. We change the weights only after the last piece, which is
# called a **micro-batch**. Memory is needed for one micro-batch at a time.
#
# What must each micro-batch be divided by? By the number of tokens of the **whole** step:

# %%
PIECES = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
for piece in PIECES:
    (loss_sum(piece) / TOKENS).backward()
right = gradient()
print(f"largest difference from the whole batch: {float((right - whole).abs().max()):.1e}")
assert torch.allclose(right, whole, atol=1e-12)

# %% [markdown]
# ```{admonition} A usual mistake: "loss = F.cross_entropy(logits, labels) / num_micro_batches"
# :class: warning
# This takes the *mean* loss of each micro-batch, and the mean of these means. It is right only if all micro-batches
# have the same number of tokens. Otherwise a token of a micro-batch with few tokens counts more than one of a
# micro-batch with many.
# ```

# %%
for piece in PIECES:
    tokens = int((labels[piece] != -100).sum())
    (loss_sum(piece) / tokens / len(PIECES)).backward()
wrong = gradient()
angle = torch.rad2deg(torch.acos(F.cosine_similarity(wrong, whole, dim=0)))
off = float((wrong - whole).norm() / whole.norm())
print(f"mean of means: relative difference {off:.0%}, {float(angle):.0f} degrees off")
assert off > 0.05

# %% [markdown]
# In this library, `trainer.accumulate_grad_batches=4` cuts a step into four micro-batches, and each loss is divided by
# the tokens of the step. Dropout is drawn anew for each piece, so with dropout the steps are equal only on average.
#
# ## Data parallel training
#
# Now the pieces go to several devices at the same time. Each process is called a **rank**. Each rank has a copy of the
# whole model and gets its share of the batch. After `backward`, the ranks add up their gradients. This is called
# **all-reduce**: afterwards each rank has the sum. Then all of them change their weights in the same way, so the copies
# stay equal. PyTorch's version is **DDP** (Li et al. 2020, arXiv:2006.15704).
#
# By hand, with two ranks. DDP takes the *mean* over ranks, so each rank multiplies its loss by the number of ranks:

# %%
WORLD = 2
of_rank = []
for piece in (slice(0, 4), slice(4, 8)):
    (loss_sum(piece) * WORLD / TOKENS).backward()
    of_rank.append(gradient())
all_reduced = sum(of_rank) / WORLD
print(f"largest difference from the whole batch: {float((all_reduced - whole).abs().max()):.1e}")
assert torch.allclose(all_reduced, whole, atol=1e-12)

# %% [markdown]
# Now with two real processes on this computer. `devices=2 accelerator=cpu strategy=ddp` starts them. The number of
# texts in a step does not depend on the number of ranks (`data.batch_tokens` counts the tokens of all ranks together).
# So the losses must be those of one process, but for rounding. (This block starts two processes, which takes a while.
# The cut-down guide leaves it out.)

# %%
SMALL = ["task=lm", "debug=smoke", "accelerator=cpu", "trainer.max_steps=6", "trainer.val_every_n_steps=6"]


def losses(run: Path) -> list[float]:
    """The training losses of a run, step by step."""
    return multihead.load(run).metrics["train/loss"].dropna().tolist()


train(*SMALL, f"run_dir={RUNS / 'one'}")
of_one = losses(RUNS / "one")
print("one rank ", [round(loss, 5) for loss in of_one])
if FULL:
    train(*SMALL, "devices=2", "strategy=ddp", f"run_dir={RUNS / 'two'}")
    of_two = losses(RUNS / "two")
    print("two ranks", [round(loss, 5) for loss in of_two])
    assert max(abs(a - b) for a, b in zip(of_one, of_two, strict=True)) < 1e-4

# %% [markdown]
# ```{admonition} A usual mistake: "Two devices make the same training twice as fast"
# :class: warning
# The gradients must travel, and some work is not shared. And many scripts keep the batch *per device*, so that a step
# has twice as many tokens.
# ```
#
# A step of twice as many tokens is another training. It needs another learning rate (Goyal et al. 2017,
# arXiv:1706.02677), and from a certain size on, larger steps help little (McCandlish et al. 2018, arXiv:1812.06162).
#
# ## Precision
#
# A `float32` has 32 bits. Shorter numbers need less memory, and GPUs compute with them much faster. But something must
# be given up: range or digits.

# %%
print(f"{'':9} {'bits':>5} {'largest':>9} {'smallest normal':>16} {'step after 1':>13}")
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    about = torch.finfo(dtype)
    print(f"{str(dtype)[6:]:9} {about.bits:5} {about.max:9.1e} {about.tiny:16.1e} {about.eps:13.1e}")
assert torch.finfo(torch.bfloat16).max > 1e38 > torch.finfo(torch.float16).max

# %% [markdown]
# `float16` has a small range: a gradient of $10^{-8}$ becomes 0. `bfloat16` has the range of `float32`, but few digits:
# after 1 comes 1.0078. Both have a trap.
#
# **Trap 1, digits.** A weight of 1 gets an update of 0.001, a thousand times. In `bfloat16` nothing happens at all:
# each single update is rounded away.

# %%
UPDATES = 1000
short, long = torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0)
path_short, path_long = [], []
for _ in range(UPDATES):
    short, long = short + 0.001, long + 0.001
    path_short.append(float(short))
    path_long.append(float(long))
print(f"bfloat16: {float(short):.3f}, float32: {float(long):.3f}")
assert float(short) == 1.0
assert abs(float(long) - 2.0) < 1e-3

figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(path_long, label="float32")
axes.plot(path_short, label="bfloat16")
axes.set_xlabel("updates of 0.001")
axes.set_ylabel("weight")
axes.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# So the weights stay in `float32`, and only the matrix products use short numbers. This is **mixed precision**
# (Micikevicius et al. 2017, arXiv:1710.03740).
#
# ```{admonition} A usual mistake: "model.half() trains in mixed precision"
# :class: warning
# It shortens the weights, too. Then small updates are lost, as above.
# ```
#
# PyTorch's `autocast` does it right. Look at the types:

# %%
layer = nn.Linear(64, 64)
x = torch.randn(8, 64)
with torch.autocast("cpu", dtype=torch.bfloat16):
    y = layer(x)
y.float().pow(2).mean().backward()
difference = (y.float() - layer(x)).abs().max() / layer(x).abs().max()
print(f"weights {layer.weight.dtype}, product {y.dtype}, gradient {layer.weight.grad.dtype}")
print(f"the product differs by {float(difference.detach()):.2%} of its size")
assert layer.weight.grad.dtype == torch.float32

# %% [markdown]
# **Trap 2, range.** With `float16`, small gradients become 0. The remedy is **loss scaling**: multiply the loss by a
# large number before `backward`, and divide the gradients afterwards.

# %%
tiny = torch.tensor(1e-8)
assert float(tiny.half()) == 0.0
scale = 2.0**16
assert abs(float((tiny * scale).half().float() / scale) - 1e-8) < 1e-11

# %% [markdown]
# `bfloat16` needs no loss scaling, because its range is that of `float32`. In this library it is
# `precision=bf16-mixed`. `precision=auto` takes it if the device gains by it.
#
# ## What FSDP does
#
# In data parallel training, each rank has the *whole* model. How large is that? With Adam, each parameter needs a
# weight, a gradient and two moments. With `float32` these are $4 + 4 + 8 = 16$ bytes (mixed precision also needs 16:
# Rajbhandari et al. 2019, arXiv:1910.02054, section 3.1). So 7 billion parameters need 112 GB, before a single text is
# read. More ranks do not help: each has its own copy.
#
# **FSDP**, "fully sharded data parallel" (Zhao et al. 2023, arXiv:2304.11277; the idea is ZeRO's), gives each rank only
# a share, a **shard**, of weights, gradients and moments. For each layer there are these moves:
#
# 1. **all-gather**: before a layer computes, the ranks send each other their shards, so that each has the whole layer.
# 2. They compute, each with its own texts, and forget the shards of the others.
# 3. **all-gather** again: `backward` needs the weights of the layer too, so the ranks send each other their shards a
#    second time, and forget them afterwards.
# 4. **reduce-scatter**: the gradients are added up, but each rank gets only the sum of its own shard. It updates its
#    shard with its own moments.
#
# Here it is by hand, for one layer and two ranks.

# %%
weight, batch = torch.randn(6, 4, dtype=torch.double), torch.randn(10, 4, dtype=torch.double)
shards = list(weight.chunk(2))  # rank 0 has rows 0 to 2, rank 1 has rows 3 to 5
texts = list(batch.chunk(2))

gathered = torch.cat(shards).requires_grad_()  # all-gather
gradients = []
for mine in texts:  # each rank, with its own texts
    (mine @ gathered.T).pow(2).mean().backward()
    gradients.append(gathered.grad.clone())
    gathered.grad = None
summed = sum(gradients) / 2
scattered = list(summed.chunk(2))  # reduce-scatter
updated = torch.cat([shard - 0.1 * grad for shard, grad in zip(shards, scattered, strict=True)])

alone = weight.clone().requires_grad_()  # the same step in one process
(batch @ alone.T).pow(2).mean().backward()
assert torch.allclose(updated, weight - 0.1 * alone.grad, atol=1e-12)
print("the sharded step is the step of one process")

# %% [markdown]
# The step is the same. Memory falls with the number of ranks, and more numbers travel: the weights, too.


# %%
def gigabytes(parameters: float, ranks: int, sharded: bool) -> float:
    """Memory of weights, gradients and Adam's moments on each rank; activations come on top."""
    return 16 * parameters / (ranks if sharded else 1) / 1e9


ranks = [1, 2, 4, 8, 16, 32]
figure, axes = plt.subplots(figsize=(7, 3.5))
axes.plot(ranks, [gigabytes(7e9, n, sharded=False) for n in ranks], marker="o", label="data parallel")
axes.plot(ranks, [gigabytes(7e9, n, sharded=True) for n in ranks], marker="o", label="FSDP")
axes.axhline(80, color="black", linestyle="--", linewidth=1, label="a GPU of 80 GB")
axes.set_xscale("log", base=2)
axes.set_xticks(ranks, [str(n) for n in ranks])
axes.set_xlabel("ranks")
axes.set_ylabel("GB on each rank")
axes.set_title("7 billion parameters, Adam, 16 bytes a parameter", fontsize=11)
axes.legend()
plt.tight_layout()
plt.show()
assert gigabytes(7e9, 1, sharded=False) == 112
assert gigabytes(7e9, 8, sharded=True) == 14

# %% [markdown]
# In this library it is `hardware=fsdp`. Its losses are those of `ddp` to rounding. [Several devices, several
# machines](../cluster.md#what-was-tried) says what was tried and what was not.
#
# ## Resume
#
# Long runs are interrupted. To go on *as if nothing had happened*, the weights are not enough. A checkpoint must hold:
#
# - the weights;
# - the optimizer's moments, or the run takes another path;
# - the place in the learning-rate schedule;
# - the place in the data, or some texts are read twice and others never;
# - the state of the random numbers, for dropout.
#
# The test is hard and simple: stop, go on, and compare the bits with a run without a break. Here are both ways: a whole
# checkpoint first, and then the weights alone.

# %%
train(*SMALL, "trainer.max_steps=3", "trainer.val_every_n_steps=3", f"run_dir={RUNS / 'broken'}")
train(f"resume={RUNS / 'broken'}", "trainer.max_steps=6", "trainer.val_every_n_steps=6")


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint of step 6."""
    files = sorted((run / "checkpoints" / "step_6").glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


first, second = weights(RUNS / "one"), weights(RUNS / "broken")
assert first.keys() == second.keys()
assert first
assert all(torch.equal(first[name], second[name]) for name in first)
print(f"{len(first)} tensors of weights and moments, equal to the last bit")

# %% [markdown]
# And with the weights alone? Then it is another run; it may be better or worse, but you cannot know. We imitate it on a
# small problem: Adam for ten steps, once in one go, and once with a new optimizer after five.


# %%
def adam_path(forget: bool) -> list[float]:
    """The distance from the minimum of x'Ax over ten steps; after five, the moments may be forgotten."""
    curvature, point = torch.tensor([10.0, 0.1]), nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer, path = torch.optim.Adam([point], lr=0.1), []
    for step in range(10):
        if forget and step == 5:
            optimizer = torch.optim.Adam([point], lr=0.1)
        optimizer.zero_grad()
        (curvature * point**2).sum().backward()
        optimizer.step()
        path.append(float(point.detach().norm()))
    return path


kept, forgotten = adam_path(forget=False), adam_path(forget=True)
print(f"after ten steps: {kept[-1]:.3f} with the moments, {forgotten[-1]:.3f} without")
assert kept[:5] == forgotten[:5]
assert abs(kept[-1] - forgotten[-1]) > 1e-3

# %% [markdown]
# ## Exercises
#
# ```{admonition} Exercise 11.1
# Three micro-batches have 100, 10 and 10 tokens and the mean losses 2, 5 and 5. What is the loss of the step? What does
# the mean of the means give?
# ```

# %% tags=["hide-cell"]
right_loss = (100 * 2 + 10 * 5 + 10 * 5) / 120
wrong_loss = (2 + 5 + 5) / 3
assert right_loss == 2.5
assert wrong_loss == 4.0

# %% [markdown]
# ```{admonition} Exercise 11.2
# In a ring all-reduce among $n$ ranks, each rank sends $2(n-1)/n$ times the size of the gradient (Patarasuk and Yuan
# 2009). How many bytes does each rank send for 100 million parameters in `float32`, with 2 ranks and with 8? What
# happens for very many?
# ```

# %% tags=["hide-cell"]


def sent(parameters: float, n: int) -> float:
    """Bytes that each rank sends."""
    return 2 * (n - 1) / n * 4 * parameters


assert sent(1e8, 2) == 4e8
assert sent(1e8, 8) == 7e8
assert sent(1e8, 10**6) < 8e8  # it stays below twice the gradient, however many ranks there are

# %% [markdown]
# ```{admonition} Exercise 11.3
# 10 % of a step cannot be shared among devices. How much faster can 8 devices be at most, and how much faster can any
# number be? (Amdahl 1967)
# ```

# %% tags=["hide-cell"]


def speedup(serial: float, devices: float) -> float:
    """The time on one device, divided by that on several."""
    return 1 / (serial + (1 - serial) / devices)


assert round(speedup(0.1, 8), 1) == 4.7
assert speedup(0.1, 1e12) < 10.0 + 1e-9

# %% [markdown]
# ## What you have learned
#
# - Divide each piece's summed loss by the tokens of the whole step. Then accumulation and data parallel training give
#   the step of one batch.
# - Mixed precision shortens the products, not the weights. `float16` also needs loss scaling.
# - FSDP splits weights, gradients and moments. The step stays the same, memory falls, traffic grows.
# - A checkpoint that can resume holds weights, moments, schedule, place in the data, and random state. Compare bits.
#
# ## Next
#
# Now you can train a variant of your own, and find out whether it is better: [12. Your own
# variant](12_your_own_variant.py).
