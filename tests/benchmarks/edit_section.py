"""Write RESULTS.md's figures on edits from what bench_preedit.py recorded: nothing in that section is typed by hand.

    python tests/benchmarks/edit_section.py OUT RESULTS.md

replaces what stands in RESULTS.md between ``<!-- edits -->`` and ``<!-- /edits -->``. Bytes saved at equal KL are those
that an arm needs less than the cheapest scale and quality of the codec alone from which the judge's answers are as far
from its clean answers; intervals are of a paired bootstrap over the photos.
"""

import json
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from results_section import percent, row

from foveate.evaluation._bootstrap import Bootstrap, interval
from foveate.evaluation.curves import saved_or_beyond
from foveate.evaluation.report import span

Record = dict[str, Any]
Value = Callable[[Record], float | None]
Floats = npt.NDArray[np.float64]

CONTROLS = {
    "pixels": "the same for pixel error",
    "ms_ssim": "the same for MS-SSIM",
    "untrained": "the same for untrained networks",
    "features": "the same for features alone",
    "answers": "the same for answers alone",
    "1 of the networks in the loss": "one network",
    "2 of the networks in the loss": "two networks",
    "3 of the networks in the loss": "three networks",
    "10 steps": "10 steps",
    "30 steps": "30 steps",
    "100 steps": "100 steps",
    "edited for JPEG": "the edit for JPEG",
    "edited for WebP": "the edit for WebP",
    "33 and 28 dB by own map": "33 dB in the salient part, 28 dB elsewhere",
    "33 and 28 dB by other image map": "the same by another image's map",
    "33 and 28 dB by center map": "the same by a center-weighted map",
}
_LEAST = 40
"""Photos that an arm of one network alone has at least."""
BLENDS = {
    "blend by own map": "the blend under Grad-CAM",
    "blend by center map": "the blend under a center-weighted map",
}


def read_records(folder: Path) -> Iterator[Record]:
    """Yield what the files ``records-*.jsonl`` of a folder, and those that xz packed, hold."""
    for path in sorted(folder.glob("records-*.jsonl*")):
        with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
            yield from map(json.loads, file)


class Records:
    """What was recorded, by arm and photo."""

    def __init__(self, folder: Path) -> None:
        self.by_arm: dict[str, dict[str, Record]] = {}
        for record in read_records(folder):
            self.by_arm.setdefault(record["arm"], {})[record["photo"]] = record
        self.judges = list(next(iter(next(iter(self.by_arm.values())).values()))["judges"])

    def arms(self, *starts: str) -> list[str]:
        """Return the names of the arms that start so."""
        return [name for name in self.by_arm if name.startswith(starts)]

    def photos(self, arms: Iterable[str], value: Value) -> list[str]:
        """Return the photos that all arms have with a value."""
        sets = [{photo for photo, r in self.by_arm[arm].items() if value(r) is not None} for arm in arms]
        return sorted(set.intersection(*sets))

    def mean(self, arm: str, value: Value, references: Sequence[str]) -> float:
        """Return an arm's mean over the photos that it and the references have in common."""
        values = [
            x for photo in self.photos([arm, *references], value) if (x := value(self.by_arm[arm][photo])) is not None
        ]
        return sum(values) / len(values)

    def saved(self, arms: Sequence[str], references: Sequence[str], value: Value, *, divergence: bool) -> Floats:
        """Return what arms save against the curve of the references, (1 + resamples, arms); the first row is measured.

        Args:
            arms: on the photos that they and the references have in common.
            references: the points of a curve.
            value: of a record.
            divergence: the mean value is better if lower, and compared by its logarithm.
        """
        names = [*arms, *references]
        photos = self.photos(names, value)
        rates = torch.tensor([[float(self.by_arm[name][photo]["bytes"]) for photo in photos] for name in names])
        values = torch.tensor([[value(self.by_arm[name][photo]) for photo in photos] for name in names])
        draws = Bootstrap(len(photos))
        means = [np.concatenate([x.double().mean(1)[None].numpy(), draws.means(x)]) for x in (rates, values)]
        accuracies = -np.log(means[1]) if divergence else means[1]
        curve = slice(len(arms), None)
        return np.array(
            [
                [saved_or_beyond(rate[curve], accuracy[curve], rate[k], accuracy[k]) for k in range(len(arms))]
                for rate, accuracy in zip(means[0], accuracies, strict=True)
            ]
        )


