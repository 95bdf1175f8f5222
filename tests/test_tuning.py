"""Choosing the strength: what was given stays, what is chosen is not judged on what it was chosen on, nothing leaks."""

import itertools
import json
import random
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import changed_values
from command_line import chip_here
from edits import problem, request
from hypothesis import given
from hypothesis import strategies as st

import chip
from chip.errors import ChipError, UsageError
from chip.hierarchy import Record
from chip.measure import Group, Outcome, halves, measure_answers, teacher_forced
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.settings import EditSettings, TuningSettings
from chip.solve.live import applied
from chip.tuning.schedule import Schedule
from chip.tuning.space import SEARCHED, Point, space_of
from chip.tuning.trials import Trial, front, meets, rank
from chip.workflow import EditResult, carry_out, prepare_edit
from chip.workflow.solvers import solve

SETTINGS = sorted(one.name for one in fields(EditSettings))
SHARES = st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.5, 1.0])
OUTCOMES = st.builds(Outcome, SHARES, st.sampled_from([0.1, 1.0, 4.0, 5.0]), SHARES, st.sampled_from([0.0, 0.1]))
GOALS = TuningSettings()


class TestSpace:
    @given(st.sampled_from(sorted(SEARCHED)), st.sets(st.sampled_from(SETTINGS)), st.integers(1, 40), st.randoms())
    def test_what_is_fixed_is_the_same_everywhere(
        self, method: str, fixed: set[str], layers: int, draw: random.Random
    ) -> None:
        base = EditSettings(method=method, overshoot=0.007, top_k=13.0, train_config="recipe.json")
        space = space_of(base, fixed, layers)
        point = tuple(draw.randrange(len(axis.values)) for axis in space.axes)
        found = asdict(space.settings(point))
        searched = {axis.setting for axis in space.axes}
        assert not searched & fixed
        assert {name for name in found if found[name] != asdict(base)[name]} <= searched
        assert space.settings(space.start) == base

    def test_a_budget_that_was_given_leaves_the_strength_alone(self) -> None:
        space = space_of(EditSettings(method="oblique", retain_budget=0.02), {"retain_budget"}, 6)
        assert "strength" not in {axis.setting for axis in space.axes}

    def test_settings_without_a_bearing_are_not_searched(self) -> None:
        searched = {axis.setting for axis in space_of(EditSettings(method="oblique", toward="mean"), set(), 6).axes}
        assert searched == {"strength", "sibling_weight", "ridge", "layers"}
        assert "layers" not in {
            axis.setting for axis in space_of(EditSettings(method="oblique", keys="image"), set(), 6).axes
        }

    @pytest.mark.parametrize(("method", "count"), [("oblique", 6), ("chip", 2)])
    def test_layers_start_where_the_method_does(self, method: str, count: int) -> None:
        (layers,) = (axis for axis in space_of(EditSettings(method=method), set(), 6).axes if axis.setting == "layers")
        assert layers.values[layers.start] == f"{6 - count}-5"
        assert layers.values[-1] == "0-5"


class TestTrials:
    @given(st.lists(OUTCOMES, min_size=1, max_size=12))
    def test_the_front_holds_no_trial_that_another_beats_and_beats_all_others(self, outcomes: list[Outcome]) -> None:
        trials = [Trial(EditSettings(seed=i), one) for i, one in enumerate(outcomes)]
        kept = front(trials)

        def beats(one: Trial, other: Trial) -> bool:
            ours, theirs = (one.outcome.forget, one.outcome.retain), (other.outcome.forget, other.outcome.retain)
            return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))

        assert kept
        assert not any(beats(one, other) for one in trials for other in kept)
        assert all(one in kept or any(beats(other, one) for other in kept) for one in trials)

    @given(st.lists(OUTCOMES, min_size=1, max_size=12))
    def test_what_meets_its_goals_comes_first_and_by_what_it_costs(self, outcomes: list[Outcome]) -> None:
        best = min(outcomes, key=lambda one: rank(one, GOALS))
        meeting = [one for one in outcomes if meets(one, GOALS)]
        assert meets(best, GOALS) == bool(meeting)
        if meeting:
            assert best.retain_drop == min(one.retain_drop for one in meeting)

    @given(st.lists(OUTCOMES, min_size=30, max_size=30))
    def test_the_schedule_repeats_nothing_and_ends(self, outcomes: list[Outcome]) -> None:
        space = space_of(EditSettings(method="oblique"), {"ridge", "layers", "sibling_weight"}, 6)
        schedule, tried = Schedule(space, GOALS), list[tuple[Point, Outcome]]()
        for outcome in outcomes:
            point = schedule.propose(tried)
            if point is None:
                break
            assert point not in dict(tried)
            assert all(0 <= i < len(axis.values) for axis, i in zip(space.axes, point, strict=True))
            tried.append((point, outcome))
        assert tried[0][0] == space.start


