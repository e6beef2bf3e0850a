"""A t-test of paired differences that looks after each seed, with a controlled error over all looks.

The differences d_1, d_2, ... between a variant and the baseline, one for each seed, are taken as independent and
Gaussian with an unknown mean and an unknown deviation. After seed n the test looks at

    t_n = mean * sqrt(n) / deviation

and finds a difference if |t_n| > c_n. A t-test at its usual level after each seed would find differences between equal
systems far too often. So the level is spent over the looks (Lan and DeMets 1983, doi:10.1093/biomet/70.3.659): up to
seed n of N, equal systems are called different with probability

    level * (n / N)^2        (the power family of Kim and DeMets 1987, doi:10.1093/biomet/74.1.149)

and the bounds c_n are those with exactly this error. They are exact for few seeds, where the bounds for a known
deviation would be far too low. The derivation is that of Jennison and Turnbull (1991, doi:10.1093/biomet/78.1.133) in
one dimension. With S_n the sum of the differences and V_n the sum of their squares, let

    w_n = S_n / sqrt(V_n),        so that        t_n = w_n * sqrt(n - 1) / sqrt(n - w_n^2).

If the mean is 0, the direction of (d_1, ..., d_n) is independent of its length. So u = d_{n+1} / sqrt(V_n) is
independent of w_2, ..., w_n, and sqrt(n) u has Student's distribution with n degrees of freedom. As

    w_{n+1} = (w_n + u) / sqrt(1 + u^2),

|w_n| is a Markov chain whose law depends on no unknown number. `bounds` follows the probability that it has crossed no
bound yet, on a grid, from look to look.

Why this test and not one that is valid at every number of seeds (Lai 1976; Wang and Ramdas 2024, arXiv:2310.03722):
with at most 5 seeds, a difference of 2 deviations is found with probability 0.87 here and 0.44 there, and with at most
12 seeds a difference of 1 deviation with 0.83 and 0.53. The price is that the largest number of seeds is fixed before
the first run. A study that ends earlier, because its budget is spent, keeps its error below the level.

Several comparisons are corrected by Holm's method, of which each step uses the bounds of its own level (Ye et al. 2013,
doi:10.1002/sim.5700).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special

FIRST_LOOK = 3
"""Number of seeds at the first look."""
SPENDING_POWER = 2.0
_BINS = 200
"""Bins of |w|. With four times as many, the bounds change by less than 1 % (`tests/studying/test_sequential.py`)."""
_PATHS = 20_000
"""Simulated studies behind a power; its standard error is below 0.004."""
_ALIKE = 1e-9
"""Differences that vary less than this share of their size are called equal."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Design:
    """When a study looks, and how much error it may make."""

    comparisons: int
    """Number of comparisons with the baseline, over all variants and tasks."""
    most: int
    """Largest number of seeds."""
    alpha: float = 0.05
    """Largest probability that any of the comparisons between equal systems is called better or worse."""
    every_seed: bool = True
    """Whether the study looks after each seed from `FIRST_LOOK`, or only once, after all seeds."""
    ratio: float = 0.0
    """Test rows by training rows of a cross-validation, whose differences share training rows; 0 without one."""

    @property
    def first(self) -> int:
        """Number of seeds at the first look."""
        return min(FIRST_LOOK, self.most) if self.every_seed else self.most

    @property
    def level(self) -> float:
        """The level of one comparison: Bonferroni's, with which Holm's method begins."""
        return self.alpha / self.comparisons

    def bounds(self, remaining: int | None = None) -> tuple[float, ...]:
        """Bounds of |t| from the first look to the last.

        Args:
            remaining: Comparisons that Holm's method has not decided yet; None means all.
        """
        return bounds(self.alpha / (remaining or self.comparisons), self.most, self.first)


# ---- the bounds


