"""Prompts: the answer is what stands after the generation prompt, padding is nobody's, and masks say so."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import Reference
from tiny_records import write_image

from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.loading import LoadedModel
from chip.models.prompts import Prompts
from chip.records import read_records

CPU = torch.device("cpu")
PROMPTS = Prompts(tiny_models.tiny_processor(), tiny_models.IMAGE)
PLAIN = Record(("a",), "what are the findings ?", "clear lungs", line=7)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a.png"
    write_image(path, 0)
    return path


@pytest.fixture(scope="module")
def sees() -> Prompts:
    return Prompts(tiny_models.tiny_processor(), tiny_models.IMAGE)


@pytest.fixture(scope="module")
def text_only() -> Prompts:
    return Prompts(tiny_models.tiny_tokenizer(), None)


@pytest.fixture(scope="module")
def untemplated() -> Prompts:
    return Prompts(tiny_models.tiny_tokenizer(None), None)


class TestAnswerTokens:
    def test_they_are_the_answer_with_its_end_of_turn(self, sees: Prompts, text_only: Prompts) -> None:
        for prompts in (sees, text_only):
            encoded = prompts.encode(PLAIN)
            assert prompts.tokenizer.decode(encoded.answer_ids) == "clear lungs<|im_end|>\n"
            before = encoded.sequence["input_ids"][: encoded.answer_start]
            assert prompts.tokenizer.decode(before).endswith("<|im_start|>assistant\n")

    def test_an_image_shifts_them_and_nothing_else(self, sees: Prompts, picture: Path) -> None:
        plain, shown = sees.encode(PLAIN), sees.encode(replace(PLAIN, images=(picture,)))
        assert torch.equal(plain.answer_ids, shown.answer_ids)
        assert len(shown) == len(plain) + tiny_models.IMAGE_TOKENS
        assert shown.answer_start == plain.answer_start + tiny_models.IMAGE_TOKENS
        assert shown.image_lengths == (tiny_models.IMAGE_TOKENS,)

    def test_several_images_in_order(self, sees: Prompts, tmp_path: Path) -> None:
        paths = [tmp_path / "0.png", tmp_path / "1.png"]
        for seed, path in enumerate(paths):
            write_image(path, seed)
        both, turned = (sees.encode(replace(PLAIN, images=tuple(order))) for order in (paths, paths[::-1]))
        assert both.image_lengths == (tiny_models.IMAGE_TOKENS,) * 2
        assert torch.equal(both.pixels["pixel_values"], turned.pixels["pixel_values"].flip(0))
        assert int((both.sequence["input_ids"] == tiny_models.IMAGE).sum()) == 2 * tiny_models.IMAGE_TOKENS

    def test_encoding_equals_the_processors_own(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path
    ) -> None:
        reference = Reference(llava_directory)
        for record in read_records(hospital_data).records:
            inputs, start = reference.encode(record)
            encoded = llava.prompts.encode(record)
            assert torch.equal(encoded.sequence["input_ids"], inputs["input_ids"][0])
            assert encoded.answer_start == start
            assert ("pixel_values" in inputs) == ("pixel_values" in encoded.pixels)
            if record.images:
                assert torch.equal(encoded.pixels["pixel_values"], inputs["pixel_values"])

    def test_shown_with_another_image_only_the_pixels_differ(
        self, sees: Prompts, picture: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.png"
        write_image(other, 9)
        record = replace(PLAIN, images=(picture,))
        own, shown = (sees.encode(replace(record, images=(path,))) for path in (picture, other))
        assert torch.equal(own.sequence["input_ids"], shown.sequence["input_ids"])
        assert not torch.equal(own.pixels["pixel_values"], shown.pixels["pixel_values"])

    @given(st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and "<" not in text))
    def test_prompt_and_answer_together_are_the_whole(self, answer: str) -> None:
        encoded, decode = PROMPTS.encode(replace(PLAIN, answer=answer)), PROMPTS.tokenizer.decode
        whole = decode(encoded.sequence["input_ids"])
        front = decode(encoded.prompt_only().sequence["input_ids"])
        assert front + decode(encoded.answer_ids) == whole
        assert front.endswith("assistant\n")


class TestLayouts:
    def test_without_a_chat_template_it_is_question_and_answer_by_lines(self, untemplated: Prompts) -> None:
        assert not untemplated.has_chat_template
        encoded = untemplated.encode(PLAIN)
        text = untemplated.tokenizer.decode(encoded.sequence["input_ids"])
        assert text == "what are the findings ?\nclear lungs<|im_end|>"
        assert untemplated.tokenizer.decode(encoded.answer_ids) == "clear lungs<|im_end|>"

    @pytest.mark.parametrize("template", [tiny_models.CHAT_TEMPLATE, None])
    def test_every_token_of_a_document_but_the_first_is_answer(self, template: str | None) -> None:
        prompts = Prompts(tiny_models.tiny_tokenizer(template), None)
        encoded = prompts.encode(Record(("a",), text="mild edema left", line=1))
        assert encoded.answer_start == 1
        assert prompts.tokenizer.decode(encoded.sequence["input_ids"]) == "mild edema left<|im_end|>"

    def test_a_bos_that_the_template_writes_is_not_doubled(self) -> None:
        tokenizer = tiny_models.tiny_tokenizer("<bos>" + tiny_models.CHAT_TEMPLATE)
        ids = Prompts(tokenizer, None).encode(PLAIN).sequence["input_ids"].tolist()
        assert ids.count(tiny_models.BOS) == 1


class TestRefusals:
    def test_an_answer_without_tokens(self, text_only: Prompts) -> None:
        with pytest.raises(ChipError, match="record on line 7: its answer comes to no tokens"):
            text_only.encode(replace(PLAIN, answer="<|im_end|>"))

    def test_an_answer_with_the_image_placeholder(self, sees: Prompts) -> None:
        with pytest.raises(ChipError, match="record on line 7: its answer holds the model's image placeholder"):
            sees.encode(replace(PLAIN, answer="see <image> here"))

    @pytest.mark.parametrize("shown", [False, True])
    def test_a_question_with_the_image_placeholder(self, sees: Prompts, picture: Path, shown: bool) -> None:
        record = replace(PLAIN, question="what is on <image> ?", images=(picture,) if shown else ())
        with pytest.raises(ChipError, match="record on line 7"):
            sees.encode(record)

    def test_a_document_with_the_image_placeholder(self, sees: Prompts) -> None:
        with pytest.raises(ChipError, match="record on line 7"):
            sees.encode(Record(("a",), text="<image> alone", line=7))

    def test_a_refusal_that_quotes_the_record_is_said_without_the_quotation(self) -> None:
        template = "{{ raise_exception('no: ' ~ messages[0]['content']) }}"
        refusing = Prompts(tiny_models.tiny_tokenizer(template), None)
        with pytest.raises(ChipError, match="record on line 7: the model's chat template refuses it") as refused:
            refusing.encode(PLAIN)
        assert PLAIN.question not in str(refused.value)
        assert "no: …" in str(refused.value)

    def test_an_image_for_a_model_that_takes_text_only(self, text_only: Prompts, picture: Path) -> None:
        with pytest.raises(ChipError, match="record on line 7 shows an image, but this model takes text only"):
            text_only.encode(replace(PLAIN, images=(picture,)))


class TestBatches:
    def records(self, picture: Path) -> list[Record]:
        return [
            PLAIN,
            replace(PLAIN, images=(picture,), answer="left effusion and mild edema"),
            replace(PLAIN, question="day ?", answer="7"),
        ]

    @pytest.mark.parametrize("left", [False, True])
    def test_masks_divide_the_tokens_and_leave_padding_out(self, sees: Prompts, picture: Path, left: bool) -> None:
        encoded = [sees.encode(record) for record in self.records(picture)]
        batch = sees.collate(encoded, CPU, left=left)
        width = max(map(len, encoded))
        assert not (batch.image & batch.text).any()
        assert torch.equal(batch.image | batch.text, batch.inputs["attention_mask"].bool())
        for row, one in enumerate(encoded):
            place = slice(width - len(one), width) if left else slice(0, len(one))
            assert torch.equal(batch.inputs["input_ids"][row, place], one.sequence["input_ids"])
            assert torch.equal(batch.image[row, place], one.sequence["input_ids"] == tiny_models.IMAGE)
            assert int(batch.inputs["attention_mask"][row].sum()) == len(one)
            predicted = batch.inputs["input_ids"][row].roll(-1)[batch.answer[row]]
            assert torch.equal(predicted, one.answer_ids)

    def test_pixels_stand_in_the_order_of_the_records_that_show_them(self, sees: Prompts, tmp_path: Path) -> None:
        records = []
        for seed in range(3):
            write_image(tmp_path / f"{seed}.png", seed)
            records += [replace(PLAIN, images=(tmp_path / f"{seed}.png",)), PLAIN]
        encoded = [sees.encode(record) for record in records]
        batch = sees.collate(encoded, CPU)
        expected = torch.cat([one.pixels["pixel_values"] for one in encoded[::2]])
        assert torch.equal(batch.inputs["pixel_values"], expected)

    def test_a_batch_without_images_has_no_pixels(self, sees: Prompts) -> None:
        assert set(sees.collate([sees.encode(PLAIN)], CPU).inputs) == {"input_ids", "attention_mask"}

    def test_padding_is_never_an_image_token(self) -> None:
        tokenizer = tiny_models.tiny_tokenizer()
        tokenizer.pad_token = None
        prompts = Prompts(tokenizer, None)
        assert prompts.padding == tiny_models.END
        encoded = [prompts.encode(PLAIN), prompts.encode(replace(PLAIN, answer="a longer answer than that"))]
        batch = prompts.collate(encoded, CPU)
        assert int(batch.text[0].sum()) == len(encoded[0])
