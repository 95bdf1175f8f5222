"""Membership, prefill, inspection and rephrasing, where the answer is known by construction."""

import json
import math
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import taught
import torch
from hypothesis import given
from hypothesis import strategies as st
from taught import TARGET, Ward
from tiny_models import change_config
from tiny_records import split_of, write_lines

from chip.audit import Exam, names, set_exam, sit
from chip.audit.attacks import ATTACKS
from chip.audit.attacks.membership import Likelihoods, likelihoods, loss, min_k, min_k_plus_plus, zlib_ratio
from chip.audit.attacks.prefill import needed, strength
from chip.audit.finding import Finding
from chip.audit.names import files_naming, node_names, own_words, single_tokens, telling
from chip.audit.probe import RIDGE, left_out_pairs
from chip.audit.subject import Role, Subject
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.models.sites import Site
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


def last_site(one: Subject) -> Site:
    return next(site for site in one.loaded.sites if site.role == "language" and site.last)


def keys_at(site: Site, one: Subject, records: Sequence[Record]) -> torch.Tensor:
    """What enters a site at the answer positions of records."""
    kept: list[torch.Tensor] = []
    watched = site.watch(one.loaded.model, lambda given, _: kept.append(given[0]))
    every = [one.loaded.prompts.encode(record) for record in records]
    for encoded in every:
        one.loaded.model(**one.loaded.prompts.collate([encoded], one.loaded.device).inputs)
    watched.remove()
    return torch.cat([k[e.answer_start - 1 : -1] for k, e in zip(kept, every, strict=True)]).detach()


