"""The plan of an edit, from what was read and checked for it."""

import math
from collections.abc import Mapping
from pathlib import Path

from chip.collect.reuse import StatisticsSource
from chip.duolearn.notices import training_notices
from chip.duolearn.solving import trained_parameters
from chip.edit.outputs import files_left_behind
from chip.edit.receipt import default_receipt
from chip.hierarchy import Hierarchy, Split
from chip.models.loading import LoadedModel
from chip.models.sites import StoredSite
from chip.plan import Plan, overlap_warnings
from chip.records.digests import divide_images
from chip.settings import EditSettings
from chip.workflow.opened import Opened, Supply
from chip.workflow.request import EditRequest


def plan_edit(
    request: EditRequest,
    opened: Opened,
    stored: Mapping[str, StoredSite],
    split: Split,
    supplied: Supply,
    out: Path,
) -> Plan:
    """What an edit will touch, what was decided for its user, and what may make forgetting incomplete."""
    checkpoint, loaded, hierarchy, source = opened.checkpoint, opened.loaded, opened.left, supplied.source
    groups = {name: len(getattr(split, name)) for name in ("target", "siblings", "shared", "rest")}
    notices = [source.notice] if source.notice else []
    for name in (name for name in request.forget if (name,) in hierarchy.nodes and hierarchy.namesakes(name)):
        others = ", ".join("/".join(node) for node in hierarchy.namesakes(name))
        notices.append(f"{name} is taken as the whole path; other nodes bear the name too: {others}")
    if opened.forgotten:
        gone = len(opened.hierarchy.records) - len(hierarchy.records)
        notices.append(f"{gone} records count for nothing: they lie under what the model has forgotten before")
    if not loaded.family.known:
        notices.append(f"the family {loaded.family.name!r} is not in chip's table: its sites were found by name")
    if not loaded.prompts.has_chat_template:
        notices.append("the model has no chat template: records are shown as the question, a line break, the answer")
    if request.settings.method == "oblique":
        notices += _oblique_notices(request.settings, loaded, hierarchy, split)
    if request.settings.trains:
        notices += training_notices(request.settings, loaded, hierarchy, split)
    if request.settings.method == "counterpart":
        notices += _counterpart_notices(hierarchy, split)
    trained = trained_parameters(loaded, request.settings)
    tensors = [tensor for site in stored.values() for tensor in (site.weight, site.bias) if tensor is not None]
    if request.settings.method != "chip":
        tensors = [site.weight for site in stored.values()]
    return Plan(
        model=checkpoint.directory,
        family=loaded.family.name,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        data=request.data,
        targets=tuple("/".join(node) for node in split.targets),
        records=groups,
        method=request.settings.method,
        settings=request.settings.described(),
        sites=tuple(stored) or trained,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors)
        + sum(loaded.model.get_parameter(name).numel() for name in trained),
        out=None if request.dry_run else out,
        statistics=_fate(request, source),
        collecting="" if source.found is not None and not source.missing else supplied.collection.described,
        receipt=None if request.dry_run else request.receipt or default_receipt(out, in_place=request.in_place),
        left_behind=tuple(files_left_behind(checkpoint)),
        notices=tuple(notices),
        warnings=tuple(overlap_warnings(hierarchy, split)),
    )


def _oblique_notices(settings: EditSettings, loaded: LoadedModel, hierarchy: Hierarchy, split: Split) -> list[str]:
    notices = []
    obstacle = divide_images(hierarchy, split).obstacle if loaded.prompts.sees else "the model sees no images"
    if settings.keys == "both" and obstacle:
        notices.append(f"keys are taken at the answers alone: {obstacle}")
    blind = sum(not hierarchy.records[i].images for i in split.target)
    if settings.toward != "mean" and settings.keys != "image" and blind:
        notices.append(f"{blind} of the target's records show no image: their answers are sent toward the mean")
    return notices


def _counterpart_notices(hierarchy: Hierarchy, split: Split) -> list[str]:
    """Where answers to the same question are missing, what stands in is farther off than a user would think."""
    wanted = [hierarchy.shapes[i] for i in split.target]
    known = {hierarchy.shapes[i] for i in split.retain}
    alone = sum(one not in known for one in wanted)
    if not alone:
        return []
    return [f"{alone} of the target's records ask what no retained record asks: answers to like questions stand in"]


def _fate(request: EditRequest, source: StatisticsSource) -> str:
    if request.settings.trains:
        return "none: the method trains instead"
    if source.found is not None and not source.missing:
        return f"{source.path} (found)"
    return f"{source.path} ({'collected, not kept' if request.dry_run else 'to be collected'})"
