"""``foveate compress``."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli._models import (
    build_prefilter,
    build_saliency,
    device_of,
    edits,
    preprocess_of_spec,
    say_preprocessing,
    witness_of,
)
from foveate.cli._options import (
    Commands,
    add_prefilter,
    add_preprocessing,
    add_saliency,
    add_source,
    codec_name,
    existing_file,
    keep_name,
    model_name,
    number,
    numbers,
    share,
    strength,
    witness_name,
)
from foveate.cli._output import EXPECTED, complain, progress_bars
from foveate.cli._picture import codec_of, is_picture, picture_job

if TYPE_CHECKING:
    from foveate.codecs import Codec
    from foveate.compressor import Compressor
    from foveate.export import Summary
    from foveate.rate_control import RateControl
    from foveate.saliency import Saliency


_OF_WEBDATASET = frozenset(("jpg", "jpeg", "png", "webp", "jp2", "bmp", "gif", "tif", "tiff"))
"""The endings of images that WebDataset knows: Pillow's of some years ago."""
_WASTEFUL = 1.25
"""How much more than its bytes files may take on a disk before shards are advised."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compress",
        help="a picture, or a whole dataset, into a smaller one that any tool reads",
        description="Compress a picture, a folder of images, tar shards or a saved Hugging Face dataset, here or "
        "behind a URL. The source is never written to; a run that was stopped goes on with the same command.",
        epilog="example: foveate compress PHOTOS SMALL --codec webp --keep same --witness resnet18",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a picture, - for one from standard input, folder, .tar, folder of .tar, or URL (s3://...)",
    )
    parser.add_argument(
        "target",
        metavar="DST",
        help="for a picture: a new file, or - for standard output; else a new folder, or an earlier run's, or a URL",
    )
    _add_point(parser)
    _add_output(parser)
    _add_machine(parser)
    add_source(parser)
    add_preprocessing(parser)
    parser.set_defaults(prepare=prepare)


def _add_point(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("operating point", "one for all images, or with --keep one for each")
    group.add_argument(
        "--codec",
        type=codec_name,
        help="short string, such as jpeg:40 (default: webp, or by the ending of a picture DST)",
    )
    group.add_argument("--quality", type=number, help="of the codec, in its own units; see 'foveate codecs'")
    group.add_argument("--model", type=model_name, metavar="M", help="makes the saliency maps (default: no pre-filter)")
    group.add_argument(
        "--strength",
        type=numbers(strength),
        help="of the pre-filter, 0 to 1; with --keep several to choose from (default: 0.5 with --model or --saliency, "
        "else 0)",
    )
    group.add_argument("--scale", type=share, default=1.0, help="stored side over source side (default: 1)")
    add_prefilter(parser)
    add_saliency(parser, default=None)
    group.add_argument(
        "--keep",
        type=keep_name,
        metavar="CRITERIA",
        help="choose strength, scale and quality for each image: same, confident, safe; see 'foveate evaluate'",
    )
    group.add_argument(
        "--witness",
        type=witness_name,
        metavar="M",
        action="append",
        default=[],
        help="whose answer --keep keeps (default: --model)",
    )
    group.add_argument("--floor", type=number, help="coarsest quality that --keep may choose")
    group.add_argument("--calibration", type=existing_file, metavar="FILE", help="what 'foveate calibrate' learned")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output", "what is written beside compressed images, and how")
    group.add_argument(
        "--only-if-smaller", action="store_true", help="keep the source's own bytes where they are not more"
    )
    group.add_argument(
        "--others",
        choices=("copy", "skip", "refuse"),
        default="copy",
        help="what to do with what is not a readable image (default: %(default)s)",
    )
    group.add_argument(
        "--keep-names", action="store_true", help="keep the endings of the source's files, such as .jpg for WebP"
    )
    group.add_argument("--shards", action="store_true", help="write tar shards (WebDataset) instead of a tree")
    group.add_argument("--part", type=int, metavar="N", help="images in a shard, or done at a time (1000, or 64)")
    group.add_argument("--cache", type=Path, metavar="DIR", help="make the maps first, in batches, and keep them there")
    group.add_argument(
        "--moved", action="store_true", help="the source is the one that DST was made from, in another place"
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("machine", "who works, and with what")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes; 0: this one (default: one a CPU; with Ray, less one)"
    )
    group.add_argument("--device", help="of the models, such as cuda (default: cpu)")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="default: %(default)s")
    group.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="that a worker process may hold (default: its share of the machine's)",
    )
    group.add_argument("--gpus", type=float, default=0.0, help="with Ray: share of a GPU a worker (default: 0)")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check the options; return the job."""
    if is_picture(args.source):
        return _prepare_picture(args)
    compressor = _compressor(args)
    compressor.codec.library()
    device = args.device  # with Ray of other machines than this one
    if device is not None and args.engine == "local":
        device = str(device_of(device))

    def job() -> int:
        say_preprocessing(args)
        try:
            summary = _compress(args, compressor, device)
        except EXPECTED as error:  # a full disk, another run, a file that is refused, a driver that is not installed
            cure = "; the same command goes on from here" if isinstance(error, OSError) else ""
            complain(f"foveate: error: {error}{cure}")
            return 1
        print(summary)
        for line in _advice(summary, args.target):
            print(line)
        print(f"root {summary.root}")
        for name in summary.missing:
            complain(f"missing {name}")
        for reason in summary.failed:
            complain(f"failed {reason}")
        return 1 if summary.kinds.get("failed") else 0

    return job


