"""Whole datasets: a folder, tar shards or a Dataset compressed into another that any tool reads.

The work is cut into parts that are done wholly or anew, by a pool of processes or by actors of Ray, so nothing is lost
when a run is stopped: the same call goes on.
"""

from foveate.export._check import Problem
from foveate.export._load import is_picture, load
from foveate.export._manifest import Summary, manifest
from foveate.export._maps import Cached, cache_maps
from foveate.export._run import compress_dataset
from foveate.export._sources import SUFFIXES
from foveate.export._verify import count_files, verify
from foveate.export._worker import RefusedError, Report

__all__ = [
    "SUFFIXES",
    "Cached",
    "Problem",
    "RefusedError",
    "Report",
    "Summary",
    "cache_maps",
    "compress_dataset",
    "count_files",
    "is_picture",
    "load",
    "manifest",
    "verify",
]
