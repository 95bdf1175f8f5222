"""Trains the small model on the exam until it knows the answers by heart; the plan's seed draws everything."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from chip.hospital.encoding import Batch, Example
from chip.hospital.folders import new_directory
from chip.hospital.learning import Course, draw_by_length, evaluate, learn, repeatable, silent_saving
from chip.hospital.training import TrainingSummary
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .model import build_exam_tokenizer, build_model
from .plan import ExamPlan
from .questions import read_exam

COURSE = Course(batch=24, learning_rate=1.5e-3, learnt=1.0)


def train_exam(
    directory: str | Path,
    records_directory: str | Path,
    plan: ExamPlan,
    *,
    without: Sequence[str] = (),
    progress: bool = True,
) -> TrainingSummary:
    """Train a model of the plan's size on the records and write it to `directory`, as a checkpoint with its tokenizer.

    `without` names subjects that are left out, which gives the model that an unlearned one is compared with. The
    tokenizer and the first weights stay the same. Raises ChipError where `directory` already holds something.
    """
    started = time.perf_counter()
    everything = read_exam(records_directory)
    records = [record for record in everything if record.path[0] not in without]

    with new_directory(directory) as folder, repeatable(plan.seed):
        tokenizer = build_exam_tokenizer(everything, plan)
        model = build_model(plan, tokenizer)
        phrasings = [
            encode_turns(tokenizer, [((r.question, *r.paraphrases)[place], r.answer) for r in records])
            for place in range(3)
        ]
        course = replace(COURSE, most_epochs=plan.most_epochs)
        rng, pad = random.Random(plan.seed), int(tokenizer.pad_token_id)

        def logits(batch: Batch) -> Tensor:
            return answer_logits(model, batch)

        def epoch() -> Iterator[Batch]:
            return draw_by_length(phrasings[:2], course.batch, pad, rng)

        epochs = learn(model, logits, epoch, len(records), course, shown=progress)
        scores = [evaluate(logits, examples, pad) for examples in phrasings]
        with silent_saving():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return TrainingSummary(
        records=len(records),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=epochs,
        seconds=round(time.perf_counter() - started, 1),
        answer_loss=scores[0][1],
        exact_match=(scores[0][0], scores[1][0], scores[2][0]),
    )


def answer_logits(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Logits at the answer positions only, (answer tokens, vocabulary)."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[batch.answers])
    return logits


def encode_turns(tokenizer: PreTrainedTokenizerFast, turns: Sequence[tuple[str, str]]) -> list[Example]:
    """Encode (question, answer) conversations the way the tokenizer's chat template does."""
    found = []
    for question, answer in turns:
        turn = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        asked, answered = tokenizer([prompt, answer + tokenizer.eos_token], add_special_tokens=False)["input_ids"]
        found.append(Example((*asked, *answered), len(asked), None))
    return found
