"""What all tests share: tiny models, and real data where it is to be had."""

import os
import sys
from pathlib import Path

THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2  # of several processes each has a core of its own
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # of the processes that tests start, too

import pytest  # noqa: E402
import torch  # noqa: E402

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(THREADS)

collect_ignore = ["benchmarks"]  # scripts, which import one another and what only some have

RECIPES = Path(__file__).parent / "recipes.py"
REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


def pytest_collection_modifyitems(items):
    if REALDATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason="real photos and classifiers are not part of the repository"))


@pytest.fixture
def realdata():
    return REALDATA


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def photo():
    """A uint8 (3, 61, 90) picture with edges, smooth parts and texture."""
    from foveate.demo import Scenes
    from foveate.images import as_tensor

    return as_tensor(Scenes(1)[0][0])[:, :61, :90].contiguous()


@pytest.fixture(autouse=True)
def _registries():
    """What a test registers is gone after it."""
    from foveate.codecs import CODECS
    from foveate.prefilter import FILTERS
    from foveate.rate_control import CRITERIA
    from foveate.saliency import SALIENCIES

    registries = (CODECS, FILTERS, CRITERIA, SALIENCIES)
    before = [(dict(registry._things), dict(registry._paths)) for registry in registries]
    yield
    for registry, (things, paths) in zip(registries, before, strict=True):
        registry._things, registry._paths = things, paths
