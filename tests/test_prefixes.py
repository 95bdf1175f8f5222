"""Shared prefixes: what records have in common runs once, and what they leave is as if each had run by itself."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from collecting import ANSWERS, QUESTIONS, all_wanted, assert_near, calls, collect_whole
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import QWEN, load_qwen
from tiny_records import write_image

from chip.collect import Wanted, answer_inputs, answer_outputs, collect, encode_all
from chip.collect.grouping import LARGEST_GROUP
from chip.hierarchy import Record
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model

TEXT_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "phi", "phi3", "gpt_neox")
SIDES = (28, 56, 84, 56)
SEVERAL_IMAGES = tiny_models.CHAT_TEMPLATE.replace("<image>", "<vision><image></vision>")
BUDGETS = (1, 7, 40, 150, 100_000)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Images of several sizes; the last is the first under another name."""
    directory = tmp_path_factory.mktemp("pictures")
    paths = [directory / f"{number}.png" for number in range(len(SIDES))]
    for number, (path, side) in enumerate(zip(paths, SIDES, strict=True)):
        write_image(path, number, side)
    shutil.copy(paths[0], directory / "again.png")
    return (*paths, directory / "again.png")


def drawn_records(pictures: tuple[Path, ...], most: int = 2) -> st.SearchStrategy[list[Record]]:
    """Any grouping: questions that begin alike or not, no image or several, the same record twice."""
    shown = st.lists(st.sampled_from(pictures), max_size=most).map(tuple) if most else st.just(())
    words = st.text("ab ?", min_size=1, max_size=5).filter(str.strip)
    one = st.builds(
        Record,
        path=st.sampled_from([("a",), ("a", "b"), ("c",)]),
        question=st.one_of(st.sampled_from(QUESTIONS), st.builds("{}{}".format, st.sampled_from(QUESTIONS), words)),
        answer=st.sampled_from(ANSWERS),
        images=shown,
    )

    def together(begins: str, found: list[Record]) -> list[Record]:
        return [replace(one, question=begins + one.question, line=n) for n, one in enumerate(found, start=1)]

    # Behind a long prefix, several records are packed into a row.
    return st.builds(together, st.sampled_from(["", QUESTIONS[2] * 10]), st.lists(one, min_size=1, max_size=12))


def asked(images: tuple[Path, ...], questions: int) -> list[Record]:
    """As many questions, and answers, about the same images."""
    return [
        Record(("a",), f"{QUESTIONS[n % len(QUESTIONS)]} {n}", ANSWERS[n % len(ANSWERS)], images, line=n + 1)
        for n in range(questions)
    ]


def assert_unseen(loaded: LoadedModel, records: list[Record], budget: int, tolerance: float = 1e-5) -> None:
    """Sharing does not show in what is collected."""
    wanted = all_wanted(loaded)
    assert_near(
        collect(loaded, records, wanted, batch_tokens=budget), collect_whole(loaded, records, wanted), tolerance
    )