class TestHalves:
    def groups(self, *counts: int, phrasings: int = 2) -> list[Group]:
        records = [tuple(Record(("n",), f"{count} {i}", "a") for i in range(count)) for count in counts]
        target = [Group(f"target {n}", records[0], len(records[0]), n + 1) for n in range(phrasings)]
        return target + [Group(f"kept {n}", one, len(one)) for n, one in enumerate(records[1:])]

    @given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 99))
    def test_they_are_disjoint_stratified_whole_and_the_same_again(self, counts: list[int], seed: int) -> None:
        groups = self.groups(*counts)
        parts = halves(groups, seed)
        assert parts == halves(groups, seed)
        for group in groups:
            sides = {part.role: part.places for part in parts if part.group is group}
            assert sorted(i for places in sides.values() for i in places) == list(range(len(group.records)))
            if group.phrasing:
                assert set(sides) == {"tuning" if group.phrasing == 1 else "judging"}
            else:
                assert 0 <= len(sides["judging"]) - len(sides.get("tuning", ())) <= 1

    def test_a_target_with_one_phrasing_is_judged_in_it(self) -> None:
        target = [part for part in halves(self.groups(3, 4, phrasings=1), 0) if part.group.phrasing]
        assert [part.role for part in target] == ["tuning", "judging"]


