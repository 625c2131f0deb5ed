"""Reading images: every sample depth on its own scale, complete files only, and Pillow's settings left alone."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from foveate.codecs import CODECS, CodecError, Jpeg2000
from foveate.evaluation import SampleFolder
from foveate.evaluation._samples import as_samples
from foveate.images import (
    FORMATS,
    MAX_BYTES,
    UNREADABLE,
    as_tensor,
    check_tensor,
    count_frames,
    is_rotated,
    read,
    render,
    strict_decoding,
)

RAMP = np.linspace(0, 65535, 15 * 20).round().astype(np.uint16).reshape(15, 20)
RIGHT = (RAMP.astype(np.int64) * 255 + 32767) // 65535


def saved(image, format, **settings):
    stream = io.BytesIO()
    image.save(stream, format, **settings)
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
    def test_gray_samples_of_more_than_8_bits_are_scaled(self, name):
        for gray in (True, False):
            pixels = read(FILES[name](), gray=gray)
            assert pixels.shape == (1 if gray else 3, 15, 20)
            error = np.abs(pixels.numpy() - RIGHT).max()
            assert error <= (1 if "12" in name else 0)

    @pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
    def test_in_memory(self, mode):
        order = {"I;16B": ">", "I;16N": "="}.get(mode, "<")
        image = Image.frombytes(mode, (20, 15), RAMP.astype(f"{order}u2").tobytes())
        before = image.tobytes()
        assert (np.asarray(render(image, gray=True)) == RIGHT).all()
        assert render(image).mode == "RGB"
        assert (image.mode, image.tobytes()) == (mode, before)

    def test_a_transparent_gray_is_white(self):
        pixels = read(saved(sixteen(), "PNG", transparency=int(RAMP[3, 4])), gray=True)[0].numpy()
        wanted = RIGHT.copy()
        wanted[3, 4] = 255
        assert (pixels == wanted).all()

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_transparent_gray_of_few_bits_is_white(self, bits):
        """By the specification of PNG the key is a sample of the file, with its number of bits."""
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

    def test_a_transparent_color_of_16_bits_is_refused(self):
        imagecodecs = pytest.importorskip("imagecodecs")
        data = imagecodecs.png_encode(np.stack([RAMP] * 3, -1))
        assert np.abs(read(data).numpy() - RIGHT).max() <= 1  # Pillow gives the upper 8 bits
        key = b"tRNS" + struct.pack(">HHH", 0x12FF, 0x12FF, 0x12FF)
        at = data.index(b"IDAT") - 4
        data = data[:at] + struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)) + data[at:]
        with pytest.raises(ValueError, match="16 bits, of which Pillow keeps only 8; save it with an alpha channel"):
            read(data)

    @pytest.mark.parametrize(
        ("mode", "cure"),
        [("I;16", "render"), ("RGBA", "render"), ("P", "render"), ("I", "scale them"), ("F", "scale them")],
    )
    def test_the_error_in_memory_names_a_cure_that_works(self, mode, cure):
        with pytest.raises(ValueError, match=f"argument: .* got {mode}; .*{cure}"):
            as_tensor(Image.new(mode, (5, 4)), "argument")
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
        with pytest.raises(ValueError, match=rf"argument: .*if that is {name}, leave out .*\[\.\.\., :-1\]"):
            as_tensor(np.zeros((5, 6, channels), np.uint8), "argument")

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
    def test_other_dtypes_are_refused_by_name(self, dtype):
        with pytest.raises(TypeError, match="argument: expected dtype uint8"):
            as_tensor(torch.zeros(3, 4, 4).to(dtype), "argument")

    def test_a_sparse_tensor_is_refused_by_name(self):
        with pytest.raises(TypeError, match="argument: expected a dense tensor"):
            as_tensor(torch.zeros(3, 4, 4).to_sparse(), "argument")


class TestFrames:
    def test_are_counted_and_the_first_is_read(self):
        images = [Image.new("RGB", (9, 7), color) for color in ("red", "green", "blue")]
        for name in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"):
            data = saved(images[0], name, save_all=True, append_images=images[1:])
            assert count_frames(data) == 3, name
            assert (read(data)[0].float().mean(), read(data)[2].float().mean()) == pytest.approx((255, 0), abs=4)
            assert count_frames(saved(images[0], name)) == 1


class TestCompleteFiles:
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
    def test_half_a_file_is_not_an_image(self, format, flag):
        data = saved(Image.fromarray(self.NOISE), format)
        complete = read(data, formats=[format])
        for cut in (1, 2, 5, 10, len(data) // 4, len(data) // 2, 3 * len(data) // 4):
            try:
                pixels = read(data[:-cut], formats=[format])
            except (OSError, ValueError, SyntaxError, EOFError):
                continue
            assert pixels.equal(complete), cut  # what was cut off is not part of the image
        with pytest.raises((OSError, ValueError, SyntaxError, EOFError)):
            read(data[: len(data) // 2], formats=[format])
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    @pytest.mark.parametrize("cls", CODECS.usable().values(), ids=list(CODECS))
    def test_half_a_bitstream_is_refused(self, cls, flag):
        data = cls().encode(self.NOISE)
        for keep in (len(data) // 4, len(data) // 2, len(data) - 40):
            with pytest.raises(CodecError):
                cls().decode(data[:keep])
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_threads(self, flag):
        data = saved(Image.fromarray(self.NOISE), "JPEG")
        complete = read(data)

        def job(number):
            if number % 3:
                return read(data).equal(complete)
            with pytest.raises(OSError, match="truncated"):
                read(data[: len(data) // 2])
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(job, range(300)))
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_the_setting_is_off_until_the_last_thread_is_done(self, flag):
        inside, leave = threading.Event(), threading.Event()

        def first():
            with strict_decoding():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=first)
        thread.start()
        inside.wait(10)
        with strict_decoding():
            pass
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        leave.set()
        thread.join()
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag

    def test_switched_on_meanwhile_it_stays_on(self, monkeypatch):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
        with strict_decoding():
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            with strict_decoding():
                assert ImageFile.LOAD_TRUNCATED_IMAGES is False
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True

    def test_a_process_forked_meanwhile_has_it_as_the_user_left_it(self, flag):
        with strict_decoding():
            child = os.fork()
            if child == 0:
                os._exit(0 if ImageFile.LOAD_TRUNCATED_IMAGES is flag else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestLabels:
    """The label of an evaluated image must be a class number."""

    @pytest.mark.parametrize("label", [1, True, np.uint8(1), np.True_, torch.tensor(1)])
    def test_integers_of_every_kind(self, label):
        sample = as_samples([(torch.zeros(3, 5, 6), label)])[0]
        assert (sample.label, type(sample.label)) == (1, int)

    @pytest.mark.parametrize("label", [-1, 0.7, 1.0, None, "1", torch.tensor(0.7), {"class": 1}])
    def test_others_are_refused(self, label):
        with pytest.raises(ValueError, match=r"label of \w+ 0: expected an integer of at least 0, got"):
            as_samples([(torch.zeros(3, 5, 6), label)])[0]

    def test_a_batch_of_float_labels_is_refused(self):
        batches = torch.utils.data.DataLoader([(torch.zeros(3, 5, 6), 0.7)] * 2, batch_size=2)
        with pytest.raises(ValueError, match=r"label of \w+ 0: expected an integer"):
            list(as_samples(batches))

    @pytest.mark.parametrize("limit", [0, 1.5, True])
    def test_a_limit_below_one(self, tmp_path, limit):
        (tmp_path / "a").mkdir()
        Image.new("L", (5, 4)).save(tmp_path / "a" / "b.png")
        assert len(SampleFolder(tmp_path, np.int64(1))) == 1
        with pytest.raises(ValueError, match="limit: expected an integer of at least 1"):
            SampleFolder(tmp_path, limit)


NOISE = Image.fromarray(TestCompleteFiles.NOISE)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def in_png(*chunks):
    """A PNG of 8x8 with chunks before its samples."""
    data = saved(Image.new("RGB", (8, 8)), "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + b"".join(chunks) + data[at:]


def in_jpeg(*segments):
    data = saved(Image.new("RGB", (8, 8)), "JPEG")
    return (
        data[:2] + b"".join(b"\xff%c%b" % (mark, struct.pack(">H", len(s) + 2) + s) for mark, s in segments) + data[2:]
    )


def tiff_of_tags(tags, data=b"", following=0):
    """A TIFF of one directory, behind its data at 8."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def pages(count):
    tags = {256: 1, 257: 1, 273: 8}
    size = len(tiff_of_tags(tags)) - 8
    return b"II*\0\x08\0\0\0" + b"".join(tiff_of_tags(tags, following=8 + k * size)[8:] for k in range(1, count + 1))


