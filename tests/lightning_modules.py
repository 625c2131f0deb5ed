"""Modules and data for the Lightning tests, in whichever of the two packages, as a config file names them."""

import importlib

import torch
from recipes import colors, tiny
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from foveate.integrations.lightning import BatchCompressor, CompressOnTheFly

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class ColorImages(Dataset):
    """Images whose class is their strongest color, normalized."""

    def __init__(self, length=16, size=32, seed=0, transform=None):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(length, 3, size, size, generator=generator)
        self.labels = torch.randint(0, 3, (length,), generator=generator)
        images[torch.arange(length), self.labels] += 0.05
        self.images = (images.clamp(0, 1) * 255).byte()
        self.transform = transform or v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), int(self.labels[index])


def loader(length=16, batch=4, **settings):
    return DataLoader(ColorImages(length, **settings), batch)


def make(package):
    """The classes in terms of ``lightning.pytorch`` or ``pytorch_lightning``."""
    L = importlib.import_module(package)

    class Net(L.LightningModule):
        def __init__(self, dropout: float = 0.5):
            super().__init__()
            self.net = tiny()
            self.dropout = torch.nn.Dropout(dropout)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            loss = torch.nn.functional.cross_entropy(self.dropout(self(batch[0])), batch[1])
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.log("val_loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class Colors(Net):
        """Right by construction, on images in [0, 1]."""

        def __init__(self):
            super().__init__()
            self.net = colors()
            self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
            self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

        def forward(self, x):
            return self.net(x * self.std + self.mean)

    class Data(CompressOnTheFly, L.LightningDataModule):
        def __init__(self, batch: int = 4, compress: BatchCompressor | None = None):
            super().__init__()
            self.batch, self.compress = batch, compress

        def train_dataloader(self):
            return loader(batch=self.batch)

        val_dataloader = test_dataloader = train_dataloader

    for kind in (Net, Colors, Data):
        kind.__module__, kind.__qualname__ = __name__, f"{kind.__name__}_{package.replace('.', '_')}"
        globals()[kind.__qualname__] = kind
    return L, Net, Colors, Data


PACKAGES = {name: make(name) for name in ("lightning.pytorch", "pytorch_lightning")}