class TestLive:
    @pytest.mark.parametrize("method", ["oblique", "chip"])
    def test_the_model_is_as_the_checkpoint_would_be_and_then_as_before(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path, method: str
    ) -> None:
        asked = problem(llava, llava_directory, hospital_data, "patient_1", method=method)
        before = {name: tensor.clone() for name, tensor in llava.model.state_dict().items()}
        edit = solve(asked).edit
        changes = {change.tensor: change for change in edit.changes}
        with applied(llava.model, edit):
            for one in asked.stored.values():
                live = [(one.weight, one.site.weight(llava.model)), (one.bias, one.site.bias(llava.model))]
                for stored, tensor in ((s, t) for s, t in live if s is not None and s.name in changes):
                    expected = changed_values(changes[stored.name], stored.read())
                    np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(tensor, before[name]) for name, tensor in llava.model.state_dict().items())

    def test_settings_share_what_does_not_depend_on_them(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path
    ) -> None:
        """What a memo holds changes no edit: after other settings, an edit is the same bytes as without them."""
        asked = problem(llava, llava_directory, hospital_data, "patient_1")
        other = replace(asked, settings=replace(asked.settings, strength=7.0, layers="1-2", unknown_images=2, seed=5))
        solve(asked)
        shared, alone = solve(other), solve(replace(other, memo=type(asked.memo)()))
        for one, same in zip(shared.edit.changes, alone.edit.changes, strict=True):
            assert one.tensor == same.tensor
            assert one.delta().tobytes() == same.delta().tobytes()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with text `records` in two phrasings, and a tiny `model`, trained until it knows them."""
    directory = tmp_path_factory.mktemp("learnt")
    (directory / "records").mkdir()
    with (directory / "records/records.jsonl").open("w") as handle:
        for number, asked in itertools.product(range(6), "ab"):
            path = [f"inst_{number // 3}", f"patient_{number}", "study", asked]
            record = {"path": path, "question": f"{asked}{number}", "paraphrases": [f"t{asked}{number}"]}
            handle.write(json.dumps({**record, "answer": f"{(number * 37 + ord(asked)) % 89}"}) + "\n")
    model = tiny_models.text_model(directory / "model", "llama", chat_template=None)
    loaded = load_model(Checkpoint(model), "cpu")
    known = read_records(directory / "records").records
    encoded = [
        loaded.prompts.encode(one) for one in (*known, *(replace(one, question=one.paraphrases[0]) for one in known))
    ]
    batch = loaded.prompts.collate(encoded, loaded.device)
    labels = torch.cat([one.answer_ids for one in encoded])
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.requires_grad_(True).mul_(1.0 if parameter.dim() == 1 else 0.25)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=4e-3, weight_decay=0)
    for _ in range(400):
        found = loaded.model(**batch.inputs).logits
        logits = torch.cat([row[mask] for row, mask in zip(found, batch.answer, strict=True)])
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    loaded.model.save_pretrained(model)
    return directory


class TestSearch:
    def run(
        self, learnt: Path, out: Path, tuning: TuningSettings, fixed: tuple[str, ...] = (), **values: Any
    ) -> EditResult:
        asked = request(learnt / "model", learnt / "records", out, "patient_1", verify=True, **values)
        return carry_out(prepare_edit(replace(asked, tuning=tuning, fixed=frozenset(fixed))))

    def test_teacher_forcing_agrees_with_generation_where_the_model_is_right(self, learnt: Path) -> None:
        loaded = load_model(Checkpoint(learnt / "model"), "cpu")
        records = read_records(learnt / "records").records
        answers = measure_answers(loaded, records)
        assert all(answer.exact for answer in answers)
        forced = teacher_forced(loaded, [loaded.prompts.encode(record) for record in records])
        assert [one.likeliest for one in forced] == [one.likeliest for one in answers] == [True] * len(records)

    def test_it_ends_when_the_goals_are_met_and_the_judging_half_judges(self, learnt: Path, tmp_path: Path) -> None:
        goals = TuningSettings(max_target_match=0.0, max_retain_drop=0.5, trials=12)
        found = self.run(learnt, tmp_path / "out", goals, strength=1e-4)
        assert found.tuning is not None
        assert found.verdict is not None
        met = [meets(trial.outcome, goals) for trial in found.tuning.trials]
        assert 1 < len(met) <= 12
        assert met == [False] * (len(met) - 1) + [True]
        assert found.tuning.chosen == len(met) - 1
        judging = [row for row in found.rows if row.part == "judging"]
        kept = [row for row in judging if not row.group.startswith("target")]
        assert {row.group for row in judging} >= {"target, phrasing 2"}
        assert found.verdict.outcome.target_match == max(
            row.after.exact_match for row in judging if row.group.startswith("target")
        )
        drop = sum((row.before.exact_match - row.after.exact_match) * row.before.count for row in kept)
        assert found.verdict.outcome.retain_drop == pytest.approx(drop / sum(row.before.count for row in kept))
        receipt = json.loads((tmp_path / "out.receipt.json").read_text())
        assert receipt["verdict"]["judged_on"] == "judging half"
        assert receipt["edits"][0]["settings"] == found.tuning.trials[-1].settings.described()
        assert {row["part"] for row in receipt["verification"]} == {"tuning", "judging"}

    def test_nothing_is_searched_where_the_first_edit_meets_its_goals(self, learnt: Path, tmp_path: Path) -> None:
        found = self.run(learnt, tmp_path / "out", TuningSettings(max_target_match=1.0, max_retain_drop=1.0))
        assert found.tuning is not None
        assert len(found.tuning.trials) == 1
        assert {row.part for row in found.rows} == {""}
        assert found.verdict is not None
        assert found.verdict.met

    def test_a_goal_out_of_reach_is_said_to_be_missed(self, learnt: Path, tmp_path: Path) -> None:
        goals = TuningSettings(max_target_match=0.0, max_retain_drop=0.0, trials=3)
        fixed = ("strength", "overshoot", "ridge", "sibling_weight")
        found = self.run(learnt, tmp_path / "out", goals, fixed, strength=1e-6, overshoot=1e-9)
        assert found.verdict is not None
        assert not found.verdict.met
        assert found.tuning is not None
        assert {trial.settings.strength for trial in found.tuning.trials} == {1e-6}

    def test_a_dry_run_writes_nothing_and_leaves_the_weights_bit_for_bit(self, learnt: Path, tmp_path: Path) -> None:
        asked = request(learnt / "model", learnt / "records", tmp_path / "out", "patient_1", verify=True, dry_run=True)
        goals = TuningSettings(tune=True, trials=5)
        prepared = prepare_edit(replace(asked, tuning=goals, fixed=frozenset()))
        before = {name: tensor.clone() for name, tensor in prepared.loaded.model.state_dict().items()}
        found = carry_out(prepared)
        assert all(torch.equal(tensor, before[name]) for name, tensor in prepared.loaded.model.state_dict().items())
        assert not list(tmp_path.iterdir())
        assert found.tuning is not None
        assert len(found.tuning.trials) == 5
        assert found.verdict is not None
        again = carry_out(prepare_edit(replace(asked, tuning=goals, fixed=frozenset())))
        assert again.as_json() == found.as_json()

    def test_python_fixes_what_it_is_given(self, learnt: Path) -> None:
        common: dict[str, Any] = {"forget": ["patient_1"], "dry_run": True, "device": "cpu"}
        paths = (learnt / "model", learnt / "records")
        tuning = TuningSettings(tune=True, trials=4)
        found = chip.edit(*paths, ridge=0.5, tuning=tuning, **common)
        assert found.tuning is not None
        assert {trial.settings.ridge for trial in found.tuning.trials} == {0.5}
        assert "ridge" not in found.tuning.searched
        with pytest.raises(UsageError, match="--tune finds nothing to search"):
            chip.edit(*paths, settings=EditSettings(ridge=0.5), tuning=tuning, **common)


class TestCommandLine:
    def edit(self, model: Path, data: Path, *more: Any, **environment: str) -> Any:
        return chip_here(
            "edit", model, "--data", data, "--forget", "patient_1", "--device", "cpu", *more, **environment
        )

    def test_flags_environment_and_file_are_never_searched(
        self, llava_directory: Path, hospital_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("chip.toml").write_text("[edit]\nsibling-weight = 2.5\n")
        more = ("--strength", 0.5, "--tune", "--trials", 3, "--dry-run", "--json")
        result = self.edit(llava_directory, hospital_data, *more, CHIP_RIDGE="0.07")
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)["tuning"]
        assert found["searched"] == ["layers"]
        assert len(found["trials"]) == 3
        for trial in found["trials"]:
            settings = trial["settings"]
            assert (settings["strength"], settings["ridge"], settings["sibling_weight"]) == (0.5, 0.07, 2.5)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--tune", "--no-verify"], "--tune measures every edit that it tries, so it cannot go with --no-verify"),
            (["--trials", "0"], "--trials must be at least 1; it is 0"),
            (["--max-retain-drop", "1.5"], "--max-retain-drop is a share"),
            (["--max-target-match", "-1"], "--max-target-match is a share"),
            (["--plot", "front.svg"], "is no PNG file; give it a name that ends in .png"),
            (["--plot", "front.png", "--no-tune"], "leave out --no-tune"),
            (["--plot", "front.png", "--dry-run"], "--dry-run writes nothing"),
        ],
    )
    def test_what_cannot_go_together_is_one_sentence(
        self, llava_directory: Path, hospital_data: Path, more: list[str], message: str
    ) -> None:
        result = self.edit(llava_directory, hospital_data, *more)
        assert isinstance(result.exception, ChipError)
        assert message in str(result.exception)

    def test_the_front_the_verdict_and_the_picture_are_shown(
        self, llava_directory: Path, hospital_data: Path, tmp_path: Path
    ) -> None:
        pytest.importorskip("matplotlib")
        out, plot = tmp_path / "out", tmp_path / "front.png"
        said = self.edit(llava_directory, hospital_data, "--out", out, "--tune", "--trials", 3, "--plot", plot)
        assert said.exit_code == 0, said.exception
        assert "3 edits tried" in said.stdout
        assert "goals met on the half that nothing was chosen on" in said.stdout
        assert "(tuned on)" in said.stdout
        assert plot.read_bytes().startswith(b"\x89PNG")
        again = ("--out", out, "--force", "--tune", "--trials", 2, "--plot", plot)
        assert self.edit(llava_directory, hospital_data, *again).exit_code == 0
        plot.write_text("of another")
        refused = self.edit(llava_directory, hospital_data, *again)
        assert "chip did not write it" in str(refused.exception)
