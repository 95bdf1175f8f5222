"""Changes of a stored tensor: block by block as all at once, and refused where they do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from drawing import drawn

from chip.edit import Change
from chip.errors import ChipError


def change(**values: object) -> Change:
    left, right = drawn(0, 4, 2).float().numpy(), drawn(1, 2, 5).float().numpy()
    return Change(**{"tensor": "t", "left": left, "right": right, **values})  # type: ignore[arg-type]


class TestChange:
    @pytest.mark.parametrize("rows", [None, [6, 0, 3, 2]])
    @pytest.mark.parametrize("dense", [False, True])
    def test_block_by_block_it_is_as_all_at_once(self, rows: list[int] | None, dense: bool) -> None:
        height = 4 if rows is None else 8
        one = change(rows=None if rows is None else np.array(rows))
        exact = one.left.astype(np.float64) @ one.right.astype(np.float64)
        if dense:
            one = replace(one, left=exact.astype(np.float32), right=None)
            exact = one.left.astype(np.float64)
        matrix = drawn(2, height, 5).numpy()
        expected = matrix.copy()
        expected[slice(None) if rows is None else rows] += exact
        for size in (1, 2, 3, height):
            blocks = [one.added(matrix[start : start + size], start) for start in range(0, height, size)]
            np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=1e-14)
        np.testing.assert_allclose(one.added(matrix), expected, rtol=1e-14)
        assert one.added(matrix.astype(np.float32)).dtype == np.float64

    @pytest.mark.parametrize(
        ("values", "shape", "fits"),
        [
            ({}, (4, 5), True),
            ({}, (3, 5), False),
            ({}, (5, 5), False),
            ({}, (4, 6), False),
            ({}, (4, 4), False),
            ({}, (), False),
            ({}, (4,), False),
            ({"rows": np.arange(4)}, (4, 5), True),
            ({"rows": np.arange(1, 5)}, (5, 5), True),
            ({"rows": np.arange(1, 5)}, (4, 5), False),
            ({"rows": np.arange(-1, 3)}, (4, 5), False),
            ({"rows": np.arange(3)}, (4, 5), False),
            ({"right": np.ones((2, 6), np.float32)}, (4, 2, 3), True),
            ({"right": np.ones((2, 1), np.float32)}, (4,), True),
            ({"left": np.ones((0, 2), np.float32), "right": np.ones((2, 0), np.float32)}, (0, 0), True),
        ],
        ids=str,
    )
    def test_it_fits_the_shape_that_it_is_of(
        self, values: dict[str, object], shape: tuple[int, ...], fits: bool
    ) -> None:
        if fits:
            change(**values).refuse_misfit(shape)
        else:
            with pytest.raises(ChipError, match="the edit of t does not fit its shape"):
                change(**values).refuse_misfit(shape)