@functools.lru_cache(maxsize=256)
def bounds(level: float, most: int, first: int = FIRST_LOOK, bins: int = _BINS) -> tuple[float, ...]:
    """Returns the bounds of |t| at ``first``, ``first`` + 1, ... ``most`` seeds.

    The first bound is Student's quantile. Each other one is solved on the chain of the module's text.
    """
    spent = level * (first / most) ** SPENDING_POWER
    found = [_t_quantile(spent, first - 1)]
    edges = _edges(_to_w(found[0], first), first, bins)
    t_edges = np.array([_to_t(edge, first) for edge in edges])
    mass = np.diff(1 - 2 * special.stdtr(first - 1, -t_edges))
    for n in range(first, most):
        middles = (edges[1:] + edges[:-1]) / 2
        share = level * ((n + 1) / most) ** SPENDING_POWER - spent
        bound = _solve(middles, mass, share, n)
        edges = _edges(bound, n + 1, bins)
        beyond = mass @ _exceeds(middles[:, None], edges[None, :], n)
        mass, spent = -np.diff(beyond), spent + share
        found.append(_to_t(bound, n + 1))
    return tuple(found)


def _edges(bound: float, n: int, bins: int) -> np.ndarray:
    """Returns bins of |w_n| up to ``bound``. They are equal in angle, and so narrow where |t| is large."""
    return math.sqrt(n) * np.sin(np.linspace(0.0, math.asin(min(1.0, bound / math.sqrt(n))), bins + 1))


def _solve(middles: np.ndarray, mass: np.ndarray, share: float, n: int) -> float:
    """Returns the bound of |w| at seed n + 1 that is passed with probability ``share``."""

    def excess(bound: float) -> float:
        return float(mass @ _exceeds(middles, np.full_like(middles, bound), n)) - share

    return _falling_root(excess, 0.0, math.sqrt(n + 1), 1e-12)


def _falling_root(function: Callable[[float], float], low: float, high: float, width: float) -> float:
    """Returns where a falling function passes 0, by halving an interval until it is as narrow as ``width``."""
    while high - low > width:
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def _exceeds(w: np.ndarray, bound: np.ndarray, n: int) -> np.ndarray:
    """Returns the probability that |w_{n+1}| > ``bound`` if |w_n| = ``w``.

    With u = tan(a), w_{n+1} = w cos(a) + sin(a) = R sin(a + g), where R = sqrt(1 + w^2) and g = arctan(w).
    """

    def below(angle: np.ndarray) -> np.ndarray:
        inside = np.clip(angle, -math.pi / 2, math.pi / 2)
        value = special.stdtr(n, math.sqrt(n) * np.tan(inside))
        return np.where(angle >= math.pi / 2, 1.0, np.where(angle <= -math.pi / 2, 0.0, value))

    radius, shift = np.sqrt(1 + w**2), np.arctan(w)
    reach = np.arcsin(np.minimum(bound / radius, 1.0))
    above = below(math.pi - reach - shift) - below(reach - shift)
    return np.where(bound < radius, above + below(-reach - shift), 0.0)


def _t_quantile(level: float, freedom: int) -> float:
    return float(-special.stdtrit(freedom, level / 2))


def _to_w(t: float, n: int) -> float:
    return t * math.sqrt(n) / math.sqrt(n - 1 + t * t)


def _to_t(w: float, n: int) -> float:
    return w * math.sqrt(n - 1) / math.sqrt(max(n - w * w, 1e-300))


# ---- the test


def t_statistic(differences: Sequence[float], ratio: float = 0.0) -> float:
    """Returns t. It is 0 if the differences do not vary, because their deviation is not known then.

    Args:
        differences: The differences by seed or fold.
        ratio: Test rows by training rows of a cross-validation; 0 without one.
    """
    deviation = deviation_of(differences)
    return float(np.mean(differences)) / (deviation * share_of_mean(len(differences), ratio)) if deviation else 0.0


def share_of_mean(count: int, ratio: float = 0.0) -> float:
    """Returns the error of a mean, in deviations of its values.

    Without folds it is sqrt(1 / count). Folds share training rows, so that their differences are correlated and their
    deviation is too small for the error of the mean. The correction is sqrt(1 / count + ratio), with the ratio of test
    rows to training rows (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366).
    """
    return math.sqrt(1 / count + ratio)


