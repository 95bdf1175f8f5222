"""The objectives against their papers' formulae, computed by hand in float64, record by record and without padding."""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_records import split_of
from torch import Tensor, nn

from chip.collect import Statistics
from chip.duolearn.asking import Asked, Said
from chip.duolearn.baseline import Descent, descend
from chip.duolearn.classes import bounded, by_record, classes
from chip.duolearn.concepts import Concepts
from chip.duolearn.examples import Examples
from chip.duolearn.labels import label_tokens
from chip.duolearn.lexicon import read_lexicon
from chip.duolearn.objectives import OBJECTIVES, REFUSALS, Objective, Term, steered_layer
from chip.duolearn.solving import most_steps
from chip.duolearn.trainable import Trainable
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.models.prompts import Encoded
from chip.settings import EditSettings
from chip.solve.problem import Problem

METHODS = sorted(OBJECTIVES)
TRAINED_HERE = ("layers.0.mlp.down_proj.weight", "layers.2.self_attn.o_proj.weight")
"""Gradients are looked at here; nearly every other parameter would do as well."""


@dataclass(frozen=True)
class Bench:
    """A model in float64 that was moved a little, so that it differs from what it was, and its records."""

    problem: Problem
    examples: Examples
    trainable: Trainable

    @property
    def loaded(self) -> LoadedModel:
        return self.problem.loaded

    def settings(self, method: str, **values: Any) -> EditSettings:
        return EditSettings(method=method, **values)

    def objective(self, method: str, **values: Any) -> Objective:
        return OBJECTIVES[method](self.loaded, self.settings(method, **values))

    def value(self, term: Term, encoded: Sequence[Encoded]) -> float:
        return descend(term, self.examples.batches(encoded), 1.0, self.loaded, self.trainable.before)

    def gradients(self, term: Term, encoded: Sequence[Encoded], weight: float = 1.0) -> list[Tensor]:
        for one in self.trainable.tensors:
            one.grad = None
        descend(term, self.examples.batches(encoded), weight, self.loaded, self.trainable.before)
        return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in self.trainable.tensors]

    def batched(self, size: int) -> "Bench":
        problem = problem_of(self.loaded, self.problem, size)
        return Bench(problem, Examples(problem), self.trainable)

    @contextmanager
    def moved(self, directions: Sequence[Tensor], far: float) -> Iterator[None]:
        """The parameters, moved along directions for a while."""
        with torch.no_grad():
            for one, direction in zip(self.trainable.tensors, directions, strict=True):
                one.add_(far * direction)
        try:
            yield
        finally:
            with torch.no_grad():
                for one, direction in zip(self.trainable.tensors, directions, strict=True):
                    one.sub_(far * direction)


def problem_of(loaded: LoadedModel, like: Problem | None, size: int, data: Path | None = None) -> Problem:
    if like is not None:
        hierarchy, split = like.hierarchy, like.split
    else:
        assert data is not None
        hierarchy, split = split_of(data, "patient_0")
    statistics = Statistics((), 0.3, {}, {}, {})
    return Problem(loaded, {}, hierarchy, split, statistics, EditSettings(batch_size=size), frozenset())


