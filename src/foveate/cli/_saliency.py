"""``foveate saliency``."""

import argparse
from collections.abc import Callable
from pathlib import Path

from foveate.cli._models import build_saliency, device_of, preprocess_of_spec
from foveate.cli._options import Commands, add_preprocessing, add_saliency, add_source, model_name
from foveate.cli._output import EXPECTED, complain, progress_bars


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "saliency",
        help="the saliency maps of a dataset, in batches, into a cache",
        description="Make the maps that foveate.CachedSaliency(CACHE) serves to any transform, and 'foveate compress "
        "--cache CACHE' uses. Maps that are there already are not made again.",
        epilog="example: foveate saliency PHOTOS MAPS --model resnet18",
    )
    parser.add_argument("source", metavar="SRC", help="as for 'foveate compress'")
    add_source(parser)
    parser.add_argument("cache", metavar="CACHE", type=Path, help="folder")
    parser.add_argument(
        "--model", type=model_name, metavar="M", help="makes the maps; needed by all methods that ask a model"
    )
    add_saliency(parser)
    parser.add_argument("--batch", type=int, default=16, help="images of one size at once (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    parser.add_argument("--device", help="of the model, such as cuda (default: a GPU where there is one)")
    add_preprocessing(parser)
    parser.set_defaults(prepare=prepare)


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check the options; return the job."""
    from foveate.export import cache_maps

    preprocess = None if args.model is None else preprocess_of_spec(args.model, args)
    saliency, device = build_saliency(args, args.model, preprocess), str(device_of(args.device))

    def job() -> int:
        try:
            with progress_bars() as show:
                cached = cache_maps(
                    args.source,
                    args.cache,
                    saliency,
                    batch=args.batch,
                    workers=args.workers,
                    device=device,
                    formats=args.formats,
                    follow_links=args.follow_links,
                    timeout=args.timeout,
                    progress=show,
                )
        except EXPECTED as error:
            complain(f"foveate: error: {error}")
            return 1
        print(f"{cached.images} images have maps in {args.cache}, {cached.computed} made now")
        if cached.unreadable:
            complain(f"{cached.unreadable} files could not be read")
        return 0

    return job
