"""The random streams of a rank, and where they go on after a resume or an interrupted step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multihead.runs.checkpoint import own_stream, random_state, set_random_state


class Streams:
    """Every global random stream of this process, as of the last whole step.

    Args:
        seed: The seed of the run, from which every rank but the first gets streams of its own.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._resumed: Mapping[str, Any] | None = None
        self._at_boundary: Mapping[str, Any] = {}

    @property
    def has_boundary(self) -> bool:
        """Whether there is a whole step to go back to."""
        return bool(self._at_boundary)

    def start(self, rank: int) -> None:
        """Begins a new run. All ranks have drawn the same weights; from here on their dropout differs."""
        if rank:
            own_stream(self._seed, rank, 0)

    def resume(self, ranks: Sequence[Mapping[str, Any]], rank: int, step: int) -> None:
        """Takes this rank's streams from a checkpoint. A rank that was not there draws from new streams.

        Args:
            ranks: What the checkpoint holds of each rank.
            rank: The number of this rank.
            step: The step of the checkpoint.
        """
        if rank < len(ranks):
            self._resumed = ranks[rank]["random"]
        else:
            own_stream(self._seed, rank, step)

    def begin_step(self) -> None:
        """Puts the streams of the checkpoint back, once, before the first step after a resume."""
        if self._resumed is not None:
            set_random_state(self._resumed)
            self._resumed = None

    def state(self) -> Mapping[str, Any]:
        """The streams that the next step begins with."""
        return self._resumed or random_state()

    def mark_boundary(self) -> None:
        """Remembers the streams at the end of a whole step, to which `go_back` returns."""
        self._at_boundary = self.state()

    def go_back(self) -> None:
        """Puts the streams back to the end of the last whole step, if there is one."""
        if self._at_boundary:
            set_random_state(self._at_boundary)
