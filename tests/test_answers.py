"""What a model answers: what one pass tells is what greedy generation gives."""

import pytest
from taught import TARGET, Ward
from transformers import GenerationConfig

from chip.measure import measure_answers
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records


@pytest.fixture(scope="module", params=["knows", "half", "never"])
def model(ward: Ward, request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(Checkpoint(getattr(ward, request.param)), "cpu")


def test_every_text_is_what_the_model_generates(ward: Ward, model: LoadedModel) -> None:
    records = read_records(ward.data).records
    end = model.prompts.tokenizer.eos_token_id
    settings = GenerationConfig(max_new_tokens=16, do_sample=False, eos_token_id=end, pad_token_id=0)
    for record, answer in zip(records, measure_answers(model, records), strict=True):
        asked = model.prompts.encode(record).prompt_only()
        tokens = asked.sequence["input_ids"].unsqueeze(0)
        made = model.model.generate(input_ids=tokens, generation_config=settings)  # type: ignore[operator]
        text = model.prompts.tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True).strip()
        assert answer.exact == (text == record.answer)
        assert text.startswith(answer.text[:8])
        if TARGET not in record.path:
            assert answer.text == record.answer


def test_records_are_encoded_together_as_they_are_alone(llava: LoadedModel, hospital_data: str) -> None:
    records = read_records(hospital_data).records
    for one, other in zip(llava.prompts.encode_all(records), map(llava.prompts.encode, records), strict=True):
        assert one.answer_start == other.answer_start
        for kind in ("sequence", "pixels"):
            found, wanted = getattr(one, kind), getattr(other, kind)
            assert found.keys() == wanted.keys()
            assert all(bool((found[key] == wanted[key]).all()) for key in found)