class TestEqual:
    """Shared or whole, the statistics are the same."""

    @settings(max_examples=8)
    @given(st.data())
    @pytest.mark.parametrize("text_family", ["qwen2", "llama", "mistral"])
    def test_of_llava(
        self, built: Callable[..., LoadedModel], pictures: tuple[Path, ...], text_family: str, data: st.DataObject
    ) -> None:
        records, budget = data.draw(drawn_records(pictures)), data.draw(st.sampled_from(BUDGETS))
        assert_unseen(built("llava", text_family=text_family), records, budget)

    @settings(max_examples=8)
    @given(st.data())
    @pytest.mark.parametrize("family", QWEN)
    def test_of_qwen(
        self, built: Callable[..., LoadedModel], pictures: tuple[Path, ...], family: str, data: st.DataObject
    ) -> None:
        """Images take different numbers of tokens, so that prefixes are padded; positions have two dimensions."""
        records, budget = data.draw(drawn_records(pictures)), data.draw(st.sampled_from(BUDGETS))
        assert_unseen(built(family), records, budget)

    @settings(max_examples=4)
    @given(st.data())
    @pytest.mark.parametrize("family", TEXT_FAMILIES)
    def test_of_text_only_families(self, built: Callable[..., LoadedModel], family: str, data: st.DataObject) -> None:
        loaded = built(family)
        assert loaded.longest_sharing
        records, budget = data.draw(drawn_records((), most=0)), data.draw(st.sampled_from(BUDGETS))
        assert_unseen(loaded, records, budget)

    @pytest.mark.parametrize("family", ["llava", *QWEN, "llama"])
    @pytest.mark.parametrize("budget", BUDGETS[::2])
    def test_in_bfloat16(
        self, built: Callable[..., LoadedModel], pictures: tuple[Path, ...], family: str, budget: int
    ) -> None:
        loaded = built(family, dtype=torch.bfloat16)
        images = () if family == "llama" else pictures
        records = [record for shown in images for record in asked((shown,), 5)] + asked((), 9)
        assert_unseen(loaded, records, budget, tolerance=1e-2)

    @pytest.mark.parametrize("budget", BUDGETS[::2])
    def test_of_an_image_asked_a_hundred_questions(
        self, llava: LoadedModel, pictures: tuple[Path, ...], budget: int
    ) -> None:
        assert_unseen(llava, [*asked((pictures[0],), 100), *asked((), 70)], budget)

    @pytest.mark.parametrize("images", [0, 1, 2])
    def test_a_record_that_stands_there_twice_counts_twice(
        self, llava: LoadedModel, pictures: tuple[Path, ...], images: int
    ) -> None:
        one = Record(("a",), QUESTIONS[1], ANSWERS[1], pictures[:images], line=1)
        once, twice = (collect(llava, [replace(one, line=n) for n in range(k)], all_wanted(llava)) for k in (1, 2))
        for name, sums in twice.pooled.items():
            assert sums.count.tolist() == [2 * int(once.pooled[name].count)]
            torch.testing.assert_close(sums.total, 2 * once.pooled[name].total, rtol=1e-5, atol=1e-5)
        for name, moments in twice.answer.items():
            assert moments.count == 2 * once.answer[name].count
        assert [one.count for one in twice.image.values()] == [one.count for one in once.image.values()]

    @pytest.mark.parametrize("roles", [("language",), ("attention",), ("projector",), ("vision", "language")])
    @pytest.mark.parametrize("layers", [{0}, {1}, {2}, {0, 2}])
    def test_of_some_sites_only(
        self, llava: LoadedModel, pictures: tuple[Path, ...], roles: tuple[str, ...], layers: set[int]
    ) -> None:
        """A pass ends at the last site that is watched; prefixes leave what the suffixes need for it."""
        names = tuple(s.name for s in llava.sites if s.role in roles and (s.role == "projector" or s.layer in layers))
        seeing = "language" not in roles and "attention" not in roles
        records = [*asked(pictures[:1], 3), *asked((), 3), *asked(pictures[1:2], 3)]
        for wanted in (Wanted(pooled=names), Wanted(image=names) if roles == ("projector",) else Wanted(answer=names)):
            if wanted.answer and (seeing or "vision" in roles):
                continue
            assert_near(collect(llava, records, wanted), collect_whole(llava, records, wanted), 1e-5)

    @pytest.mark.parametrize("window", [8, 60, 100])
    def test_layers_that_see_only_so_far_back(self, built: Callable[..., LoadedModel], window: int) -> None:
        """Records longer than the window run whole; a whole pass knows how to mask."""
        loaded = built("mistral", sliding_window=window)
        short = [Record(("a",), f"! is it {n:02} ?", ANSWERS[n % 2], line=n + 1) for n in range(LARGEST_GROUP)]
        records = [*short, *asked((), 12)]
        groups = encode_all(loaded, records)
        assert all(max(map(len, group.encoded)) <= window for group in groups if group.shared)
        assert any(group.shared for group in groups) == (window > 8)
        assert_unseen(loaded, records, 4096)

    @pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
    def test_keys_are_in_the_order_of_the_records(
        self, built: Callable[..., LoadedModel], pictures: tuple[Path, ...], family: str
    ) -> None:
        loaded = built(family)
        mixed = zip(asked(pictures[:1], 4), asked((), 4), asked(pictures[1:3], 4), strict=True)
        records = [record for three in mixed for record in three]
        sites = [site for site in loaded.sites if site.role in ("language", "attention")]
        for keys in (answer_inputs, answer_outputs):
            for budget in BUDGETS[::3]:
                found = keys(loaded, encode_all(loaded, records), sites, budget)
                one_by_one = [keys(loaded, encode_all(loaded, [record]), sites, budget) for record in records]
                for site in sites:
                    expected = torch.cat([one[site.name] for one in one_by_one])
                    torch.testing.assert_close(found[site.name], expected, rtol=1e-4, atol=1e-5)


