"""The counterpart method: what it solves, what it watches, and that it moves the target and leaves the rest."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from edits import problem
from torch import Tensor

from chip.collect import Flow, SecondMoments, answer_inputs, answer_outputs, encode_all, margins, run_in_step
from chip.collect.sketch import FrequentDirections
from chip.collect.statistics import Moments
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.models.sites import Site
from chip.records import read_records
from chip.solve.counterpart import unedited
from chip.solve.least_change import Weights, solve_site
from chip.solve.live import applied
from chip.solve.problem import Problem
from chip.workflow.solvers import solve

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
        found = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE, 1.0)
        x, r = self.keys.numpy(), self.lacking.numpy()
        omega = np.concatenate([w.target, w.retain]) * w.heavier.numpy()
        retained = x[TARGET:].T @ (x[TARGET:] * w.retain.numpy()[:, None])
        left = (x * omega[:, None]).T @ x + RIDGE * np.trace(retained) / INPUTS * np.eye(INPUTS)
        expected = np.linalg.solve(left, (x * omega[:, None]).T @ r).T
        np.testing.assert_allclose(found.delta, expected, rtol=1e-9, atol=1e-12)
        share = np.trace(expected @ retained @ expected.T) / np.trace(self.weight @ retained @ self.weight.numpy().T)
        assert found.distortion == pytest.approx(share)

    def test_nothing_lacking_changes_nothing(self) -> None:
        nothing = torch.zeros_like(self.lacking)
        found = solve_site(self.weight, self.keys, nothing, weights(TOKENS - TARGET), None, RIDGE, 1.0)
        assert found.rank == 0
        assert not found.delta.any()

    @pytest.mark.parametrize("sketched", [False, True])
    def test_what_is_not_held_counts_as_tokens_that_lack_nothing(self, sketched: bool) -> None:
        others = TOKENS - TARGET - 10
        lacking = self.lacking.clone()
        lacking[-others:] = 0
        all_held = solve_site(self.weight, self.keys, lacking, weights(TOKENS - TARGET), None, RIDGE, 1.0)
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
            1.0,
        )
        torch.testing.assert_close(few.delta, all_held.delta, rtol=1e-8, atol=1e-10)
        assert few.distortion == pytest.approx(all_held.distortion)

    @pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.99, 1.0])
    def test_its_directions_are_the_fewest_that_hold_that_share_of_what_it_gains(self, kept: float) -> None:
        """And no other change of that rank comes nearer to the minimum, by Eckart, Young and Mirsky in the metric A."""
        w = weights(TOKENS - TARGET)
        omega = torch.cat([w.target, w.retain])
        retained = self.keys[TARGET:] * w.retain.sqrt()[:, None]
        ridge = RIDGE * float(retained.square().sum()) / INPUTS

        def objective(delta: Tensor) -> float:
            missing = (self.lacking - self.keys @ delta.T).square().sum(1)
            return float(omega @ missing + ridge * delta.square().sum())

        found = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE, kept)
        whole = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE, 1.0)
        nothing = torch.zeros_like(self.weight)
        gains = [objective(nothing) - objective(one.delta) for one in (found, whole)]
        assert gains[0] >= kept * gains[1] * (1 - 1e-12)
        metric = self.keys.T @ (self.keys * omega[:, None]) + ridge * torch.eye(INPUTS).double()
        squares = torch.linalg.svdvals(whole.delta @ torch.linalg.cholesky(metric)).square()
        assert gains[0] == pytest.approx(float(squares[: found.rank].sum()))
        assert float(squares[: found.rank - 1].sum()) < kept * gains[1]

    def test_heavier_tokens_lack_less_afterwards(self) -> None:
        slipping = torch.zeros(TOKENS, dtype=torch.bool)
        slipping[TARGET + 3] = True
        plain = weights(TOKENS - TARGET)
        left = []
        for w in (plain, plain.raised(slipping), plain.raised(slipping).raised(slipping)):
            found = solve_site(self.weight, self.keys, self.lacking, w, None, RIDGE, 1.0)
            left.append(float((self.lacking - self.keys @ found.delta.T)[TARGET + 3].norm()))
        assert left[0] > left[1] > left[2]


class TestLockstep:
    @pytest.mark.parametrize("family", ["llama", "phi", "gpt_neox", "gemma2"])
    @pytest.mark.parametrize("tokens", [40, 4096])
    def test_what_is_changed_on_the_way_is_as_if_it_had_been_before(
        self, family: str, tokens: int, tmp_path: Path, text_data: Path
    ) -> None:
        """Every site is changed as the passes reach it; then the inputs of each are those of the changed model."""
        loaded = load_model(Checkpoint(tiny_models.text_model(tmp_path / "model", family)), "cpu")
        groups = encode_all(loaded, few_records(text_data))
        sites = [site for site in loaded.sites if site.writes]
        seen: dict[str, Tensor] = {}

        def change(site: Site, flow: Flow) -> None:
            seen[site.name] = flow.given
            site.weight(loaded.model).mul_(0.5)

        states = run_in_step(loaded, groups, sites, tokens, change)
        expected = answer_inputs(loaded, groups, sites, 256)
        for site in sites:
            torch.testing.assert_close(seen[site.name], expected[site.name], rtol=1e-4, atol=1e-5)
        after = run_in_step(loaded, groups, sites, 512, lambda site, flow: None)
        torch.testing.assert_close(states, after, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("family", ["llama", "phi", "gpt_neox", "gemma2"])
    def test_behind_a_site_flows_the_stream_and_behind_the_last_what_the_head_norms(
        self, family: str, tmp_path: Path, text_data: Path
    ) -> None:
        loaded = load_model(Checkpoint(tiny_models.text_model(tmp_path / "model", family)), "cpu")
        groups = encode_all(loaded, few_records(text_data))
        sites = [site for site in loaded.sites if site.writes]
        leaving: dict[str, Tensor] = {}
        states = run_in_step(loaded, groups, sites, 512, lambda site, flow: leaving.update({site.name: flow.leaving}))
        assert all(bool(site.block) == (family != "gemma2") for site in sites)
        if family == "gemma2":
            outputs = answer_outputs(loaded, groups, sites, 512)
            for name, rows in leaving.items():
                torch.testing.assert_close(rows, outputs[name], rtol=1e-4, atol=1e-5)
            return
        names = ("model.norm", "final_layernorm", "final_layer_norm")
        norm = next(one for name, one in loaded.model.named_modules() if name.endswith(names))
        with torch.no_grad():
            torch.testing.assert_close(norm(leaving[sites[-1].name].float()).double(), states, rtol=1e-4, atol=1e-4)

    def test_margins_say_whether_the_answer_is_the_likeliest(self, llava: LoadedModel, hospital_data: Path) -> None:
        records = few_records(hospital_data)
        groups = encode_all(llava, records)
        found = margins(llava, groups, run_in_step(llava, groups, [], 512, lambda site, flow: None))
        expected = []
        for record in records:
            encoded = llava.prompts.encode(record)
            with torch.no_grad():
                inputs = {name: one[None] for name, one in encoded.sequence.items()} | encoded.pixels
                logits = llava.model(**inputs).logits[0, encoded.answer_start - 1 : -1].double()
            own = logits.gather(1, encoded.answer_ids[:, None])[:, 0]
            expected.append(own - logits.scatter(1, encoded.answer_ids[:, None], -torch.inf).amax(1))
        torch.testing.assert_close(found.double(), torch.cat(expected), rtol=1e-3, atol=1e-4)

    def test_what_goes_wrong_on_the_way_ends_every_pass_and_is_raised(
        self, llama: LoadedModel, text_data: Path
    ) -> None:
        groups = encode_all(llama, few_records(text_data))
        sites = [site for site in llama.sites if site.writes]

        def fail(site: Site, flow: Flow) -> None:
            raise ChipError(f"no more at {site.layer}")

        running = threading.active_count()
        with pytest.raises(ChipError, match="no more at 0"):
            run_in_step(llama, groups, sites, 40, fail)
        assert threading.active_count() == running
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in llama.model.modules())

    def test_a_model_that_runs_otherwise_than_its_sites_say_is_an_error(
        self, llama: LoadedModel, text_data: Path
    ) -> None:
        groups = encode_all(llama, few_records(text_data))
        sites = [site for site in llama.sites if site.writes]
        with pytest.raises(ChipError, match=r"where model\.layers\.0\.mlp\.down_proj was due"):
            run_in_step(llama, groups, sites[1::-1], 40, lambda site, flow: None)

    def test_a_pass_that_fails_is_an_error_and_not_a_wait(self, llama: LoadedModel, text_data: Path) -> None:
        groups = encode_all(llama, few_records(text_data))
        site = next(site for site in llama.sites if site.writes)
        weight = site.weight(llama.model)
        kept = weight.clone()
        weight[0, 0] = float("nan")
        try:
            with pytest.raises(ChipError, match="is not finite"):
                run_in_step(llama, groups, [one for one in llama.sites if one.writes], 64, lambda site, flow: None)
        finally:
            weight.copy_(kept)


def few_records(data: Path) -> list[Record]:
    return list(read_records(data).records)[:8]


@pytest.fixture
def one(llava: LoadedModel, llava_directory: Path, hospital_data: Path) -> Problem:
    return problem(llava, llava_directory, hospital_data, "patient_1", method="counterpart", strength=10.0, ridge=0.01)


def weights_after(one: Problem) -> dict[str, np.ndarray]:
    return {change.tensor: change.delta() for change in solve(one).edit.changes}


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
        streams: list[Tensor] = []

        def note(site: Site, flow: Flow) -> None:
            streams.append(flow.leaving)

        run_in_step(one.loaded, before.groups, [last], one.batch_tokens, note)
        with applied(one.loaded.model, solved.edit):
            run_in_step(one.loaded, before.groups, [last], one.batch_tokens, note)
        unmoved, leaving = streams
        lacked, lacks = (
            (before.aims[last.name] - rows)[: before.tokens.target].square().sum() for rows in (unmoved, leaving)
        )
        assert lacks < 0.5 * lacked
        moved = (leaving - unmoved).norm(dim=1)
        assert moved[before.tokens.target :].mean() < 0.8 * moved[: before.tokens.target].mean()