def gif(count):
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame * count + b";"


def progressive(scans, side=64):
    data = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


JXL_KINDS = ["L", "LA", "RGB", "RGBA"]


class TestFormats:
    def test_no_other_decoder_is_tried(self, tmp_path, monkeypatch):
        eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
        (tmp_path / "a.jpg").write_bytes(eps)
        started = []
        monkeypatch.setattr("subprocess.Popen", lambda *_, **__: started.append(1))
        monkeypatch.setattr("subprocess.check_call", lambda *_, **__: started.append(1))
        for call in (lambda: read(tmp_path / "a.jpg"), lambda: count_frames(eps), lambda: is_rotated(eps)):
            with pytest.raises(OSError, match=r"not an image of an allowed format, .*\(JPEG, .*formats= allows more"):
                call()
        assert not started

    @pytest.mark.parametrize("format", ["DDS", "TGA", "ICO", "PCX", "SGI", "IM"])
    def test_others_on_request(self, format, tmp_path):
        data = saved(NOISE, format)
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(OSError, match="not an image of an allowed format"):
            read(data)
        for name in (format, format.lower()):
            assert read(tmp_path / "a.jpg", formats=[name]).shape == ((3, 29, 32) if format == "ICO" else (3, 37, 41))
            assert count_frames(data, formats=["PSD", name]) == 1
            assert not is_rotated(data, formats=(name,))

    @pytest.mark.parametrize("format", [f for f in FORMATS if f not in ("JXL", "HEIF")])
    def test_the_usual_ones(self, format):
        assert read(saved(NOISE, format)).equal(read(saved(NOISE, format), formats=["PSD", format]))

    @pytest.mark.parametrize(
        ("formats", "words"), [(["PSD", "nonsense"], "no format 'NONSENSE'; .* PSD"), ("PSD", r"pass \['PSD'\]")]
    )
    def test_a_format_that_pillow_does_not_know(self, formats, words):
        with pytest.raises(ValueError, match=f"formats: .*{words}"):
            read(saved(NOISE, "PNG"), formats=formats)

    @pytest.mark.parametrize("mode", JXL_KINDS)
    @pytest.mark.parametrize("gray", [True, False])
    @pytest.mark.parametrize("bits", [8, 10, 16])
    def test_jxl_is_shown_as_a_png_is(self, mode, gray, bits):
        imagecodecs = pytest.importorskip("imagecodecs")
        array = np.asarray(NOISE.convert("RGBA")).copy()
        array[..., 3] = np.arange(41) * 6
        array = array[..., {"L": [0], "LA": [0, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3]}[mode]]
        array = np.ascontiguousarray(array.squeeze())
        png = imagecodecs.png_encode(array)
        if bits == 16:
            array = array.astype(np.uint16) * 257
            png = imagecodecs.png_encode(array)
        elif bits == 10:
            array = ((array.astype(np.uint32) * 1023 + 127) // 255).astype(np.uint16)
        jxl = imagecodecs.jpegxl_encode(array, lossless=True, **({} if bits == 8 else {"bitspersample": bits}))
        assert read(jxl, gray=gray).equal(read(png, gray=gray))
        assert (count_frames(jxl), is_rotated(jxl)) == (1, False)

    def test_jxl_in_a_container_and_turned(self):
        imagecodecs = pytest.importorskip("imagecodecs")
        boxed = imagecodecs.jpegxl_encode(TestCompleteFiles.NOISE, lossless=True, usecontainer=True)
        assert (read(boxed).permute(1, 2, 0).numpy() == TestCompleteFiles.NOISE).all()

    def test_heif(self):
        pillow_heif = pytest.importorskip("pillow_heif")
        exif = Image.Exif()
        exif[0x0112] = 6
        smooth = Image.linear_gradient("L").convert("RGB").crop((0, 0, 64, 100))
        stream = io.BytesIO()
        pillow_heif.from_pillow(smooth).save(stream, quality=95, exif=exif.tobytes())
        data = stream.getvalue()
        for upright in (True, False):  # the boxes of a HEIF turn it upright, not its EXIF
            assert (
                read(data, upright=upright).float() - read(saved(smooth.rotate(-90, expand=True), "PNG"))
            ).abs().max() < 9
        assert (count_frames(data), is_rotated(data)) == (1, False)
        stream = io.BytesIO()
        pillow_heif.from_pillow(Image.new("RGBA", (64, 64))).save(stream)
        assert read(stream.getvalue()).float().mean() == 255
        assert "HEIF" not in Image.OPEN

    @pytest.mark.parametrize(("codec", "module"), [("jxl", "imagecodecs"), ("hevc:container=heif", "pillow_heif")])
    def test_what_is_not_installed_is_named(self, codec, module, monkeypatch):
        from foveate.codecs import as_codec

        data = as_codec(codec).encode(TestCompleteFiles.NOISE)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ValueError, match=rf'^{module} is not installed; pip install .*"{module.replace("_", "-")}>='
        ):
            read(data)


