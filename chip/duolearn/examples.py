"""The records of a training: encoded where they are first needed, and dealt to its steps by seed.

What a step is dealt depends on the seed and the step's number alone, so that a training that was interrupted goes on as
if it never had been.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from chip.duolearn.objectives import REFUSALS
from chip.hierarchy import Record
from chip.models.prompts import Encoded, Prompts
from chip.solve.problem import Problem

_MOST_KEPT = 512
"""Encoded records that are kept, images and all; any more are encoded again."""


def alike(prompts: Prompts, encoded: Sequence[Encoded], size: int) -> list[Sequence[Encoded]]:
    """Records of like length, `size` at a time at most, none beside others that their family's batches may not mix."""
    apart = not prompts.inputs.mixes
    order = sorted(encoded, key=lambda one: (len(one.image_rows) if apart else 0, len(one)))
    return prompts.batches(order, size, lambda one: len(one.image_rows))


class Examples:
    """The records of a request, by their positions in its hierarchy."""

    def __init__(self, problem: Problem) -> None:
        split = problem.split
        self.target = split.target
        self.siblings = tuple(sorted(split.siblings + split.shared))
        self.retained = split.retain
        self._problem = problem
        self._encoded: dict[tuple[int, int | None], Encoded] = {}

    def record(self, position: int) -> Record:
        return self._problem.hierarchy.records[position]

    def encoded(self, positions: Iterable[int]) -> list[Encoded]:
        """Records, encoded."""
        return [self._encode(position, None) for position in positions]

    def refused(self, positions: Iterable[int], turn: int) -> list[Encoded]:
        """Records with a refusal in place of their answers, another one at every turn."""
        return [self._encode(position, (position + turn) % len(REFUSALS)) for position in positions]

    def dealt(self, positions: Sequence[int], count: int, step: int, what: str) -> list[int]:
        """`count` of the positions: all of them are gone through, in an order drawn anew each time, before any comes
        again. Fewer where there are fewer."""
        count = min(count, len(positions))
        first = step * count
        drawn: list[int] = []
        for epoch in range(first // len(positions), (first + count - 1) // len(positions) + 1):
            order = random.Random(f"{self._problem.settings.seed} {what} {epoch}").sample(positions, len(positions))
            start, stop = first - epoch * len(positions), first + count - epoch * len(positions)
            drawn += order[max(start, 0) : stop]
        return drawn

    def near(self, count: int, step: int, what: str) -> list[int]:
        """Retained records of which half are the target's siblings or shared, as far as there are any."""
        half = self.dealt(self.siblings, (count + 1) // 2, step, f"{what} siblings") if self.siblings else []
        others = self.dealt(self.retained, count - len(half), step, f"{what} retained")
        return list(dict.fromkeys((*half, *others)))

    def few(self, positions: Sequence[int], most: int, what: str) -> list[int]:
        """At most so many of the positions, drawn by seed."""
        if len(positions) <= most:
            return list(positions)
        return sorted(random.Random(f"{self._problem.settings.seed} {what}").sample(list(positions), most))

    def batches_of(self, positions: Sequence[int]) -> list[list[int]]:
        """Positions that run at once, in the same way as `batches`."""
        encoded = self.encoded(positions)
        places = {id(one): position for position, one in zip(positions, encoded, strict=True)}
        return [[places[id(one)] for one in batch] for batch in self.batches(encoded)]

    def batches(self, encoded: Sequence[Encoded]) -> list[Sequence[Encoded]]:
        """What runs at once: records of like length, none beside others that their family's batches may not mix."""
        return alike(self._problem.loaded.prompts, encoded, self._problem.settings.batch_size)

    def _encode(self, position: int, refusal: int | None) -> Encoded:
        found = self._encoded.get((position, refusal))
        if found is None:
            record = self.record(position)
            if refusal is not None:
                # A document has no answer that could be replaced: it is refused as a whole.
                said = {"answer": REFUSALS[refusal]} if record.text is None else {"text": REFUSALS[refusal]}
                record = replace(record, **said)  # type: ignore[arg-type]
            found = self._problem.loaded.prompts.encode(record)
            if len(self._encoded) < _MOST_KEPT:
                self._encoded[position, refusal] = found
        return found
