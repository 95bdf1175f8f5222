"""The counterpart method: what it solves, what it watches, and that it moves the target and leaves the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from edits import problem
from torch import Tensor

from chip.collect import SecondMoments, answer_flows, answer_margins, encode_all
from chip.collect.sketch import FrequentDirections
from chip.collect.statistics import Moments
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.solve.counterpart import Weights, solve_site, unedited
from chip.solve.live import applied
from chip.solve.problem import Problem
from chip.solve.solvers import solve

TOKENS, TARGET, INPUTS, OUTPUTS = 40, 9, 12, 7
RIDGE = 0.03


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(held: int, target: int = TARGET, strength: float = 1.0, retained: int | None = None) -> Weights:
    return Weights(
        torch.full((held,), 1 / (retained or held), dtype=torch.float64),
        torch.full((target,), strength / target, dtype=torch.float64),
        torch.ones(held + target).double(),
    )


class TestOneSite:
    weight, keys, lacking = drawn(0, OUTPUTS, INPUTS), drawn(1, TOKENS, INPUTS), drawn(2, TOKENS, OUTPUTS)

    def test_it_solves_the_normal_equations(self) -> None:
        w = weights(TOKENS - TARGET).raised(torch.arange(TOKENS) % 5 == 0)
        found = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE)
        x, r = self.keys.numpy(), self.lacking.numpy()
        omega = np.concatenate([w.target, w.retain]) * w.heavier.numpy()
        retained = x[TARGET:].T @ (x[TARGET:] * w.retain.numpy()[:, None])
        left = (x * omega[:, None]).T @ x + RIDGE * np.trace(retained) / INPUTS * np.eye(INPUTS)
        expected = np.linalg.solve(left, (x * omega[:, None]).T @ r).T
        np.testing.assert_allclose(found.delta, expected, rtol=1e-9, atol=1e-12)
        share = np.trace(expected @ retained @ expected.T) / np.trace(self.weight @ retained @ self.weight.numpy().T)
        assert found.distortion == pytest.approx(share)

    def test_nothing_lacking_changes_nothing(self) -> None:
        found = solve_site(
            self.weight, self.keys, torch.zeros_like(self.lacking), weights(TOKENS - TARGET), None, RIDGE
        )
        assert not found.delta.any()

    @pytest.mark.parametrize("sketched", [False, True])
    def test_what_is_not_held_counts_as_tokens_that_lack_nothing(self, sketched: bool) -> None:
        others = TOKENS - TARGET - 10
        lacking = self.lacking.clone()
        lacking[-others:] = 0
        all_held = solve_site(self.weight, self.keys, lacking, weights(TOKENS - TARGET), None, RIDGE)
        rows = self.keys[-others:]
        unheld: SecondMoments = Moments(rows.T @ rows, rows.sum(0), others)
        if sketched:
            sketch = FrequentDirections(INPUTS, INPUTS, torch.float64, torch.device("cpu"))
            sketch.add(rows)
            unheld = sketch.sketch()
        few = solve_site(
            self.weight,
            self.keys[:-others],
            lacking[:-others],
            weights(10, retained=TOKENS - TARGET),
            unheld,
            RIDGE,
        )
        torch.testing.assert_close(few.delta, all_held.delta, rtol=1e-8, atol=1e-10)
        assert few.distortion == pytest.approx(all_held.distortion)

    def test_heavier_tokens_lack_less_afterwards(self) -> None:
        slipping = torch.zeros(TOKENS, dtype=torch.bool)
        slipping[TARGET + 3] = True
        plain = weights(TOKENS - TARGET)
        left = []
        for w in (plain, plain.raised(slipping), plain.raised(slipping).raised(slipping)):
            found = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE)
            left.append(float((self.lacking - self.keys @ found.delta.T)[TARGET + 3].norm()))
        assert left[0] > left[1] > left[2]


class TestWatching:
    @pytest.mark.parametrize("family", ["llama", "phi", "gpt_neox", "gemma2"])
    def test_behind_a_site_flows_the_stream_and_a_norm_forbids_it(
        self, family: str, tmp_path: Path, text_data: Path
    ) -> None:
        """With the site's weight at zero, what leaves is what it is without the site; the difference is its output."""
        loaded = load_model(Checkpoint(tiny_models.text_model(tmp_path / "model", family)), "cpu")
        groups = encode_all(loaded, few_records(text_data))
        sites = [site for site in loaded.sites if site.writes]
        assert all(bool(site.block) == (family != "gemma2") for site in sites)
        if family == "gemma2":
            return
        for site in sites[-2:]:
            flow = answer_flows(loaded, groups, [site], 256)[site.name]
            weight, bias = site.weight(loaded.model), site.bias(loaded.model)
            put_out = flow.given @ weight.double().T + (0 if bias is None else bias.double())
            kept = weight.clone()
            weight.zero_()
            without = answer_flows(loaded, groups, [site], 256)[site.name]
            weight.copy_(kept)
            expected = put_out - (0 if bias is None else bias.double())
            torch.testing.assert_close(flow.leaving - without.leaving, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("share", [True, False])
    def test_margins_say_whether_the_answer_is_the_likeliest(
        self, llava: LoadedModel, hospital_data: Path, share: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not share:
            monkeypatch.setattr(LoadedModel, "longest_sharing", 0)
        records = few_records(hospital_data)
        groups = encode_all(llava, records)
        margins = answer_margins(llava, groups, 512)
        start = 0
        for record in records:
            encoded = llava.prompts.encode(record)
            with torch.no_grad():
                inputs = {name: one[None] for name, one in encoded.sequence.items()} | encoded.pixels
                logits = llava.model(**inputs).logits[0, encoded.answer_start - 1 : -1].double()
            own = logits.gather(1, encoded.answer_ids[:, None])[:, 0]
            others = logits.scatter(1, encoded.answer_ids[:, None], -torch.inf).amax(1)
            found = margins[start : start + len(own)]
            torch.testing.assert_close(found.double(), own - others, rtol=1e-3, atol=1e-4)
            start += len(own)
        assert start == len(margins)


def few_records(data: Path) -> list[Record]:
    return list(read_records(data).records)[:8]


@pytest.fixture
def one(llava: LoadedModel, llava_directory: Path, hospital_data: Path) -> Problem:
    return problem(llava, llava_directory, hospital_data, "patient_1", method="counterpart", strength=10.0)


def weights_after(one: Problem) -> dict[str, np.ndarray]:
    return {change.tensor: change.left for change in solve(one).edit.changes}


class TestWhole:
    def test_the_model_is_as_before_and_the_same_request_gives_the_same_bytes(self, one: Problem) -> None:
        before = {name: value.clone() for name, value in one.loaded.model.state_dict().items()}
        first, second = weights_after(one), weights_after(replace(one, memo=type(one.memo)()))
        assert all(torch.equal(value, before[name]) for name, value in one.loaded.model.state_dict().items())
        assert first.keys() == second.keys()
        assert all(np.array_equal(value, second[name]) for name, value in first.items())

    def test_every_chosen_layer_changes_what_writes_into_the_stream(self, one: Problem) -> None:
        named = set(weights_after(one))
        layers = {site.layer for site in one.loaded.sites if site.role == "language"}
        assert len(named) == 2 * len(layers)
        assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in named)

    def test_batches_do_not_show(self, one: Problem) -> None:
        plain = weights_after(one)
        small = weights_after(replace(one, batch_tokens=64, memo=type(one.memo)()))
        for name, value in plain.items():
            np.testing.assert_allclose(small[name], value, atol=1e-4 * np.abs(value).max())

    def test_the_target_comes_nearer_to_its_counterparts_than_the_rest_is_moved(self, one: Problem) -> None:
        solved, before = solve(one), unedited(one)
        last = one.loaded.sites[-1]
        with applied(one.loaded.model, one.stored, solved.edit):
            leaving = answer_flows(one.loaded, before.groups, [last], one.batch_tokens)[last.name].leaving
        unmoved = answer_flows(one.loaded, before.groups, [last], one.batch_tokens)[last.name].leaving
        lacked, lacks = (
            (before.aims[last.name] - rows)[: before.tokens.target].square().sum() for rows in (unmoved, leaving)
        )
        assert lacks < 0.5 * lacked
        moved = (leaving - unmoved).norm(dim=1)
        assert moved[before.tokens.target :].mean() < 0.5 * moved[: before.tokens.target].mean()
