"""A small network that edits images in one pass, as it learned from a loss that edits by gradient have too."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foveate._files import write_bytes
from foveate.codecs.proxy import Proxy

SUFFIX = ".safetensors"
_FORMAT = "foveate editor 1"
_BLOCK = 64  # coefficients


class Editor(nn.Module):
    """Changes the coefficients of each block of a codec's transform by what they and its neighbors are.

    What it sees of a coefficient is its size in quantization steps, so it knows the quality. It moves each towards or
    away from zero by some steps. Untrained, it changes nothing.

    Args:
        width: channels inside.
        depth: of the layers that look at neighboring blocks.

    Attributes:
        networks: the names of those that it was trained for, which so are known.

    Example:
        >>> from foveate.codecs.proxy import proxy_for
        >>> proxy = proxy_for("jpeg:35")
        >>> planes = proxy.planes(torch.rand(2, 3, 40, 60))
        >>> edited = Editor()(planes, proxy, torch.tensor([0.5, 1.0]))
        >>> [bool(torch.isclose(x, y, atol=1e-3).all()) for x, y in zip(planes, edited)]
        [True, True]
    """

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.networks: tuple[str, ...] = ()
        self.from_luma = nn.Conv2d(_BLOCK, width, 1)
        self.from_chroma = nn.Conv2d(2 * _BLOCK, width, 1, bias=False)
        self.from_strength = nn.Linear(1, width, bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(width, width, 5, padding=2, groups=width),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
            )
            for _ in range(depth)
        )
        self.luma = nn.Conv2d(width, _BLOCK, 1)
        self.chroma = nn.Conv2d(width, 2 * _BLOCK, 1)
        for head in (self.luma, self.chroma):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]  # there is one

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.from_luma.weight.device

    @property
    def identity(self) -> str:
        """A digest of what a file of it holds."""
        digest = hashlib.sha256(repr((_FORMAT, self.networks)).encode())
        for name, value in self._weights().items():
            digest.update(name.encode() + value.numpy().tobytes())
        return f"editor {digest.hexdigest()[:16]}"

    def __eq__(self, other: object) -> bool:
        """Whether another editor does the same."""
        return isinstance(other, Editor) and self.identity == other.identity

    def __hash__(self) -> int:
        """Return a hash of what it does."""
        return hash(self.identity)

    def forward(self, planes: Sequence[Tensor], proxy: Proxy, strengths: Tensor) -> list[Tensor]:
        """Return edited planes.

        Args:
            planes: as from :meth:`foveate.codecs.proxy.Proxy.planes`.
            proxy: of the codec to edit for, of blocks of 8x8.
            strengths: (B,) in (0, 1].
        """
        luma, *chroma = proxy.levels(planes)
        rows, columns = proxy.subsampling
        strength = self.from_strength(strengths.to(luma).log2()[:, None])[..., None, None]
        x = self.from_luma(torch.log2(1 + luma.abs())) + strength
        if chroma:
            colors = self.from_chroma(torch.log2(1 + chroma[0].abs()))
            x = x + colors.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
        for layer in self.layers:
            x = x + layer(x)
        x = torch.relu(x)
        changes = [_change(luma, self.luma(x))]
        if chroma:
            changes.append(_change(chroma[0], self.chroma(x[..., ::rows, ::columns])))
        return [plane + change for plane, change in zip(planes, proxy.from_levels(changes), strict=True)]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().to("cpu", torch.float16) for name, value in self.state_dict().items()}

    def save(self, path: str | Path) -> None:
        """Write the weights in half precision, as safetensors."""
        about = {"width": self.from_luma.out_channels, "depth": len(self.layers), "networks": self.networks}
        metadata = {"format": _FORMAT} | {name: json.dumps(value) for name, value in about.items()}
        write_bytes(Path(path), save(self._weights(), metadata))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the editor that a file holds, in eval mode.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"models: there is no file {str(path)!r}; 'foveate fit' makes one")
        wrong = ValueError(f"models: {str(path)!r} is not an editor that 'foveate fit' made")
        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise KeyError("format")
                editor = cls(json.loads(about["width"]), json.loads(about["depth"]))
                editor.networks = tuple(json.loads(about["networks"]))
                editor.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise wrong from error
        return editor.eval().requires_grad_(False)


def _change(levels: Tensor, shift: Tensor) -> Tensor:
    """Return what to add to levels (B, C, h, w) to move each towards zero by a number of steps, but not beyond it."""
    return levels * (shift / (levels.abs() + 0.5)).clamp(-0.5, 1).neg()