def _advice(summary: "Summary", target: str) -> list[str]:
    """What to know about the files of an export, in a line each."""
    lines = []
    if not summary.settings["shards"] and summary.disk_bytes > _WASTEFUL * summary.bytes > 0:
        lines.append(
            f"these files take {summary.disk_bytes:,} bytes on a disk with blocks of 4 KiB; --shards packs them, and "
            "is read faster"
        )
    if len(summary.sample) > 1:
        shards = target.rstrip("/") if target.endswith(".tar") else f"{target.rstrip('/')}/*.tar"
        names = ", ".join(map(json.dumps, summary.sample))
        lines.append(
            f"read with wds.WebDataset(glob({json.dumps(shards)})).decode({_decoder(summary)}).to_tuple({names})"
        )
    return lines


def _decoder(summary: "Summary") -> str:
    """The argument of WebDataset's ``decode``, which goes by endings."""
    from foveate.codecs import image_suffixes

    ending = next((ending for ending in summary.sample if f".{ending}" in image_suffixes()), "jpg")
    if ending in _OF_WEBDATASET:
        return '"pil"'
    return f'webdataset.autodecode.handle_extension("{ending}", partial(foveate.codecs.read_image, suffix=".{ending}"))'


def _prepare_picture(args: argparse.Namespace) -> Callable[[], int]:
    """Check the options for one picture; return the job."""
    of_datasets = ("shards", "cache", "only_if_smaller", "keep_names", "moved", "part", "workers", "memory", "gpus")
    unused = [name for name in of_datasets if getattr(args, name)] + (["engine"] if args.engine != "local" else [])
    if unused:
        raise ValueError(f"--{unused[0].replace('_', '-')}: is for a dataset, and {args.source} is one picture")
    if args.codec is None:
        args.codec = codec_of(args.target)
    compressor = _compressor(args)
    compressor.codec.library()
    if args.device is not None:
        compressor.to(device_of(args.device))
    encode = picture_job(args.source, args.target, compressor, args.formats)

    def job() -> int:
        say_preprocessing(args)
        return encode()

    return job


def _compress(args: argparse.Namespace, compressor: "Compressor", device: str | None) -> "Summary":
    from foveate.export import compress_dataset

    with progress_bars() as show:
        return compress_dataset(
            args.source,
            args.target,
            compressor,
            shards=args.shards,
            others=args.others,
            only_if_smaller=args.only_if_smaller,
            keep_names=args.keep_names,
            part=args.part,
            cache=args.cache,
            workers=args.workers,
            device=device,
            engine=args.engine,
            gpus=args.gpus,
            timeout=args.timeout,
            memory=None if args.memory is None else int(args.memory * 1e9),
            formats=args.formats,
            follow_links=args.follow_links,
            moved=args.moved,
            progress=show,
        )


def _compressor(args: argparse.Namespace) -> "Compressor":
    """The compressor of an export, its models by recipe."""
    guided = args.model is not None or args.saliency is not None
    strengths = args.strength or [0.5 if guided or edits(args) else 0.0]
    codec = _codec(args, guided, strengths)  # before torch is imported

    from foveate.compressor import Compressor

    saliency = _saliency(args) if guided else None
    prefilter = None
    if max(strengths) > 0:
        prefilter = build_prefilter(args, saliency, max(strengths))
    codec_saliency = saliency if codec.needs_saliency else None
    if args.keep is not None:
        return Compressor(codec, prefilter, saliency=codec_saliency, control=_control(args, strengths))
    return Compressor(codec, prefilter, scale=args.scale, saliency=codec_saliency)


def _codec(args: argparse.Namespace, guided: bool, strengths: list[float]) -> "Codec":
    """The codec of an export, if the options go together."""
    from foveate.codecs import as_codec

    codec = as_codec(args.codec or "webp")
    if args.keep is None:
        if len(strengths) > 1:
            raise ValueError(f"--strength: several are for --keep to choose from, got {strengths}")
    elif args.quality is not None:
        raise ValueError("--quality: --keep chooses it")
    elif args.scale != 1:
        raise ValueError("--scale: --keep chooses it")
    elif not args.witness and args.model is None:
        raise ValueError("--keep: whose answer? give --witness or --model")
    if max(strengths) > 0 and not guided and not edits(args):
        raise ValueError("--strength: the pre-filter needs --model to make maps")
    if codec.needs_saliency and not guided:
        raise ValueError(f"--codec: {codec} needs maps; give --model to make them")
    return codec if args.quality is None else codec.with_quality(args.quality)


def _control(args: argparse.Namespace, strengths: list[float]) -> "RateControl":
    """The rate control of ``--keep``, its witnesses by recipe."""
    from foveate.rate_control import Calibration, RateControl

    return RateControl(
        [witness_of(spec, args) for spec in args.witness or [args.model]],
        args.keep,
        strengths=sorted({0.0, *strengths}),
        floor=args.floor,
        calibration=None if args.calibration is None else Calibration.load(args.calibration),
        as_stored=True,
    )


def _saliency(args: argparse.Namespace) -> "Saliency":
    return build_saliency(args, args.model, None if args.model is None else preprocess_of_spec(args.model, args))
