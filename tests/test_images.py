"""Reading pictures: every depth of samples on its own scale, whole files only, and nobody's switch left moved."""

import io
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from foveate.codecs import CODECS, CodecError, Jpeg2000
from foveate.evaluation import PhotoFolder
from foveate.evaluation.photos import as_photos
from foveate.images import as_tensor, check_tensor, frames, read, render, strictly

RAMP = np.linspace(0, 65535, 15 * 20).round().astype(np.uint16).reshape(15, 20)
RIGHT = (RAMP.astype(np.int64) * 255 + 32767) // 65535


def saved(picture, format, **settings):
    stream = io.BytesIO()
    picture.save(stream, format, **settings)
    return stream.getvalue()


def sixteen(array=RAMP):
    return Image.frombytes("I;16", array.shape[::-1], array.astype("<u2").tobytes())


def tiff(samples, bits=16, photometric=1, sample_format=1, order="<"):
    """An uncompressed TIFF in one strip, by its specification."""
    height, width = samples.shape
    if bits == 12:
        pairs = samples.reshape(-1, 2).astype(int)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
        data = packed.astype(np.uint8).tobytes()
    else:
        data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 4, height), (279, 4, len(data)), (339, 3, sample_format),
    ]  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    entries = [struct.pack(order + ("HHIHH" if kind == 3 else "HHII"), tag, kind, 1, value, *([0] if kind == 3 else []))
               for tag, kind, value in tags]  # fmt: skip
    return head + data + struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4)


def fits(samples):
    cards = [
        "SIMPLE  = T",
        "BITPIX  = 16",
        "NAXIS   = 2",
        f"NAXIS1  = {samples.shape[1]}",
        f"NAXIS2  = {samples.shape[0]}",
        "END",
    ]
    head = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    return head + samples.astype(">i2").tobytes().ljust(2880, b"\0")


FILES = {
    "PNG": lambda: saved(sixteen(), "PNG"),
    "TIFF": lambda: saved(sixteen(), "TIFF"),
    "TIFF, LZW": lambda: saved(sixteen(), "TIFF", compression="tiff_lzw"),
    "TIFF, big-endian": lambda: tiff(RAMP, order=">"),
    "TIFF, 12 bits": lambda: tiff(RAMP >> 4, 12),
    "TIFF, white is 0": lambda: tiff(65535 - RAMP, photometric=0),
    "TIFF, white is 0, 8 bits": lambda: tiff((255 - RIGHT).astype(np.uint8), 8, photometric=0),
    "JPEG 2000": lambda: saved(sixteen(), "JPEG2000"),
    "PGM": lambda: b"P5 20 15 65535\n" + RAMP.astype(">u2").tobytes(),
    "PGM of 12 bits": lambda: b"P5 20 15 4095\n" + (RAMP >> 4).astype(">u2").tobytes(),
    "plain PGM": lambda: b"P2 20 15 65535\n" + " ".join(map(str, RAMP.ravel())).encode(),
}  # fmt: skip