BROKEN_EXIF = {
    "garbage": b"garbage and no TIFF",
    "header alone": b"MM\0*",
    "a directory far away": b"MM\0*\xff\xff\xff\xff",
    "breaks off": b"MM\0*\0\0\0\x08\0\x05\x01\x12",
    "a text": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02zz\0\0\0\0\0\0",
    "a fraction of nothing": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\0\0\0\x1a\0\0\0\0" + bytes(8),
    "no such turn": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x4d\0\0\0\0\0\0",
}


class TestExif:
    """Damaged EXIF turns nothing, and hides no image."""

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("kind", BROKEN_EXIF)
    def test_damaged(self, format, kind):
        data = saved(NOISE, format, exif=b"Exif\0\0" + BROKEN_EXIF[kind])
        assert BROKEN_EXIF[kind] in data
        assert read(data).equal(read(saved(NOISE, format)))
        assert not is_rotated(data)

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
    @pytest.mark.parametrize("turn", range(9))
    def test_sound(self, format, turn):
        exif = Image.Exif()
        exif[0x0112] = turn
        data = saved(NOISE, format, exif=exif)
        assert is_rotated(data) == (turn > 1)
        wanted = {0: 0, 1: 0, 3: 180, 6: -90, 8: 90}
        if turn in wanted and format == "PNG":
            assert read(data).equal(as_tensor(NOISE.rotate(wanted[turn], expand=True)))


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