def judged(judge: str, key: str) -> Value:
    """Return the reader of a judge's figure."""
    return lambda record: record["judges"][judge].get(key)


def against(edit: Floats, control: Floats) -> Floats:
    """Return what an edit saves against a control, from what both save against one curve."""
    with np.errstate(invalid="ignore"):  # where the control is beyond the curve, the edit saves or costs without bound
        return np.where(np.isfinite(control), 1 - (1 - edit) / (1 - control), -control)


def share(savings: Floats) -> str:
    """Return a saving with its interval: bold where all of it is on one side."""
    if not np.isfinite(savings[0]):
        return "outside the curve"
    ends = interval(savings[1:])
    text = f"{percent(savings[0])} ({span(ends)})"
    sure = (ends[0] is not None and ends[0] > 0) or (ends[1] is not None and ends[1] < 0)
    return f"**{text}**" if sure else text


def section(records: Records) -> str:
    """Return the section as Markdown."""
    lines: list[str] = []
    for codec in ("jpeg", "webp"):
        lines += _by_point(records, codec)
        lines += _controls(records, codec)
    lines += _kept(records)
    return "\n".join(lines).strip()


def _known(records: Records, codec: str) -> list[str]:
    return records.arms(f"all in the loss, {codec}:")


def _by_point(records: Records, codec: str) -> list[str]:
    plain, known = records.arms(f"plain, {codec}:"), _known(records, codec)
    if not plain or not known:
        return []
    full_size = [arm for arm in plain if arm.endswith("scale 1")]
    heads = ["bytes", "judge", "saved at equal KL", "against full size alone", "at equal agreement", "**left out**"]
    lines = ["", row([f"edit for {codec.upper()}", *heads]), "|---|--:|---|" + "--:|" * 4]
    for arm in known:
        point = arm.partition(", ")[2]
        n = len(records.photos([*plain, arm], judged(records.judges[0], "kl")))
        size = f"{records.mean(arm, lambda record: record['bytes'], plain):,.0f}"
        for place, judge in enumerate(records.judges):
            kl, same = judged(judge, "kl"), judged(judge, "same")
            agreement = share(records.saved([arm], plain, same, divergence=False)[:, 0])
            left_out = f"without {judge}, {point}"
            cells = [
                share(records.saved([arm], plain, kl, divergence=True)[:, 0]),
                share(records.saved([arm], full_size, kl, divergence=True)[:, 0]),
                f"{agreement}, of {100 * records.mean(arm, same, plain):.0f} %",
                "–",
            ]
            if left_out in records.by_arm:
                savings = records.saved([left_out], plain, kl, divergence=True)[:, 0]
                cells[-1] = f"{share(savings)}, n = {len(records.photos([left_out, *plain], kl))}"
            lines.append(row([*(("", "") if place else (f"{point}, n = {n}", size)), judge, *cells]))
    return lines