class TestDepth:
    @pytest.mark.parametrize("name", FILES)
    def test_grey_samples_of_more_than_8_bits_are_scaled(self, name):
        for grey in (True, False):
            pixels = read(FILES[name](), grey=grey)
            assert pixels.shape == (1 if grey else 3, 15, 20)
            error = np.abs(pixels.numpy() - RIGHT).max()
            assert error <= (1 if "12" in name else 0)

    @pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
    def test_in_memory(self, mode):
        order = {"I;16B": ">", "I;16N": "="}.get(mode, "<")
        picture = Image.frombytes(mode, (20, 15), RAMP.astype(f"{order}u2").tobytes())
        before = picture.tobytes()
        assert (np.asarray(render(picture, grey=True)) == RIGHT).all()
        assert render(picture).mode == "RGB"
        assert (picture.mode, picture.tobytes()) == (mode, before)

    def test_a_transparent_grey_is_white(self):
        pixels = read(saved(sixteen(), "PNG", transparency=int(RAMP[3, 4])), grey=True)[0].numpy()
        wanted = RIGHT.copy()
        wanted[3, 4] = 255
        assert (pixels == wanted).all()

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_transparent_grey_of_few_bits_is_white(self, bits):
        """By the specification of PNG the key is a sample of the file, of so many bits."""
        top = 2**bits - 1
        samples = np.arange(32).reshape(4, 8) % (top + 1)
        packed = (samples[..., None] >> np.arange(bits)[::-1] & 1).reshape(4, -1)

        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in packed.astype(np.uint8))
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 4, bits, 0, 0, 0, 0))
        png += chunk(b"tRNS", struct.pack(">H", 1)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        wanted = np.where(samples == 1, 255, samples * 255 // top)
        assert (read(png).numpy() == wanted).all()

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (lambda: tiff(RAMP.astype(np.int16), sample_format=2), "signed samples"),
            (lambda: tiff((RIGHT - 128).astype(np.int8), 8, sample_format=2), "signed samples"),
            (lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "mode F of TIFF"),
            (lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "PPM"), "mode F of PPM"),
            (lambda: fits(RAMP.astype(np.int16)), "mode I;16 of FITS"),
        ],
    )
    def test_a_range_that_is_not_known_is_refused(self, data, words):
        with pytest.raises(ValueError, match=words):
            read(data(), formats=["FITS"])

    def test_a_transparent_colour_of_16_bits_is_refused(self):
        imagecodecs = pytest.importorskip("imagecodecs")
        data = imagecodecs.png_encode(np.stack([RAMP] * 3, -1))
        assert np.abs(read(data).numpy() - RIGHT).max() <= 1  # Pillow gives the upper 8 bits
        key = b"tRNS" + struct.pack(">HHH", 0x12FF, 0x12FF, 0x12FF)
        at = data.index(b"IDAT") - 4
        data = data[:at] + struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)) + data[at:]
        with pytest.raises(ValueError, match="16 bits, of which Pillow keeps 8; save it with an alpha channel"):
            read(data)

    @pytest.mark.parametrize(
        ("mode", "cure"),
        [("I;16", "render"), ("RGBA", "render"), ("P", "render"), ("I", "scale them"), ("F", "scale them")],
    )
    def test_the_cure_in_memory_is_one(self, mode, cure):
        with pytest.raises(ValueError, match=f"photo: .* got {mode}; .*{cure}"):
            as_tensor(Image.new(mode, (5, 4)), "photo")
        if cure == "render":
            assert as_tensor(render(Image.new(mode, (5, 4)))).shape == (3, 4, 5)

    def test_a_codec_does_not_clip_either(self):
        pixels = Jpeg2000().decode(saved(sixteen(), "JPEG2000"))
        assert (pixels[..., 0] == RIGHT).all()


class TestChannels:
    @pytest.mark.parametrize(("channels", "name"), [(4, "RGBA"), (2, "LA")])
    def test_alpha_is_named(self, channels, name):
        pixels = torch.zeros(channels, 5, 6)
        with pytest.raises(ValueError, match=rf"images: .*if that is {name}, leave out .*\[\.\.\., :-1, :, :\]"):
            check_tensor(pixels)
        check_tensor(pixels.expand(3, channels, 5, 6)[..., : (3 if channels == 4 else 1), :, :])
        with pytest.raises(ValueError, match=rf"photo: .*if that is {name}, leave out .*\[\.\.\., :-1\]"):
            as_tensor(np.zeros((5, 6, channels), np.uint8), "photo")

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
    def test_other_dtypes_are_refused_by_name(self, dtype):
        with pytest.raises(TypeError, match="photo: expected dtype uint8"):
            as_tensor(torch.zeros(3, 4, 4).to(dtype), "photo")

    def test_a_sparse_tensor_is_refused_by_name(self):
        with pytest.raises(TypeError, match="photo: expected a dense tensor"):
            as_tensor(torch.zeros(3, 4, 4).to_sparse(), "photo")


class TestFrames:
    def test_are_counted_and_the_first_is_read(self):
        pictures = [Image.new("RGB", (9, 7), colour) for colour in ("red", "green", "blue")]
        for format in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"):
            data = saved(pictures[0], format, save_all=True, append_images=pictures[1:])
            assert frames(data) == 3, format
            assert (read(data)[0].float().mean(), read(data)[2].float().mean()) == pytest.approx((255, 0), abs=4)
            assert frames(saved(pictures[0], format)) == 1


