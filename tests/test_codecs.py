import io
import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from foveate import Compressor
from foveate.codecs import CODECS, MAX_PIXELS, Avif, CodecError, Hevc, Jpeg, Jpeg2000, Jxl, TargetSize, WebP, as_codec
from foveate.demo import Scenes
from foveate.testing import CodecConformance, noisy_image, psnr, wave_image

SIZES = [(1, 1), (1, 7), (8, 8), (17, 33), (61, 90), (300, 200)]
BUILT_IN = [CODECS[name] for name in CODECS.names()]


def fuzz(spec):
    # In a process of its own, with limited time and memory: a crash or a hang there fails here.
    script = Path(__file__).with_name("fuzz_codec.py")
    done = subprocess.run([sys.executable, script, spec, "3000"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["cases"] >= 1000
    assert summary["refused"] > summary["cases"] / 5  # at least the truncated ones
    assert summary["slowest_s"] < 20
    assert summary["peak_mib"] < 3000


class TestConformance(CodecConformance):
    """What every codec does; one that joins CODECS is tested here."""

    @pytest.fixture(params=BUILT_IN, ids=lambda cls: cls.name)
    def cls(self, request):
        return request.param

    def test_a_large_image(self, cls):
        fast = {"avif": {"speed": 10}, "jxl": {"effort": 3}, "webp": {"method": 0}, "hevc": {"preset": "ultrafast"}}
        codec = cls(**fast.get(cls.name, {})).with_quality(cls.ladder[0])
        source = np.zeros((4096, 4096, 3), np.uint8)
        source[1000:2000, 1000:3000] = 200
        decoded = codec.decode(codec.encode(source))
        assert decoded.shape == source.shape
        assert psnr(decoded[::64, ::64], source[::64, ::64]) > 30

    @pytest.mark.parametrize("quality", [0, 3])
    def test_a_ladder_step_is_finer_than_the_one_before(self, cls, quality):
        source = wave_image(61, 90)
        step = cls().with_quality(cls.ladder[quality])
        assert psnr(source, step.decode(step.encode(source))) > 18 + 3 * quality

    def test_no_metadata_is_in_the_file(self, cls):
        data = cls().encode(wave_image(61, 90))
        if cls.name in ("jxl", "hevc"):
            return  # Pillow reads neither
        image = Image.open(io.BytesIO(data))
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp"} & set(image.info)
        assert not image.info.get("comment", b"").strip()  # JPEG 2000 cannot do without one

    def test_an_independent_decoder_agrees(self, cls):
        data = cls().encode(wave_image(61, 90))
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if theirs is None:
            pytest.skip(f"this OpenCV does not read {cls.name}")
        assert psnr(cls().decode(data), theirs[..., ::-1]) > 40  # libraries may round and upsample apart

    def test_mutated_bitstreams_are_images_or_codec_errors(self, cls):
        fuzz(cls.name)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "plain"),
        [
            ((Jpeg, {"quality": np.int64(30), "progressive": np.True_}), Jpeg(30, progressive=True)),
            ((Jpeg, {"tables": np.full((2, 64), 9, np.uint8)}), Jpeg(tables=[[9] * 64] * 2)),
            ((Jpeg, {"quality": torch.tensor(30)}), Jpeg(30)),
            ((Jpeg2000, {"quality": np.uint8(30)}), Jpeg2000(30)),
            ((WebP, {"quality": np.int32(30), "method": np.int16(2)}), WebP(30, 2)),
            ((Avif, {"quality": np.int64(30), "speed": np.int64(9)}), Avif(30, 9)),
            ((Jxl, {"quality": np.float64(1.5), "effort": np.int64(3)}), Jxl(1.5, 3)),
            ((Jxl, {"quality": np.int64(2)}), Jxl(2)),
            ((Hevc, {"quality": np.int64(30), "roi": np.float32(2.5)}), Hevc(30, roi=2.5)),
            ((TargetSize, {"bytes": np.int64(900)}), TargetSize(bytes=900)),
            ((TargetSize, {"bpp": np.float64(0.5)}), TargetSize(bpp=0.5)),
        ],
    )
    def test_numbers_of_numpy_are_stored_as_plain_ones(self, settings, plain):
        cls, knobs = settings
        codec = cls(**knobs)
        assert (codec, hash(codec), str(codec), repr(codec)) == (plain, hash(plain), str(plain), repr(plain))
        assert all(type(getattr(codec, name)) in (int, float, bool, tuple) for name in knobs)

    @pytest.mark.parametrize("cls", [Jpeg, Jpeg2000, WebP, Avif, Hevc])
    @pytest.mark.parametrize("quality", [30.0, np.float64(30), np.True_, "30", None])
    def test_a_quality_that_is_not_an_integer_is_refused(self, cls, quality):
        with pytest.raises(TypeError, match="quality: .* takes an integer"):
            cls(quality)

    def test_values_that_only_look_like_integers_or_booleans_are_refused(self):
        with pytest.raises(TypeError, match="tables: JPEG takes an integer 1 to 255, got 1.5"):
            Jpeg(tables=[[1.5] * 64])
        with pytest.raises(TypeError, match="progressive: JPEG takes True or False, got 'False'"):
            Jpeg(progressive="False")


