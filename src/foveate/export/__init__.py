"""Whole datasets: a folder, tar shards or a Dataset compressed into another that any tool reads.

The work is cut into parts, each of which is done completely or again, by a pool of processes or by actors of Ray. So
nothing is lost when a run is stopped: the same call continues it.
"""

from foveate.export._check import Problem
from foveate.export._choices import Engine, Kind, Others
from foveate.export._load import is_image, load
from foveate.export._manifest import Summary, manifest
from foveate.export._maps import Cached, cache_maps
from foveate.export._pack import Packed, Packing, pack
from foveate.export._run import compress_dataset
from foveate.export._verify import count_files, verify
from foveate.export._worker import RefusedError

__all__ = [
    "Cached",
    "Engine",
    "Kind",
    "Others",
    "Packed",
    "Packing",
    "Problem",
    "RefusedError",
    "Summary",
    "cache_maps",
    "compress_dataset",
    "count_files",
    "is_image",
    "load",
    "manifest",
    "pack",
    "verify",
]
