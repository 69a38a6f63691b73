"""Which way to make maps is shown: the one that points best at the findings of validation images."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.explain.cam import upsample
from medistill.explain.explained import try_ways
from medistill.explain.scores import score
from medistill.explain.selection import Finding, images_of
from medistill.explain.settings import Explain
from medistill.explain.targets import targets
from medistill.explain.ways import Way
from medistill.layout import ModelFolder
from medistill.metrics.means import share_interval
from medistill.models.weights import load_model
from medistill.records.explain import Choice, Tried


def choose_way(
    settings: Explain,
    findings: list[Finding],
    folders: Mapping[str, ModelFolder],
    dataset: Dataset,
    on_maps: Callable[[int], object] = lambda count: None,
) -> tuple[Way, Choice]:
    """The way by which all models' maps are made, so that these can be compared, and how it was chosen.

    Args:
        settings: the ways that are tried.
        findings: of validation images, with boxes or masks; none: the first way is taken.
        folders: of the models.
        dataset: the images.
        on_maps: called with the number of new maps.
    """
    if not findings:
        reason = "it is the only one of params.yaml"
        if settings.undecided:
            reason = (
                "too few boxes or masks on validation images, or none on test images; it is the first of params.yaml"
            )
        return settings.ways[0], _choice(settings.ways[0], reason=reason)
    images, masks = images_of(findings, dataset), targets(findings, dataset.image_size).masks
    hits = {}
    for name, files in folders.items():
        maps = try_ways(load_model(files.folder), findings, images, settings.ways, on_maps)
        hits[name] = {way: score(upsample(found, dataset.image_size), masks).hits for way, found in maps.items()}
    return decide(findings, hits)


def decide(findings: list[Finding], hits: Mapping[str, Mapping[Way, NDArray[np.float64]]]) -> tuple[Way, Choice]:
    """Rank ways by the pointing game, the mean over models; of equal ones the first stays first.

    Args:
        findings: N findings of validation images.
        hits: float64 (N,), 1 where a map's peak is inside the truth, by model and way.
    """
    groups = np.array([finding.group_id for finding in findings])
    means = {way: float(np.mean([own[way].mean() for own in hits.values()])) for way in next(iter(hits.values()))}
    ranked = sorted(means, key=lambda way: -means[way])
    tried = [
        Tried(
            method=way.method,
            layer=way.layer,
            models={name: share_interval(own[way], groups) for name, own in hits.items()},
            mean=means[way],
        )
        for way in ranked
    ]
    return ranked[0], _choice(ranked[0], findings, tried)


def _choice(
    way: Way, findings: list[Finding] | None = None, tried: list[Tried] | None = None, reason: str = ""
) -> Choice:
    findings = findings or []
    return Choice(
        method=way.method,
        layer=way.layer,
        findings=len(findings),
        images=len({finding.image_id for finding in findings}),
        groups=len({finding.group_id for finding in findings}),
        reason=reason,
        tried=tried or [],
    )