class TestJpeg2000:
    """The quality is a PSNR, which the image reaches."""

    SHADES = np.add.outer(np.arange(61), np.arange(91))[..., None]
    IMAGES = {  # noqa: RUF012
        "noise": np.random.default_rng(0).integers(0, 256, (61, 91, 3)).astype(np.uint8),
        "gray noise": np.random.default_rng(1).integers(0, 256, (40, 33, 1)).astype(np.uint8),
        "flat": np.full((64, 64, 3), (200, 30, 90), np.uint8),
        "flat gray": np.full((61, 91, 1), 200, np.uint8),
        "gradient": (SHADES * np.array([1.6, 0.8, 0.4])).astype(np.uint8),
        "scene": np.asarray(Scenes(1)[0][0]),
        "a row": np.random.default_rng(2).integers(0, 256, (1, 7, 3)).astype(np.uint8),
    }

    @pytest.mark.parametrize("name", IMAGES)
    def test_it_is_reached(self, name):
        source = self.IMAGES[name]
        for quality in (15, 20, 34, 42, 47, 50, 55, 60):
            codec = Jpeg2000(quality)
            data = codec.encode(source)
            assert psnr(source, codec.decode(data)) >= quality - 0.5
            assert codec.encode(source) == data

    def test_bytes_that_reach_it_stay_as_they_were(self):
        source = self.IMAGES["scene"]
        for quality in (28, 31, 34, 38):
            stream = io.BytesIO()
            settings = {"quality_mode": "dB", "quality_layers": [quality], "irreversible": True, "mct": 1}
            Image.fromarray(source).save(stream, "JPEG2000", comment=b" ", **settings)
            assert Jpeg2000(quality).encode(source) == stream.getvalue()

    def test_no_more_is_spent_than_it_takes(self):
        source = self.IMAGES["scene"]
        sizes = [len(Jpeg2000(quality).encode(source)) for quality in range(40, 61)]
        assert sizes == sorted(sizes)
        lossless = io.BytesIO()
        Image.fromarray(source).save(lossless, "JPEG2000", mct=1, comment=b" ")
        assert sizes[-1] <= len(lossless.getvalue())
        assert psnr(source, Jpeg2000(50).decode(Jpeg2000(50).encode(source))) < 51