class TestWholeFiles:
    @pytest.fixture(params=[False, True])
    def flag(self, request, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)
        return request.param

    NOISE = np.random.default_rng(0).integers(0, 256, (37, 41, 3)).astype(np.uint8)

    @pytest.mark.parametrize(
        "format",
        [
            "AVIF",
            "BMP",
            "GIF",
            "ICO",
            "IM",
            "JPEG",
            "JPEG2000",
            "MPO",
            "PCX",
            "PNG",
            "PPM",
            "SGI",
            "TGA",
            "TIFF",
            "WEBP",
        ],
    )
    def test_half_a_file_is_no_picture(self, format, flag):
        data, more = saved(Image.fromarray(self.NOISE), format), [format]
        whole = read(data, formats=more)
        for cut in (1, 2, 5, 10, len(data) // 4, len(data) // 2, 3 * len(data) // 4):
            try:
                pixels = read(data[:-cut], formats=more)
            except (OSError, ValueError, SyntaxError, EOFError):
                continue
            assert pixels.equal(whole), cut  # what was cut off is no part of the picture
        with pytest.raises((OSError, ValueError, SyntaxError, EOFError)):
            read(data[: len(data) // 2], formats=more)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    @pytest.mark.parametrize("cls", CODECS.values(), ids=list(CODECS))
    def test_half_a_bitstream_is_none(self, cls, flag):
        data = cls().encode(self.NOISE)
        for keep in (len(data) // 4, len(data) // 2, len(data) - 40):
            with pytest.raises(CodecError):
                cls().decode(data[:keep])
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_threads(self, flag):
        data = saved(Image.fromarray(self.NOISE), "JPEG")
        whole = read(data)

        def job(number):
            if number % 3:
                return read(data).equal(whole)
            with pytest.raises(OSError, match="truncated"):
                read(data[: len(data) // 2])
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(job, range(300)))
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_the_flag_is_off_until_the_last_is_done(self, flag):
        inside, leave = threading.Event(), threading.Event()

        def first():
            with strictly():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=first)
        thread.start()
        inside.wait(10)
        with strictly():
            pass
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        leave.set()
        thread.join()
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_switched_on_meanwhile_it_stays_on(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
        with strictly():
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            with strictly():
                assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True

    def test_a_process_forked_meanwhile_has_it_as_the_user_left_it(self, flag):
        with strictly():
            child = os.fork()
            if child == 0:
                os._exit(0 if ImageFile.LOAD_TRUNCATED_IMAGES is flag else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestLabels:
    """Of what is evaluated: a class number, or no evaluation."""

    @pytest.mark.parametrize("label", [1, True, np.uint8(1), np.True_, torch.tensor(1)])
    def test_integers_of_every_kind(self, label):
        photo = as_photos([(torch.zeros(3, 5, 6), label)])[0]
        assert (photo.label, type(photo.label)) == (1, int)

    @pytest.mark.parametrize("label", [-1, 0.7, 1.0, None, "1", torch.tensor(0.7), {"class": 1}])
    def test_others_are_refused(self, label):
        with pytest.raises(ValueError, match="label of picture 0: expected an integer of at least 0, got"):
            as_photos([(torch.zeros(3, 5, 6), label)])[0]

    def test_a_batch_of_float_labels_is_refused(self):
        batches = torch.utils.data.DataLoader([(torch.zeros(3, 5, 6), 0.7)] * 2, batch_size=2)
        with pytest.raises(ValueError, match="label of picture 0: expected an integer"):
            list(as_photos(batches))

    @pytest.mark.parametrize("limit", [0, 1.5, True])
    def test_a_limit_that_is_none(self, tmp_path, limit):
        (tmp_path / "a").mkdir()
        Image.new("L", (5, 4)).save(tmp_path / "a" / "b.png")
        assert len(PhotoFolder(tmp_path, np.int64(1))) == 1
        with pytest.raises(ValueError, match="limit: expected an integer of at least 1"):
            PhotoFolder(tmp_path, limit)
