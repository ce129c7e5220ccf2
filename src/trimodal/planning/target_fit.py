"""What a plan would store, held against what a target takes, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from trimodal.core import Layout
from trimodal.core.layout import NO_THINNED_EXPORT, TOKENS_MERGED, TOKENS_THINNED
from trimodal.core.stored_site import StoredSite, forecast_stored_site
from trimodal.core.target_fit import TargetCaution, TargetFit, name_briefly
from trimodal.errors import TargetError
from trimodal.formats.stored_sites import describe_stored_sites
from trimodal.models.model import Model
from trimodal.targets import Answer, Target

_MOST_REASONS = 2


@dataclass(frozen=True)
class _Asked:
    """One place that the target was asked about, and its answer."""

    name: str
    path: str
    answer: Answer

    def list_cautions(self) -> Iterator[TargetCaution]:
        """The answer's reasons and cautions."""
        if self.answer.reasons:
            yield TargetCaution(self.name, self.path, self.answer.level, self.answer.text)
        if self.answer.level != "refused":
            for said in self.answer.cautions:
                yield TargetCaution(self.name, self.path, "native", said)


def fit_target(model: Model, after: Layout, target: Target) -> TargetFit:
    """How `target` takes what `model` stores already and what it will store once its layout is `after`."""
    stored = _describe_present(model)
    asked = [*_ask_sites(model.layout, after, stored, target), *_ask_towers(model.layout, after, target)]
    cautions = [caution for one in asked for caution in one.list_cautions()]
    order = ("refused", "decoded", "native")
    return TargetFit(
        target.name, len(asked), sum(one.answer.level == "refused" for one in asked),
        sum(one.answer.level == "decoded" for one in asked), target.explain_misfit() or "",
        tuple(sorted(cautions, key=lambda caution: order.index(caution.taken_as))),
    )  # fmt: skip


def check_takes_anything(fit: TargetFit) -> None:
    """Refuse a plan of which the target can take nothing.

    Raises:
        TargetError: it names the reasons, each with the first places.
    """
    if not fit.takes_nothing:
        return
    reasons = [f"{name_briefly(names)}: {reason}" for reason, names in fit.group_names("refused").items()]
    more = f"; and {len(reasons) - _MOST_REASONS} more reasons" if len(reasons) > _MOST_REASONS else ""
    raise TargetError(
        f"{fit.target} can take nothing of what the plan would store ({'; '.join(reasons[:_MOST_REASONS])}{more}); choose another recipe, "
        f"or another target (`trimodal targets {fit.target}` shows what it takes)"
    )


def _describe_present(model: Model) -> Mapping[str, StoredSite]:
    """What the model stores already, by path, where that is not plain numbers."""
    if all(site.stored == "dense" for site in model.layout.sites):
        return {}
    return {stored.path: stored for stored in describe_stored_sites(model.module, model.layout) if stored.kind != "dense"}


def _ask_sites(before: Layout, after: Layout, present: Mapping[str, StoredSite], target: Target) -> Iterator[_Asked]:
    """Every site whose weight will not be plain numbers, or that is a factor or of another shape than now."""
    known = {site.path: site for site in before.sites}
    for site in after.sites:
        old = known.get(site.path)
        stored = present.get(site.path) if old == site else None
        stored = stored or forecast_stored_site(site)
        if stored.kind != "dense" or stored.factor_of is not None:
            yield _Asked(site.name, site.path, target.answer_site(site.kind, stored))
        elif old is not None and old.shape != site.shape:
            yield _Asked(site.name, site.path, target.answer_change("cut_units"))


def _ask_towers(before: Layout, after: Layout, target: Target) -> Iterator[_Asked]:
    """Every tower that will have fewer blocks, or fewer tokens on the way."""
    known = {tower.name: tower for tower in before.towers}
    for tower in after.towers:
        old = known[tower.name]
        if len(tower.blocks) < len(old.blocks):
            yield _Asked(tower.name, "", target.answer_change("dropped_blocks"))
        if tower.whole_tokens == TOKENS_MERGED:
            yield _Asked(tower.name, "", target.answer_change("merged_tokens"))
        if tower.whole_reading == TOKENS_THINNED:
            yield _Asked(tower.name, "", Answer("refused", (NO_THINNED_EXPORT,)))