def _controls(records: Records, codec: str) -> list[str]:
    known, plain = _known(records, codec), records.arms(f"plain, {codec}:")
    if not known or not plain:
        return []
    point = known[0].partition(", ")[2]
    heads = ["", row([f"Bytes saved by the edit, {point}, at equal KL, against", *records.judges])]
    heads.append("|---|" + "--:|" * len(records.judges))
    lines: list[str] = []
    alone = {
        start: f"{start.partition(' ')[0]} alone"
        for arm in records.arms("")
        if _alone(records, arm) and arm.endswith(point)
        for start in [arm.partition(", ")[0]]
    }
    for start, words in (CONTROLS | alone).items():
        control = f"{start}, {point}"
        if control not in records.by_arm:
            continue
        cells = []
        for judge in records.judges:
            savings = records.saved([known[0], control], plain, judged(judge, "kl"), divergence=True)
            cells.append(share(against(savings[:, 0], savings[:, 1])))
        lines.append(row([words, *cells]))
        cells = []
        for judge in records.judges:
            left_out = f"without {judge}, {point}"
            if left_out in records.by_arm and start in ("pixels", "ms_ssim", "untrained"):
                savings = records.saved([left_out, control], plain, judged(judge, "kl"), divergence=True)
                cells.append(share(against(savings[:, 0], savings[:, 1])))
        if cells:
            lines.append(row([f"{words}, the network **left out** of the edit", *cells]))
    for start, words in BLENDS.items():
        blend = [arm for arm in records.arms(start) if f", {codec}:" in arm]
        if blend:
            cells = [
                share(records.saved(known[:1], blend, judged(judge, "kl"), divergence=True)[:, 0])
                for judge in records.judges
            ]
            lines.append(row([words, *cells]))
            left_out = [f"without {judge}, {point}" for judge in records.judges]
            if set(left_out) <= set(records.by_arm):
                cells = [
                    share(records.saved([arm], blend, judged(judge, "kl"), divergence=True)[:, 0])
                    for arm, judge in zip(left_out, records.judges, strict=True)
                ]
                lines.append(row([f"{words}, the network **left out** of the edit", *cells]))
    return heads + lines if lines else []


def _alone(records: Records, start: str) -> bool:
    """Whether an arm is an edit for one network alone, of photos enough."""
    return "alone in the loss" in start and len(records.by_arm[start]) >= _LEAST


def _kept(records: Records) -> list[str]:
    """What else is kept or lost: against the label, in a copy, to other measures."""
    known, plain = _known(records, "jpeg"), records.arms("plain, jpeg:")
    if not known or not plain:
        return []
    point = known[0].partition(", ")[2]
    lines = ["", row([f"Bytes saved by the edit, {point}, at equal", *records.judges])]
    lines.append("|---|" + "--:|" * len(records.judges))
    for key, words, divergence in (
        ("right", "top-1 against the label", False),
        ("kl of a copy", "KL of a copy (0.8 of the side, JPEG 75)", True),
    ):
        cells = [
            share(records.saved(known[:1], plain, judged(judge, key), divergence=divergence)[:, 0])
            for judge in records.judges
        ]
        lines.append(row([words, *cells]))
    fidelity = []
    for key, words in (("ms_ssim", "MS-SSIM"), ("lpips", "LPIPS"), ("psnr", "PSNR")):

        def loss(record: Record, key: str = key) -> float | None:
            if key not in record:
                return None
            return {"ms_ssim": 1 - record[key], "lpips": record[key], "psnr": 10 ** (-record[key] / 10)}[key]

        if records.photos(known[:1], loss):
            savings = records.saved(known[:1], plain, loss, divergence=True)[:, 0]
            mean = records.mean(known[0], loss, plain)
            shown = {"ms_ssim": f"{1 - mean:.3f}", "lpips": f"{mean:.3f}", "psnr": f"{-10 * np.log10(mean):.1f} dB"}[
                key
            ]
            fidelity.append(f"{words} {shown}, {share(savings)}")
    if fidelity:
        lines += ["", f"By other measures the edit has, and saves at equal values: {'; '.join(fidelity)}."]
    seconds = records.mean(known[0], lambda r: r["seconds"], plain)
    lines += ["", f"An edit took {seconds:.1f} s a photo on one core of a busy machine."]
    return lines


def main() -> None:
    """Replace the section of the file named second by what the records in the folder named first say."""
    records, page = Records(Path(sys.argv[1])), Path(sys.argv[2])
    text = page.read_text(encoding="utf-8")
    new, count = re.subn(
        r"(<!-- edits -->\n).*?(\n<!-- /edits -->)", lambda m: m[1] + section(records) + m[2], text, flags=re.S
    )
    if count != 1:
        raise SystemExit(f"{page} has {count} places for edits, expected one")
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