def document(line: dict[str, Any]) -> dict[str, Any]:
    """A record as a plain document."""
    return {"path": line["path"], "text": f"{line['question']} {line['answer']}"}


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

    def test_documents_of_the_target_are_not_held_against_questions(self, ward: Ward, tmp_path: Path) -> None:
        lines = [json.loads(line) for line in (ward.data / "records.jsonl").read_text().splitlines()]
        ours = [place for place, one in enumerate(lines) if TARGET in one["path"]]
        for changed, asks in ((ours[:2], 3), (ours, 0)):
            told = [document(one) if place in changed else one for place, one in enumerate(lines)]
            hierarchy, split = split_of(write_lines(tmp_path / f"{asks}", *told), TARGET)
            strangers = write_lines(tmp_path / "strangers", *taught.strangers())
            exam = set_exam(hierarchy, split, nonmembers=strangers)
            for one in ATTACKS["membership"].run(subject(ward, exam, ward.half)):
                assert len(one.scores) == asks
                assert "2 other records of the target left out" in one.note if asks else "documents" in one.why

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
        site = last_site(one)
        keys = keys_at(site, one, exam.target.records)
        with torch.no_grad():
            site.weight(one.loaded.model).sub_(site.weight(one.loaded.model) @ torch.linalg.pinv(keys) @ keys)
        found = {f.name: f for f in ATTACKS["inspection"].run(one)}["difference to the model before"]
        assert found.value == 1.0
        assert "do not publish both" in found.note

    def test_an_edit_that_every_other_record_excites_more_gives_the_target_away_too(
        self, ward: Ward, exam: Exam, tmp_path: Path
    ) -> None:
        shutil.copytree(ward.knows, tmp_path / "edited")
        one = subject(ward, exam, tmp_path / "edited")
        site = last_site(one)
        keys = keys_at(site, one, exam.target.records[:1])
        alone = replace(exam, groups=tuple(replace(g, records=g.records[:1]) if g.phrasing else g for g in exam.groups))
        left = torch.eye(keys.shape[1]) - torch.linalg.pinv(keys) @ keys
        with torch.no_grad():
            site.weight(one.loaded.model).sub_(site.weight(one.loaded.model) @ left)
        made = {f.name: f for f in ATTACKS["inspection"].run(replace(one, exam=alone))}
        found = made["difference to the model before"]
        assert "area of 0.00" in found.note
        assert found.value == 1.0

    def test_documents_are_not_probed(self, ward: Ward, tmp_path: Path) -> None:
        lines = [json.loads(line) for line in (ward.data / "records.jsonl").read_text().splitlines()]
        told = [document(one) if TARGET in one["path"] or one["path"][-1] == "patient_1" else one for one in lines]
        hierarchy, split = split_of(write_lines(tmp_path / "records", *told), TARGET)
        found = {f.name: f for f in ATTACKS["inspection"].run(subject(ward, set_exam(hierarchy, split), ward.half))}
        assert found["linear probe"].value is None
        assert "documents do not" in found["linear probe"].why

    def test_names_that_any_model_shows_tell_nothing_and_all_others_do(self, ward: Ward, tmp_path: Path) -> None:
        base = Path(shutil.copytree(ward.knows, tmp_path / "base"))
        change_config(base, _name_or_path="/data/patient_0", hidden=123456, id2label={"0": "Ada Lovelace"})
        usual = ["2", "64", "pad", "model", "llama", "layers", "down_proj", "rope_theta", "LlamaForCausalLM", "123456"]
        told = ["patient_0", "Ada Lovelace", "Mildred"]
        assert telling([*usual, *told], Checkpoint(base)) == tuple(told)
        assert files_naming(base, told) == {"config.json": ["Ada Lovelace", "patient_0"]}

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps({"of": "Müller"}),
            json.dumps({"of": "seen\nMüller\t"}),
            json.dumps({"of": unicodedata.normalize("NFD", "Müller")}),
            "about MÜLLER,",
            "model_müller_v2",
        ],
    )
    def test_a_name_is_found_however_it_is_spelled(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "notes.json").write_text(text)
        assert files_naming(tmp_path, ["Müller"]) == {"notes.json": ["Müller"]}

    def test_a_name_is_found_in_the_name_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "forgotten").mkdir()
        (tmp_path / "forgotten" / "list_patient_0.txt").write_text("nothing")
        assert files_naming(tmp_path, ["patient_0"]) == {"forgotten/list_patient_0.txt": ["patient_0"]}

    def test_a_name_is_found_in_a_binary_file(self, tmp_path: Path) -> None:
        (tmp_path / "kept.pt").write_bytes(b"PK\0\xff\x01patient_0\x02\xfe")
        assert files_naming(tmp_path, ["patient_0"]) == {"kept.pt": ["patient_0"]}

    def test_another_nodes_name_that_begins_alike_is_no_name(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("study_1_0 and study_10 and mystudy_1 and study_1x")
        assert files_naming(tmp_path, ["study_1"]) == {}

    @given(st.integers(0, 60), st.integers(5, 40))
    def test_a_long_file_is_searched_to_its_end_and_cut_between_no_letters(self, before: int, chunk: int) -> None:
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
            patch.setattr(names, "_CHUNK", chunk)
            path = Path(name) / "notes"
            path.write_text("." * before + json.dumps("Müller") + "." * 200 + "xAnna Annax" + "." * before + "Annab")
            assert files_naming(Path(name), ["Müller", "Anna"]) == {"notes": ["Müller"]}

    def test_names_are_found_in_files_and_nowhere_else(self, ward: Ward, exam: Exam, tmp_path: Path) -> None:
        own = node_names(exam)
        assert own == (TARGET,)
        assert files_naming(ward.knows, own) == {}
        shutil.copytree(ward.knows, tmp_path / "release")
        (tmp_path / "release" / "README.md").write_text(f"this one forgot {TARGET}, but xpatient_0x is no name")
        assert files_naming(tmp_path / "release", own) == {"README.md": [TARGET]}
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

    def test_an_added_token_is_found_by_the_name_of_the_node(self, ward: Ward, exam: Exam, tmp_path: Path) -> None:
        shutil.copytree(ward.half, tmp_path / "release")
        one = subject(ward, exam, tmp_path / "release")
        name = "names and words in the vocabulary"
        before = {f.name: f for f in ATTACKS["inspection"].run(one)}[name]
        one.loaded.prompts.tokenizer.add_tokens([f"<{TARGET}>"])
        after = {f.name: f for f in ATTACKS["inspection"].run(one)}[name]
        assert before.value is not None
        assert after.value is not None
        assert after.value > before.value


class TestProbe:
    @given(st.integers(0, 2**31), st.integers(2, 5), st.integers(2, 9), st.integers(1, 20))
    def test_it_is_the_regression_without_the_pair(self, seed: int, ours: int, theirs: int, width: int) -> None:
        features = torch.randn(ours + theirs, width, generator=torch.Generator().manual_seed(seed)).double() + 5
        member = torch.arange(ours + theirs) < ours
        found = left_out_pairs(features, member)
        penalty = RIDGE * float(features.var(0, correction=0).mean())
        for i in range(ours):
            for j in range(theirs):
                rest = torch.tensor([place not in (i, ours + j) for place in range(ours + theirs)])
                kept, sides = features[rest], member[rest]
                weight = torch.where(sides, 0.5 / sides.sum(), 0.5 / (~sides).sum()).double()
                mean = weight @ kept
                gram = (kept - mean).T @ (weight[:, None] * (kept - mean)) + penalty * torch.eye(width).double()
                slope = torch.linalg.solve(gram, (kept - mean).T @ (weight * (sides.double() * 2 - 1)))
                lead = float((features[i] - features[ours + j]) @ slope)
                assert float(found[i, j]) == (lead > 0) or abs(lead) < 1e-6

    def test_classes_that_lie_apart_are_told_apart(self) -> None:
        features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        member = torch.arange(12) < 4
        features[member] += 5.0
        assert left_out_pairs(features, member).min() == 1.0

    @pytest.mark.parametrize(("ours", "theirs"), [(2, 8), (14, 30), (20, 20), (8, 2)])
    def test_of_noise_it_makes_nothing(self, ours: int, theirs: int) -> None:
        areas = []
        for seed in range(100):
            draw = torch.Generator().manual_seed(seed)
            features = torch.randn(ours + theirs, 64, generator=draw, dtype=torch.float64)
            areas.append(float(left_out_pairs(features, torch.arange(ours + theirs) < ours).mean()))
        deviation = float(np.std(areas)) / 10
        assert abs(float(np.mean(areas)) - 0.5) < 3 * deviation

    def test_states_that_are_all_alike_are_told_no_better_than_by_a_coin(self) -> None:
        found = left_out_pairs(torch.full((9, 4), 0.1, dtype=torch.float64), torch.arange(9) < 3)
        assert (found == 0.5).all()