def deviation_of(differences: Sequence[float]) -> float:
    """Returns the standard deviation (n - 1) of differences, or 0 if they are equal or fewer than two."""
    if len(differences) < 2:
        return 0.0
    deviation = float(np.std(differences, ddof=1))
    return deviation if deviation > _ALIKE * float(np.max(np.abs(differences))) else 0.0


def crossing(differences: Sequence[float], limits: Sequence[float], first: int, ratio: float = 0.0) -> int:
    """Returns the number of seeds at which |t| first passes its bound, with the sign of the mean; 0 if it never does.

    Args:
        differences: The differences by seed, in the order of the seeds.
        limits: The bounds from the first look on.
        first: Number of seeds at the first look.
        ratio: That of `t_statistic`.
    """
    for n, limit in enumerate(limits, start=first):
        if n > len(differences):
            break
        if abs(t := t_statistic(differences[:n], ratio)) > limit:
            return n if t > 0 else -n
    return 0


def found_different(paths: Mapping[Key, Sequence[float]], design: Design) -> dict[Key, int]:
    """Returns the comparisons that are decided, each with the sign of its difference, by Holm's method.

    Args:
        paths: The differences by seed of each comparison, all of those that the study makes.
        design: The study's design.
    """
    decided: dict[Key, int] = {}
    while len(decided) < len(paths):
        limits = design.bounds(design.comparisons - len(decided))
        crossed = {
            key: where
            for key, differences in paths.items()
            if key not in decided and (where := crossing(differences, limits, design.first, design.ratio))
        }
        if not crossed:
            break
        decided |= {key: 1 if where > 0 else -1 for key, where in crossed.items()}
    return decided


def interval(differences: Sequence[float], design: Design) -> tuple[float, float] | None:
    """Returns the repeated confidence interval (Jennison and Turnbull 1989, doi:10.1111/j.2517-6161.1989.tb01433.x).

    The intervals of all comparisons at all looks hold together with probability 1 - alpha. None if there is no look yet
    or if the differences do not vary.
    """
    n, deviation = len(differences), deviation_of(differences)
    if n < design.first or not deviation:
        return None
    mean = float(np.mean(differences))
    half = design.bounds()[n - design.first] * deviation * share_of_mean(n, design.ratio)
    return mean - half, mean + half


# ---- what a study can detect


@functools.lru_cache(maxsize=8)
def _noise(seeds: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((_PATHS, seeds))


def power(effect: float, design: Design, seeds: int = 0) -> float:
    """Returns the probability that a comparison is decided in the right direction at the level of Holm's first step.

    Args:
        effect: The true mean difference, in deviations of the differences.
        design: The study's design.
        seeds: Seeds that are run, if the budget ends before ``design.most``; 0 means all.
    """
    seeds = seeds or design.most
    if seeds < design.first:
        return 0.0
    values = _noise(design.most)[:, :seeds] + effect
    if design.ratio:  # what all folds share, in deviations of what they do not share
        values = values + math.sqrt(design.ratio) * np.random.default_rng(1).standard_normal((_PATHS, 1))
    counts = np.arange(1, seeds + 1)
    sums, squares = values.cumsum(1), (values**2).cumsum(1)
    looks = slice(design.first - 1, seeds)
    n, total = counts[looks], sums[:, looks]
    deviation = np.sqrt((squares[:, looks] - total**2 / n) / (n - 1))
    t = total / n / (deviation * np.sqrt(1 / n + design.ratio))  # [paths, looks]
    crossed = np.abs(t) > np.array(design.bounds())[: len(n)]
    where = crossed.argmax(1)
    return float(np.mean(crossed.any(1) & (t[np.arange(len(t)), where] > 0)))


@functools.lru_cache(maxsize=256)
def detectable(design: Design, chance: float, seeds: int = 0) -> float:
    """Returns the difference, in deviations of the differences, that is found with probability ``chance``.

    It is infinite if the budget ends before the first look.
    """
    if (seeds or design.most) < design.first:
        return math.inf
    high = 1.0
    while power(high, design, seeds) < chance and high < 1e6:
        high *= 2
    return _falling_root(lambda effect: chance - power(effect, design, seeds), 0.0, high, 1e-3)
