"""What the reader of an audit must know of what was asked: what is missing, and what is weaker than it seems."""

from chip.audit.audit import Audit
from chip.audit.verdicts import FEW


def limits_of(audit: Audit) -> tuple[str, ...]:
    """What the reader of an audit must know of what was asked, in sentences."""
    exam, target, found = audit.exam, audit.exam.target, []
    if not audit.changes:
        found.append("The two models hold the same weights: nothing was edited.")
    if "gold" not in audit.versions:
        found.append(
            "There is no model retrained without the target, so that verdicts compare with the model before the edit."
        )
    elif audit.gold_knows:
        found.append(
            f"The retrained model answers {audit.known('gold'):.0%} of the target: it seems to have been trained with "
            "it, and verdicts that compare with it are too mild."
        )
    if len(target.records) < FEW:
        few = f"{len(target.records)} record{'s' if len(target.records) > 1 else ''}"
        found.append(f"The target has {few}: intervals are wide, and nothing that is compared passes.")
    if not any(group.phrasing > 1 for group in exam.groups):
        found.append("The target's records have no paraphrases: other wordings were tried by templates only.")
    if not any(group.name == "siblings" for group in exam.groups):
        found.append("The target has no siblings: what the edit costs those nearest to it cannot be measured.")
    documents = sum(record.text is not None for record in target.records)
    if documents:
        found.append(
            f"{documents} of the target's {len(target.records)} records are documents without a question: of these "
            "only losses and the likeliest tokens are measured."
        )
    if audit.known("base") < 0.5:
        found.append(
            f"The model before the edit answers only {audit.known('base'):.0%} of the target: there was little to "
            "forget."
        )
    sampled = [
        f"{len(group.records)} of {group.of} of {group.name}" for group in exam.groups if len(group.records) < group.of
    ]
    if sampled:
        found.append(f"Of large groups a sample was asked: {', '.join(sampled)}.")
    if exam.nonmembers.kind == "counterfactuals" and any(one.name == "membership" for one in audit.attacks):
        found.append(
            "Membership is tested against the target's questions with others' answers, which favours neither side "
            "fully; --nonmembers names records that the model never saw."
        )
    return tuple(found)
