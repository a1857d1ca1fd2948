"""Running turns are given to the store as they grow, a slice of them at a time, so that thousands make no stall."""

import asyncio
from collections import deque
from collections.abc import Mapping

from server.asking import Asking
from server.stores import Store

ROUND_SECONDS = 0.8  # in which each running turn is saved once
SLICE_TURNS = 250  # are saved at once; more, where there would be too many slices: each is a commit to the disk
MOST_SLICES = 10


class Checkpoints:
    def __init__(self, store: Store, running: Mapping[str, Asking]) -> None:
        self._store = store
        self._running = running
        self._waiting: deque[Asking] = deque()
        self._slices = 0  # of the round under way
        self._timer: asyncio.TimerHandle | None = None

    def add(self, asking: Asking) -> None:
        self._waiting.append(asking)
        if len(self._waiting) > SLICE_TURNS * self._slices and self._slices < MOST_SLICES:
            self._save()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _save(self) -> None:
        """One slice; the others follow."""
        self.stop()
        waiting = self._waiting
        self._slices = min(MOST_SLICES, -(-len(waiting) // SLICE_TURNS))
        parts = []
        for _ in range(-(-len(waiting) // self._slices)):
            asking = waiting.popleft()
            if asking.turn.id in self._running:
                waiting.append(asking)
                part = asking.part()
                if part is not None:
                    parts.append(part)
        if parts:
            self._store.checkpoint(parts)
        if waiting:
            self._timer = asyncio.get_running_loop().call_later(ROUND_SECONDS / self._slices, self._save)
        else:
            self._slices = 0