class TestJpeg:
    @pytest.mark.parametrize("quality", [1, 30, 95])
    @pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_an_independent_decoder_agrees(self, quality, subsampling, progressive):
        codec = Jpeg(quality, subsampling, progressive)
        data = codec.encode(wave_image(61, 90))
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert psnr(codec.decode(data), theirs) > 40  # two libraries may round and upsample differently
        assert Image.open(io.BytesIO(data)).info.get("progressive", 0) == int(progressive)

    def test_huffman_tables_are_optimized(self):
        plain = io.BytesIO()
        Image.fromarray(wave_image(61, 90)).save(plain, "JPEG", quality=50)
        assert len(Jpeg(50).encode(wave_image(61, 90))) < len(plain.getvalue())

    def test_nothing_but_the_image_is_stored(self):
        image = Image.open(io.BytesIO(Jpeg(50).encode(wave_image(61, 90))))
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not image.getexif()

    def test_the_tables_of_annex_k_are_the_default(self):
        source = wave_image(61, 90)
        standard = Image.open(io.BytesIO(Jpeg(50).encode(source))).quantization
        annex_k = tuple(tuple(standard[k]) for k in (0, 1))
        for quality in (10, 50, 80):
            assert Jpeg(quality, tables=annex_k).encode(source) == Jpeg(quality).encode(source)
            gray = wave_image(61, 90, 1)
            assert Jpeg(quality, tables=annex_k).encode(gray) == Jpeg(quality).encode(gray)

    def test_custom_tables_are_used_and_hashable(self):
        flat = Jpeg(50, tables=[[7] * 64])
        assert hash(flat) == hash(Jpeg(50, tables=((7,) * 64,)))
        assert set(Image.open(io.BytesIO(flat.encode(wave_image(20, 20)))).quantization[0]) == {7}

    @pytest.mark.parametrize("codec", [Jpeg(50, tables="machine"), as_codec("jpeg:50,tables=machine")])
    def test_the_machine_tables_are_finer_in_color(self, codec):
        source = wave_image(61, 90)
        luma, chroma = (Image.open(io.BytesIO(codec.encode(source))).quantization[k] for k in (0, 1))
        standard = Image.open(io.BytesIO(Jpeg(50).encode(source))).quantization
        assert luma[0] < 0.7 * standard[0][0]
        assert all(0.5 * old < new < 1.2 * old for old, new in zip(standard[0], luma, strict=True))
        assert all(new < old for old, new in zip(standard[1], chroma, strict=True))
        assert str(codec) == "jpeg:50,tables=machine"
        assert codec == as_codec(str(codec)) == pickle.loads(pickle.dumps(codec))
        assert codec.family == "jpeg:tables=machine"
        assert replace(codec, quality=20).tables == codec.tables

    def test_a_decompression_bomb_is_refused_unread(self):
        data = bytearray(Jpeg(50).encode(wave_image(16, 16)))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
        with pytest.raises(CodecError):
            Jpeg().decode(bytes(data))

    def test_just_over_the_pixel_limit_is_refused(self):
        data = bytearray(Jpeg(50).encode(wave_image(16, 16)))
        frame = data.index(b"\xff\xc0")
        side = int(MAX_PIXELS**0.5)
        data[frame + 5 : frame + 9] = (side + 1).to_bytes(2, "big") + side.to_bytes(2, "big")
        with pytest.raises(CodecError, match=f"over {MAX_PIXELS} pixels"):
            Jpeg().decode(bytes(data))

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"quality": 0}, ValueError, "1 to 95, got 0"),
            ({"quality": 96}, ValueError, "1 to 95"),
            ({"quality": 50.0}, TypeError, "integer"),
            ({"quality": True}, TypeError, "integer"),
            ({"subsampling": "4:1:1"}, ValueError, "4:1:1"),
            ({"tables": [[1] * 63]}, ValueError, "64"),
            ({"tables": [[0] * 64]}, ValueError, "1 to 255"),
            ({"tables": [[1] * 64] * 3}, ValueError, "one or two"),
            ({"tables": "human"}, ValueError, "'machine' or one or two tables of 64 integers, got 'human'"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Jpeg(**settings)


PROGRAMS = {  # by codec: Debian's decoders, as (program, arguments) from a.SUFFIX to a.png or a.ppm
    "jpeg": ("djpeg", ["-ppm", "-outfile", "a.ppm", "a.jpg"]),
    "jpeg2000": ("opj_decompress", ["-i", "a.jp2", "-o", "a.png"]),
    "webp": ("dwebp", ["a.webp", "-o", "a.png"]),
    "avif": ("avifdec", ["a.avif", "a.png"]),
    "jxl": ("djxl", ["a.jxl", "a.png"]),
    "hevc": ("ffmpeg", ["-i", "a.hevc", "-frames:v", "1", "a.png"]),
    "hevc:container=heif": ("heif-convert", ["a.heic", "a.png"]),
}


@pytest.mark.parametrize("text", PROGRAMS)
@pytest.mark.parametrize("size", [(62, 90), (61, 91)])
def test_a_standard_program_reads_the_bytes(text, size, tmp_path):
    program, arguments = PROGRAMS[text]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    source, codec = wave_image(*size), as_codec(text)
    data = codec.encode(source)
    (tmp_path / f"a{codec.suffix}").write_bytes(data)
    subprocess.run([program, *arguments], cwd=tmp_path, check=True, capture_output=True)
    output = next(p for p in tmp_path.iterdir() if p.suffix in (".png", ".ppm"))
    theirs = np.asarray(Image.open(output).convert("RGB"))
    if text == "hevc":  # it does not crop the padding to even sides
        theirs = theirs[: size[0], : size[1]]
    assert psnr(codec.decode(data), theirs) > 35  # libraries round and upsample chroma differently


@pytest.mark.parametrize(
    ("text", "library"), [("jpeg2000", "jpeg2k"), ("webp", "webp"), ("avif", "avif"), ("jpeg", "jpeg8")]
)
def test_imagecodecs_reads_the_bytes(text, library):
    imagecodecs = pytest.importorskip("imagecodecs")
    data = as_codec(text).encode(wave_image(61, 90))
    theirs = getattr(imagecodecs, f"{library}_decode")(data)[..., :3]
    assert psnr(as_codec(text).decode(data), theirs) > 40


class TestJxl:
    @pytest.mark.parametrize("size", [(1, 1), (8, 16), (100, 120), (300, 200), (64, 64), (256, 511)])
    def test_the_header_says_the_size(self, size):
        from foveate._jxl import header

        assert header(Jxl(effort=3).encode(wave_image(*size)))[:2] == size

    @pytest.mark.parametrize("kind", ["container", "alpha", "sixteen bits", "float"])
    def test_streams_of_other_encoders(self, kind):
        imagecodecs = pytest.importorskip("imagecodecs")
        source = wave_image(40, 50)
        theirs = {
            "container": lambda: imagecodecs.jpegxl_encode(source, distance=1, usecontainer=True),
            "alpha": lambda: imagecodecs.jpegxl_encode(np.dstack([source, source[..., :1]]), distance=1),
            "sixteen bits": lambda: imagecodecs.jpegxl_encode(source.astype(np.uint16) * 257, distance=1),
            "float": lambda: imagecodecs.jpegxl_encode(source.astype(np.float32) / 255, distance=1),
        }[kind]()
        decoded = Jxl().decode(theirs)
        assert decoded.dtype == np.uint8
        assert decoded.shape == source.shape
        assert psnr(decoded, source) > 30

    def test_a_decompression_bomb_is_refused_unread(self):
        # SizeHeader: not small, height 1 + u(30), ratio 1:1; the rest as it comes.
        bits = 0 | 3 << 1 | (1 << 29) << 3 | 1 << 33
        with pytest.raises(CodecError, match=f"over {MAX_PIXELS} pixels"):
            Jxl().decode(b"\xff\x0a" + (bits | 1 << 36).to_bytes(8, "little") + bytes(40))

    def test_an_animation_is_refused(self):
        imagecodecs = pytest.importorskip("imagecodecs")
        frames = np.stack([wave_image(20, 30), wave_image(20, 30)[::-1]])
        with pytest.raises(CodecError, match="animation"):
            Jxl().decode(imagecodecs.jpegxl_encode(frames, distance=1))

    def test_wrong_settings(self):
        with pytest.raises(ValueError, match="distance"):
            Jxl(0)
        with pytest.raises(TypeError, match="effort"):
            Jxl(effort=3.5)


class TestHevc:
    @pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
    @pytest.mark.parametrize("container", ["none", "heif"])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", SIZES)
    def test_every_size_in_every_form(self, size, channels, container, subsampling):
        codec = Hevc(20, "fast", subsampling, container=container)
        source = wave_image(*size, channels)
        decoded = codec.decode(codec.encode(source))
        assert decoded.shape == source.shape
        assert psnr(decoded, source) > 30

    def test_mutated_heif_files_are_images_or_codec_errors(self):
        fuzz("hevc:container=heif")

    def test_qp_is_exact(self):
        # The bare stream ends with 5 bytes of mark; x265's own QP is 3 finer for intra frames by default.
        def sizes(codec):
            return [len(codec.with_quality(q).encode(source, saliency)) for q in (22, 32, 42)]

        source, saliency = noisy_image(96, 128), None
        plain = sizes(Hevc())
        saliency = np.ones((3, 4), np.float32)  # an offset of 0 everywhere must be the plain QP again
        assert sizes(Hevc(roi=10)) == pytest.approx(plain, rel=0.01)
        saliency = np.zeros((3, 4), np.float32)  # and of 10 everywhere the QP 10 coarser
        assert sizes(Hevc(roi=10))[:2] == pytest.approx(plain[1:], rel=0.02)

    def test_a_region_of_interest_keeps_what_the_map_marks(self):
        source = noisy_image(128, 256)
        saliency = np.zeros((8, 16), np.float32)
        saliency[:, :8] = 1
        decoded = Hevc(30, roi=12).decode(Hevc(30, roi=12).encode(source, saliency))
        plain, coarse = (Hevc(q).decode(Hevc(q).encode(source)) for q in (30, 42))
        left, right = np.s_[:, :112], np.s_[:, 144:]
        assert psnr(decoded[left], source[left]) == pytest.approx(psnr(plain[left], source[left]), abs=0.5)
        assert psnr(decoded[right], source[right]) == pytest.approx(psnr(coarse[right], source[right]), abs=0.7)

    def test_single_blocks_have_their_own_qp(self):
        source = np.random.default_rng(0).normal(128, 40, (128, 128, 1)).clip(0, 255).astype(np.uint8)
        board = (np.indices((4, 4)).sum(0) % 2).astype(np.float32)  # of 32 pixels: x265 splits noise no further
        data = Hevc(22, roi=10).encode(source, board.repeat(2, 0).repeat(2, 1))
        errors = ((Hevc().decode(data).astype(float) - source) ** 2).reshape(4, 32, 4, 32).mean((1, 3))
        assert errors[board == 0].min() > 3 * errors[board == 1].max()

    @pytest.mark.parametrize(
        ("saliency", "words"),
        [
            (None, "needs a map"),
            (np.zeros((2, 2, 1), np.float32), "shape"),
            (np.full((2, 2), 2, np.float32), r"\[0, 1\]"),
            (np.full((2, 2), np.nan, np.float32), r"\[0, 1\]"),
        ],
    )
    def test_wrong_maps(self, saliency, words):
        with pytest.raises(ValueError, match=words):
            Hevc(roi=5).encode(wave_image(20, 20), saliency)

    def test_a_truncated_stream_is_refused(self):
        data = Hevc(32).encode(noisy_image(96, 128))
        for cut in (1, 4, 5, 6, 20, 300):
            with pytest.raises(CodecError):
                Hevc().decode(data[:-cut])

    def test_a_decompression_bomb_is_refused(self):
        import av

        stream = io.BytesIO()
        big = av.CodecContext.create("libx265", "w")
        big.width, big.height, big.pix_fmt, big.time_base = 8208, 8192, "yuv420p", Fraction(1, 25)
        big.options = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=1:info=0"}
        frame = av.VideoFrame(8208, 8192, "yuv420p")
        frame.pts = 0
        for packet in [*big.encode(frame), *big.encode(None)]:
            stream.write(bytes(packet))
        with pytest.raises(CodecError):
            Hevc().decode(stream.getvalue() + bytes.fromhex("0000014a01"))

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"quality": 52}, ValueError, "QP takes 0 to 51"),
            ({"preset": "best"}, ValueError, "ultrafast"),
            ({"subsampling": "4:2:2"}, ValueError, "4:2:2"),
            ({"roi": -1}, ValueError, "roi"),
            ({"container": "mp4"}, ValueError, "heif"),
            ({"container": "heif", "roi": 3}, ValueError, "container='none'"),
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Hevc(**settings)

    def test_suffix_and_type_follow_the_container(self):
        assert (Hevc().suffix, Hevc().media_type) == (".hevc", "video/H265")
        assert (Hevc(container="heif").suffix, Hevc(container="heif").media_type) == (".heic", "image/heic")

    def test_in_a_compressor(self, photo):
        def left(images):
            maps = torch.zeros(len(images), 1, 4, 4)
            maps[..., :2] = 1
            return maps

        compressor = Compressor("hevc:30,preset=fast,roi=12", saliency=left)
        batch = torch.stack([photo, photo.flip(-1)])
        encoded = compressor.encode(batch)
        assert [e.data for e in compressor.encode(list(batch))] == [e.data for e in encoded]
        assert [e.data for e in compressor.encode(batch, left(batch))] == [e.data for e in encoded]
        plain = Compressor("hevc:30,preset=fast").encode(batch)
        assert all(len(a.data) < len(b.data) for a, b in zip(encoded, plain, strict=True))
        alone = Compressor("hevc:30,preset=fast,roi=12")
        assert [e.data for e in alone.encode(batch, left(batch))] == [e.data for e in encoded]
        with pytest.raises(ValueError, match="maps: .*give a saliency, or give maps"):
            alone.encode(batch)


