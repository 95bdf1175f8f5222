"""A small deterministic schedule: from the best trial so far, a step along an axis, the way that its miss calls for."""

from collections.abc import Iterator, Sequence

from chip.measure import Outcome
from chip.settings import TuningSettings
from chip.tuning.space import Point, Space
from chip.tuning.trials import excess, rank

Tried = Sequence[tuple[Point, Outcome]]


class Schedule:
    """Proposes points one after the other; moves that helped before come first."""

    def __init__(self, space: Space, goals: TuningSettings) -> None:
        self._space, self._goals = space, goals
        self._merit: dict[tuple[int, int], int] = {}
        self._last: tuple[tuple[int, int], tuple[float, ...]] | None = None

    def propose(self, tried: Tried) -> Point | None:
        """The next point, or None where every neighbour of every point was tried."""
        if not tried:
            return self._space.start
        self._learn(tried)
        seen = {point for point, _ in tried}
        for point, outcome in sorted(tried, key=lambda one: rank(one[1], self._goals)):
            for move in self._moves(outcome):
                found = self._stepped(point, move)
                if found is not None and found not in seen:
                    self._last = move, rank(outcome, self._goals)
                    return found
        return None

    def _learn(self, tried: Tried) -> None:
        if self._last is not None:
            move, before = self._last
            self._merit[move] = self._merit.get(move, 0) + (1 if rank(tried[-1][1], self._goals) < before else -1)

    def _moves(self, outcome: Outcome) -> Iterator[tuple[int, int]]:
        """Axis and direction: stronger first where more of the target is left than is lost of the rest."""
        forget, keep = excess(outcome, self._goals)
        toward = 1 if forget > keep or (forget == keep and outcome.retain_drop <= 0) else -1
        every = [(axis, way) for way in (toward, -toward) for axis in range(len(self._space.axes))]
        yield from sorted(every, key=lambda move: -self._merit.get(move, 0))

    def _stepped(self, point: Point, move: tuple[int, int]) -> Point | None:
        axis, way = move
        index = point[axis] + way
        if not 0 <= index < len(self._space.axes[axis].values):
            return None
        return (*point[:axis], index, *point[axis + 1 :])
