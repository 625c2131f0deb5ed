"""``foveate calibrate``."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from foveate.cli._models import (
    build_classifier,
    build_saliency,
    controlled_prefilter,
    device_of,
    first_classifier,
    say_preprocessing,
    witness_of,
)
from foveate.cli._options import (
    Commands,
    add_formats,
    add_prefilter,
    add_preprocessing,
    add_saliency,
    codec_name,
    existing_folder,
    model_name,
    numbers,
    strength,
    witness_name,
)
from foveate.cli._output import progress_bars
from foveate.cli._samples import first_readable, readable


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="learn from images which operating points to try first, for --keep",
        description="Try every strength, scale and quality on some hundred images and write down what it did to the "
        "witnesses' answers. Labels have no part in it. Use other images than those to be reported on.",
        epilog="example: foveate calibrate PHOTOS --witness resnet18 --witness squeezenet1_1 --limit 300",
    )
    parser.add_argument("images", metavar="IMAGES", type=existing_folder, help="folder with subfolders of images")
    parser.add_argument(
        "--witness",
        type=witness_name,
        metavar="M",
        action="append",
        required=True,
        help="whose answer is kept; may be given again. For --keep robust also lpips, ms-ssim or embedding:M, which "
        "have no classes",
    )
    parser.add_argument(
        "--model", type=model_name, metavar="M", help="makes the saliency maps (default: the first witness)"
    )
    parser.add_argument("--codec", type=codec_name, default="jpeg", help="short string (default: %(default)s)")
    parser.add_argument(
        "--strength", type=numbers(strength), default=[0.0, 0.5], help="of the pre-filter, default: 0,0.5"
    )
    add_prefilter(parser)
    add_saliency(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="at most N images, spread evenly over the folders")
    parser.add_argument("--device", help="of the models, such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, default=Path("calibration.json"), help="file (default: %(default)s)")
    add_formats(parser)
    add_preprocessing(parser)
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], None]:
    """Check the options, and build the models; return the job."""
    from foveate.codecs import as_codec
    from foveate.compressor import Compressor
    from foveate.evaluation import SampleFolder
    from foveate.rate_control import RateControl

    samples = SampleFolder(args.images, args.limit, args.formats)
    codec = as_codec(args.codec)
    codec.library()
    maker = build_classifier(args.model or first_classifier(args.witness), args)
    saliency = build_saliency(args, maker.model, maker.preprocess)
    prefilter, strengths = controlled_prefilter(args, saliency)
    keep = "top1" if len(args.witness) == 1 else "robust1"  # a calibration is for any; only this takes them all
    control = RateControl([witness_of(spec, args) for spec in args.witness], keep, strengths=strengths)
    compressor = Compressor(codec, prefilter, saliency=saliency if codec.needs_saliency else None)
    control.points(compressor)  # a wrong grid is noticed now
    control.to(device_of(args.device))
    first_readable(samples)

    def job() -> None:
        say_preprocessing(args)
        with progress_bars() as show:
            calibration = control.calibrate(
                compressor,
                readable(samples),
                progress=lambda progress: show(replace(progress, total=len(samples))),
            )
        calibration.save(args.out)
        print(f"wrote {args.out}: {len(calibration.points)} operating points on {len(calibration.bits)} images")

    return job
