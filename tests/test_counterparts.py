"""Counterparts: a token goes on as retained answers go on after the same words, or as a donor's answer at its place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edits import problem
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chip.collect import answer_inputs, encode_all, margins, run_in_step
from chip.collect.statistics import Moments
from chip.edit import Redirected
from chip.hierarchy import Record, shape
from chip.models.loading import LoadedModel
from chip.solve.counterpart import unedited
from chip.solve.counterparts import LONGEST_CONTEXT, Answered, find_counterparts
from chip.solve.held import donors, held_records
from chip.solve.problem import Problem
from chip.workflow.solvers import solve

ANSWERS = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)


def record(question: str, path: tuple[str, ...] = ("inst_1", "patient_1")) -> Record:
    return Record(path=path, question=question, answer="", line=1)


def found(tokens: tuple[int, ...], *held: tuple[int, ...]) -> list[tuple[int, int]]:
    """Record and place of the counterparts of one answer, the held ones ranked in their order."""
    answered = [Answered(number, "q", "patient_0", one, number) for number, one in enumerate(held)]
    return [(one.number, one.place) for one in find_counterparts([record("q")], [tokens], answered)]


class TestCounterparts:
    def test_where_nothing_is_the_same_the_first_donor_answers_place_by_place(self) -> None:
        assert found((1, 2, 3), (7, 8, 9), (4, 5, 6)) == [(0, 0), (0, 1), (0, 2)]

    def test_the_same_words_are_continued_wherever_they_stand(self) -> None:
        assert found((1, 2, 3), (7, 8, 9), (5, 1, 6))[1] == (1, 2)

    def test_of_longer_and_shorter_contexts_the_longer_decides(self) -> None:
        assert found((1, 2, 3), (4, 2, 5), (1, 2, 6))[2] == (1, 2)

    def test_an_answer_longer_than_all_others_goes_on_with_their_ends(self) -> None:
        assert found((1, 2, 3, 4), (7, 8)) == [(0, 0), (0, 1), (0, 1), (0, 1)]

    def test_an_answer_that_others_give_too_stays_as_it_is(self) -> None:
        answer = (3, 1, 2, 5)
        places = found(answer, (7, 8, 9, 9), answer)
        assert [(7, 8, 9, 9)[place] if number == 0 else answer[place] for number, place in places][1:] == [1, 2, 5]

    @given(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=5))
    def test_no_retained_token_follows_more_of_the_same_words(
        self, tokens: tuple[int, ...], held: list[tuple[int, ...]]
    ) -> None:
        def in_common(answer: tuple[int, ...], place: int, at: int) -> int:
            length = 0
            while length < min(place, at, LONGEST_CONTEXT) and answer[place - length - 1] == tokens[at - length - 1]:
                length += 1
            return length

        for at, (number, place) in enumerate(found(tokens, *held)):
            best = max(in_common(one, other, at) for one in held for other in range(len(one)))
            assert in_common(held[number], place, at) == best

    def test_questions_of_another_shape_stand_in_only_where_none_is_the_same(self) -> None:
        held = [Answered(0, "what is it ?", "", (1, 2), 0), Answered(1, "who is it ?", "", (3, 4), 1)]
        same, near = find_counterparts([record("who is it ?"), record("what is that ?")], [(9,), (9,)], held)
        assert (same.number, near.number) == (1, 0)

    def test_of_one_shape_those_at_nodes_of_the_same_name_stand_in(self) -> None:
        held = [Answered(0, "what says … ?", "FINDINGS", (1,), 0), Answered(1, "what says … ?", "IMPRESSION", (2,), 1)]
        asked = record("what says IMPRESSION ?", ("inst_1", "patient_1", "study_1", "IMPRESSION"))
        assert [one.number for one in find_counterparts([asked], [(9,)], held)] == [1]


class TestShape:
    def test_names_of_the_path_are_struck_out_and_nothing_else(self) -> None:
        assert shape(record("who is patient_1 of inst_1 ?")) == "who is … of … ?"
        assert shape(record("who is patient_12 ?")) == "who is patient_12 ?"

    def test_nodes_that_ask_alike_have_one_shape(self) -> None:
        other = record("who is patient_2 ?", ("inst_1", "patient_2"))
        assert shape(record("who is patient_1 ?")) == shape(other)


class TestHeld:
    @pytest.mark.parametrize("target", ["inst_1", "patient_1", "study_0_1", "study_1_0/FINDINGS"])
    @pytest.mark.parametrize("most", [1, 6, 12, 1000])
    def test_they_are_retained_and_at_most_so_many_and_drawn_by_seed(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path, target: str, most: int
    ) -> None:
        one = problem(llava, llava_directory, hospital_data, target, method="counterpart", layers="0")
        held = held_records(one, most)
        assert held == held_records(one, most)
        assert len(held) == min(most, len(one.split.retain))
        assert set(held) <= set(one.split.retain)
        if most < 12:
            return
        wanted = {shape(one.hierarchy.records[i]) for i in one.split.target}
        known = {shape(one.hierarchy.records[i]) for i in one.split.retain}
        assert wanted & known <= {shape(one.hierarchy.records[i]) for i in held}

    def test_the_comparison_comes_first_and_a_node_keeps_together(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path
    ) -> None:
        one = problem(llava, llava_directory, hospital_data, "patient_1", method="counterpart", layers="0")
        ranks = donors(one, one.split.retain)
        first = {one.hierarchy.paths[i][:2] for i, rank in ranks.items() if rank == 0}
        assert first == {("inst_0", "patient_0")}
        assert {ranks[i] for i in ranks if one.hierarchy.paths[i][:2] == ("inst_0", "patient_0")} == {0}


@pytest.fixture
def one(llava: LoadedModel, llava_directory: Path, hospital_data: Path) -> Problem:
    return problem(llava, llava_directory, hospital_data, "patient_1", method="counterpart", strength=10.0, ridge=0.01)


class TestUnedited:
    """What a request takes from the unedited model, of six held records among more, and of all."""

    @pytest.mark.parametrize("held", [6, 1000])
    def test_tokens_are_the_targets_and_then_the_held_ones_each_with_a_counterpart_among_them(
        self, one: Problem, held: int
    ) -> None:
        one = replace(one, settings=replace(one.settings, held=held))
        tokens, chosen = unedited(one).tokens, held_records(one, held)
        positions = (*one.split.target, *chosen)
        answers = [one.loaded.prompts.encode(record).answer_ids for record in one.records(positions)]
        sizes, targets = torch.tensor(list(map(len, answers))), len(one.split.target)
        ids, records = torch.cat(answers), torch.arange(len(answers)).repeat_interleave(sizes)
        assert torch.equal(tokens.records, records)
        assert tokens.target == int(sizes[:targets].sum())
        assert tokens.held == len(ids) - tokens.target
        compared = torch.tensor([positions[record] in set(one.split.comparison) for record in records])
        assert torch.equal(tokens.compared, compared[tokens.target :])
        assert tokens.compared.any()
        assert len(tokens.counterparts) == len(tokens.differs) == tokens.target
        assert int(tokens.counterparts.min()) >= tokens.target
        assert torch.equal(tokens.differs, ids[tokens.counterparts] != ids[: tokens.target])
        ranks = donors(one, chosen)
        texts = [tuple(answer.tolist()) for answer in answers]
        answered = [
            Answered(number, shape(record), record.path[-1], texts[targets + number], ranks[position])
            for number, (position, record) in enumerate(zip(chosen, one.records(chosen), strict=True))
        ]
        wanted = find_counterparts(one.records(one.split.target), texts[:targets], answered)
        starts = (sizes.cumsum(0) - sizes)[targets:].tolist()
        assert tokens.counterparts.tolist() == [starts[each.number] + each.place for each in wanted]

    @pytest.mark.parametrize("held", [6, 1000])
    def test_what_is_not_held_is_in_the_moments(self, one: Problem, held: int) -> None:
        one = replace(one, settings=replace(one.settings, held=held))
        unheld = unedited(one).unheld
        others = sorted(set(range(len(one.hierarchy.records))) - {*one.split.target, *held_records(one, held)})
        sites = [site for site in one.loaded.sites if site.writes]
        assert set(unheld) == {site.name for site in sites}
        if not others:
            assert set(unheld.values()) == {None}
            return
        rows = answer_inputs(one.loaded, encode_all(one.loaded, one.records(others)), sites, 512)
        for name, moments in unheld.items():
            assert isinstance(moments, Moments)
            keys = rows[name].double()
            assert moments.count == len(keys)
            torch.testing.assert_close(moments.outer, keys.T @ keys, rtol=1e-3, atol=1e-3 * float(keys.square().sum()))

    def test_the_target_aims_at_where_its_counterparts_were_and_flows_on_from_there(self, one: Problem) -> None:
        """What is retained aims at where it was, and behind the last site the target is where its counterparts are."""
        before = unedited(one)
        sites = [site for site in one.loaded.sites if site.writes]
        plain: dict[str, Tensor] = {}
        states = run_in_step(
            one.loaded, before.groups, sites, 512, lambda site, flow: plain.update({site.name: flow.leaving.clone()})
        )
        target, there = before.tokens.target, before.tokens.counterparts
        for site in sites:
            aims = before.aims[site.name]
            torch.testing.assert_close(aims[target:], plain[site.name][target:], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(aims[:target], aims[there])
        usual = margins(one.loaded, before.groups, states)
        torch.testing.assert_close(before.margins[target:], usual[target:], rtol=1e-3, atol=1e-4)
        assert (before.margins[:target][before.tokens.differs] < 0).any()
        assert not before.weights

    def test_ridge_and_gain_reach_the_sites(self, one: Problem) -> None:
        """A share of the gain takes fewer directions; more of a ridge gives a smaller change."""
        plain, part, ridged = (
            solve(replace(one, settings=replace(one.settings, rounds=0, **values)))
            for values in ({}, {"gain": 0.5}, {"ridge": 1.0})
        )
        for less, found, more in zip(part.sites, plain.sites, ridged.sites, strict=True):
            assert less.rank < found.rank
            assert more.relative_change < found.relative_change

    def test_what_is_reported_is_what_was_done(self, one: Problem) -> None:
        solved = solve(one)
        sites = [site for site in one.loaded.sites if site.writes]
        assert [report.site for report in solved.sites] == [site.name for site in sites]
        for report, change, site in zip(solved.sites, solved.edit.changes, sites, strict=True):
            assert report.rank == change.left.shape[1] > 0
            assert isinstance(change.derivation, Redirected)
            weight = site.weight(one.loaded.model).double()
            share = np.linalg.norm(change.delta()) / float(weight.norm())
            assert report.relative_change == pytest.approx(share, rel=1e-3)
            np.testing.assert_allclose(
                change.derivation.outputs,
                weight @ torch.tensor(change.derivation.keys).double().T,
                rtol=1e-5,
                atol=1e-5,
            )
            assert report.strength == one.settings.fixed_strength