class TestTargetSize:
    def test_in_a_compressor_it_counts_source_pixels(self, photo):
        for scale in (1.0, 0.5):
            encoded = Compressor("jpeg", scale=scale, target=TargetSize(bpp=1.0)).encode([photo])[0]
            assert encoded.bpp <= 1.0
            finer = encoded.codec.finer()
            assert Compressor(finer, scale=scale).encode([photo])[0].bpp > 1.0
            assert encoded.met
        assert not Compressor("jpeg", target=TargetSize(bytes=10)).encode([photo])[0].met

    @pytest.mark.parametrize("settings", [{}, {"bytes": 1, "bpp": 1.0}, {"bytes": 0}, {"bpp": -1.0}])
    def test_wrong_settings(self, settings):
        with pytest.raises(ValueError, match="bytes|bpp"):
            TargetSize(**settings)


class TestMissingExtra:
    @pytest.mark.parametrize(
        ("name", "module"), [("jxl", "imagecodecs"), ("hevc", "av"), ("hevc:container=heif", "pillow_heif")]
    )
    def test_is_named_when_it_is_needed(self, name, module, monkeypatch):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        with pytest.raises(ImportError, match=rf'; pip install .*"{module.replace("_", "-")}>='):
            as_codec(name).encode(wave_image(20, 20))


