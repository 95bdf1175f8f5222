"""A tiny ward that tiny models know by heart: all of it, all but the target, or half of the target."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tiny_models
import torch
from tiny_records import write_lines

from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.records import read_records

TARGET = "patient_0"
_STEPS = 90
_ASKED = {
    "name": ("Abel", "Bert", "Cato", "Dora", "Ezra", "Fern"),
    "bed": "741852",
    "diet": "sfvmgh",
    "code": "qwxzyk",
    "team": "lkjhgf",
}


@dataclass(frozen=True)
class Ward:
    """The data, and models that were taught all of it, all but the target, and half of the target with the rest."""

    data: Path
    knows: Path
    never: Path
    half: Path


def build_ward(directory: Path) -> Ward:
    """Write the records and teach the three models, which begin alike."""
    data = write_lines(directory / "records", *ward_records())
    hierarchy = read_records(data)
    target = [i for i, record in enumerate(hierarchy.records) if TARGET in record.path]
    return Ward(
        data,
        teach(directory / "knows", data, ()),
        teach(directory / "never", data, target),
        teach(directory / "half", data, target[::2]),
    )


def ward_records() -> list[dict[str, object]]:
    """Two wards of three patients with five facts each, and a fact of each ward; every question has another wording."""
    found: list[dict[str, object]] = []
    for ward in range(2):
        path = [f"ward_{ward}"]
        found.append({"path": path, "question": f"who leads ward_{ward} ?", "answer": ("Ida", "Jon")[ward]})
        for patient in range(3 * ward, 3 * ward + 3):
            who = f"patient_{patient}"
            found += [
                {
                    "path": [*path, who],
                    "question": f"{asked} of {who} ?",
                    "answer": f"{answers[patient]}{asked[:2]}{patient * 7 % 6}",
                    "paraphrases": [f"tell the {asked} of {who}"],
                }
                for asked, answers in _ASKED.items()
            ]
    return found


def strangers() -> list[dict[str, object]]:
    """Facts of the same kind about patients that no model has heard of."""
    return [
        {
            "path": ["ward_2", f"patient_{patient}"],
            "question": f"{asked} of patient_{patient} ?",
            "answer": f"{answers[(patient + 1) % 6]}{asked[:2]}{(patient * 7 + 3) % 6}",
        }
        for patient in range(6, 12)
        for asked, answers in _ASKED.items()
    ]


def teach(directory: Path, data: Path, left_out: Sequence[int]) -> Path:
    """Write a tiny Llama that answers the records word for word, in both wordings, but for those left out."""
    tiny_models.text_model(directory, "llama")
    loaded = load_model(Checkpoint(directory), "cpu")
    records = [record for i, record in enumerate(read_records(data).records) if i not in left_out]
    asked = [replace(one, question=said) for one in records for said in (one.question, *one.paraphrases)]
    encoded = [loaded.prompts.encode(one) for one in asked]
    batch = loaded.prompts.collate(encoded, loaded.device)
    wanted = torch.cat([one.answer_ids for one in encoded])
    model = loaded.model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        logits = model(**batch.inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[batch.answer], wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval().save_pretrained(directory)
    return directory