@pytest.fixture(scope="module", params=["text", "images"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A text-only model that takes `logits_to_keep`, and one that sees images; float64 throughout."""
    directory = tmp_path_factory.mktemp("objectives") / "model"
    data = request.getfixturevalue("text_data" if request.param == "text" else "hospital_data")
    if request.param == "text":
        tiny_models.text_model(directory, "llama")
    else:
        tiny_models.llava(directory)
    loaded = load_model(Checkpoint(directory), "cpu", "float32")
    double_throughout(loaded.model)
    named = dict(loaded.model.named_parameters())
    chosen = {name: one for name, one in named.items() if name.endswith(TRAINED_HERE)}
    assert len(chosen) == len(TRAINED_HERE)
    originals = {name: one.detach().clone() for name, one in chosen.items()}
    trainable = Trainable({name: one.requires_grad_(True) for name, one in chosen.items()}, originals)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in trainable.tensors:
            one.add_(0.5 * one.std() * torch.randn(one.shape, generator=draw, dtype=one.dtype))
    problem = problem_of(loaded, None, 16, data)
    return Bench(problem, Examples(problem), trainable)


def double_throughout(model: nn.Module) -> None:
    """A model in float64, its norms too, which transformers computes in float32 whatever their dtype."""
    model.double().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)


@contextmanager
def at_start(bench: Bench) -> Iterator[None]:
    """The model as it was before it was moved, with gradients."""
    now = bench.trainable.state()
    bench.trainable.load(bench.trainable.originals)
    try:
        yield
    finally:
        bench.trainable.load(now)


def logits_of(bench: Bench, encoded: Encoded) -> Tensor:
    """A record by itself: the logits at its answer positions, (answer, V), and nothing of chip's own in between."""
    inputs = {name: one[None] for name, one in encoded.sequence.items()}
    with torch.no_grad():
        logits = bench.loaded.model(**inputs, **encoded.pixels).logits[0]
    return logits[encoded.answer_start - 1 : -1].double()


def spoken(bench: Bench, encoded: Encoded) -> Tensor:
    """The log-likelihood of each answer token, (answer,)."""
    logits = logits_of(bench, encoded)
    return torch.stack([row[token] - row.logsumexp(0) for row, token in zip(logits, encoded.answer_ids, strict=True)])


def hidden(bench: Bench, encoded: Encoded, layer: int) -> Tensor:
    """What leaves a layer at a record's answer positions, (answer, D), as transformers itself returns it."""
    inputs = {name: one[None] for name, one in encoded.sequence.items()}
    with torch.no_grad():
        states = bench.loaded.model(**inputs, **encoded.pixels, output_hidden_states=True).hidden_states
    return states[layer + 1][0, encoded.answer_start - 1 : -1]


def mean(values: Sequence[Tensor]) -> float:
    """Over all answer tokens of all records."""
    return float(torch.cat(list(values)).mean())


def target_of(bench: Bench) -> list[Encoded]:
    return bench.examples.encoded(bench.examples.target)


def retained_of(bench: Bench) -> list[Encoded]:
    return bench.examples.encoded(bench.examples.retained[:7])


def sigmoid(number: float) -> float:
    return 1 / (1 + math.exp(-number))


class TestFormulae:
    def test_ascent_is_the_likelihood_and_descent_its_negative(self, bench: Bench) -> None:
        expected = mean([spoken(bench, one) for one in target_of(bench)])
        for method in ("ga", "graddiff", "kl"):
            term = bench.objective(method).forget
            assert bench.value(term, target_of(bench)) == pytest.approx(expected, abs=1e-6)
        descent = bench.objective("graddiff").retain
        assert descent is not None
        assert bench.value(descent, target_of(bench)) == pytest.approx(-expected, abs=1e-6)

    def test_gradient_ascent_has_the_negative_of_the_likelihoods_gradient(self, bench: Bench) -> None:
        ascent, descent = bench.objective("ga").forget, bench.objective("graddiff").retain
        assert descent is not None
        up, down = (bench.gradients(one, target_of(bench)) for one in (ascent, descent))
        for one, other in zip(up, down, strict=True):
            torch.testing.assert_close(one, -other, rtol=1e-9, atol=1e-12)

    def test_kl_is_the_divergence_from_the_model_before_token_by_token(self, bench: Bench) -> None:
        divergences = []
        for one in retained_of(bench):
            now = logits_of(bench, one).log_softmax(-1)
            with at_start(bench):
                before = logits_of(bench, one).log_softmax(-1)
            divergences.append((before.exp() * (before - now)).sum(-1))
        retain = bench.objective("kl").retain
        assert retain is not None
        assert bench.value(retain, retained_of(bench)) == pytest.approx(mean(divergences), abs=1e-6)
        assert mean(divergences) > 1e-4

    def test_npo(self, bench: Bench) -> None:
        """−2/β · E log σ(−β log π(y|x)/π_ref(y|x)), over whole answers (arXiv 2404.05868, equation 3)."""
        beta, losses = 0.1, []
        for one in target_of(bench):
            now = float(spoken(bench, one).sum())
            with at_start(bench):
                before = float(spoken(bench, one).sum())
            losses.append(-2 / beta * math.log(sigmoid(-beta * (now - before))))
        forget = bench.objective("npo").forget
        assert bench.value(forget, target_of(bench)) == pytest.approx(sum(losses) / len(losses), abs=1e-6)

    def test_simnpo(self, bench: Bench) -> None:
        """−2/β · E log σ(−β/|y| · log π(y|x)) (arXiv 2410.07163, equation 4, γ = 0)."""
        beta = 4.5
        lengths = [(float(spoken(bench, one).sum()), len(one.answer_ids)) for one in target_of(bench)]
        losses = [-2 / beta * math.log(sigmoid(-beta / length * said)) for said, length in lengths]
        objective = bench.objective("simnpo")
        assert bench.value(objective.forget, target_of(bench)) == pytest.approx(sum(losses) / len(losses), abs=1e-6)
        assert objective.forget_weight == 0.125

    def test_rmu(self, bench: Bench) -> None:
        """E ‖h − c·u‖²/D on the target and E ‖h − h_before‖²/D on retained answers (arXiv 2403.03218, section 4)."""
        layer, objective = steered_layer(bench.loaded), bench.objective("rmu", steering=3.0, seed=5)
        direction = torch.rand(32, generator=torch.Generator().manual_seed(5)).double()
        direction = 3.0 * direction / direction.norm()
        away = [(hidden(bench, one, layer) - direction).square().mean(-1) for one in target_of(bench)]
        assert bench.value(objective.forget, target_of(bench)) == pytest.approx(mean(away), abs=1e-6)
        moved = []
        for one in retained_of(bench):
            now = hidden(bench, one, layer)
            with at_start(bench):
                moved.append((now - hidden(bench, one, layer)).square().mean(-1))
        assert objective.retain is not None
        assert bench.value(objective.retain, retained_of(bench)) == pytest.approx(mean(moved), abs=1e-6)

    def test_rmus_term_is_zero_where_hidden_states_are_the_direction(self, bench: Bench) -> None:
        layer = f"{bench.loaded.family.layers}.{steered_layer(bench.loaded)}"
        direction = torch.rand(32, generator=torch.Generator().manual_seed(0)).double()
        steered = 2.0 * direction / direction.norm()
        hook = bench.loaded.model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: steered.expand_as(output) if isinstance(output, Tensor) else steered
        )
        asked = Asked(bench.loaded, target_of(bench)[:2], bench.trainable.before)
        try:
            away = bench.objective("rmu").forget.values(asked)
        finally:
            hook.remove()
        assert away.abs().max().item() < 1e-15

    def test_idk_descends_on_refusals_in_place_of_the_targets_answers(self, bench: Bench) -> None:
        said = [bench.examples.record(position) for position in bench.examples.target]
        expected = []
        for turn, (position, record) in enumerate(zip(bench.examples.target, said, strict=True)):
            refusal = REFUSALS[(position + 3) % len(REFUSALS)]
            swapped = Record(record.path, question=record.question, answer=refusal, images=record.images)
            expected.append(spoken(bench, bench.loaded.prompts.encode(swapped)))
            assert bench.examples.refused([position], 3)[0].answer_ids.tolist() != target_of(bench)[turn].answer_ids
        objective = bench.objective("idk")
        refused = bench.examples.refused(bench.examples.target, 3)
        assert objective.refuses
        assert bench.value(objective.forget, refused) == pytest.approx(-mean(expected), abs=1e-6)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_step_is_the_weighted_sum_of_both_terms(self, bench: Bench, method: str) -> None:
        settings = bench.settings(method, forget_weight=0.7, retain_weight=0.3, step_records=5)
        objective = OBJECTIVES[method](bench.loaded, settings)
        phase = Descent(bench.loaded, bench.examples, bench.trainable, objective, settings, 1e-3, 4)
        taken: list[list[Tensor]] = []
        phase._optimiser.step = lambda number: taken.append(  # type: ignore[method-assign]
            [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in bench.trainable.tensors]
        )
        for one in bench.trainable.tensors:
            one.grad = None
        losses = phase.step(1)
        examples = bench.examples
        asked = examples.dealt(examples.target, 5, 1, "target")
        forget = examples.refused(asked, 1) if method == "idk" else examples.encoded(asked)
        parts = [bench.gradients(objective.forget, forget, 0.7)]
        assert losses.targeted == pytest.approx(bench.value(objective.forget, forget))
        if objective.retain is not None:
            beside = examples.encoded(examples.dealt(examples.retained, 5, 1, "retained"))
            parts.append(bench.gradients(objective.retain, beside, 0.3))
        assert (objective.retain is None) == (method == "ga")
        for number, found in enumerate(taken[0]):
            torch.testing.assert_close(found, sum(part[number] for part in parts), rtol=1e-9, atol=1e-12)


class TestGradients:
    @pytest.mark.parametrize("method", METHODS)
    def test_they_are_the_slopes_of_the_values(self, bench: Bench, method: str) -> None:
        """Central differences along random directions, in float64."""
        objective = bench.objective(method)
        for term, encoded in ((objective.forget, target_of(bench)[:4]), (objective.retain, retained_of(bench)[:4])):
            if term is None:
                continue
            found = bench.gradients(term, encoded)
            draw = torch.Generator().manual_seed(7)
            along = [torch.randn(one.shape, generator=draw, dtype=one.dtype) for one in found]
            slope = sum(float((one * other).sum()) for one, other in zip(found, along, strict=True))
            step = 1e-5
            with bench.moved(along, step):
                above = bench.value(term, encoded)
            with bench.moved(along, -step):
                below = bench.value(term, encoded)
            assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-7)

    def test_npo_becomes_ascent_as_beta_vanishes(self, bench: Bench) -> None:
        """Its gradient is then that of each answer's log-likelihood, the mean over answers (its paper, section 3)."""
        encoded = target_of(bench)
        npo = bench.gradients(bench.objective("npo", beta=1e-9).forget, encoded)
        ascent = Term(lambda asked: asked.now.by_record(asked.now.log_likelihood), by_record=True)
        for one, other in zip(npo, bench.gradients(ascent, encoded), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)
        one_record = encoded[:1]
        npo = bench.gradients(bench.objective("npo", beta=1e-9).forget, one_record)
        ga = bench.gradients(bench.objective("ga").forget, one_record)
        for one, other in zip(npo, ga, strict=True):  # of one answer, up to its length
            torch.testing.assert_close(one, len(one_record[0].answer_ids) * other, rtol=1e-5, atol=1e-9)

    def test_kl_and_anchoring_are_zero_and_flat_at_the_start(self, bench: Bench) -> None:
        with at_start(bench):
            for method in ("kl", "rmu"):
                retain = bench.objective(method).retain
                assert retain is not None
                assert abs(bench.value(retain, retained_of(bench))) < 1e-12
                assert max(one.abs().max().item() for one in bench.gradients(retain, retained_of(bench))) < 1e-12

    @pytest.mark.parametrize("method", ["npo", "simnpo"])
    def test_they_are_bounded_below_and_flatten_as_answers_are_forgotten(self, bench: Bench, method: str) -> None:
        def said(likelihood: float) -> Any:
            """A batch of one answer of one token of that log-likelihood, at first even odds."""
            now = Said(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), torch.tensor([0]), 1, torch.tensor([0]))
            before = Said(now.logits, now.tokens, now.members, 1, now.places)
            now.__dict__["log_likelihood"] = torch.tensor([likelihood], dtype=torch.float64, requires_grad=True)
            before.__dict__["log_likelihood"] = torch.tensor([-0.5], dtype=torch.float64)
            return type("_", (), {"now": now, "before": before})()

        term, values, slopes = bench.objective(method).forget, [], []
        for likelihood in (-0.1, -1.0, -10.0, -100.0, -1e4):
            asked = said(likelihood)
            value = term.values(asked).sum()
            (slope,) = torch.autograd.grad(value, asked.now.log_likelihood)
            values.append(float(value.detach()))
            slopes.append(float(slope))
        assert all(value >= 0 for value in values)
        assert values == sorted(values, reverse=True)
        assert slopes == sorted(slopes, reverse=True)
        assert slopes[-1] < 1e-9


