"""Groups and chunks: every record once, every image once, and a plan that takes no longer than reading the records."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from collecting import ANSWERS, QUESTIONS
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import write_image

from chip.collect import encode_all
from chip.collect.grouping import LARGEST_GROUP, EncodedGroup, Group, chunks, encode_group, plan_groups, shared_prefix
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.records.digests import image_digest

IMAGE = 7


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Three images, the last of which is the first under another name."""
    directory = tmp_path_factory.mktemp("pictures")
    for name, seed in (("a", 0), ("b", 1), ("again", 0)):
        write_image(directory / f"{name}.png", seed)
    return tuple(directory / f"{name}.png" for name in ("a", "b", "again"))


def drawn_records(pictures: tuple[Path, ...]) -> st.SearchStrategy[list[Record]]:
    words = st.one_of(st.text("abc ", max_size=6), st.sampled_from(QUESTIONS))
    asking = st.builds(
        Record,
        path=st.just(("a",)),
        question=words,
        answer=st.sampled_from(ANSWERS),
        images=st.lists(st.sampled_from(pictures), max_size=3).map(tuple),
    )
    documents = st.builds(Record, path=st.just(("b",)), text=words)
    return st.lists(asking | documents, max_size=30)


def digests(record: Record) -> tuple[str, ...]:
    return tuple(map(image_digest, record.images))


class TestPlan:
    @given(st.data(), st.integers(0, 40))
    def test_every_record_is_in_one_group(self, pictures: tuple[Path, ...], data: st.DataObject, head: int) -> None:
        records = data.draw(drawn_records(pictures))
        plan = plan_groups(records, head)
        assert sorted(position for group in plan for position in group.records) == list(range(len(records)))
        assert all(group.records for group in plan)

    @given(st.data())
    def test_all_records_of_the_same_images_are_in_one_group(
        self, pictures: tuple[Path, ...], data: st.DataObject
    ) -> None:
        records = data.draw(drawn_records(pictures))
        plan = plan_groups(records, 20)
        for group in plan:
            assert {digests(records[position]) for position in group.records} == {group.images}
        showing = Counter(group.images for group in plan if group.images)
        assert set(showing.values()) <= {1}

    @given(st.data())
    def test_every_distinct_image_that_was_not_counted_is_fresh_once(
        self, pictures: tuple[Path, ...], data: st.DataObject
    ) -> None:
        records = data.draw(drawn_records(pictures))
        counted = data.draw(st.sets(st.sampled_from([image_digest(path) for path in pictures])))
        fresh = Counter(image for group in plan_groups(records, 20, counted) for image in group.fresh)
        shown = {digest for record in records for digest in digests(record)}
        assert fresh == Counter(shown - counted)

    @given(st.data())
    def test_documents_run_by_themselves_and_no_group_of_questions_is_too_large(
        self, pictures: tuple[Path, ...], data: st.DataObject
    ) -> None:
        records = data.draw(drawn_records(pictures)) * 5
        for group in plan_groups(records, 20):
            if not group.images:
                assert len(group.records) <= LARGEST_GROUP
                assert len(group.records) == 1 or not any(records[position].text for position in group.records)

    @given(st.data())
    def test_the_same_records_give_the_same_plan(self, pictures: tuple[Path, ...], data: st.DataObject) -> None:
        records = data.draw(drawn_records(pictures))
        assert plan_groups(list(records), 20) == plan_groups([replace(record) for record in records], 20)

    @given(st.data())
    def test_the_order_of_the_records_decides_nothing_where_questions_differ(
        self, pictures: tuple[Path, ...], data: st.DataObject
    ) -> None:
        drawn = data.draw(drawn_records(pictures))
        records = list({(record.question, record.images, record.text): record for record in drawn}.values())

        def contents(several: list[Record]) -> Counter[frozenset[Record]]:
            return Counter(frozenset(several[at] for at in group.records) for group in plan_groups(several, 20))

        assert contents(data.draw(st.permutations(records))) == contents(records)

    def test_ever_longer_questions_are_read_a_bounded_number_of_times(self) -> None:
        """5,000 questions, each of which the next begins with: no recursion, and no comparing of all with all."""
        reads: list[int] = []

        class Question(str):
            """Counts how often it is compared from its beginning."""

            def __iter__(self):  # type: ignore[no-untyped-def]
                reads.append(1)
                return super().__iter__()

        records = [Record(("a",), Question("a" * length), "b") for length in range(1, 5001)]
        plan = plan_groups(records, 20)
        assert sorted(position for group in plan for position in group.records) == list(range(5000))
        assert len(reads) <= 2 * len(records)
        assert len(plan) <= 2 * len(records) // LARGEST_GROUP

    def test_a_group_ends_where_one_more_would_save_less(self) -> None:
        long = "what are the findings of the study that was performed on day "
        questions = [*(f"{long}{day} ?" for day in range(9)), *(f"zebra {number} ?" for number in range(2))]
        plan = plan_groups([Record(("a",), question, "b") for question in questions], 0)
        assert sorted(group.records for group in plan) == [tuple(range(9)), (9, 10)]


