import io
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from foveate import Compressor
from foveate.codecs import CODECS, MAX_PIXELS, CodecError, Jpeg, codec

SIZES = [(1, 1), (1, 7), (8, 8), (17, 33), (61, 90), (300, 200)]


def picture(height, width, channels=3):
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(x / (5 + k)) + 30 * np.cos(y / (3 + k)) for k in range(channels)]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("cls", CODECS.values(), ids=list(CODECS))
class TestConformance:
    """What every codec does; a codec in CODECS is tested here."""

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_size_and_kind_survive(self, cls, size, channels):
        source = picture(*size, channels)
        decoded = cls().decode(cls().encode(source))
        assert decoded.shape == (*size, channels if cls.greyscale else 3)
        assert decoded.dtype == np.uint8

    def test_finer_is_nearer_and_larger(self, cls):
        source = picture(61, 90)
        coarse, fine = cls().with_quality(cls.ladder[0]), cls().with_quality(cls.ladder[-1])
        assert len(coarse.encode(source)) < len(fine.encode(source))
        assert psnr(source, coarse.decode(coarse.encode(source))) < psnr(source, fine.decode(fine.encode(source)))

    def test_same_picture_gives_same_bytes_and_is_not_touched(self, cls):
        source = picture(40, 50)
        before = source.copy()
        assert cls().encode(source) == cls().encode(np.asfortranarray(source)) == cls().encode(source[:, ::-1][:, ::-1])
        assert (source == before).all()

    def test_immutable_hashable_picklable(self, cls):
        one = cls()
        assert pickle.loads(pickle.dumps(one)) == one
        assert len({one, cls()}) == 1
        with pytest.raises(AttributeError):
            one.quality = 3

    def test_short_string_round_trips(self, cls):
        assert codec(cls.name) == cls()
        assert codec(str(cls().with_quality(33))) == cls().with_quality(33)
        assert [codec(f"{cls.name}:{q}").quality for q in cls.ladder] == sorted(cls.ladder)
        assert codec(cls().family) == cls()

    @pytest.mark.parametrize("data", [b"", b"not a picture", bytes(1000)])
    def test_an_alien_bitstream_is_a_codec_error(self, cls, data):
        with pytest.raises(CodecError):
            cls().decode(data)

    @pytest.mark.parametrize("quality", [0, 3])
    def test_a_ladder_step_is_finer_than_the_one_before(self, cls, quality):
        source = picture(61, 90)
        step = cls().with_quality(cls.ladder[quality])
        assert psnr(source, step.decode(step.encode(source))) > 18 + 3 * quality

    def test_greyscale_comes_back_grey_from_the_compressor(self, cls):
        grey = torch.from_numpy(picture(40, 50, 1)).permute(2, 0, 1)
        compressor = Compressor(cls())
        decoded = compressor.decode(compressor.encode([grey]))[0]
        assert decoded.shape == grey.shape
        assert psnr(grey.numpy(), decoded.numpy()) > 25

    def test_nothing_but_the_picture_is_stored(self, cls):
        image = Image.open(io.BytesIO(cls().encode(picture(61, 90))))
        assert not image.getexif()
        assert not {"icc_profile", "exif", "xmp"} & set(image.info)
        assert not image.info.get("comment", b"").strip()  # JPEG 2000 cannot do without one

    def test_an_independent_decoder_agrees(self, cls):
        data = cls().encode(picture(61, 90))
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if theirs is None:
            pytest.skip(f"this OpenCV does not read {cls.name}")
        assert psnr(cls().decode(data), theirs[..., ::-1]) > 40  # libraries may round and upsample apart

    def test_a_mutated_bitstream_is_a_picture_or_a_codec_error(self, cls):
        sound, refused = cls().encode(picture(61, 90)), 0
        for case in range(400):
            data = bytearray(sound)
            for _ in range(int(torch.randint(1, 9, ()))):
                data[int(torch.randint(len(data), ()))] = int(torch.randint(256, ()))
            keep = len(data) if case % 5 else int(torch.randint(len(data), ()))
            try:
                decoded = cls().decode(bytes(data[:keep]))
            except CodecError:
                refused += 1
            else:
                assert decoded.dtype == np.uint8
                assert decoded.shape[2] in (1, 3)
                assert decoded[..., 0].size <= MAX_PIXELS
        assert refused > 80  # at the least those cut short

    def test_a_truncated_bitstream_is_a_codec_error(self, cls):
        data = cls().encode(picture(61, 90))
        for keep in (3, len(data) // 4, len(data) // 2, len(data) - 40):
            with pytest.raises(CodecError, match="bytes"):
                cls().decode(data[:keep])

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
    def test_what_is_no_picture_is_refused(self, cls, image, error, words):
        with pytest.raises(error, match=words):
            cls().encode(image)


class TestJpeg:
    @pytest.mark.parametrize("quality", [1, 30, 95])
    @pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_an_independent_decoder_agrees(self, quality, subsampling, progressive):
        one = Jpeg(quality, subsampling, progressive)
        data = one.encode(picture(61, 90))
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert psnr(one.decode(data), theirs) > 40  # two libraries may round and upsample differently
        assert Image.open(io.BytesIO(data)).info.get("progressive", 0) == int(progressive)

    def test_huffman_tables_are_optimised(self):
        plain = io.BytesIO()
        Image.fromarray(picture(61, 90)).save(plain, "JPEG", quality=50)
        assert len(Jpeg(50).encode(picture(61, 90))) < len(plain.getvalue())

    def test_nothing_but_the_picture_is_stored(self):
        image = Image.open(io.BytesIO(Jpeg(50).encode(picture(61, 90))))
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not image.getexif()

    def test_annex_k_as_own_tables_is_the_default(self):
        source = picture(61, 90)
        standard = Image.open(io.BytesIO(Jpeg(50).encode(source))).quantization
        own = tuple(tuple(standard[k]) for k in (0, 1))
        for quality in (10, 50, 80):
            assert Jpeg(quality, tables=own).encode(source) == Jpeg(quality).encode(source)
            grey = picture(61, 90, 1)
            assert Jpeg(quality, tables=own).encode(grey) == Jpeg(quality).encode(grey)

    def test_own_tables_are_used_and_hashable(self):
        flat = Jpeg(50, tables=[[7] * 64])
        assert hash(flat) == hash(Jpeg(50, tables=((7,) * 64,)))
        assert set(Image.open(io.BytesIO(flat.encode(picture(20, 20)))).quantization[0]) == {7}

    def test_a_decompression_bomb_is_refused_unread(self):
        data = bytearray(Jpeg(50).encode(picture(16, 16)))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
        with pytest.raises(CodecError):
            Jpeg().decode(bytes(data))

    def test_just_over_the_pixel_limit_is_refused(self):
        data = bytearray(Jpeg(50).encode(picture(16, 16)))
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
        ],
    )
    def test_wrong_settings(self, settings, error, words):
        with pytest.raises(error, match=words):
            Jpeg(**settings)


class TestShortStrings:
    def test_knobs(self):
        expected = Jpeg(30, "4:4:4", progressive=True)
        assert codec("jpeg:30,subsampling=4:4:4,progressive=True") == expected
        assert codec("jpeg:subsampling=4:4:4,quality=30,progressive=True") == expected
        assert codec(str(expected)) == expected
        assert codec(expected) is expected

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("gif", "'gif'.*jpeg"),
            ("jpeg:high", "int.*'high'"),
            ("jpeg:30,speed=3", "'speed=3'.*subsampling"),
            ("jpeg:30,40", "'40'"),
            ("jpeg:30,progressive=maybe", "bool.*'maybe'"),
            ("jpeg:200", "1 to 95"),
        ],
    )
    def test_what_cannot_be_read(self, text, words):
        with pytest.raises(ValueError, match=words):
            codec(text)

    def test_no_string(self):
        with pytest.raises(TypeError, match="int"):
            codec(50)
