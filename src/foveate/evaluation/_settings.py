"""What the points of one rate–accuracy curve share, and the name of the curve."""

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.compressor import Compressor
from foveate.evaluation._vocabulary import STEERED, MapKind
from foveate.identity import identity_in_memory
from foveate.preedit import Objective, PreEdit
from foveate.prefilter import Prefilter, PrefilterBase
from foveate.rate_control import RateControl
from foveate.saliency import Baseline, Center, Shuffled


@dataclass(frozen=True)
class Setting:
    """Everything but the quality.

    Attributes:
        codec: its name with its knobs, without the quality.
        strength: of the pre-filter, in [0, 1].
        scale: stored side over source side.
        map: what steers the pre-filter, or the rate control ``robust``: a :class:`MapKind`, or the name of another
            class of baseline; None if nothing does.
        keep: what a rate control keeps, and by which witnesses; None if there is none.
    """

    codec: str
    strength: float = 0.0
    scale: float = 1.0
    map: str | None = None
    keep: str | None = None

    @classmethod
    def of(cls, compressor: Compressor) -> "Setting":
        """Return the setting of an operating point."""
        prefilter, control = compressor.prefilter, compressor.control
        codec = compressor.codec.family
        if control is not None:
            kind = f" with {type(prefilter).__name__}"
            if prefilter is None or isinstance(prefilter, Prefilter):
                kind = " without pre-filter" if prefilter is None else ""
            evidence = control.evidence if isinstance(control, RateControl) and control.robust else None
            read = None if evidence is None else MapKind(evidence)
            return cls(codec, map=read, keep=control.family + kind)
        if prefilter is None or not compressor.filters:
            return cls(codec, scale=compressor.scale)
        return cls(codec, prefilter.strength, compressor.scale, _map_kind(prefilter))

    @property
    def is_steered(self) -> bool:
        """Whether saliency, features or witnesses steer it, at full size: what the baselines are for."""
        return self.map in STEERED and self.scale == 1

    @property
    def name(self) -> str:
        """A name that a reader understands: ``"jpeg alone"``, ``"jpeg, strength 0.5"``, ``"jpeg, scale 0.7"``."""
        parts = [f"strength {self.strength:g}"] * (self.strength > 0) + [f"scale {self.scale:g}"] * (self.scale < 1)
        if self.map == MapKind.NETWORKS:
            parts.insert(0, "edit")
        if self.keep:
            parts.append(f"keep {self.keep}")
        if self.map is not None and self.map not in STEERED:
            parts.append(_MAP_NAMES.get(self.map, self.map))
        return ", ".join([self.codec, *parts]) if parts else f"{self.codec} alone"


_MAP_NAMES: dict[str, str] = {
    MapKind.EVEN: "spread evenly",
    MapKind.CENTER: "center-weighted",
    MapKind.OTHER_IMAGE: "another image's map",
    MapKind.FEATURES: "edit for features alone",
    MapKind.ANSWERS: "edit for answers alone",
    MapKind.UNTRAINED: "edit for untrained networks",
    MapKind.PIXELS: "edit for pixels",
    MapKind.MS_SSIM: "edit for MS-SSIM",
    MapKind.EDIT_BY_OTHER_IMAGE: "edit by another image's map",
    MapKind.NO_NETWORK: "no network asked",
    MapKind.OTHER_DISTANCES: "another image's distances",
    MapKind.LEAST_CLOSENESS: "by the least closeness",
}


def _map_kind(prefilter: PrefilterBase) -> str:
    saliency = prefilter.saliency
    if isinstance(prefilter, PreEdit):
        by_other = isinstance(saliency, Shuffled) and prefilter.objective == Objective.NETWORKS
        return MapKind.EDIT_BY_OTHER_IMAGE if by_other else MapKind(prefilter.objective)
    if isinstance(saliency, Baseline):
        kinds: dict[type, str] = {Center: MapKind.CENTER, Shuffled: MapKind.OTHER_IMAGE}
        return kinds.get(type(saliency), type(saliency).__name__)
    if isinstance(prefilter, Prefilter):
        return MapKind.EVEN if prefilter.even else MapKind.SALIENCY
    return type(prefilter).__name__


def check_settings(compressors: Sequence[Compressor]) -> None:
    """Check that points with the same setting and quality are the same.

    Two saliencies, say, or two criteria that are functions of one name would be drawn as one curve.

    Raises:
        ValueError: if two that differ would count as one point.
    """
    identities: dict[tuple[object, ...], str] = {}
    for compressor in compressors:
        setting, target, control = Setting.of(compressor), compressor.target, compressor.control
        point = (setting, compressor.codec.quality, target, None if control is None else control.keeps)
        identity = identity_in_memory(compressor)
        if identities.setdefault(point, identity) != identity:
            quality = f"quality {compressor.codec.quality:g}" if control is None else control.keeps
            raise ValueError(
                f"compressors: two that differ are both {setting.name!r} at {quality}, and would be drawn as one "
                "curve; evaluate them one by one"
            )