sequences = st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=30), min_size=1, max_size=5)


class TestSharedPrefix:
    @given(sequences, st.lists(st.integers(0, 30), max_size=2), st.data())
    def test_it_is_common_ends_before_answers_and_holds_all_images_or_none(
        self, several: list[list[int]], images: list[int], data: st.DataObject
    ) -> None:
        common = [IMAGE if place in images else 0 for place in range(data.draw(st.integers(0, 25)))]
        encoded = [
            Encoded({"input_ids": torch.tensor(common + ids)}, {}, data.draw(st.integers(1, len(common + ids) - 1)))
            for ids in several
        ]
        shared = shared_prefix(encoded, IMAGE)
        if shared:
            ids = [one.sequence["input_ids"].tolist() for one in encoded]
            assert len({tuple(one[:shared]) for one in ids}) == 1
            assert all(shared < one.answer_start for one in encoded)
            assert IMAGE not in ids[0][shared:]
            assert len(encoded) > 1

    def test_one_record_shares_with_nobody(self) -> None:
        assert not shared_prefix([Encoded({"input_ids": torch.zeros(90).long()}, {}, 80)], None)


def encoded_groups() -> st.SearchStrategy[list[EncodedGroup]]:
    """Groups of any shape: lengths, what is shared, numbers of images."""

    def group(lengths: list[int], images: int, share: float) -> EncodedGroup:
        encoded = tuple(Encoded({"input_ids": torch.zeros(n).long()}, {}, n - 1) for n in lengths)
        shared = int(share * (min(lengths) - 1)) if len(lengths) > 1 else 0
        return EncodedGroup(Group(tuple(range(len(lengths))), ("x",) * images, frozenset()), encoded, shared)

    lengths = st.lists(st.integers(2, 60), min_size=1, max_size=6)
    return st.lists(st.builds(group, lengths, st.integers(0, 2), st.sampled_from([0, 0.3, 0.9])), max_size=12)


class TestChunks:
    @given(encoded_groups(), st.integers(1, 500))
    def test_every_group_is_in_one_chunk_of_one_number_of_images_within_the_budget(
        self, window: list[EncodedGroup], budget: int
    ) -> None:
        found = list(chunks(window, budget))
        assert sorted(id(group) for chunk in found for group in chunk) == sorted(map(id, window))
        for chunk in found:
            assert len({len(group.group.images) for group in chunk}) == 1
            rows = sum(1 if group.shared else len(group.encoded) for group in chunk)
            width = max(group.shared or max(map(len, group.encoded)) for group in chunk)
            assert rows * width <= budget or len(chunk) == 1

    @given(encoded_groups())
    def test_a_large_budget_makes_a_chunk_for_each_number_of_images(self, window: list[EncodedGroup]) -> None:
        assert len(list(chunks(window, 10**6))) == len({len(group.group.images) for group in window})


class TestEncoding:
    def test_what_is_encoded_together_is_what_is_encoded_alone(
        self, llava: LoadedModel, pictures: tuple[Path, ...]
    ) -> None:
        records = [
            Record(("a",), question, answer, pictures[:images], line=1)
            for images in range(3)
            for question in QUESTIONS
            for answer in ANSWERS
        ]
        for group in encode_all(llava, records):
            for position, one in zip(group.group.records, group.encoded, strict=True):
                alone = llava.prompts.encode(records[position])
                assert one.answer_start == alone.answer_start
                assert one.image_lengths == alone.image_lengths
                for mine, theirs in ((one.sequence, alone.sequence), (one.pixels, alone.pixels)):
                    assert mine.keys() == theirs.keys()
                    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)

    def test_a_record_that_cannot_be_encoded_is_named_within_its_group(
        self, llava: LoadedModel, pictures: tuple[Path, ...]
    ) -> None:
        records = [Record(("a",), f"what {n} ?", "" if n == 2 else "x", pictures[:1], line=n + 1) for n in range(4)]
        (group,) = plan_groups(records, llava.prompts.head)
        with pytest.raises(ChipError, match="record on line 3: its answer comes to no tokens"):
            encode_group(group, records, llava.prompts, 10**6)
        # The processor that was lent for the group is given back.
        assert llava.prompts.encode(replace(records[0], question="and now ?")).pixels
