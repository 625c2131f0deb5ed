"""Conformance tests for codecs."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from foveate.codecs import CODECS, Codec, CodecError, TargetSize, as_codec, image_suffixes, read_image
from foveate.compressor import Compressor
from foveate.testing._images import noisy_image, psnr, wave_image


class CodecConformance:
    """Tests for a registered codec: subclass it and set ``codec_class``.

    To test several at once, override the fixture ``cls``.

    Attributes:
        codec_class: the codec class, tested with its default settings.
    """

    codec_class: ClassVar[type[Codec]]

    @pytest.fixture
    def cls(self) -> type[Codec]:
        """The class under test."""
        return self.codec_class

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 8), (17, 33), (61, 90), (300, 200)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_size_and_channels_survive(self, cls: Any, size: tuple[int, int], channels: int) -> None:
        """A decoded image has the size of the source, and its channels where the format has grayscale."""
        source = wave_image(*size, channels)
        decoded = cls().decode(cls().encode(source))
        assert decoded.shape == (*size, channels if cls.grayscale else 3)
        assert decoded.dtype == np.uint8

    def test_finer_is_nearer_and_larger(self, cls: Any) -> None:
        """The ladder goes from coarse to fine."""
        source = wave_image(61, 90)
        coarse, fine = cls().with_quality(cls.ladder[0]), cls().with_quality(cls.ladder[-1])
        assert len(coarse.encode(source)) < len(fine.encode(source))
        assert psnr(source, coarse.decode(coarse.encode(source))) < psnr(source, fine.decode(fine.encode(source)))

    def test_same_image_gives_same_bytes_and_is_not_touched(self, cls: Any) -> None:
        """Bytes depend on pixel values, not on memory layout."""
        source = wave_image(40, 50)
        before = source.copy()
        assert cls().encode(source) == cls().encode(np.asfortranarray(source)) == cls().encode(source[:, ::-1][:, ::-1])
        assert (source == before).all()

    def test_immutable_hashable_picklable(self, cls: Any) -> None:
        """A codec is a value."""
        codec = cls()
        assert pickle.loads(pickle.dumps(codec)) == codec
        assert len({codec, cls()}) == 1
        with pytest.raises(AttributeError):
            codec.quality = 3

    def test_short_string_round_trips(self, cls: Any) -> None:
        """A codec's short string parses back to the same codec."""
        assert as_codec(cls.name) == cls()
        for quality in cls.ladder:
            assert as_codec(str(cls().with_quality(quality))) == cls().with_quality(quality)
        assert [as_codec(f"{cls.name}:{q:g}").quality for q in cls.ladder] == list(cls().qualities())
        assert as_codec(cls().family) == cls()

    def test_it_is_registered_and_its_files_are_read(self, cls: Any) -> None:
        """Its names and file extensions lead to it."""
        codec = cls()
        assert CODECS[cls.name] is cls
        assert codec.suffix in cls.suffixes()
        assert set(cls.suffixes()) <= image_suffixes()
        source = wave_image(40, 50)
        image = read_image(codec.encode(source), codec.suffix)
        assert image.shape == (3, 40, 50)
        assert psnr(source, image.permute(1, 2, 0).numpy()) > 18

    @pytest.mark.parametrize("data", [b"", b"not an image", bytes(1000)])
    def test_an_alien_bitstream_is_a_codec_error(self, cls: Any, data: bytes) -> None:
        """Data in another format raises a CodecError."""
        with pytest.raises(CodecError):
            cls().decode(data)

    def test_a_truncated_bitstream_is_a_codec_error(self, cls: Any) -> None:
        """Truncated data is rejected, not decoded in part."""
        data = cls().encode(wave_image(61, 90))
        for keep in (3, len(data) // 4, len(data) // 2, len(data) - min(40, len(data) // 8)):
            with pytest.raises(CodecError, match="bytes"):
                cls().decode(data[:keep])

    def test_the_scale_goes_from_coarse_to_fine(self, cls: Any) -> None:
        """``coarser`` and ``finer`` move along the scale, which includes the ladder."""
        steps = [cls.scale.index(q) for q in cls.ladder]
        assert steps == sorted(set(steps))
        codec = cls().with_quality(cls.ladder[1])
        assert codec.finer().coarser() == codec == codec.coarser().finer()
        assert cls.scale.index(codec.finer().quality) == steps[1] + 1
        assert cls().with_quality(cls.scale[0]).coarser() is None
        assert cls().with_quality(cls.scale[-1]).finer() is None
        source = wave_image(61, 90)
        coarsest, finest = (cls().with_quality(q) for q in (cls.scale[0], cls.scale[-1]))
        assert len(coarsest.encode(source)) < len(finest.encode(source))

    def test_a_target_size_is_kept_and_used(self, cls: Any) -> None:
        """A search for a target size comes close without exceeding it."""
        source = noisy_image(122, 180)
        sizes = [len(cls().with_quality(q).encode(source)) for q in cls.ladder]
        limit = (sizes[1] + sizes[2]) // 2
        fit = TargetSize(bytes=limit).fit(cls(), source)
        assert fit.met
        assert len(fit.data) <= limit
        assert fit.data == fit.codec.encode(source)
        assert len(fit.data) >= sizes[1]
        assert TargetSize(bpp=8 * limit / source[..., 0].size).fit(cls(), source) == fit

    def test_a_floor_above_the_target_is_reported(self, cls: Any) -> None:
        """If even the coarsest quality is too large, it is returned and marked."""
        fit = TargetSize(bytes=5).fit(cls(), wave_image(61, 90))
        assert not fit.met
        assert fit.codec.quality == cls.scale[0]

    def test_threads_give_the_same_bytes(self, cls: Any) -> None:
        """Calls share no state."""
        sources = [np.roll(wave_image(40, 50), k, 1) for k in range(6)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(cls().encode, sources)) == [cls().encode(source) for source in sources]

    def test_the_library_is_named(self, cls: Any) -> None:
        """Results name the version of the encoder."""
        assert any(letter.isdigit() for letter in cls.library())

    def test_a_map_without_use_is_refused(self, cls: Any) -> None:
        """A saliency map is never silently ignored."""
        with pytest.raises(ValueError, match="no use for a map"):
            cls().encode(wave_image(20, 20), np.zeros((2, 2), np.float32))

    def test_grayscale_comes_back_gray_from_the_compressor(self, cls: Any) -> None:
        """A compressor returns as many channels as it got."""
        gray = torch.from_numpy(wave_image(40, 50, 1)).permute(2, 0, 1)
        compressor = Compressor(cls())
        decoded = compressor.decode(compressor.encode([gray]))[0]
        assert decoded.shape == gray.shape
        assert psnr(gray.numpy(), decoded.numpy()) > 25

    def test_no_metadata_is_stored(self, cls: Any) -> None:
        """The bitstream holds only the image."""
        data = cls().encode(wave_image(61, 90))
        assert not any(word in data for word in (b"Exif", b"ICC_PROFILE", b"xmp", b"x265"))

    @pytest.mark.parametrize(
        ("image", "error", "words"),
        [
            ([[1]], TypeError, "numpy array"),
            (np.zeros((4, 4, 3), np.float32), TypeError, "uint8"),
            (np.zeros((4, 4), np.uint8), ValueError, "shape"),
            (np.zeros((4, 4, 4), np.uint8), ValueError, "shape"),
            (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
            (np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (9000, 9000, 3), (0, 0, 0)), ValueError, "tile"),
        ],
    )
    def test_what_is_not_an_image_is_refused(self, cls: Any, image: Any, error: type[Exception], words: str) -> None:
        """Errors name the argument and the cure."""
        with pytest.raises(error, match=words):
            cls().encode(image)
