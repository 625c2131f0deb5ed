"""What edits save, before the networks in their loss and before others: measured here, told by edit_section.py.

    python tests/benchmarks/bench_preedit.py PHOTOS OUT --network M [--network M ...] [--trunk M] [--lpips M]
    python tests/benchmarks/edit_section.py OUT RESULTS.md

Every network judges; ``--trunk`` is only in the loss and need not have a head. ``OUT`` gets one line for each photo and
arm (a compressor, with or without an edit) as soon as it is measured, so a run that is stopped goes on with the same
command; ``--part 0/2`` and ``--part 1/2`` share the photos between two processes. Arms are in ``--study`` groups. The
records behind RESULTS.md are in ``records/``: a run into a copy of that folder adds to them.

Photos are taken in an order drawn once. Settings were chosen on the first half; ``--first 250`` leaves it out.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from edit_section import read_records
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
from tqdm import tqdm

from foveate import Compressor, GradCam, PreEdit, Prefilter, RateControl, Sweep
from foveate.codecs import Jpeg
from foveate.evaluation import SampleFolder
from foveate.images import from_array, to_array, to_float
from foveate.models import LazyClassifier, Preprocess

PREPROCESS = Preprocess(256, 224)
SCALES = (1.0, 0.7, 0.5, 0.35)
LADDERS = {"jpeg": (5, 8, 12, 18, 27, 40, 60, 80), "webp": (1, 5, 12, 22, 36, 52, 70, 86)}
POINTS = {"jpeg": ((0.7, 20), (0.5, 20), (0.7, 45)), "webp": ((0.7, 12), (0.5, 20), (0.5, 40))}
"""Scales and qualities that edits are measured at; controls at the first."""
OBJECTIVES = ("pixels", "ms_ssim", "untrained", "features", "answers")
"""What an edit keeps in place of its networks' features and answers."""
CONTROL_SCALES = (1.0, 0.7, 0.5)
COUNTS = {"jpeg": 250, "webp": 100}
CONTROLS = 100
FIDELITY = 100
"""Photos of an arm on which more than the answers is measured, as that takes as long."""
BATCH = 8

Maps = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Photo:
    """A photo, its place in the order, class and map."""

    name: str
    place: int
    image: Tensor
    label: int


@dataclass(frozen=True)
class Arm:
    """What is measured as one: a compressor, and how many photos it gets.

    Attributes:
        name: unique.
        compressor: encodes and decodes.
        count: of photos.
        maps: "own", "other image" or "center", for a pre-filter with a map; None makes no maps.
    """

    name: str
    compressor: Compressor
    count: int
    maps: str | None = None


def studies(
    networks: dict[str, LazyClassifier], trunks: list[LazyClassifier], cache: Path, steps: int = 60
) -> dict[str, list[Arm]]:
    """Return the arms of each study."""
    first, everyone = next(iter(networks.values())), [*networks.values(), *trunks]
    full = PreEdit(everyone, steps=steps, cache=cache)

    def arm(
        name: str, edit: PreEdit, count: int = CONTROLS, maps: str | None = None, codec: str = "jpeg", rank: int = 0
    ) -> Arm:
        scale, quality = POINTS[codec][rank]
        point = f"{codec}:{quality}"
        return Arm(f"{name}, {point}, scale {scale:g}", Compressor(point, edit, scale=scale), count, maps)

    groups: dict[str, list[Arm]] = {}
    for codec, ladder in LADDERS.items():
        groups[f"plain {codec}"] = [
            Arm(
                f"plain, {codec}:{quality}, scale {scale:g}",
                Compressor(f"{codec}:{quality}", scale=scale),
                COUNTS[codec],
            )
            for scale in SCALES
            for quality in ladder
        ]
        for rank in range(len(POINTS[codec])):
            groups[f"known {codec} {rank}"] = [arm("all in the loss", full, COUNTS[codec], codec=codec, rank=rank)]
    for rank in range(len(POINTS["jpeg"])):
        groups[f"left out {rank}"] = [
            arm(f"without {name}", replace(full, models=_without(everyone, network)), rank=rank)
            for name, network in networks.items()
        ]
    groups["left out webp"] = [
        arm(f"without {name}", replace(full, models=_without(everyone, network)), codec="webp")
        for name, network in networks.items()
    ]
    groups["objectives"] = [arm(objective, replace(full, objective=objective)) for objective in OBJECTIVES]
    groups["networks"] = [
        arm(f"{count} of the networks in the loss", replace(full, models=tuple(everyone[:count])))
        for count in (1, 2, 3)
    ]
    groups["alone"] = [
        arm(f"{name} alone in the loss", replace(full, models=(network,))) for name, network in [*networks.items()][1:]
    ]
    groups["steps"] = [arm(f"{count} steps", replace(full, steps=count)) for count in (10, 30, 100)]
    cam = GradCam(first.classifier.model, preprocess=PREPROCESS)
    guided = replace(full, saliency=cam, limit=(33.0, 28.0))
    groups["maps"] = [
        arm(f"33 and 28 dB by {maps} map", guided, maps=maps) for maps in ("own", "other image", "center")
    ]
    groups["blend"] = [
        Arm(f"blend by {maps} map, jpeg:{quality}, scale {scale:g}", compressor, CONTROLS, maps)
        for maps in ("own", "center")
        for scale in SCALES
        for quality in LADDERS["jpeg"]
        for compressor in [Compressor(f"jpeg:{quality}", Prefilter(cam, 0.5), scale=scale)]
    ]
    for_jpeg, for_webp = (f"{codec}:{POINTS[codec][0][1]}" for codec in ("jpeg", "webp"))
    groups["carried over"] = [
        arm("edited for JPEG", replace(full, codec=for_jpeg), codec="webp"),
        arm("edited for WebP", replace(full, codec=for_webp)),
    ]
    groups["rate control"] = [
        arm
        for name, network in networks.items()
        for arm in (
            _controlled(f"control by {name}", [network]),
            _controlled(f"control by {name}, all in the loss", [network], full),
            _controlled(f"control without {name}", _without([*networks.values()], network)),
            _controlled(
                f"control without {name}, nor in the loss",
                _without([*networks.values()], network),
                replace(full, models=_without(everyone, network)),
            ),
        )
    ]
    return groups


