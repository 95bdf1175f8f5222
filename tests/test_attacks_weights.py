"""Attacks on weights: relearning, which trains them a little, and quantisation, which rounds them."""

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attacking import TARGET, found, hide, subject_of
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import hospital_records, write_lines

from chip.audit.attacks import quantisation, relearning
from chip.audit.finding import Finding
from chip.audit.subject import Subject
from chip.duolearn.loop import Losses
from chip.models.loading import LoadedModel

FEW_LOOKS = (0, 2, 5)
Made = Mapping[str, Mapping[str, Finding]]


@pytest.fixture(scope="module")
def subjects(taught: Mapping[str, LoadedModel], llava_directory: Path, hospital_data: Path) -> dict[str, Subject]:
    """Under attack: what was taught all, half and none of the target, and a model that knows it and hides it."""
    hiding = replace(taught["all"], model=copy.deepcopy(taught["all"].model))
    hide(hiding, hospital_data)
    models = {**taught, "hiding": hiding}
    return {name: subject_of(one, llava_directory, hospital_data) for name, one in models.items()}


class TestRelearning:
    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, subjects: Mapping[str, Subject]) -> Made:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(relearning, "LOOKS", FEW_LOOKS)
            return {name: found(relearning.ATTACK, subject) for name, subject in subjects.items()}

    def test_more_comes_back_of_what_was_taught(self, made: Made) -> None:
        for name in made["all"]:
            every, half, none = (made[one][name].value for one in ("all", "half", "none"))
            assert every > half > none == 0, name  # type: ignore[operator]

    def test_what_was_hidden_comes_back_and_what_was_never_known_does_not(self, made: Made) -> None:
        hidden, never = made["hiding"]["30% of the target"], made["none"]["30% of the target"]
        assert hidden.value is not None
        assert hidden.value > hidden.curve[0][1]
        assert never.value == 0

    def test_records_that_are_taught_are_not_asked(self, made: Made, subjects: Mapping[str, Subject]) -> None:
        every = {record.line for record in subjects["all"].exam.target.records}
        asked = {name: {line for line, _ in one.scores} for name, one in made["all"].items()}
        assert asked["siblings"] == asked["the rest"] == every
        assert len(asked["10% of the target"]) == len(every) - 1
        assert len(asked["30% of the target"]) == len(every) - 2
        assert asked["30% of the target"] < asked["10% of the target"] < every

    def test_the_value_is_that_of_the_best_look_after_a_step(self, made: Made) -> None:
        for findings in made.values():
            for one in findings.values():
                assert [step for step, _ in one.curve] == list(FEW_LOOKS)
                assert one.value == max(value for _, value in one.curve[1:])
                assert "other retained records it then answers" in one.note

    def test_the_same_seed_gives_the_same_findings(
        self, monkeypatch: pytest.MonkeyPatch, made: Made, subjects: Mapping[str, Subject]
    ) -> None:
        monkeypatch.setattr(relearning, "LOOKS", FEW_LOOKS)
        assert found(relearning.ATTACK, subjects["hiding"]) == made["hiding"]

    def test_a_large_model_gets_lora_factors(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        monkeypatch.setattr(relearning, "LARGE", 1000)
        quick = found(relearning.ATTACK, replace(subjects["all"], quick=True))
        assert all("LoRA of rank" in one.note for one in quick.values())
        assert [step for step, _ in quick["siblings"].curve] == list(relearning.QUICK_LOOKS)
        assert not any("lora" in name for name, _ in subjects["all"].loaded.model.named_modules())

    def test_a_large_model_without_peft_says_so(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        monkeypatch.setattr(relearning, "LARGE", 1000)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        made = found(relearning.ATTACK, subjects["all"])
        assert all(one.value is None and "needs peft" in one.why for one in made.values())

    def test_training_that_diverges_is_said(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        monkeypatch.setattr(relearning, "RATE_BY_WIDTH", 1e30)
        made = found(relearning.ATTACK, replace(subjects["all"], quick=True))
        assert any("diverged" in one.why for one in made.values())

    def test_what_came_back_before_a_training_diverged_is_kept(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        """The rate explodes after the first look."""
        step = relearning._Teacher.step

        def exploding(teacher: relearning._Teacher, number: int) -> Losses:
            if number >= FEW_LOOKS[1]:
                teacher._adam.param_groups[0]["lr"] = 1e30
            return step(teacher, number)

        monkeypatch.setattr(relearning, "LOOKS", (0, FEW_LOOKS[1], 20))
        monkeypatch.setattr(relearning._Teacher, "step", exploding)
        for one in found(relearning.ATTACK, subjects["all"]).values():
            assert [place for place, _ in one.curve] == [0, FEW_LOOKS[1]]
            assert one.value == one.curve[1][1]
            assert f"after step {FEW_LOOKS[1]}: the training has diverged" in one.note

    def test_of_a_small_target_the_note_says_how_much_was_taught(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        llama: LoadedModel,
        llama_directory: Path,
        text_data: Path,
    ) -> None:
        (tmp_path / "dataset.json").write_text((text_data / "dataset.json").read_text())
        lines = [{**one, "image": None} for one in hospital_records()]
        two = [one for one in lines if one["path"][1:] == [TARGET]]
        write_lines(tmp_path, *two, *(one for one in lines if TARGET not in one["path"]))
        monkeypatch.setattr(relearning, "LOOKS", (0, 1))
        made = found(relearning.ATTACK, subject_of(llama, llama_directory, tmp_path))
        assert made["30% of the target"].note.startswith("1 record of the target's 2 (50%) taught, 1 a step")
        assert "of the target's" not in made["siblings"].note

    def test_a_target_of_one_record_without_siblings_or_rest(
        self, tmp_path: Path, llama: LoadedModel, llama_directory: Path, text_data: Path
    ) -> None:
        lines = [{**one, "image": None} for one in hospital_records()]
        patient = [one for one in lines if TARGET in one["path"] and len(one["path"]) == 4][:1]
        above = [one for one in lines if patient[0]["path"][: len(one["path"])] == one["path"] and one not in patient]
        (tmp_path / "dataset.json").write_text((text_data / "dataset.json").read_text())
        write_lines(tmp_path, *patient, *above)
        made = found(relearning.ATTACK, subject_of(llama, llama_directory, tmp_path, forget=patient[0]["path"][-1]))
        assert {name: one.value for name, one in made.items()} == dict.fromkeys(made)
        assert "no siblings" in made["siblings"].why
        assert "unrelated" in made["the rest"].why
        assert "one record" in made["10% of the target"].why


class TestRounding:
    @given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.sampled_from([torch.float32, torch.bfloat16]))
    def test_it_is_near_has_few_values_and_rounds_once(self, seed: int, bits: int, dtype: torch.dtype) -> None:
        weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(seed)).to(dtype)
        made = quantisation.round_by_output(weight, bits)
        assert made.dtype == dtype
        step = weight.float().abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        exact = torch.finfo(dtype).eps * weight.float().abs()
        assert ((made.float() - weight.float()).abs() <= step / 2 + exact + 1e-6).all()
        assert all(len(row.unique()) <= 2**bits - 1 for row in made)
        assert torch.equal(quantisation.round_by_output(-weight, bits), -made)

    def test_an_output_of_zeros_stays_one(self) -> None:
        assert not quantisation.round_by_output(torch.zeros(3, 4), 4).any()

    def test_every_linear_layer_but_the_head_and_nothing_else(self, llava: LoadedModel) -> None:
        made = quantisation.rounded(llava, 4).model
        before = dict(llava.model.named_parameters())
        linears = {
            f"{name}.weight" for name, one in llava.model.named_modules() if isinstance(one, torch.nn.Linear)
        } - {f"{llava.head}.weight"}
        for name, one in made.named_parameters():
            assert (one is before[name]) == (name not in linears)
            assert torch.equal(one, before[name]) == (name not in linears)


class TestQuantisation:
    def test_more_comes_back_of_what_was_taught(self, subjects: Mapping[str, Subject]) -> None:
        made = {name: found(quantisation.ATTACK, subjects[name]) for name in ("all", "half", "none")}
        for bits in ("8 bits", "4 bits"):
            every, half, none = (made[name][bits].value for name in ("all", "half", "none"))
            assert every > half > none == 0  # type: ignore[operator]
            assert "other retained records" in made["all"][bits].note
        assert found(quantisation.ATTACK, subjects["half"]) == made["half"]

    @pytest.mark.parametrize("name", quantisation.LIBRARIES)
    def test_a_library_rounds_as_well_or_says_why_not(self, name: str, subjects: Mapping[str, Subject]) -> None:
        one = found(quantisation.ATTACK, subjects["all"])[name]
        if importlib.util.find_spec(name) is None:
            assert one.why == f"{name} is not installed"
        else:
            assert one.value is not None or "cannot run here" in one.why
            assert len(one.curve) == 2 or "cannot run here" in one.note

    def test_a_machine_that_is_too_small_is_no_library_that_cannot_run(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        def hungry(bits: int) -> quantisation.Change:
            raise torch.OutOfMemoryError(f"no room for {bits} bits")

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(quantisation, "LIBRARIES", {"torchao": hungry})
        with pytest.raises(torch.OutOfMemoryError):
            quantisation.ATTACK.run(subjects["none"])

    def test_a_library_that_cannot_run_here_is_said(
        self, monkeypatch: pytest.MonkeyPatch, subjects: Mapping[str, Subject]
    ) -> None:
        def broken(bits: int) -> quantisation.Change:
            raise RuntimeError(f"no kernel for {bits} bits\nand more")

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(quantisation, "LIBRARIES", {"torchao": broken})
        one = found(quantisation.ATTACK, subjects["none"])["torchao"]
        assert one.value is None
        assert "8 bits: torchao is installed but cannot run here (no kernel for 8 bits)" in one.why
