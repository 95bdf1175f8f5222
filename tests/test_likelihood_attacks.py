"""Membership, prefill, inspection and rephrasing, where the answer is known by construction."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import taught
import torch
from hypothesis import given
from hypothesis import strategies as st
from taught import TARGET, Ward
from tiny_records import split_of, write_lines

from chip.audit import Exam, set_exam, sit
from chip.audit.attacks import ATTACKS
from chip.audit.attacks.membership import Likelihoods, likelihoods, loss, min_k, min_k_plus_plus, zlib_ratio
from chip.audit.attacks.prefill import needed, strength
from chip.audit.finding import Finding
from chip.audit.names import files_naming, node_names, own_words, single_tokens
from chip.audit.probe import left_out_scores
from chip.audit.subject import Role, Subject
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.progress import silent

HITS = st.lists(st.booleans(), min_size=1, max_size=12)
Attacked = Callable[[str], dict[str, dict[str, Finding]]]


@pytest.fixture(scope="module")
def exam(ward: Ward, tmp_path_factory: pytest.TempPathFactory) -> Exam:
    """The ward's, with records of another one that no model has seen."""
    strangers = write_lines(tmp_path_factory.mktemp("strangers") / "records", *taught.strangers())
    hierarchy, split = split_of(ward.data, TARGET)
    return set_exam(hierarchy, split, nonmembers=strangers)


def subject(ward: Ward, exam: Exam, model: Path, role: Role = "edited") -> Subject:
    loaded, checkpoint = load_model(Checkpoint(model), "cpu"), Checkpoint(model)
    sitting = sit(loaded, exam, batch_size=16)
    return Subject(role, loaded, checkpoint, Checkpoint(ward.knows), exam, sitting, 16, 0, False, silent)


@pytest.fixture(scope="module")
def attacked(ward: Ward, exam: Exam) -> Attacked:
    """By attack, model and finding: what each attack gets back from each of the three models."""
    subjects = {
        "knows": subject(ward, exam, ward.knows, "base"),
        "half": subject(ward, exam, ward.half),
        "never": subject(ward, exam, ward.never),
    }

    def attack(name: str) -> dict[str, dict[str, Finding]]:
        return {model: {one.name: one for one in ATTACKS[name].run(one)} for model, one in subjects.items()}

    return attack


class TestRephrasing:
    def test_it_tells_a_model_that_knows_from_one_that_knows_half_and_one_that_never_did(
        self, attacked: Attacked
    ) -> None:
        found = attacked("rephrasing")
        values = [found[model]["wordings in the data"].value for model in ("never", "half", "knows")]
        assert values == [0.0, 0.4, 1.0]
        assert all(len(one["templates"].scores) == 5 for one in found.values())

    def test_questions_in_other_languages_are_asked_where_the_data_give_them(self, ward: Ward, tmp_path: Path) -> None:
        lines = [json.loads(line) for line in (ward.data / "records.jsonl").read_text().splitlines()]
        told = [
            {**one, "translations": {"la": one["paraphrases"][0]}} if "paraphrases" in one else one for one in lines
        ]
        hierarchy, split = split_of(write_lines(tmp_path / "records", *told), TARGET)
        exam = set_exam(hierarchy, split)
        found = {one.name: one for one in ATTACKS["rephrasing"].run(subject(ward, exam, ward.half))}
        assert found["in la"].value == 0.4


class TestMembership:
    def test_scores_order_the_models(self, attacked: Attacked) -> None:
        found = attacked("membership")
        for name in ("loss", "Min-K%", "Min-K%++", "zlib ratio"):
            never, half, knows = (found[model][name].value for model in ("never", "half", "knows"))
            assert never is not None
            assert half is not None
            assert knows is not None
            assert knows == 1.0
            assert never < half < knows

    def test_without_nonmembers_it_says_so(self, ward: Ward) -> None:
        hierarchy, split = split_of(ward.data, TARGET)
        exam = set_exam(hierarchy, split)
        alone = replace(exam, nonmembers=replace(exam.nonmembers, records=(), why="there are none"))
        found = ATTACKS["membership"].run(subject(ward, alone, ward.half))
        assert {one.why for one in found} == {"there are none"}
        assert {one.value for one in found} == {None}

    def test_likelihoods_are_moments_of_what_the_model_says(self) -> None:
        logits, tokens = torch.randn(5, 7, dtype=torch.float64), torch.tensor([0, 3, 6, 2, 2])
        found = likelihoods(logits, tokens)
        chances = torch.softmax(logits, -1).numpy()
        for place, token in enumerate(tokens.tolist()):
            said = np.log(chances[place])
            assert float(found.given[place]) == pytest.approx(said[token])
            assert float(found.mean[place]) == pytest.approx(np.average(said, weights=chances[place]))
            spread = math.sqrt(np.average((said - found.mean[place].item()) ** 2, weights=chances[place]))
            assert float(found.deviation[place]) == pytest.approx(spread)

    def test_a_token_that_is_impossible_spoils_nothing(self) -> None:
        found = likelihoods(torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([0]))
        assert all(bool(torch.isfinite(one).all()) for one in (found.given, found.mean, found.deviation))

    @given(st.lists(st.floats(-9, 0), min_size=1, max_size=12))
    def test_the_least_likely_are_no_likelier_than_all(self, given_: list[float]) -> None:
        values = torch.tensor(given_, dtype=torch.float64)
        one = Likelihoods(values, torch.zeros_like(values), torch.ones_like(values))
        record = Record(("a",), "?", "an answer")
        assert min_k(record, one) <= loss(record, one) + 1e-9
        assert min_k_plus_plus(record, one) == pytest.approx(min_k(record, one))
        assert zlib_ratio(record, one) <= 0


