"""Goldens of the catalog: which cases have one, and what the models say of them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from conformance.config_codec import config_to_dict
from conformance.golden_store import Golden
from conformance.point_digests import PointDigests
from conformance.subject import Case, Subject
from reference.numerics.profile import DEFAULT, NumericsProfile

TAG = "golden"


def golden_cases(subjects: Iterable[Subject]) -> Iterator[tuple[Subject, Case]]:
    """Every catalog case that is to have a golden, kernel by kernel."""
    return ((subject, case) for subject in subjects for case in subject.catalog if TAG in case.tags)


def compute(subject: Subject, case: Case, profile: NumericsProfile = DEFAULT) -> Golden:
    """The model's outputs of one case under a profile, as they would be stored."""
    digests = PointDigests()
    inputs = subject.build(case.config, case.lane, case.seed)
    outputs = subject.model(case.config, inputs, profile=profile, record=digests)
    return Golden(
        kernel=subject.name,
        case=case.id,
        config=config_to_dict(case.config),
        lane=case.lane,
        seed=case.seed,
        profile=profile.to_dict(),
        profile_digest=profile.digest(),
        outputs=outputs,
        points=digests.points(),
    )
