"""Edits carried over to other weights: the closed forms, evaluated on them with what the edit keeps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import stored_tensors
from command_line import chip_here
from edits import run_edit
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch import Tensor

from chip.edit import Change, Edit, Projected, load_edit
from chip.edit.transfer import transferred
from chip.errors import ChipError
from chip.models import stored
from chip.models.checkpoint import Checkpoint
from chip.models.sites import Site, StoredSite
from chip.models.stored import Array
from chip.solve import oblique
from chip.solve.changes import bias_change, projected, redirected, weight_change
from chip.solve.least_change import Weights, solve_site
from chip.solve.metric import DenseMetric
from chip.solve.orthogonal import Projection

SEEDS = st.integers(0, 2**31)
OUTPUTS, INPUTS = 7, 9


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are read in several blocks of rows, as large ones are."""

    def blocks(one: stored.StoredTensor) -> Any:
        yield from ((start, min(start + 3, one.shape[0])) for start in range(0, one.shape[0], 3))

    monkeypatch.setattr(stored.StoredTensor, "blocks", blocks)


def checkpoint(directory: Path, **tensors: Tensor) -> Checkpoint:
    """A checkpoint of nothing but these tensors, in 64 bits."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    save_file(
        {name: np.ascontiguousarray(one.numpy()) for name, one in tensors.items()}, directory / "model.safetensors"
    )
    return Checkpoint(directory)


def site_of(one: Checkpoint, *, transposed: bool = False) -> StoredSite:
    site = Site("layer", "language", 0, "layer", given="given" if transposed else "")
    return StoredSite(site, one.tensors["weight"], one.tensors.get("bias"))


def moved(change: Change, onto: Checkpoint) -> Change:
    edit = transferred(Edit("oblique", {}, (change,), {change.tensor: "what it was solved on"}), onto)
    assert edit.transferred
    assert edit.base == {change.tensor: onto.tensors[change.tensor].digest()}
    return edit.changes[0]


def as_stored(weight: Tensor, *, transposed: bool) -> Tensor:
    return weight.T.contiguous() if transposed else weight


def near(found: Array, expected: Tensor | Array, *, of: Array | None = None) -> None:
    """Equal but for the rounding of 32-bit factors."""
    scale = np.abs(np.asarray(expected) if of is None else of).max()
    np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=3e-6 * max(scale, 1.0))


class TestProjected:
    @given(SEEDS, st.booleans(), st.integers(1, OUTPUTS))
    def test_on_other_weights_it_projects_what_they_put_out(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, transposed: bool, count: int
    ) -> None:
        """W' − QᵀQ W'[S], whatever it was on W; of the bias too."""
        work = tmp_path_factory.mktemp("projected")
        rows = torch.randperm(OUTPUTS, generator=torch.Generator().manual_seed(seed))[:count]
        basis = torch.linalg.qr(drawn(seed, count, min(2, count)))[0].T
        found = Projection(rows, basis)
        bases = [
            checkpoint(work / name, weight=as_stored(weight, transposed=transposed), bias=drawn(seed + k + 9, OUTPUTS))
            for k, name in enumerate(("old", "new"))
            for weight in [drawn(seed + k + 1, OUTPUTS, INPUTS)]
        ]
        old, new = (torch.tensor(one.tensors["weight"].read()) for one in bases)
        site = site_of(bases[0], transposed=transposed)
        weight = old.T if transposed else old
        change = weight_change(site, *found.factors(weight), rows, projected(found, transposed=transposed))
        there = new.T if transposed else new
        expected = there.clone()
        expected[rows] -= basis.T @ (basis @ there[rows])
        near(moved(change, bases[1]).added(new.numpy()), as_stored(expected, transposed=transposed))
        again = old.clone() if not transposed else old.T.clone()
        again[rows] -= basis.T @ (basis @ again[rows])
        near(moved(change, bases[0]).added(old.numpy()), as_stored(again, transposed=transposed))

        bias, other = (torch.tensor(one.tensors["bias"].read())[:, None] for one in bases)
        of_bias = bias_change(site, *found.factors(bias), rows, projected(found))
        expected = other.clone()
        expected[rows] -= basis.T @ (basis @ other[rows])
        near(moved(of_bias, bases[1]).added(other.numpy()), expected)

    def test_all_rows_where_none_are_named(self, tmp_path: Path) -> None:
        basis, weight = torch.linalg.qr(drawn(0, OUTPUTS, 2))[0].T, drawn(1, OUTPUTS, INPUTS)
        new = checkpoint(tmp_path / "new", weight=weight)
        whole = Projected(basis.float().numpy())
        change = Change(
            "weight", np.zeros((OUTPUTS, 2), np.float32), np.zeros((2, INPUTS), np.float32), derivation=whole
        )
        near(moved(change, new).added(weight.numpy()), weight - basis.T @ (basis @ weight))


class TestRedirected:
    @given(SEEDS, st.booleans(), st.integers(1, 14), st.booleans(), st.booleans())
    def test_on_other_weights_it_is_the_closed_form_with_keys_metric_and_aims_kept(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        seed: int,
        transposed: bool,
        keys: int,
        budgeted: bool,
        enlarged: bool,
    ) -> None:
        """For fewer and for more keys than inputs, of a strength that was given or found, enlarged or not."""
        work = tmp_path_factory.mktemp("redirected")
        old, new = drawn(seed, OUTPUTS, INPUTS), drawn(seed + 1, OUTPUTS, INPUTS)
        x, y, rows = drawn(seed + 2, keys, INPUTS), drawn(seed + 3, keys, OUTPUTS), drawn(seed + 4, 40, INPUTS)
        metric = DenseMetric(rows.T @ rows / 40, 0.01)
        how: dict[str, Any] = {"strength": None, "budget": 0.05} if budgeted else {"strength": 2.0, "budget": None}
        solution = oblique.solve_site(old, x, y, metric, **how)
        there = oblique.solve_site(new, x, y, metric, strength=solution.strength, budget=None).delta
        if enlarged:
            plain, solution = solution.left.norm(), solution.enlarged(1.0)
            there = there * (solution.left.norm() / plain)
        bases = [
            checkpoint(work / name, weight=as_stored(weight, transposed=transposed))
            for name, weight in (("old", old), ("new", new))
        ]
        site = site_of(bases[0], transposed=transposed)
        assert solution.keys is not None
        derivation = redirected(site, old, solution.keys)
        change = weight_change(site, solution.left, solution.right, derivation=derivation)
        size = np.abs(solution.left.numpy()).max() * np.abs(change.delta()).max()
        near(moved(change, bases[0]).delta(), as_stored(solution.delta, transposed=transposed), of=size)
        onto = moved(change, bases[1])
        near(onto.delta(), as_stored(there, transposed=transposed), of=size)
        near(moved(onto, bases[0]).delta(), change.delta(), of=size)


class TestCounterpart:
    target, count = 4, 20

    @given(SEEDS, st.sampled_from([0.5, 0.8, 1.0]))
    def test_on_other_weights_the_target_is_sent_to_where_it_was(self, seed: int, kept: float) -> None:
        """A token of the target lacks what those weights give less than these; of the closed form for that, it is what
        lies in the directions that the edit has."""
        old, new = drawn(seed, OUTPUTS, INPUTS), drawn(seed + 1, OUTPUTS, INPUTS)
        keys, lacking = drawn(seed + 2, self.count, INPUTS), drawn(seed + 3, self.count, OUTPUTS)
        weights = Weights(
            torch.full((self.count - self.target,), 0.05).double(),
            torch.full((self.target,), 0.25).double(),
            1 + (torch.arange(self.count) % 3 == 0).double(),
        )
        moving = lacking.clone()
        moving[: self.target] += keys[: self.target] @ (old - new).T
        found = solve_site(old, keys, lacking, weights, None, 0.1, kept)
        expected = solve_site(new, keys, moving, weights, None, 0.1, 1.0)
        rows = keys * (torch.cat([weights.target, weights.retain]) * weights.heavier).sqrt()[:, None]
        retained = keys[self.target :] * weights.retain.sqrt()[:, None]
        metric = rows.T @ rows + 0.1 * retained.square().sum() / INPUTS * torch.eye(INPUTS).double()
        torch.testing.assert_close(found.right @ metric @ found.right.T, torch.eye(found.rank).double())
        in_directions = metric @ found.right.T @ found.right
        there = found.delta + (old - new) @ found.keys.T @ found.right
        torch.testing.assert_close(there, expected.delta @ in_directions)


METHODS: list[dict[str, Any]] = [
    {"method": "counterpart"},
    {"method": "oblique", "keys": "both"},
    {"method": "oblique", "keys": "answer", "toward": "mean", "retain_budget": 0.02},
    {"method": "chip", "layers": "0-2"},
]


class TestWhole:
    @pytest.mark.parametrize("values", METHODS, ids=str)
    def test_on_its_own_base_an_edit_stays_what_it_is(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, values: dict[str, Any]
    ) -> None:
        edit = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_1", **values).edit
        found = transferred(edit, Checkpoint(llava_directory))
        assert (found.base, found.edited, found.tensors) == (edit.base, {}, edit.tensors)
        for mine, theirs in zip(found.changes, edit.changes, strict=True):
            assert mine.parameter == theirs.parameter != ""
            assert np.linalg.norm(mine.delta() - theirs.delta()) < 1e-5 * np.linalg.norm(theirs.delta())

    @pytest.mark.parametrize("values", METHODS, ids=str)
    def test_on_another_base_it_is_written_and_read_like_any_edit(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, values: dict[str, Any]
    ) -> None:
        edit = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_1", **values).edit
        other = tiny_models.llava(tmp_path / "other", seed=1)
        command = ["apply", other, tmp_path / "out.edit.safetensors", "--out", tmp_path / "written"]
        refused = chip_here(*command)
        assert "--transfer derives it anew" in str(refused.exception)
        done = chip_here(*command, "--transfer", "--edit-out", tmp_path / "edit")
        assert done.exit_code == 0, done.output
        found = load_edit(tmp_path / "edit")
        assert found.transferred
        assert found.base != edit.base
        assert found.identity == transferred(edit, Checkpoint(other)).identity
        written = stored_tensors(tmp_path / "written")
        for change in found.changes:
            assert torch.isfinite(written[change.tensor]).all()
            if isinstance(change.derivation, Projected) and change.derivation.rows is not None:
                left = change.derivation.basis @ written[change.tensor].numpy()[change.derivation.rows]
                assert np.abs(left).max() < 1e-5


class TestRefused:
    def change(self) -> Change:
        basis = np.eye(2, dtype=np.float32)
        rows = np.array([1, 4])
        return Change("weight", basis, np.zeros((2, INPUTS), np.float32), rows, "w", Projected(basis, rows))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"derivation": None}, "keeps nothing that its change of weight could be derived from"),
            ({"tensor": "absent"}, "which .* does not store"),
            ({"right": np.zeros((2, 3), np.float32)}, "does not fit its shape"),
            ({"derivation": Projected(np.eye(2, dtype=np.float32), np.array([1, 40]))}, "the edit is damaged"),
            ({"derivation": Projected(np.eye(3, dtype=np.float32), np.array([1, 4]))}, "the edit is damaged"),
        ],
    )
    def test_what_cannot_be_derived(self, tmp_path: Path, values: dict[str, Any], message: str) -> None:
        onto = checkpoint(tmp_path / "new", weight=drawn(0, OUTPUTS, INPUTS))
        with pytest.raises(ChipError, match=message):
            transferred(Edit("chip", {}, (replace(self.change(), **values),)), onto)

    def test_keys_of_another_width(self, tmp_path: Path) -> None:
        onto = checkpoint(tmp_path / "new", weight=drawn(0, OUTPUTS, INPUTS))
        site, left, right = site_of(onto), drawn(1, OUTPUTS, 2), drawn(2, 2, INPUTS)
        for keys, weight in ((drawn(3, 2, 5), drawn(4, OUTPUTS, 5)), (drawn(3, 3, INPUTS), drawn(4, OUTPUTS, INPUTS))):
            change = weight_change(site, left, right, derivation=redirected(site, weight, keys))
            with pytest.raises(ChipError, match="the edit is damaged"):
                moved(change, onto)

    def test_keys_of_a_dense_change_or_of_some_rows_alone(self, tmp_path: Path) -> None:
        onto = checkpoint(tmp_path / "new", weight=drawn(0, OUTPUTS, INPUTS))
        site, left, right = site_of(onto), drawn(1, OUTPUTS, 2), drawn(2, 2, INPUTS)
        derivation = redirected(site, drawn(4, OUTPUTS, INPUTS), drawn(3, 2, INPUTS))
        for factors in ((left @ right, None), (left[:2], right, torch.tensor([3, 0]))):
            with pytest.raises(ChipError, match="the edit is damaged"):
                moved(weight_change(site, *factors, derivation=derivation), onto)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_outputs_of_another_shape(self, tmp_path: Path, transposed: bool) -> None:
        onto = checkpoint(tmp_path / "new", weight=as_stored(drawn(0, OUTPUTS, INPUTS), transposed=transposed))
        site = site_of(onto, transposed=transposed)
        good = redirected(site, drawn(4, OUTPUTS, INPUTS), drawn(3, 2, INPUTS))
        moved(weight_change(site, drawn(1, OUTPUTS, 2), drawn(2, 2, INPUTS), derivation=good), onto)
        for outputs in (good.outputs[:-1], good.outputs[:, :1]):
            bad = replace(good, outputs=outputs)
            with pytest.raises(ChipError, match="the edit is damaged"):
                moved(weight_change(site, drawn(1, OUTPUTS, 2), drawn(2, 2, INPUTS), derivation=bad), onto)
