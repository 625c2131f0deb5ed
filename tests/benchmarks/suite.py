"""What Foveate costs against what a user would do without it, in one run: JSON out, and COST.md's table.

    pip install grad-cam
    python tests/benchmarks/suite.py --out bench.json [--photos DIR] [--model SPEC] [--into COST.md]

Everything runs in one process on the same images, in turn, A B A B ...; ratios are taken round by round, and medians
and quartiles are kept. Without ``--photos`` the images are generated scenes. ``--only`` runs some parts, ``--quick``
all of them at settings too small to mean anything. What cannot run here is skipped, with the reason in the JSON.
Beside the JSON lies a plot of the cost against size. Peak memory is what the kernel counts as resident; Linux only.
"""

# ruff: noqa: B023  # every call runs within its own turn of the loop that made it

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from timing import alternate, quartiles
from torch import Tensor, nn
from torchvision.transforms import v2

import foveate.transforms
from foveate import ActivationMap, CachedSaliency, Calibration, Compressor, GradCam, Prefilter, RateControl, Witness
from foveate.filters import guided_filter
from foveate.images import as_tensor
from foveate.models import Preprocess, load_classifier

EPS = 0.02


@dataclass(frozen=True)
class Settings:
    photos: list[Path]
    model: str
    preprocess: Preprocess
    crop: Preprocess | None
    repeats: int
    batches: tuple[int, ...] = (1, 16, 64)
    models: tuple[str, ...] = ("mobilenet_v2", "resnet50")
    sizes: tuple[tuple[int, int], ...] = ((224, 224), (400, 500), (1080, 1920))
    sides: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    side: int = 224
    quick: bool = False

    def images(self, count: int, height: int, width: int) -> Tensor:
        """The first photos, stretched to one size: uint8 (count, 3, height, width)."""
        chosen = [self.photos[k % len(self.photos)] for k in range(count)]
        return torch.stack([as_tensor(Image.open(p).convert("RGB").resize((width, height))) for p in chosen])