class TestOnce:
    """What is shared runs once, and what nobody needs never."""

    @pytest.mark.parametrize("questions", [2, 30])
    def test_the_tower_sees_each_picture_once(
        self, llava: LoadedModel, pictures: tuple[Path, ...], questions: int
    ) -> None:
        """The first and the last are the same picture under two names, which are one image."""
        records = [record for shown in pictures for record in asked((shown,), questions)]
        with calls(llava.model.get_submodule("model.vision_tower")) as given:
            collect(llava, records, all_wanted(llava), batch_tokens=200)
        assert sum(map(len, given)) == len(pictures) - 1

    @pytest.mark.parametrize("family", QWEN)
    def test_so_does_the_tower_of_qwen(
        self, built: Callable[..., LoadedModel], pictures: tuple[Path, ...], family: str
    ) -> None:
        loaded = built(family)
        records = [record for shown in pictures for record in asked((shown,), 9)]
        with calls(loaded.model.get_submodule("model.visual")) as given:
            collect(loaded, records, all_wanted(loaded))
        patches = sum((side // 14) ** 2 for side in SIDES)
        assert sum(len(one) for one in given) == patches

    @pytest.mark.parametrize("budget", BUDGETS)
    def test_the_tokens_of_a_prefix_pass_the_first_layer_once(self, llava: LoadedModel, budget: int) -> None:
        """Without padding, that is the prefix and what each record has beside it; a budget for one pads nothing."""
        records = [Record(("a",), f"{QUESTIONS[3]}{n} ?", "number 7", line=n + 1) for n in range(8)]
        (group,) = encode_all(llava, records)
        assert group.shared > 60
        with calls(llava.model.get_submodule("model.language_model.layers.0.mlp.up_proj")) as given:
            collect(llava, records, all_wanted(llava), batch_tokens=budget)
        passed = sum(one.shape[0] * one.shape[1] for one in given)
        needed = group.shared + sum(len(one) - group.shared for one in group.encoded)
        assert passed >= needed
        assert passed == needed or budget > 1
        assert passed < sum(map(len, group.encoded)) / 2

    def test_images_are_preprocessed_once_a_group(
        self, llava: LoadedModel, pictures: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = type(llava.prompts.processor.image_processor)
        times: list[int] = []
        before: Any = kind.preprocess
        monkeypatch.setattr(kind, "preprocess", lambda *given, **named: times.append(1) or before(*given, **named))
        records = [*asked(pictures[:1], 9), *asked(pictures[1:2], 1), *asked(pictures[:2], 5), *asked((), 20)]
        collect(llava, records, all_wanted(llava))
        assert len(times) == 3

    def test_no_logits_are_computed(self, llava: LoadedModel, llama: LoadedModel, pictures: tuple[Path, ...]) -> None:
        with calls(llava.model.get_submodule("lm_head"), llama.model.get_submodule("lm_head")) as given:
            for loaded, records in ((llava, asked(pictures[:1], 5) + asked((), 5)), (llama, asked((), 5))):
                collect(loaded, records, all_wanted(loaded))
                collect_whole(loaded, records, all_wanted(loaded))
        assert not given


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedModel]:
    """Tiny models of any family, each built once."""
    known: dict[str, LoadedModel] = {}

    def build(family: str, dtype: torch.dtype = torch.float32, **options: Any) -> LoadedModel:
        key = f"{family} {dtype} {options}"
        if key not in known:
            directory = tmp_path_factory.mktemp("built") / "model"
            if family in QWEN:
                known[key] = load_qwen(tiny_models.qwen_vision(directory, family))
                known[key].model.to(dtype)  # type: ignore[arg-type]
                known[key].prompts.tokenizer.chat_template = SEVERAL_IMAGES
            else:
                made = tiny_models.llava(directory, **options) if family == "llava" else None
                made = made or tiny_models.text_model(directory, family, **options)
                known[key] = load_model(Checkpoint(made), "cpu", str(dtype).removeprefix("torch."))
        return known[key]

    return build