def _controlled(name: str, witnesses: Sequence[LazyClassifier], edit: PreEdit | None = None) -> Arm:
    """Return an arm whose scale, quality and, with an edit, strength are chosen for each photo."""
    control = RateControl(
        [witness.classifier for witness in witnesses],
        scales=CONTROL_SCALES,
        strengths=(0.0, 0.5) if edit else None,
    )
    return Arm(f"{name}, jpeg", Compressor("jpeg", edit, control=control), CONTROLS)


def _without(models: list[LazyClassifier], left_out: LazyClassifier) -> tuple[LazyClassifier, ...]:
    return tuple(model for model in models if model is not left_out)


class Bench:
    """Judges, and what they say of the photos as they are."""

    def __init__(self, networks: dict[str, LazyClassifier], photos: Sequence[Photo], lpips: nn.Module | None) -> None:
        self.judges = {name: network.classifier for name, network in networks.items()}
        self.lpips = lpips
        self.cam = GradCam(next(iter(self.judges.values())).model, preprocess=PREPROCESS)
        self.clean: dict[str, dict[str, Tensor]] = {}
        for k in tqdm(range(0, len(photos), BATCH), desc="clean"):
            part = photos[k : k + BATCH]
            answers = self.ask([photo.image for photo in part])
            for row, photo in enumerate(part):
                self.clean[photo.name] = {name: answer[row] for name, answer in answers.items()}
        self.maps: dict[str, Tensor] = {}

    def ask(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return each judge's log-probabilities (N, classes)."""
        x = PREPROCESS.batch(images)
        return {name: judge.forward(x).double().log_softmax(1) for name, judge in self.judges.items()}

    def map_of(self, photo: Photo, others: Sequence[Photo], which: str) -> Tensor:
        """Return the map (1, h, w) that a photo is given."""
        if which == "center":
            rows, columns = (torch.linspace(-1, 1, side).square() for side in photo.image.shape[-2:])
            return torch.exp(-2 * (rows[:, None] + columns))[None]
        source = photo if which == "own" else others[(others.index(photo) + 1) % len(others)]
        if source.name not in self.maps:
            self.maps[source.name] = self.cam(source.image[None])[0]
        return F.interpolate(self.maps[source.name][None], photo.image.shape[-2:], mode="bilinear")[0]

    def records(self, arm: Arm, photos: Sequence[Photo], order: Sequence[Photo]) -> Iterator[dict[str, Any]]:
        """Measure an arm: one record a photo."""
        for k in range(0, len(photos), BATCH):
            part = photos[k : k + BATCH]
            images = [photo.image for photo in part]
            maps = None if arm.maps is None else [self.map_of(photo, order, arm.maps) for photo in part]
            started = time.monotonic()
            encoded = arm.compressor.encode(Sweep(images, maps))
            seconds = (time.monotonic() - started) / len(part)
            decoded = arm.compressor.decode(encoded)
            answers = self.ask(decoded)
            again = {}
            closer = [row for row, photo in enumerate(part) if photo.place < FIDELITY]
            if closer:
                again = self.ask([_copied(decoded[row]) for row in closer])
            for row, (photo, bitstream) in enumerate(zip(part, encoded, strict=True)):
                record = {
                    "arm": arm.name,
                    "photo": photo.name,
                    "place": photo.place,
                    "bytes": len(bitstream.data),
                    "seconds": round(seconds, 3),
                    "judges": {name: self._judgment(name, photo, answer[row]) for name, answer in answers.items()},
                }
                if row in closer:
                    record |= self._fidelity(photo.image, decoded[row])
                    for name, answer in again.items():
                        judgment = self._judgment(name, photo, answer[closer.index(row)])
                        record["judges"][name] |= {f"{key} of a copy": value for key, value in judgment.items()}
                yield record

    def _judgment(self, judge: str, photo: Photo, answer: Tensor) -> dict[str, float]:
        clean = self.clean[photo.name][judge]
        top = int(answer.argmax())
        kl = float((clean.exp() * (clean - answer)).sum())
        return {"kl": round(kl, 6), "same": float(top == clean.argmax()), "right": float(top == photo.label)}

    def _fidelity(self, source: Tensor, decoded: Tensor) -> dict[str, float]:
        source, decoded = to_float(source)[None], to_float(decoded)[None]
        values = {"psnr": float(psnr(decoded, source, data_range=1.0))}
        if min(source.shape[-2:]) >= 176:  # five scales of a window of 11
            values["ms_ssim"] = float(ms_ssim(decoded, source, data_range=1.0))
        if self.lpips is not None:
            with torch.inference_mode():
                values["lpips"] = float(self.lpips(decoded, source, normalize=True).mean())
        return {name: round(value, 5) for name, value in values.items()}


def _copied(image: Tensor) -> Tensor:
    """Return an image as it comes from a site that stores its own copy: 0.8 of the side, JPEG 75."""
    size = [round(0.8 * side) for side in image.shape[-2:]]
    smaller = F.interpolate(to_float(image)[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    codec = Jpeg(75)
    return from_array(codec.decode(codec.encode(to_array((smaller * 255).round().to(torch.uint8)))))


def lpips_of(trunk: nn.Module) -> nn.Module:
    """Return LPIPS (Zhang et al. 2018) on a SqueezeNet 1.1, with the weights that torchmetrics ships."""
    from torchmetrics.functional.image.lpips import _LPIPS

    metric = _LPIPS(net="squeeze", pnet_rand=True)  # its own way to the trunk's weights is a download
    for part in metric.net.slices:
        for name, module in part.named_children():
            module.load_state_dict(trunk.features[int(name)].state_dict())
    return metric.eval().requires_grad_(False)


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    samples = SampleFolder(options.photos)
    order = [*range(len(samples))]
    random.Random(0).shuffle(order)
    networks = {LazyClassifier(spec).name: LazyClassifier(spec, PREPROCESS) for spec in options.network}
    trunks = [LazyClassifier(spec, PREPROCESS) for spec in options.trunk]
    for model in [*networks.values(), *trunks]:
        model.classifier.model.to(memory_format=torch.channels_last)
    groups = studies(networks, trunks, options.out / "edits", options.steps)
    part, parts = (int(number) for number in options.part.split("/"))
    chosen = [arm for name in options.study or groups for arm in groups[name]]
    places = range(min(options.limit, len(order) - options.first, max(arm.count for arm in chosen)))
    labels = _labels(options.classes, samples.classes)
    photos = []
    for place in places:
        sample = samples[order[options.first + place]]
        path = samples.paths[order[options.first + place]]
        photos.append(Photo(path.name, place, sample.image, labels[path.parent.name]))
    mine = [photo for photo in photos if photo.place % parts == part]
    bench = Bench(networks, mine, lpips_of(LazyClassifier(options.lpips).classifier.model) if options.lpips else None)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"records-{part}-of-{parts}.jsonl").open("a") as file:
        known = {(record["arm"], record["photo"]) for record in read_records(options.out)}
        for arm in chosen:
            missing = [p for p in mine if p.place < arm.count and (arm.name, p.name) not in known]
            missing.sort(key=lambda photo: tuple(photo.image.shape))  # those of one size are edited together
            for record in tqdm(bench.records(arm, missing, photos), desc=arm.name, total=len(missing)):
                file.write(json.dumps(record) + "\n")
                file.flush()


def _labels(classes: Path | None, folders: Sequence[str]) -> dict[str, int]:
    """Return the networks' class of each folder: its line in a file, or its own order."""
    names = [line.split()[0] for line in classes.read_text().splitlines()] if classes else [*folders]
    return {folder: names.index(folder) for folder in folders}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with one subfolder of images a class")
    parser.add_argument("out", type=Path, help="a folder for records and edits")
    parser.add_argument("--network", action="append", required=True, help="judges, and is in the loss")
    parser.add_argument("--trunk", action="append", default=[], help="in the loss alone")
    parser.add_argument("--lpips", help="a SqueezeNet 1.1, for LPIPS")
    parser.add_argument("--classes", type=Path, help="the class folders' names, one a line, in the networks' order")
    parser.add_argument("--study", action="append", help="groups of arms; all, if not given")
    parser.add_argument("--first", type=int, default=0, help="leaves out this many photos")
    parser.add_argument("--limit", type=int, default=500, help="at most this many photos an arm")
    parser.add_argument("--steps", type=int, default=60, help="of every edit but those of the study of steps")
    parser.add_argument("--part", default="0/1", help="K/N: every Nth photo, from the Kth")
    main(parser.parse_args())
