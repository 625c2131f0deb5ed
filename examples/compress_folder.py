"""Compress a folder of photos with and without the pre-filter, and compare bytes and answers.

    python examples/compress_folder.py                                   # generated scenes
    python examples/compress_folder.py PHOTOS OUT --model resnet18       # your own photos

Writes ordinary .jpg files that anything reads.
"""

import argparse
import tempfile
from pathlib import Path

import foveate
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.images import read
from foveate.models import Classifier, load_classifier


def compress(photos: Path, out: Path, judge: Classifier, quality: int, strength: float) -> None:
    cam = foveate.GradCam(judge.model, preprocess=judge.preprocess.without_crop())
    compressors = {
        "alone": foveate.Compressor(f"jpeg:{quality}"),
        "filtered": foveate.Compressor(f"jpeg:{quality}", foveate.Prefilter(cam, strength)),
    }
    paths = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    total, kept = dict.fromkeys(compressors, 0), dict.fromkeys(compressors, 0)
    for path in paths:
        image = read(path)
        clean = judge.logits([image]).argmax()
        for name, compressor in compressors.items():
            encoded = compressor.encode([image])
            target = (out / name / path.relative_to(photos)).with_suffix(compressor.codec.suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded[0].data)
            total[name] += len(encoded[0].data)
            kept[name] += int(judge.logits(compressor.decode(encoded)).argmax() == clean)
    for name in compressors:
        print(f"{name:9} {total[name] / len(paths):9,.0f} bytes an image, {kept[name] / len(paths):.1%} same answer")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--model", help="torchvision name, FILE.py:FUNCTION or package.module:FUNCTION")
    parser.add_argument("--quality", type=int, default=30)
    parser.add_argument("--strength", type=float, default=0.5)
    args = parser.parse_args(arguments)
    if args.photos:
        if not (args.out and args.model):
            parser.error("photos of your own need OUT and --model")
        compress(args.photos, args.out, load_classifier(args.model), args.quality, args.strength)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "photos").mkdir()
        for k, (scene, _) in enumerate(Scenes(40, seed=3)):
            scene.save(Path(folder) / "photos" / f"{k:03}.png")
        judge = Classifier("scene_net", scene_net(), PREPROCESS)
        compress(Path(folder) / "photos", Path(folder) / "out", judge, args.quality, args.strength)


if __name__ == "__main__":
    main()