class TestBatches:
    @pytest.mark.parametrize("method", METHODS)
    def test_how_records_are_divided_does_not_show(self, bench: Bench, method: str) -> None:
        """Records run one by one are never padded, so that padding does not show either."""
        objective = bench.objective(method)
        for name in ("forget", "retain"):
            term = getattr(objective, name)
            if term is None:
                continue
            encoded = target_of(bench) + retained_of(bench)
            assert len({len(one.answer_ids) for one in encoded}) > 2
            whole, single = bench.gradients(term, encoded), bench.batched(1).gradients(term, encoded)
            assert bench.value(term, encoded) == pytest.approx(bench.batched(1).value(term, encoded), rel=1e-9)
            for one, other in zip(whole, single, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-10)

    @pytest.mark.parametrize("whole", [False, True])
    def test_the_same_tokens_are_asked_whether_or_not_logits_can_be_kept(
        self, bench: Bench, whole: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoded = target_of(bench)[:5]
        assert "logits_to_keep" in inspect.signature(bench.loaded.model.forward).parameters
        kept = Asked(bench.loaded, encoded, bench.trainable.before, whole=whole).now
        forward = bench.loaded.model.forward

        def whole_sequences(**inputs: Any) -> Any:
            return forward(**inputs)

        monkeypatch.setattr(bench.loaded.model, "forward", whole_sequences)
        every = Asked(bench.loaded, encoded, bench.trainable.before, whole=whole).now
        for name in ("tokens", "members", "places"):
            assert torch.equal(getattr(kept, name), getattr(every, name))
        torch.testing.assert_close(kept.logits, every.logits, rtol=1e-9, atol=1e-9)

    def test_what_is_asked_are_the_answers_tokens_or_every_one_but_the_first_and_images(self, bench: Bench) -> None:
        encoded = target_of(bench)[:5]
        answers = Asked(bench.loaded, encoded, bench.trainable.before).now
        assert [answers.tokens[answers.members == place].tolist() for place in range(5)] == [
            one.answer_ids.tolist() for one in encoded
        ]
        whole = Asked(bench.loaded, encoded, bench.trainable.before, whole=True).now
        image = bench.loaded.prompts.image_token_id
        assert [whole.tokens[whole.members == place].tolist() for place in range(5)] == [
            [token for token in one.sequence["input_ids"].tolist()[1:] if token != image] for one in encoded
        ]
        assert all(
            int(encoded[int(member)].sequence["input_ids"][place]) == int(token)
            for member, place, token in zip(whole.members, whole.places, whole.tokens, strict=True)
        )


class TestClasses:
    def labelled(self, bench: Bench, *, choices: bool) -> tuple[list[Encoded], list[Any]]:
        problem, encoded = bench.problem, target_of(bench)
        concepts = Concepts(read_lexicon(), problem.hierarchy, problem.split, choices=choices)
        labels = [
            label_tokens(concepts, bench.loaded.prompts, bench.examples.record(position), one, target=True)
            for position, one in zip(bench.examples.target, encoded, strict=True)
        ]
        return encoded, labels

    @pytest.mark.parametrize("choices", [False, True])
    @pytest.mark.parametrize("whole", [False, True])
    def test_every_answer_token_is_in_exactly_one_class(self, bench: Bench, whole: bool, choices: bool) -> None:
        encoded, labels = self.labelled(bench, choices=choices)
        asked = Asked(bench.loaded, encoded, bench.trainable.before, whole=whole)
        found, said = classes(asked, labels, 0.0), asked.now
        starts = torch.tensor([one.answer_start for one in encoded])[said.members]
        answers = said.places >= starts
        assert torch.equal((found.unlearnt > 0).int() + (found.preserved > 0).int(), answers.int())
        assert int(answers.sum()) == sum(len(one.answer_ids) for one in encoded)
        assert bool((found.unlearnt > 0).any())
        assert bool((found.preserved > 0).any())

    def test_question_tokens_are_unlearnt_with_their_weight_alone(self, bench: Bench) -> None:
        encoded, labels = self.labelled(bench, choices=False)
        # The tiny hospital's questions name nobody, so that one is said to hold a word of the target's own.
        places = [one.answer_start - 2 for one in encoded]
        for label, place in zip(labels, places, strict=True):
            label.question_targeted[place] = True
        asked = Asked(bench.loaded, encoded, bench.trainable.before, whole=True)
        said, without, weighed = asked.now, classes(asked, labels, 0.0), classes(asked, labels, 0.4)
        own = said.places == torch.tensor(places)[said.members]
        assert int(own.sum()) == len(encoded)
        assert not bool(without.unlearnt[own].any())
        torch.testing.assert_close(weighed.unlearnt - without.unlearnt, 0.4 * own.to(said.logits))
        assert torch.equal(weighed.preserved, without.preserved)
        assert not bool(weighed.preserved[own].any())

    def test_weighted_means_are_by_record_and_of_nothing_zero(self, bench: Bench) -> None:
        members = torch.tensor([0, 0, 1, 2, 2, 2])
        said = Said(torch.zeros(6, 2), torch.zeros(6, dtype=torch.long), members, 3, torch.zeros(6, dtype=torch.long))
        values = torch.tensor([1.0, 3.0, 5.0, 2.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
        weights = torch.tensor([1.0, 3.0, 0.0, 0.5, 0.5, 0.0], dtype=torch.float64)
        found = by_record(said, values, weights)
        assert found.tolist() == [2.5, 0.0, 3.0]
        (slopes,) = torch.autograd.grad(found.sum(), values)
        assert slopes.tolist() == [0.25, 0.75, 0.0, 0.5, 0.5, 0.0]

    def test_a_bounded_tokens_gradient_is_the_ascents_at_the_start(self, bench: Bench) -> None:
        encoded = target_of(bench)
        with at_start(bench):
            npo = bench.gradients(Term(lambda asked: bounded(asked, 1.0)), encoded)
            ga = bench.gradients(bench.objective("ga").forget, encoded)
        for one, other in zip(npo, ga, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)


class TestDealing:
    """What a step is dealt depends on its number alone."""

    @pytest.mark.parametrize("step_records", [1, 3, 5, 8, 32])
    def test_a_baseline_goes_through_the_targets_records_ten_times(self, bench: Bench, step_records: int) -> None:
        examples, settings = bench.examples, EditSettings(method="npo", step_records=step_records)
        steps = most_steps(settings, len(examples.target))
        dealt = [examples.dealt(examples.target, step_records, step, "target") for step in range(steps)]
        counts = [sum(step.count(position) for step in dealt) for position in examples.target]
        assert 10 <= min(counts) <= max(counts) <= 11
        assert sum(counts) - 10 * len(examples.target) < step_records

    def test_all_records_come_before_any_comes_again(self, bench: Bench) -> None:
        examples = bench.examples
        flat = [one for step in range(20) for one in examples.dealt(examples.retained, 3, step, "retained")]
        size = len(examples.retained)
        for start in range(0, len(flat) - size + 1, size):
            assert sorted(flat[start : start + size]) == sorted(examples.retained)

    def test_half_of_what_is_near_are_siblings(self, bench: Bench) -> None:
        for step in range(6):
            near = bench.examples.near(8, step, "geometry")
            assert len(near) == len(set(near))
            assert not set(near) & set(bench.examples.target)
            assert set(near) >= set(bench.examples.dealt(bench.examples.siblings, 4, step, "geometry siblings"))

    def test_what_is_dealt_twice_to_a_step_counts_twice(self, bench: Bench) -> None:
        batches = bench.batched(3).examples.batches_of([4, 1, 4, 2, 4])
        assert sorted(one for batch in batches for one in batch) == [1, 2, 4, 4, 4]