class TestShortStrings:
    def test_custom_tables(self):
        codec = Jpeg(30, tables=[range(1, 65), [9] * 64])
        assert as_codec(str(codec)) == codec
        with pytest.raises(ValueError, match="64 integers"):
            as_codec("jpeg:tables=0102")

    def test_numbers_are_as_short_as_possible(self):
        assert str(Jxl(2)) == "jxl:2"
        assert str(Jxl(0.3, effort=4)) == "jxl:0.3,effort=4"
        assert as_codec("hevc:30,roi=7.5").family == "hevc:roi=7.5"

    def test_knobs(self):
        expected = Jpeg(30, "4:4:4", progressive=True)
        assert as_codec("jpeg:30,subsampling=4:4:4,progressive=True") == expected
        assert as_codec("jpeg:subsampling=4:4:4,quality=30,progressive=True") == expected
        assert as_codec(str(expected)) == expected
        assert as_codec(expected) is expected

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("gif", "'gif'.*jpeg"),
            ("jpeg:high", "int.*'high'"),
            ("jpeg:30,speed=3", "'speed=3'.*subsampling"),
            ("jpeg:30,40", "'40'"),
            ("jpeg:30,progressive=maybe", "bool.*'maybe'"),
            ("jpeg:200", "1 to 95"),
            ("jpeg:tables=xyz", "'machine' or hexadecimal digits"),
            ("jxl:fine", "float.*'fine'"),
        ],
    )
    def test_strings_that_cannot_be_parsed(self, text, words):
        with pytest.raises(ValueError, match=words):
            as_codec(text)

    def test_not_a_string(self):
        with pytest.raises(TypeError, match="int"):
            as_codec(50)
