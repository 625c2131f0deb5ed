"""Whatever is done to a finished target, ``verify`` names it and does not fall over."""

import functools
import gzip
import io
import json
import os
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from exporting import pack, snapshot, unpacked
from PIL import Image

from foveate import Compressor
from foveate.export import Summary, compress_dataset, verify

MANIFEST, PARTS, SUMMARY = "foveate-manifest.jsonl.gz", "foveate-parts.jsonl.gz", "foveate-summary.json"
LAYOUTS = ("tree", "shards")


def png(value):
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((16, 12)).point(lambda x: (x + 9 * value) % 256).save(stream, "PNG")
    return stream.getvalue()


class Pairs:
    """A Dataset of pairs with names of classes."""

    classes = ("cat", "dog")

    def __len__(self):
        return 6

    def __getitem__(self, k):
        return Image.open(io.BytesIO(png(k))), k % 2


def folder(root):
    for k in range(6):
        path = root / "in" / ("cat", "dog")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(k))
    (root / "in" / "cat" / "x.tar:y.png").write_bytes(png(9))
    (root / "in" / "notes.txt").write_text("where they are from\n")
    return root / "in"


def tars(root):
    (root / "in").mkdir()
    for shift, name in ((0, "a"), (3, "b")):
        with tarfile.open(root / "in" / f"{name}.tar", "w") as tar:
            for k in range(shift, shift + 3):
                for ending, data in ((".png", png(k)), (".cls", b"1"), (".json", b"[1]")):
                    info = tarfile.TarInfo(f"{k}{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root / "in"


def hugging_face(root):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {
        "image": [{"bytes": png(k), "path": None} for k in range(6)],
        "label": [k % 2 for k in range(6)],
        "caption": [f"number {k}" for k in range(6)],
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    return datasets.Dataset.from_dict(columns, datasets.Features({**features, "caption": datasets.Value("string")}))


SOURCES = {"folder": folder, "tars": tars, "dataset": lambda root: Pairs(), "hugging face": hugging_face}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Gives a source, and the target of an export of it in a layout, made once."""

    @functools.cache
    def make(source, layout):
        root = tmp_path_factory.mktemp("exported")
        made_source = SOURCES[source](root)
        export(made_source, root / "out", layout)
        return made_source, root / "out"

    return make


def export(source, target, layout):
    return compress_dataset(source, target, Compressor("webp:60"), shards=layout == "shards", part=3, workers=0)


@pytest.fixture
def target(exported, request, tmp_path):
    """A copy of a target that may be tampered with."""
    return Path(shutil.copytree(exported(*request.param)[1], tmp_path / "out"))


ALL = [(source, layout) for source in SOURCES for layout in LAYOUTS]


@pytest.mark.parametrize("target", ALL, ids="-".join, indirect=True)
def test_nothing_is_wrong_with_what_nobody_touched(target):
    root = Summary.load(target).root
    assert verify(target) == []
    assert verify(target, root=root, threads=1) == []
    assert {problem.name for problem in verify(target, root="0" * 64)} == {SUMMARY}


def lines_of(target):
    return [json.loads(line) for line in unpacked(target / MANIFEST).splitlines()]


def write_lines(target, lines):
    texts = (line if isinstance(line, str) else json.dumps(line, separators=(",", ":")) for line in lines)
    pack(target / MANIFEST, "".join(text + "\n" for text in texts).encode())


def an_image(target):
    """An image of the tree or the shards: the path of its file, and its line in the manifest."""
    line = next(line for line in lines_of(target) if line["kind"] == "compressed")
    return target / line["target"], line


def name_of(put):
    return f"{put['target']}:{put['member']}" if "member" in put else put["target"]


def flip(target):
    path, _ = an_image(target)
    data = bytearray(path.read_bytes())
    data[600 if path.suffix == ".tar" else len(data) // 2] ^= 1
    path.write_bytes(data)
    return {path.relative_to(target).as_posix()}


def cut(target):
    path, _ = an_image(target)
    path.write_bytes(path.read_bytes()[:-700])
    return {path.relative_to(target).as_posix()}


def emptied(target):
    path, _ = an_image(target)
    path.write_bytes(b"")
    return {path.relative_to(target).as_posix()}


def longer(target):
    path, _ = an_image(target)
    path.write_bytes(path.read_bytes() + b"more")
    return {path.relative_to(target).as_posix()}


def without_end(target):
    path, _ = an_image(target)
    with path.open("r+b") as stream:
        stream.truncate(40 << 30 if path.suffix != ".tar" else 64 << 20)
    return {path.relative_to(target).as_posix()}


def deleted(target):
    path, _ = an_image(target)
    path.unlink()
    return {path.relative_to(target).as_posix()}


def swapped(target):
    """Two files, or shards, in each other's place."""
    a, b = sorted({target / line["target"] for line in lines_of(target) if line["kind"] == "compressed"})[:2]
    a.rename(target / "away")
    b.rename(a)
    (target / "away").rename(b)
    return {a.relative_to(target).as_posix(), b.relative_to(target).as_posix()}


def in_its_place(make):
    def tamper(target):
        path, _ = an_image(target)
        path.unlink()
        make(path)
        return {path.relative_to(target).as_posix()}

    return tamper


def linked(target):
    path, _ = an_image(target)
    path.replace(target.parent / "elsewhere")
    path.symlink_to(target.parent / "elsewhere")
    return {path.relative_to(target).as_posix()}


def linked_within(target):
    path, _ = an_image(target)
    path.replace(target / "moved")
    path.symlink_to(target / "moved")
    return {path.relative_to(target).as_posix(), "moved"}


def planted(name):
    def tamper(target):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"evil")
        return {name}

    return tamper


def members_changed(change):
    """Have the members of the first shard changed, as a list of pairs (name, bytes)."""

    def tamper(target):
        path = target / an_image(target)[1]["target"]
        if path.suffix != ".tar":
            pytest.skip("there are no members in a tree")
        with tarfile.open(path) as tar:
            members = [(info.name, tar.extractfile(info).read()) for info in tar]
        names = change(members)
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return {path.name, *(f"{path.name}:{name}" for name in names)}

    return tamper


def added(members):
    members.insert(1, ("evil.webp", members[0][1]))
    return ["evil.webp"]


def doubled(members):
    members.insert(1, members[0])
    return [members[0][0]]


def reordered(members):
    members.append(members.pop(0))
    return [members[-1][0]]


def renamed(members):
    old = members[0]
    members[0] = ("new.webp", old[1])
    return ["new.webp", old[0]]


def dropped(members):
    return [members.pop(1)[0]]


def changed(members):
    members[0] = (members[0][0], members[0][1][:-1] + b"?")
    return [members[0][0]]


def sidecar(remove):
    """Change or remove what was made beside an image: in a tree a file, in a shard a member."""

    def tamper(target):
        put = next((put for line in lines_of(target) for put in line.get("sidecars", ())), None)
        if put is None:
            pytest.skip("nothing stands beside the images")

        def change(members):
            place = next(k for k, (name, _) in enumerate(members) if name == put["member"])
            members[place : place + 1] = [] if remove else [(put["member"], b"7" * put["bytes"])]
            return [put["member"]]

        if "member" in put:
            return members_changed(change)(target)
        (target / put["target"]).unlink() if remove else (target / put["target"]).write_bytes(b"7" * put["bytes"])
        return {put["target"]}

    return tamper


def in_line(**edits):
    """Change the line of an image: every edit alone is told of a damaged manifest at least."""

    def tamper(target):
        lines = lines_of(target)
        line = next(line for line in lines if line["kind"] == "compressed")
        line |= edits
        write_lines(target, lines)
        return {MANIFEST}

    return tamper


def in_text(change):
    """Change the manifest's text."""

    def tamper(target):
        pack(target / MANIFEST, change(unpacked(target / MANIFEST)))
        return {MANIFEST}

    return tamper


def in_lines(change):
    def tamper(target):
        lines = lines_of(target)
        change(lines)
        write_lines(target, lines)
        return {MANIFEST}

    return tamper


def raw_value(key, text):
    """Give a key of a line a value that is written as it is."""

    def tamper(target):
        lines = lines_of(target)
        line = next(line for line in lines if line["kind"] == "compressed")
        rest = json.dumps({k: v for k, v in line.items() if k != key})
        lines[lines.index(line)] = f'{rest[:-1]},"{key}":{text}}}'
        write_lines(target, lines)
        return {MANIFEST}

    return tamper


def text_changed(name, change):
    """Change the content of a compressed file."""

    def tamper(target):
        pack(target / name, change(unpacked(target / name)))
        return {name}

    return tamper


def file_changed(name, change):
    """Change the bytes of a file, or delete it."""

    def tamper(target):
        data = change((target / name).read_bytes())
        (target / name).unlink()
        if data is not None:
            (target / name).write_bytes(data)
        return {name}

    return tamper


def rooted(about):
    """A summary with the root that belongs to it: only one that is kept elsewhere tells that it was forged."""
    about = {k: v for k, v in about.items() if k != "root"}
    return about | {"root": sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def summary_holds(**edits):
    def tamper(target):
        about = json.loads((target / SUMMARY).read_text()) | edits
        (target / SUMMARY).write_text(json.dumps(rooted({k: v for k, v in about.items() if v is not None})))
        return {SUMMARY} if None in edits.values() or set(edits) & {"format", "kinds"} else {PARTS}

    return tamper


DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "1" + "0" * 4000
JUNK = bytes(range(256)) * 20

TAMPERINGS = {
    # files and shards
    "a bit flipped": flip,
    "a file cut": cut,
    "a file emptied": emptied,
    "bytes after the end": longer,
    "a file without end": without_end,
    "a file deleted": deleted,
    "files swapped": swapped,
    "a folder in its place": in_its_place(Path.mkdir),
    "a FIFO in its place": in_its_place(os.mkfifo),
    "a link to the same content": linked,
    "a link within to the same content": linked_within,
    "a sidecar changed": sidecar(remove=False),
    "a sidecar removed": sidecar(remove=True),
    "a member added": members_changed(added),
    "a member doubled": members_changed(doubled),
    "members reordered": members_changed(reordered),
    "a member renamed": members_changed(renamed),
    "a member dropped": members_changed(dropped),
    "a member changed": members_changed(changed),
    # files of others
    "a stray file": planted("stray.webp"),
    "a stray in the bookkeeping": planted(".foveate/evil"),
    "a stray called like it": planted("foveate-x"),
    "a stray called like its folder": planted(".foveate-x/y"),
    "a plan": planted(".foveate/plan.jsonl"),
    # the manifest
    "a line dropped": in_lines(lambda lines: lines.pop(2)),
    "a line doubled": in_lines(lambda lines: lines.insert(1, lines[0])),
    "lines reordered": in_lines(lambda lines: lines.reverse()),
    "all lines dropped": in_lines(lambda lines: lines.clear()),
    "a label edited": in_line(label=1 << 40),
    "a label that is none": in_line(label="cat"),
    "a source edited": in_line(source="elsewhere.png"),
    "a source that is no text": in_line(source=None),
    "settings edited": in_line(settings={"codec": "webp:61", "scale": 0.5}),
    "settings of no codec": in_line(settings={"codec": "nonsense", "scale": 1}),
    "settings that are a list": in_line(settings=[1]),
    "a size edited": in_line(size=[12, 17]),
    "a size of none": in_line(size=[0, -1]),
    "a size of words": in_line(size="12x16"),
    "a hash edited": in_line(sha256="0" * 64),
    "a hash of another length": in_line(sha256="0"),
    "bytes edited": in_line(bytes=1),
    "bytes that are true": in_line(bytes=True),
    "bytes of a fraction": in_line(bytes=1e300),
    "a kind edited": in_line(kind="copied"),
    "a kind that is a list": in_line(kind=["compressed"]),
    "sidecars that are numbers": in_line(sidecars=[1, 2]),
    "sidecars that lead out": in_line(sidecars=[{"target": "../x", "bytes": 1, "sha256": "0" * 64}]),
    "a member of a number": in_line(member=1),
    "a target above": in_line(target="../x"),
    "an absolute target": in_line(target="/etc/passwd"),
    "a target of the bookkeeping": in_line(target=SUMMARY),
    "a target that is the folder": in_line(target="."),
    "a target with a NUL": in_line(target="a\0b"),
    "a target that is no text": in_line(target=None),
    "NaN": raw_value("bytes", "NaN"),
    "infinity": raw_value("settings", '{"codec":"webp:60","scale":Infinity}'),
    "a huge scale": raw_value("settings", f'{{"codec":"webp:60","scale":{HUGE}}}'),
    "a huge size": raw_value("size", f"[{HUGE},{HUGE}]"),
    "huge bytes": raw_value("bytes", HUGE),
    "a number without end": raw_value("bytes", HUGE * 3),
    "lists in lists": raw_value("size", DEEP),
    "a line of a list": in_lines(lambda lines: lines.append("[]")),
    "an empty line": in_lines(lambda lines: lines.append("")),
    "cut within a line": in_text(lambda data: data[:-40]),
    "junk": in_text(lambda data: JUNK),
    "junk in the middle": in_text(lambda data: data[:200] + JUNK + data[200:]),
    "no UTF-8": in_text(lambda data: data.replace(b"compressed", b"\xff\xfe", 1)),
    # the summary and the parts
    "the summary edited": file_changed(SUMMARY, lambda data: data.replace(b'"bytes": ', b'"bytes": 1')),
    "the summary emptied": file_changed(SUMMARY, lambda data: b""),
    "the summary deleted": file_changed(SUMMARY, lambda data: None),
    "a summary of junk": file_changed(SUMMARY, lambda data: JUNK),
    "a summary of a list": file_changed(SUMMARY, lambda data: b"[]"),
    "a deep summary": file_changed(SUMMARY, lambda data: DEEP.encode()),
    "a summary forged to hold less": summary_holds(parts_sha256=None),
    "a summary forged to hold other kinds": summary_holds(kinds=[]),
    "a summary of another format": summary_holds(format=99),
    "a summary of another source": summary_holds(source="another"),
    "the parts edited": text_changed(PARTS, lambda data: data.replace(b'"part":0', b'"part":7', 1)),
    "the parts cut between lines": text_changed(PARTS, lambda data: data[: data.rindex(b"\n", 0, -1) + 1]),
    "the parts cut": file_changed(PARTS, lambda data: data[: len(data) // 2]),
    "the parts with a byte changed": file_changed(PARTS, lambda data: data[:30] + bytes([data[30] ^ 64]) + data[31:]),
    "the parts not compressed": file_changed(PARTS, gzip.decompress),
    "deep parts, compressed": text_changed(PARTS, lambda data: DEEP.encode()),
    "the manifest cut": file_changed(MANIFEST, lambda data: data[: len(data) // 2]),
    "the manifest without its last byte": file_changed(MANIFEST, lambda data: data[:-1]),
    "the manifest with a byte changed": file_changed(
        MANIFEST, lambda data: data[:90] + bytes([data[90] ^ 64]) + data[91:]
    ),
    "the manifest with more behind it": file_changed(MANIFEST, lambda data: data + JUNK),
    "the manifest not compressed": file_changed(MANIFEST, gzip.decompress),
    "the manifest emptied": file_changed(MANIFEST, lambda data: b""),
    "a manifest of junk": file_changed(MANIFEST, lambda data: JUNK),
    "the parts emptied": file_changed(PARTS, lambda data: b""),
    "the parts deleted": file_changed(PARTS, lambda data: None),
    "deep parts": file_changed(PARTS, lambda data: DEEP.encode()),
    "parts of junk": file_changed(PARTS, lambda data: JUNK),
}


@pytest.mark.parametrize("target", ALL, ids="-".join, indirect=True)
@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_it_is_named(target, tamper, tmp_path):
    names = tamper(target)
    before = set(tmp_path.rglob("*"))
    problems = verify(target)
    assert names <= {problem.name for problem in problems}
    assert all(str(problem) for problem in problems)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", [("folder", "tree"), ("hugging face", "shards")], ids="-".join, indirect=True)
@pytest.mark.parametrize("name", TAMPERINGS)
def test_the_same_export_again_repairs_it(target, name, exported, request):
    """To the bytes of an export that nobody disturbed, but for files that are none of its own."""
    source_name, layout = request.node.callspec.params["target"]
    source, whole = exported(source_name, layout)
    names = TAMPERINGS[name](target)
    if name == "a summary of another format":  # it may be of another version
        with pytest.raises(ValueError, match="another format"):
            export(source, target, layout)
        return
    export(source, target, layout)
    strays = {"moved"} if name == "a link within to the same content" else set()
    if name.startswith("a stray") and name != "a stray in the bookkeeping":  # which goes with the end of the run
        strays = names
    assert {problem.name for problem in verify(target)} == strays
    assert {k: v for k, v in snapshot(target).items() if k not in strays} == snapshot(whole)


@pytest.mark.parametrize("target", ALL, ids="-".join, indirect=True)
def test_a_forgery_of_everything_is_found_by_the_root(target):
    """Whoever may write to the target can write all of it anew, but not what was kept elsewhere."""
    root, path = Summary.load(target).root, target / MANIFEST
    lines = lines_of(target)
    line = next(line for line in lines if line["kind"] == "compressed")
    line["source"] = "forged.png"
    write_lines(target, lines)
    parts = [json.loads(text) for text in unpacked(target / PARTS).splitlines()]
    texts = unpacked(path).splitlines(keepends=True)
    for part in parts[1:-1]:
        part["sha256"] = sha256(b"".join(texts[: part["lines"]])).hexdigest()
        del texts[: part["lines"]]
    head = b"".join(json.dumps(part, separators=(",", ":")).encode() + b"\n" for part in parts[:-1])
    last = {"parts": len(parts) - 2, "sha256": sha256(head).hexdigest()}
    pack(target / PARTS, head + json.dumps(last, separators=(",", ":")).encode() + b"\n")
    about = json.loads((target / SUMMARY).read_text())
    hashes = {"manifest_sha256": sha256(unpacked(path)).hexdigest(), "parts_sha256": last["sha256"]}
    (target / SUMMARY).write_text(json.dumps(rooted(about | hashes)))
    assert verify(target) == []
    assert {problem.name for problem in verify(target, root=root)} == {SUMMARY}
