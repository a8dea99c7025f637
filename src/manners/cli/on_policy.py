"""`manners train ppo` and `manners train grpo`: prompts and a judge, into one run, or on with one that was cut short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from manners.cli.data import made_from, prompts_for
from manners.cli.resume import reopen, source_of
from manners.cli.talk import track as progress
from manners.config import load_config
from manners.errors import MannersError
from manners.records import Prompt
from manners.runs import Run, Track
from manners.train.settings import OnPolicyConfig

ConfigT = TypeVar("ConfigT", bound=OnPolicyConfig)
ConfigT_contra = TypeVar("ConfigT_contra", bound=OnPolicyConfig, contravariant=True)


class Train(Protocol[ConfigT_contra]):
    """What trains by one method."""

    def __call__(
        self, config: ConfigT_contra, prompts: Sequence[Prompt], heldout: Sequence[Prompt], run: Run, *, track: Track,
        state: Path | None,
    ) -> Any: ...  # fmt: skip


def run_on_policy(
    kind: str, settings_of: type[ConfigT], train: Train[ConfigT], config: Path | None, sets: Sequence[str], *, run: Path,
    data: Path | None, prompts: str, resume: Path | None, accept_changes: bool, replace: bool,
) -> tuple[Run, dict[str, Any]]:  # fmt: skip
    """Start a run of `kind`, or go on with the one in `resume`, and train; gives it with the numbers of its last step."""
    given = [*([f"prompts={prompts}"] if prompts else []), *sets]
    settings = load_config(settings_of, resume / "config.yaml" if resume and not config else config, given)
    if not settings.reward.named:
        raise MannersError(
            "no judge is named: set reward.model, reward.classifier or reward.function in the config or with --set"
        )
    if resume and not data:
        data = source_of(resume, "data")
    training, held = prompts_for(settings.prompts, data, settings.seed)
    read = data or (Path("pairs") if not settings.prompts else "")
    lineage = made_from(resume or run, data=read, **settings.sources)
    state = None
    if resume:
        made, state = reopen(resume, kind, settings, lineage, accept_changes)
    else:
        made = Run.create(run, kind, settings, lineage, replace)
    with made.guard():
        train(settings, training, held if settings.evaluate_prompts else [], made, track=progress, state=state)
    return made, made.metrics()[-1]