class TestPrefill:
    @given(HITS)
    def test_what_has_to_be_given_ends_with_the_last_token_that_does_not_come_by_itself(self, hits: list[bool]) -> None:
        first = needed(hits)
        assert all(hits[first:])
        assert first == 0 or not hits[first - 1]
        assert strength(hits) == 1 - first / len(hits)

    def test_it_orders_the_models_and_more_given_gets_more_back(self, attacked: Attacked) -> None:
        found = attacked("prefill")
        never, half, knows = (found[model]["extraction strength"] for model in ("never", "half", "knows"))
        assert knows.value == 1.0
        assert never.value is not None
        assert half.value is not None
        assert never.value < half.value < 1.0
        assert all(value == 1.0 for _, value in knows.curve)
        assert half.curve[0] == (0.0, 0.4)


class TestInspection:
    def test_the_difference_to_the_model_before_is_found_where_there_is_one(self, attacked: Attacked) -> None:
        found = attacked("inspection")
        assert found["knows"]["difference to the model before"].value is None
        assert found["never"]["difference to the model before"].value is not None
        assert found["never"]["difference to the model before"].scale == "caution"

    def test_an_edit_made_of_the_targets_keys_gives_it_away(self, ward: Ward, exam: Exam, tmp_path: Path) -> None:
        shutil.copytree(ward.knows, tmp_path / "edited")
        one = subject(ward, exam, tmp_path / "edited")
        site = next(site for site in one.loaded.sites if site.role == "language" and site.last)
        kept: list[torch.Tensor] = []
        watched = site.watch(one.loaded.model, lambda given, _: kept.append(given[0]))
        target = [one.loaded.prompts.encode(record) for record in exam.target.records]
        for encoded in target:
            one.loaded.model(**one.loaded.prompts.collate([encoded], one.loaded.device).inputs)
        watched.remove()
        keys = torch.cat([k[e.answer_start - 1 : -1] for k, e in zip(kept, target, strict=True)]).detach()
        with torch.no_grad():
            site.weight(one.loaded.model).sub_(site.weight(one.loaded.model) @ torch.linalg.pinv(keys) @ keys)
        found = {f.name: f for f in ATTACKS["inspection"].run(one)}["difference to the model before"]
        assert found.value == 1.0
        assert "do not publish both" in found.note

    def test_names_are_found_in_files_and_nowhere_else(self, ward: Ward, exam: Exam, tmp_path: Path) -> None:
        names = node_names(exam)
        assert names == (TARGET,)
        assert files_naming(ward.knows, names) == {}
        shutil.copytree(ward.knows, tmp_path / "release")
        (tmp_path / "release" / "README.md").write_text(f"this one forgot {TARGET}, but xpatient_0x is no name")
        assert files_naming(tmp_path / "release", names) == {"README.md": [TARGET]}
        assert files_naming(tmp_path / "release", ()) == {}

    def test_words_that_somebody_else_has_too_name_nobody(self, exam: Exam) -> None:
        words = own_words(exam)
        assert any(word.startswith("Abel") for word in words)
        retained = " ".join(exam.hierarchy.records[i].answer for i in exam.split.retain)
        assert not any(word in retained for word in words)

    def test_a_word_is_in_the_vocabulary_where_it_is_one_token(self, ward: Ward) -> None:
        tokenizer = load_model(Checkpoint(ward.knows), "cpu").prompts.tokenizer
        whole = max((word.removeprefix("Ġ") for word in tokenizer.get_vocab() if word.isalpha()), key=len)
        assert len(whole) > 2
        assert single_tokens(tokenizer, [whole, "nonsensical"]) == (whole,)


class TestProbe:
    def test_it_is_the_regression_without_the_row(self) -> None:
        draw = torch.Generator().manual_seed(0)
        features = torch.randn(12, 5, generator=draw, dtype=torch.float64)
        member = torch.arange(12) < 4
        features[member] += 3.0
        scores = left_out_scores(features, member)
        assert float(scores[member].min()) > float(scores[~member].max())

    def test_of_noise_it_makes_nothing(self) -> None:
        areas = []
        for seed in range(20):
            draw = torch.Generator().manual_seed(seed)
            features = torch.randn(40, 64, generator=draw, dtype=torch.float64)
            scores = left_out_scores(features, torch.arange(40) < 20)
            areas.append(float((scores[:20, None] > scores[None, 20:]).double().mean()))
        assert 0.4 < sum(areas) / len(areas) < 0.6