def saliency(settings: Settings, device: str = "cpu") -> dict[str, Any]:
    """1. Maps against the forward pass alone, Captum by hand and pytorch-grad-cam."""
    from captum.attr import LayerGradCam

    out: dict[str, Any] = {}
    for name in settings.models:
        model = getattr(torchvision.models, name)(weights=None).eval().to(device)
        preprocess = Preprocess()
        cam, activations = GradCam(model), ActivationMap(model)
        for batch in settings.batches:
            images = settings.images(batch, settings.side, settings.side).to(device) / 255
            cam(images[:1])
            layer = model.get_submodule(cam.layer_name)
            by_hand = LayerGradCam(model, layer)

            def forward() -> None:
                with torch.inference_mode():
                    model(preprocess(images))

            def captum() -> None:
                x = preprocess(images)
                with torch.no_grad():
                    classes = model(x).argmax(1)
                by_hand.attribute(x, classes, relu_attributions=True)

            calls = {
                "forward pass": forward,
                "GradCam": lambda: cam(images),
                "ActivationMap": lambda: activations(images),
                "captum by hand": captum,
            }
            skipped = {}
            try:
                from pytorch_grad_cam import GradCAM
            except ImportError as error:
                skipped["pytorch-grad-cam"] = f"{error}; pip install grad-cam"
            else:
                grad_cam = GradCAM(model=model, target_layers=[layer])
                calls["pytorch-grad-cam"] = lambda: grad_cam(preprocess(images), None)
            repeats = settings.repeats if batch < 16 else max(2, settings.repeats // (3 if batch < 64 else 5))
            timings = alternate(calls, repeats, "forward pass", batch)
            if "pytorch-grad-cam" in calls:
                grad_cam.activations_and_grads.release()
            out[f"{name}, batch {batch}"] = timings | ({"skipped": skipped} if skipped else {})
    return out


def guided(settings: Settings) -> dict[str, Any]:
    """2. The guided filter by the image itself, radius 16, against Kornia's, OpenCV's and a copy."""
    import cv2
    from kornia.filters import guided_blur

    cv2_threads = cv2.getNumThreads()
    out: dict[str, Any] = {}
    for threads in (1, 2):
        with _threads(threads):
            cv2.setNumThreads(threads)
            for height, width in settings.sizes:
                x = settings.images(1, height, width) / 255
                eps, array = torch.full((1, 1, height, width), EPS), x[0].permute(1, 2, 0).contiguous().numpy()
                calls = {
                    "foveate": lambda: guided_filter(x, x, 16, eps),
                    "OpenCV": lambda: cv2.ximgproc.guidedFilter(array, array, 16, EPS),
                    "Kornia, separable": lambda: guided_blur(x, x, 33, EPS, separable=True),
                    "copy": x.clone,
                }
                skipped = {}
                if height * width <= 400 * 500:
                    calls["Kornia"] = lambda: guided_blur(x, x, 33, EPS)
                else:
                    skipped["Kornia"] = "minutes an image"
                large = height * width > 10**6
                timings = alternate(calls, max(2, settings.repeats // (5 if large else 2)), "foveate")
                out[f"{height}x{width}, {threads} thread{'s' * (threads > 1)}"] = timings | (
                    {"skipped": skipped} if skipped else {}
                )
    cv2.setNumThreads(cv2_threads)
    return out


def codec(settings: Settings) -> dict[str, Any]:
    """3. Pre-filter with a ready map and codec against the codec alone, 500x400, one thread."""
    images = settings.images(min(20, len(settings.photos)), 400, 500)
    maps = GradCam(settings.model, preprocess=settings.preprocess)(images)
    out: dict[str, Any] = {}
    with _threads(1):
        for name, decode in (("jpeg:50", True), ("webp:50", False)):
            plain = Compressor(name)
            filtered = Compressor(name, Prefilter(lambda x: x))

            def run(compressor: Compressor, maps: Tensor | None) -> None:
                for k in range(len(images)):
                    encoded = compressor.encode(images[k : k + 1], None if maps is None else maps[k : k + 1])
                    if decode:
                        compressor.decode(encoded)

            calls: dict[str, Callable[[], object]] = {
                "codec": lambda: run(plain, None),
                "pre-filter and codec": lambda: run(filtered, maps),
            }
            skipped = {}
            if decode:
                transform = v2.JPEG((50, 50))
                calls["torchvision JPEG"] = lambda: [transform(image) for image in images]
                try:
                    import albumentations
                except ImportError as error:
                    skipped["Albumentations"] = str(error)
                else:
                    compression = albumentations.ImageCompression(quality_range=(50, 50), p=1.0)
                    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
                    calls["Albumentations"] = lambda: [compression(image=a) for a in arrays]
            label = f"{name}, {'encode and decode' if decode else 'encode'}"
            timings = alternate(calls, settings.repeats, "codec", len(images))
            out[label] = timings | ({"skipped": skipped} if skipped else {})
    return out


class Samples(torch.utils.data.Dataset[Tensor]):
    """JPEG files, transformed."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Any]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        return self.transform(Image.open(self.paths[position]).convert("RGB"))


def epoch(settings: Settings) -> dict[str, Any]:
    """4. An epoch of a DataLoader over JPEG files, with the pre-filter on cached maps and without."""
    from foveate.export import cache_maps

    tail = [
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        cam = GradCam(settings.model, preprocess=settings.preprocess)
        cache_maps([Image.open(p).convert("RGB") for p in settings.photos], cache, cam)
        prefilter = foveate.transforms.Prefilter(Prefilter(CachedSaliency(cache)))
        batch = 2 if settings.quick else 8
        paths = settings.photos * -(-8 * batch // len(settings.photos))  # at least eight batches
        kinds = {
            "without": Samples(paths, v2.Compose([v2.PILToTensor(), *tail])),
            "with": Samples(paths, v2.Compose([v2.PILToTensor(), prefilter, *tail])),
        }
        for workers in (0, 1, 2):
            spent: dict[str, list[float]] = {kind: [] for kind in kinds}
            for turn in range(max(2, settings.repeats // 3) + 1):
                for kind, data in kinds.items():
                    with _threads(1):
                        loader = torch.utils.data.DataLoader(
                            data, batch, num_workers=workers, persistent_workers=workers > 0
                        )
                        batches = iter(loader)
                        next(batches)  # the workers' start is not the epoch's
                        began = time.perf_counter()
                        count = sum(len(batch) for batch in batches)
                        seconds = time.perf_counter() - began
                        del batches, loader
                    if turn:  # the first warms the files up
                        spent[kind].append(1e3 * seconds / max(count, 1))
            ratio = quartiles([a / b for a, b in zip(spent["with"], spent["without"], strict=True)])
            out[f"{workers} workers"] = {
                kind: {
                    "ms": quartiles(spent[kind])[1],
                    "images_per_second": round(1e3 / quartiles(spent[kind])[1], 1),
                }
                for kind in kinds
            } | {"ratio": ratio[1], "ratio_quartiles": ratio[::2], "n": len(spent["with"])}
        with _threads(1):
            for kind, data in kinds.items():
                peak = _growth(lambda: [None for _ in torch.utils.data.DataLoader(data, batch)])
                out["0 workers"][kind]["peak_MB"] = round(peak)
    return out


HOSTS = {
    "foveate": ("torch", "import foveate; foveate.Compressor; foveate.Prefilter; foveate.GradCam"),
    "foveate.transforms": ("torchvision.transforms.v2", "import foveate.transforms"),
    "foveate.integrations.albumentations": ("albumentations", "import foveate.integrations.albumentations"),
    "foveate.integrations.kornia": ("kornia.augmentation", "import foveate.integrations.kornia"),
    "foveate.integrations.lightning": ("lightning.pytorch", "import foveate.integrations.lightning"),
}


def imports(settings: Settings) -> dict[str, Any]:
    """5. What importing takes beyond the host itself, in fresh processes."""
    out: dict[str, Any] = {}
    for name, (host, statement) in HOSTS.items():
        if name != "foveate" and settings.quick:
            continue
        probe = (
            "import re, time\n"
            "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024\n"
            f"a = time.perf_counter()\nimport torch, {host}\nb = time.perf_counter()\n"
            "m = peak()\n"
            f"{statement}\nc = time.perf_counter()\n"
            "print(b - a, c - b, m, peak() - m)"
        )
        rows = []
        for _ in range(3):
            done = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True)
            if done.returncode:
                break
            rows.append([float(value) for value in done.stdout.split()[-4:]])
        if not rows:
            out[name] = {"skipped": done.stderr.strip().splitlines()[-1]}
            continue
        keys = ("host_s", "beyond_s", "host_MB", "beyond_MB")
        out[name] = {"host": host, "n": len(rows)} | {
            key: quartiles(list(column))[1] for key, column in zip(keys, zip(*rows, strict=True), strict=True)
        }
    return out


def rate_control(settings: Settings) -> dict[str, Any]:
    """6. Rate control: candidates decoded and shown to the witness, encodes and time an image."""
    images = [as_tensor(Image.open(p).convert("RGB")) for p in settings.photos]
    half = max(2, len(images) // 2)
    cam = GradCam(settings.model, preprocess=settings.preprocess)
    plain = Compressor("jpeg", Prefilter(cam))
    witness = Witness(settings.model, settings.crop)
    grid: dict[str, Any] = {"scales": (1.0,), "qualities": (20, 50)} if settings.quick else {}
    control = RateControl(witness, "kl0.3", **grid)
    calibration: Calibration = control.calibrate(plain, images[:half])
    out: dict[str, Any] = {}
    for name, chooser in (
        ("calibrated", RateControl(witness, "kl0.3", **grid, calibration=calibration)),
        ("not calibrated", control),
    ):
        compressor = Compressor("jpeg", Prefilter(cam), control=chooser)
        began = time.perf_counter()
        chosen = [c for image in images[half:] or images for c in compressor.encode([image])]
        seconds = time.perf_counter() - began
        out[name] = {
            "n": len(chosen),
            "points": len(chooser.points(plain)),
            "forwards": round(1 + sum(c.tried for c in chosen) / len(chosen), 2),  # and one of the image itself
            "encodes": round(sum(c.encodes for c in chosen) / len(chosen), 2),
            "ms": round(1e3 * seconds / len(chosen), 1),
        }
    return out


def size(settings: Settings) -> dict[str, Any]:
    """7. Time and memory against the image's size and the filter's radius."""
    out: dict[str, Any] = {}
    with _threads(1):
        for side in settings.sides:
            image = settings.images(1, side, side)
            x, maps = image / 255, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            eps = torch.full((1, 1, side, side), EPS)
            prefilter, jpeg = Prefilter(lambda x: x), Compressor("jpeg:50")
            calls = {"JPEG": lambda: jpeg.decode(jpeg.encode(image)), "pre-filter": lambda: prefilter(image, maps)}
            calls |= {f"guided filter, radius {r}": lambda r=r: guided_filter(x, x, r, eps) for r in (4, 16, 64)}
            timings = alternate(calls, settings.repeats if side < 1000 else 2, "JPEG")
            for name, call in calls.items():
                timings[name]["peak_MB"] = round(_growth(call), 2)
                timings[name]["us_per_kilopixel"] = round(1e6 * float(str(timings[name]["ms"])) / side**2, 2)
            out[f"{side}x{side}"] = timings
    return out


def cuda(settings: Settings) -> dict[str, Any]:
    """8. The same on a GPU: saliency, the filter against the memory bandwidth, a training step with the filter."""
    if not torch.cuda.is_available():
        return {"skipped": "there is no GPU here"}
    out: dict[str, Any] = {f"saliency, {k}": v for k, v in saliency(settings, "cuda").items()}
    x = settings.images(8, 1080, 1920).cuda() / 255
    eps = torch.full((8, 1, 1080, 1920), EPS, device="cuda")
    out["guided filter, 8 of 1080x1920"] = alternate(
        {"copy": x.clone, "foveate": lambda: guided_filter(x, x, 16, eps)}, settings.repeats, "copy"
    )
    model = torchvision.models.resnet50(weights=None).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batch, classes = settings.images(64, 224, 224).cuda() / 255, torch.zeros(64, dtype=torch.int64, device="cuda")
    prefilter = Prefilter(ActivationMap(model))

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()

    calls = {"training step": lambda: step(batch), "with the pre-filter": lambda: step(prefilter(batch))}
    out["ResNet-50, batch 64"] = alternate(calls, settings.repeats, "training step")
    return out


PARTS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "saliency": saliency,
    "guided": guided,
    "codec": codec,
    "epoch": epoch,
    "imports": imports,
    "rate_control": rate_control,
    "size": size,
    "cuda": cuda,
}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _growth(call: Callable[[], object]) -> float:
    """The memory that a call takes at its peak, in MB: in a child of this process, whose count begins anew."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = _peak(os.getpid())
            call()
            os.write(writing, f"{_peak(os.getpid()) - before}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        reported = pipe.read()
    os.waitpid(child, 0)
    return float(reported or "nan")


def _peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) / 1024 if peak else float("nan")


def plot(timings: dict[str, Any], path: Path) -> None:
    """Draw time and memory against pixels."""
    from matplotlib.figure import Figure

    figure = Figure((9, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    pixels = [int(name.split("x")[0]) ** 2 for name in timings]
    for axis, key, label in (
        (axes[0], "ms", "milliseconds"),
        (axes[1], "peak_MB", "peak memory beyond the image, MB"),
    ):
        for name in next(iter(timings.values())):
            axis.plot(pixels, [max(row[name][key], 0.1) for row in timings.values()], marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="pixels", ylabel=label)
        axis.grid(alpha=0.3)
    base = [timings[name]["JPEG"]["ms"] for name in timings]
    axes[0].plot(pixels, [base[-1] * p / pixels[-1] for p in pixels], "k:", lw=1, label="linear in pixels")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)


def section(results: dict[str, Any]) -> str:
    """COST.md's tables, as Markdown."""
    parts = results["parts"]
    lines = [f"{results['machine']}; medians, quartiles in brackets.", ""]
    lines += ["| what | against | ratio | goal |", "|---|---|--:|--:|"]

    def add(label: str, against: str, row: dict[str, Any], goal: str = "") -> None:
        low, high = row["ratio_quartiles"]
        lines.append(f"| {label} | {against} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}), n = {row['n']} | {goal} |")

    for name, row in parts.get("saliency", {}).items():
        goal = "" if name.endswith("batch 1") else "1.1"
        add(f"`GradCam`, {name}", "forward pass", row["GradCam"], goal)
        add(f"`ActivationMap`, {name}", "forward pass", row["ActivationMap"], goal)
        for other in ("captum by hand", "pytorch-grad-cam"):
            if other in row:
                add(f"{other}, {name}", "forward pass", row[other])
    for name, row in parts.get("guided", {}).items():
        for other in ("OpenCV", "Kornia, separable", "Kornia", "copy"):
            if other in row:
                add(
                    f"{other}: guided filter, radius 16, {name}",
                    "`guided_filter`",
                    row[other],
                    {"OpenCV": "≥ 0.5", "Kornia, separable": "≥ 5"}.get(other, ""),
                )
    for name, row in parts.get("codec", {}).items():
        add(
            f"pre-filter and {name}",
            "the codec alone",
            row["pre-filter and codec"],
            "2" if name.startswith("jpeg") else "",
        )
        for other in ("torchvision JPEG", "Albumentations"):
            if other in row:
                add(f"{other}, {name}", "the codec alone", row[other])
    for name, row in parts.get("epoch", {}).items():
        a, b = row["with"], row["without"]
        rates = " and ".join(f"{row['images_per_second']:g} images/s" for row in (a, b))
        if "peak_MB" in a:
            rates += f"; {a['peak_MB']} and {b['peak_MB']} MB at most"
        add(f"an epoch with the pre-filter, {name} ({rates})", "without", row, "1.25")
    if "imports" in parts:
        lines += ["", "| import | seconds beyond its host | host's own | MB beyond |", "|---|--:|--:|--:|"]
        for name, row in parts["imports"].items():
            if "skipped" not in row:
                host = f"{row['host_s']:.2f} ({row['host']})"
                lines.append(f"| `{name}` | {row['beyond_s']:.2f} | {host} | {row['beyond_MB']:.0f} |")
    if "rate_control" in parts:
        lines += ["", "| rate control, `kl0.3` | forward passes an image | encodes | ms |", "|---|--:|--:|--:|"]
        for name, row in parts["rate_control"].items():
            cells = f"{row['forwards']:g} | {row['encodes']:g} | {row['ms']:.0f}"
            lines.append(f"| {name}, {row['points']} points, n = {row['n']} | {cells} |")
    if "size" in parts:
        names = list(next(iter(parts["size"].values())))
        lines += ["", "| ns a pixel | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
        for side, row in parts["size"].items():
            cells = (f"{row[n]['us_per_kilopixel']:.0f}" for n in names)
            lines.append(f"| {side} | " + " | ".join(cells) + " |")
    if "skipped" in parts.get("cuda", {}):
        lines += ["", f"The comparisons on a GPU were skipped: {parts['cuda']['skipped']}."]
    return "\n".join(lines)


def main() -> None:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="a folder of JPEG files, at any depth")
    parser.add_argument("--model", default="foveate.demo:scene_net", help="whose maps are used, and the witness")
    parser.add_argument("--limit", type=int, default=64, help="photos")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, help="whose table is replaced, between <!-- cost --> and <!-- /cost -->")
    args = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    with tempfile.TemporaryDirectory() as scratch:
        if args.photos is None:
            photos = scenes(Path(scratch), min(args.limit, 4 if args.quick else 32))
        else:
            photos = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
            photos = photos[:: max(1, len(photos) // args.limit)][: args.limit]
        if not photos:
            raise SystemExit(f"{args.photos} holds no JPEG files")
        if args.model == "foveate.demo:scene_net":
            from foveate.demo import PREPROCESS

            shown = PREPROCESS, PREPROCESS
        else:
            shown = load_classifier(args.model).preprocess.without_crop(), None
        settings = Settings(photos, args.model, *shown, args.repeats)
        if args.quick:
            settings = Settings(
                photos, args.model, *shown, 2, (1, 2), ("mobilenet_v2",), ((48, 40),), (64, 96), 64, True
            )
        parts: dict[str, Any] = json.loads(args.out.read_text())["parts"] if args.only and args.out.exists() else {}
        results = {"machine": machine, "photos": len(photos), "model": args.model.rpartition("/")[2], "parts": parts}
        for name, part in PARTS.items():
            if args.only is None or name in args.only:
                print(name, flush=True)
                parts[name] = part(settings)
                results["parts"] = parts = {key: parts[key] for key in PARTS if key in parts}
                args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if "size" in parts:
        plot(parts["size"], args.out.with_suffix(".png"))
    if args.into is not None:
        text = args.into.read_text(encoding="utf-8")
        new, count = re.subn(
            r"(<!-- cost -->\n).*?(\n<!-- /cost -->)", lambda m: m[1] + section(results) + m[2], text, flags=re.S
        )
        if count != 1:
            raise SystemExit(f"{args.into} has {count} places for the table, expected one")
        args.into.write_text(new, encoding="utf-8")


def scenes(folder: Path, count: int) -> list[Path]:
    """Generated scenes as JPEG files, 500x400."""
    from foveate.demo import Scenes

    generated = Scenes(count)
    for k in range(count):
        Image.fromarray(np.asarray(generated[k][0])).resize((500, 400)).save(folder / f"{k:03}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


if __name__ == "__main__":
    main()