ERRORS = [
    RuntimeError("no sound item"), struct.error("4 bytes"), TypeError("no int"), MemoryError(), zlib.error("-3"),
    IndexError("9"), KeyError(45057), OverflowError("big"), AssertionError(), AttributeError("no fp"),
    NotImplementedError(), RecursionError("deep"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ZeroDivisionError("by 0"), OSError("truncated"), SyntaxError("bad"), EOFError(), SystemError("tile"),
]  # fmt: skip


class TestWhateverADecoderRaises:
    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_it_is_one_of_the_unreadable(self, error, monkeypatch):
        data = saved(NOISE, "JPEG")
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", raising(error))
            with pytest.raises(UNREADABLE) as caught:
                read(data)
            with pytest.raises(UNREADABLE):
                as_tensor(Image.open(io.BytesIO(data)))
        if not isinstance(error, UNREADABLE):
            assert type(caught.value) is ValueError
            assert str(caught.value) == f"{type(error).__name__}: {error}"
            assert caught.value.__cause__ is error
        assert read(data).shape == (3, 37, 41)

    def test_an_interrupt_is_not_caught(self, monkeypatch):
        monkeypatch.setattr(ImageFile.ImageFile, "load", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            read(saved(NOISE, "JPEG"))

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("format", [*(f for f in FORMATS if f not in ("JXL", "HEIF")), "DDS", "BLP", "JXL", "HEIF"])
    def test_bytes_drawn_at_random(self, format):
        if format in ("JXL", "HEIF"):
            pytest.importorskip("imagecodecs")
            from foveate.codecs import as_codec

            data = as_codec({"JXL": "jxl", "HEIF": "hevc:container=heif"}[format]).encode(TestCompleteFiles.NOISE)
        else:
            data = saved(NOISE.quantize() if format == "BLP" else NOISE, format)
        rng = np.random.default_rng(0)
        unreadable = 0
        for _ in range(150):
            damaged = np.frombuffer(data, np.uint8).copy()
            where = rng.integers(0, rng.choice([40, len(data)]), rng.choice([1, 3, 20]))
            damaged[where] = rng.integers(0, 256, len(where))
            damaged = damaged.tobytes()[: len(data) if rng.random() < 0.8 else rng.integers(len(data))]
            for call in (read, count_frames, is_rotated):
                try:
                    call(damaged, formats=["DDS", "BLP"])
                except UNREADABLE:
                    unreadable += 1
        assert unreadable


class TestIrregularFiles:
    def test_a_pipe_a_socket_and_a_device(self, tmp_path):
        """In a process of its own, which must not block forever."""
        script = f"""
import os, socket
from foveate.images import read
os.mkfifo({str(tmp_path / "pipe.jpg")!r})
socket.socket(socket.AF_UNIX).bind({str(tmp_path / "socket")!r})
for path in ({str(tmp_path / "pipe.jpg")!r}, {str(tmp_path / "socket")!r}, "/dev/zero"):
    try:
        read(path)
    except ValueError as error:
        assert "not a regular file" in str(error), error
    else:
        raise AssertionError(path)
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="gone.png"):
            read(tmp_path / "gone.png")

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path):
        with (tmp_path / "a.png").open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        with pytest.raises(ValueError, match=f"{MAX_BYTES + 1} bytes are over the limit of {MAX_BYTES}"):
            read(tmp_path / "a.png")


BOMB = zlib.compress(bytes((1 << 20) - 1), 9)
HOSTILE = {
    "40,000 scans": (lambda: progressive(40_000), "a JPEG of 40000 scans"),
    "200 scans of many pixels": (lambda: progressive(200, 8000), "a JPEG of 200 scans"),
    "chunks of text that unpack": (lambda: in_png(chunk(b"zTXt", b"a\0\0" + BOMB) * 200), "text chunks"),
    "chunks of text that nearly unpack": (
        lambda: in_png(chunk(b"zTXt", b"a\0\0" + BOMB[:-4] + b"abcd") * 20_000), "20000 parts of the kind zTXt"),
    "profiles that unpack": (lambda: in_png(chunk(b"iCCP", b"a\0\0" + BOMB) * 20_000), "20000 parts of the kind iCCP"),
    "tiny chunks": (lambda: in_png(chunk(b"prIv", b"") * 2_000_000), "too many parts"),
    "tiny segments": (lambda: in_jpeg(*[(0xE3, b"")] * 1_000_000), "too many parts"),
    "pieces of EXIF": (lambda: in_jpeg(*[(0xE1, b"Exif\0\0" + bytes(60_000))] * 1000), "1000 parts of the kind Exif"),
    "a tile larger than its image": (
        lambda: tiff_of_tags({256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 324: 8,
                              325: 20}, zlib.compress(bytes(900))), "tiles of 30000x30000"),
    "comments": (lambda: b"P2 100 100 255\n" + b"#\n" * 5_000_000, "5000000 parts of the kind #"),
    "a frame larger than its screen": (
        lambda: gif(1).replace(b",\0\0\0\0\1\0\1\0", b",\0\0\0\0\xff\xff\xff\xff"), "pixels"),
}  # fmt: skip


class TestHostile:
    """A small file costs little time and memory; the times allowed here are many times those needed."""

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_is_refused(self, kind):
        make, words = HOSTILE[kind]
        data = make()
        begin = time.monotonic()
        with pytest.raises(UNREADABLE, match=words):
            read(data)
        assert time.monotonic() - begin < 30

    @pytest.mark.parametrize(
        ("data", "count"),
        [
            (lambda: gif(1000), 1000),
            (lambda: pages(1000)[:-4] + bytes(4), 1000),
            (lambda: in_png(chunk(b"acTL", struct.pack(">II", 10**9, 0))), 10**9 + 1),
            (lambda: pages(3)[:-4] + b"\x08\0\0\0", 3),  # and back to the first
            (lambda: pages(1)[:-4] + b"\x08\0\0\0", 1),
        ],
    )
    def test_frames_are_counted(self, data, count):
        assert count_frames(data()) == count
        assert read(data()).shape[0] == 3

    @pytest.mark.parametrize("make", [gif, pages])
    def test_a_million_frames_are_counted_up_to_some_thousands(self, make):
        data = make(1_000_000 if make is gif else 200_000)
        begin = time.monotonic()
        assert 5000 < count_frames(data) < 200_000
        assert read(data).shape == (3, 1, 1)
        assert time.monotonic() - begin < 30

    @pytest.mark.parametrize("scans", [11, 1000])
    def test_scans_of_which_there_may_be_so_many(self, scans):
        assert read(progressive(scans)).equal(torch.zeros(3, 64, 64, dtype=torch.uint8))

    def test_an_image_of_many_strips_is_read(self):
        tall = NOISE.resize((3, 40_000))
        assert read(saved(tall, "TIFF", tiffinfo={278: 1})).equal(as_tensor(tall))
