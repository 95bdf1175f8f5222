"""The models of an audit: opened, and proved to be versions of one model, before any of them is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass

from chip.audit.changes import refuse_unlike
from chip.audit.subject import Role
from chip.audit.wording import ROLES
from chip.errors import UsageError
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model


@dataclass(frozen=True)
class AuditedModels:
    """The models of an audit by role, and those that are compared, by the name that the report gives them."""

    roles: dict[Role, Checkpoint]
    compared: dict[str, Checkpoint]

    @property
    def named(self) -> dict[str, Checkpoint]:
        return {**{str(role): one for role, one in self.roles.items()}, **self.compared}


def open_models(base: str, edited: str, gold: str | None, compare: Sequence[str]) -> AuditedModels:
    """Every model, opened; raises ChipError where they are no versions of one model."""
    roles: dict[Role, Checkpoint] = {"base": _opened(base), "edited": _opened(edited)}
    if gold is not None:
        roles["gold"] = _opened(gold)
    compared: dict[str, Checkpoint] = {}
    for model in compare:
        # What is called like a role is told from it by its path.
        name = f"./{model}" if model in ROLES else model
        if name in compared:
            raise UsageError(f"--compare {model} is named twice; give each directory once")
        compared[name] = _opened(model)
    for checkpoint in (*roles.values(), *compared.values()):
        refuse_unlike(roles["base"], checkpoint)
    return AuditedModels(roles, compared)


def _opened(model: str) -> Checkpoint:
    return Checkpoint(resolve_model(model))
