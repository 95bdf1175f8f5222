"""What is written loads again: transformers misses no key of an edited checkpoint, finds none too many and none that
does not fit, for every family, in shards and in half precision."""

from pathlib import Path

import numpy as np
import pytest
import tiny_families
import torch
from checkpoint_files import changed_tensors
from tiny_families import FAMILIES, TEXT_FAMILIES
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from chip.edit import Applying, Change, Edit, StagedCheckpoint
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_skeleton
from chip.models.naming import find_stored
from chip.models.sites import stored_sites


@pytest.mark.parametrize("name", [*FAMILIES, *TEXT_FAMILIES])
def test_an_edited_checkpoint_has_the_keys_of_its_model(tmp_path: Path, name: str) -> None:
    """A change of rank two of the weight of every site that the family has."""
    base = Checkpoint(tiny_families.build(name, tmp_path / "model", dtype=torch.bfloat16, shard_size="40KB"))
    skeleton, _, sites = load_skeleton(base)
    draw = np.random.default_rng(0)
    changes = []
    for site in sites:
        shape = tuple(skeleton.get_parameter(site.parameter).shape)
        left, right = (draw.normal(0, 0.1, size).astype(np.float32) for size in ((shape[0], 2), (2, shape[1])))
        changes.append(Change(find_stored(base, site.parameter, shape).name, left, right))
    with StagedCheckpoint(base, Applying([Edit("test", {}, tuple(changes))]), tmp_path / "out") as staged:
        staged.commit()
    auto = AutoModelForImageTextToText if name in FAMILIES else AutoModelForCausalLM
    model, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True, local_files_only=True)
    assert not any(report.values()), report
    assert changed_tensors(base.directory, tmp_path / "out") == {change.tensor for change in changes}
    assert len(stored_sites(model, Checkpoint(tmp_path / "out"), sites)) == len(sites)
