"""Changes of a stored tensor: block by block as all at once, and refused where they do not fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawing import drawn

from chip.edit import Change, Edit, Projected, load_edit, save_edits
from chip.edit.change import Redirected
from chip.edit.edit import arrays_of
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
    )
    def test_it_fits_the_shape_that_it_is_of(
        self, values: dict[str, object], shape: tuple[int, ...], fits: bool
    ) -> None:
        if fits:
            change(**values).refuse_misfit(shape)
        else:
            with pytest.raises(ChipError, match="the edit of t does not fit its shape"):
                change(**values).refuse_misfit(shape)


class TestDerivation:
    basis, rows = drawn(2, 2, 3).float().numpy(), np.array([2, 0, 1])
    keys, outputs = drawn(3, 2, 5).float().numpy(), drawn(4, 4, 2).float().numpy()

    @pytest.mark.parametrize("transposed", [False, True])
    def test_a_file_keeps_it_under_the_names_of_its_format(self, tmp_path: Path, transposed: bool) -> None:
        for number, (derivation, names) in enumerate(
            (
                (Projected(self.basis, self.rows, transposed), ("projected.basis", "projected.rows")),
                (Projected(self.basis, None, transposed), ("projected.basis",)),
                (Redirected(self.keys, self.outputs, transposed), ("redirected.keys", "redirected.outputs")),
                (None, ()),
            )
        ):
            one = change(derivation=derivation, rows=np.array([5, 1, 7, 0]))
            assert set(arrays_of(one)) == {"left", "right", "rows", *names}
            save_edits([Edit("chip", {}, (one,))], tmp_path / str(number))
            kept = load_edit(tmp_path / str(number)).changes[0]
            assert type(kept.derivation) is type(derivation)
            assert kept.derivation is None or kept.derivation.transposed is transposed
            for name, part in arrays_of(one).items():
                np.testing.assert_array_equal(arrays_of(kept)[name], part)

    def test_it_is_part_of_what_an_edit_is(self) -> None:
        derivations = (
            None,
            Projected(self.basis),
            Projected(self.basis, self.rows),
            Projected(2 * self.basis),
            Redirected(self.keys, self.outputs),
            Redirected(self.keys, 2 * self.outputs),
        )
        edits = [Edit("chip", {}, (change(derivation=one),)) for one in derivations]
        assert len({one.identity for one in edits}) == len(edits)
        assert edits[0].identity == Edit("chip", {}, (change(),)).identity
