"""The fixed words of an evaluation; each is a string, and is written as that to ``results.json``."""

from enum import StrEnum


class Metric(StrEnum):
    """When an answer counts as right."""

    AGREEMENT = "agreement"
    """The best class is the judge's own on the untouched image."""
    TOP1 = "top1"
    """The best class is the label."""
    TOP5 = "top5"
    """The label is among the five best classes."""

    @property
    def label(self) -> str:
        """The name that a reader sees."""
        return {Metric.TOP1: "top-1", Metric.TOP5: "top-5"}.get(self, self.value)


HELD_EQUAL = (Metric.AGREEMENT, Metric.TOP1)
"""The metrics at which bytes are compared."""


def metric_held_equal(metric: str) -> Metric:
    """Return the member of ``HELD_EQUAL`` with this value.

    Raises:
        ValueError: if there is none.
    """
    if metric not in HELD_EQUAL:
        expected = " or ".join(repr(member.value) for member in HELD_EQUAL)
        raise ValueError(f"metric: expected {expected}, got {metric!r}")
    return Metric(metric)


class Fidelity(StrEnum):
    """Measures of how close a decoded image is to its source."""

    PSNR = "psnr"
    MS_SSIM = "ms_ssim"


class MapKind(StrEnum):
    """What steers a setting; most are baselines of one of three.

    Those are saliency, which steers a smoothing; networks, an edit; and witnesses, the rate control ``robust``.
    """

    SALIENCY = "saliency"
    NETWORKS = "networks"
    FEATURES = "features"
    ANSWERS = "answers"
    EVEN = "even"
    CENTER = "center"
    OTHER_IMAGE = "other image"
    UNTRAINED = "untrained"
    PIXELS = "pixels"
    MS_SSIM = "ms_ssim"
    EDIT_BY_OTHER_IMAGE = "networks, other image"
    WITNESSES = "witnesses"
    NO_NETWORK = "no network"
    OTHER_DISTANCES = "another image's distances"
    LEAST_CLOSENESS = "least closeness"


STEERED: dict[str | None, tuple[MapKind, ...]] = {
    MapKind.SALIENCY: (MapKind.EVEN, MapKind.CENTER, MapKind.OTHER_IMAGE),
    MapKind.NETWORKS: (MapKind.UNTRAINED, MapKind.PIXELS, MapKind.MS_SSIM, MapKind.EDIT_BY_OTHER_IMAGE),
    MapKind.WITNESSES: (MapKind.NO_NETWORK, MapKind.OTHER_DISTANCES, MapKind.LEAST_CLOSENESS),
}
"""What is not a baseline itself, and what it must beat."""


class BaselineKind(StrEnum):
    """What a setting is compared with; most of them are named like what steers them."""

    CODEC_ALONE = "codec alone"
    EVEN = "even"
    CENTER = "center"
    OTHER_IMAGE = "other image"
    UNTRAINED = "untrained"
    PIXELS = "pixels"
    MS_SSIM = "ms_ssim"
    EDIT_BY_OTHER_IMAGE = "networks, other image"
    NO_NETWORK = "no network"
    OTHER_DISTANCES = "another image's distances"
    LEAST_CLOSENESS = "least closeness"
    DOWNSCALING = "downscaling"


class Verdict(StrEnum):
    """What the interval of a BD-rate shows."""

    SAVES = "saves"
    COSTS = "costs"
    OPEN = "open"


class ExhibitKind(StrEnum):
    """By which rule an exhibit was chosen."""

    BEST = "best"
    TYPICAL = "typical"
    WORST = "worst"
    UNRANKED = ""
    """There is no pre-filter to choose by."""
