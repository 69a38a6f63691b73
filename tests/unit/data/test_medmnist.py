"""MedMNIST: pictures inside an archive, labels and splits of every kind of set, and archives that are damaged."""

import hashlib
import io
import struct
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from medistill.data import cache
from medistill.data.adapters.medmnist import SETS
from medistill.data.cache import decode_all
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.reading import arrays
from medistill.errors import UserError
from medistill.images.frame import Framing
from medistill.records.data import SPLITS
from tests.trees_readers import write_medmnist
from tests.trees_tiles import read_whole, settings


def frames_of(root, out, **changed):
    """The ingested data set of an archive at 32 px, and its pixels by image id."""
    data = settings("medmnist", root, split="official", image_size=32, **changed)
    ingest(data, out / "out", out / "cache")
    dataset = Dataset.open(out / "out")
    return dataset, dict(zip(dataset.manifest["image_id"], dataset.images(dataset.manifest), strict=True))


@pytest.mark.parametrize("packed", [True, False])
def test_every_picture_reaches_its_row_with_its_label_and_split(tmp_path, packed):
    pictures = write_medmnist(tmp_path / "root", shape=(32, 32), packed=packed)
    dataset, frames = frames_of(tmp_path / "root", tmp_path)
    assert (dataset.task, dataset.labels) == ("multiclass", ["normal", "pneumonia"])
    assert len(frames) == 120
    rows = dataset.manifest.set_index("image_id")
    for split in SPLITS:
        for number, picture in enumerate(pictures[f"{split}_images"]):
            image = f"{split}/{number:06d}"
            assert np.array_equal(frames[image][0], picture)
            assert rows.loc[image, "path"] == f"pneumoniamnist.npz/{split}_images/{number}"
            assert rows.loc[image, "split"] == split
            label = pictures[f"{split}_labels"][number, 0]
            assert rows.loc[image, ["label:normal", "label:pneumonia"]].tolist() == [1 - label, label]


def test_colour_and_many_classes(tmp_path):
    pictures = write_medmnist(tmp_path / "root", "bloodmnist_64.npz", shape=(64, 64, 3), labels=8)
    data = settings("medmnist", tmp_path / "root", split="official", image_size=64, channels=3)
    ingest(data, tmp_path / "out", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.labels == list(SETS["bloodmnist"])
    order = np.concatenate([pictures[f"{split}_images"] for split in sorted(SPLITS)])
    assert np.array_equal(dataset.images(dataset.manifest), order.transpose(0, 3, 1, 2))
    labels = np.concatenate([pictures[f"{split}_labels"] for split in sorted(SPLITS)])[:, 0]
    assert np.array_equal(dataset.targets(dataset.manifest), np.eye(8)[labels])


def test_labels_that_do_not_exclude_each_other(tmp_path):
    pictures = write_medmnist(tmp_path, "chestmnist.npz", columns=14)
    source = read_whole("medmnist", tmp_path)
    assert (source.task, source.labels) == ("multilabel", list(SETS["chestmnist"]))
    expected = np.concatenate([pictures[f"{split}_labels"] for split in SPLITS])
    np.testing.assert_array_equal(source.rows.filter(like="label:"), expected)
    assert source.official.tolist() == [*["train"] * 60, *["val"] * 30, *["test"] * 30]


def test_every_set_has_its_labels_in_order(tmp_path):
    medmnist = {name: len(labels) for name, labels in SETS.items()}
    assert medmnist == {
        **{"pathmnist": 9, "chestmnist": 14, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5},
        **{
            "breastmnist": 2,
            "bloodmnist": 8,
            "tissuemnist": 8,
            "organamnist": 11,
            "organcmnist": 11,
            "organsmnist": 11,
        },
    }
    for name, count in medmnist.items():
        numbers = np.arange(count, dtype=np.int64)[:, None] if name != "chestmnist" else np.eye(14, dtype=np.int64)
        changed = {f"{split}_labels": numbers for split in SPLITS}
        root = tmp_path / name
        write_medmnist(root, f"{name}_128.npz", sizes=(count,) * 3, **changed)
        values = read_whole("medmnist", root).rows.filter(like="label:").to_numpy()
        assert np.array_equal(values, np.tile(np.eye(count), (3, 1)))


ORGANS = "81084d35318817f5"

PUBLISHED = {
    # SHA-256, its first 16 digits, of the names in order with `|` between them, of INFO in the package medmnist 3.0.2
    "pathmnist": "ae889708d6199a11",
    "chestmnist": "634542dea94b29b8",
    "dermamnist": "cbf51e18ed5ddb50",
    "octmnist": "597b86e76fad98ab",
    "pneumoniamnist": "11fe33ce73a53d7d",
    "retinamnist": "4565c3e4e04dfe3f",
    "breastmnist": "7f866dc8203fc938",
    "bloodmnist": "b67bdc664d6b63d0",
    "tissuemnist": "1bbce9000f7bca38",
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), ORGANS),
}


def test_labels_have_the_names_that_their_authors_give_them():
    hashes = {name: hashlib.sha256("|".join(labels).encode()).hexdigest()[:16] for name, labels in SETS.items()}
    assert hashes == PUBLISHED


def test_an_archive_is_read_once_from_its_first_picture_to_its_last(tmp_path, monkeypatch):
    """With blocks of any size, as a compressed picture can only be reached by unpacking all before it."""
    write_medmnist(tmp_path / "root")
    read, taken = arrays._skip, []
    monkeypatch.setattr(arrays, "_skip", lambda file, count: taken.append(count) or read(file, count))
    monkeypatch.setattr(cache, "BLOCK", 10)
    monkeypatch.setattr(cache, "_LEAST", 10)
    frames_of(tmp_path / "root", tmp_path)
    assert sum(count for count in taken if count > 28 * 28) == 0
    assert len([count for count in taken if 0 < count < 28 * 28]) == 3  # the header of each array


def test_pictures_may_be_asked_for_in_any_order_and_from_any_process(tmp_path):
    pictures = write_medmnist(tmp_path)["val_images"]
    numbers = np.random.default_rng(1).permutation(30)
    paths = [f"pneumoniamnist.npz/val_images/{number}" for number in numbers]
    framing = Framing(size=28, channels=1, fit="pad")
    for workers in (1, 2):
        frames = decode_all(tmp_path, paths, tmp_path / f"cache{workers}", framing, workers=workers)
        assert np.array_equal(frames.gather(paths)[:, 0], pictures[numbers])
    write_medmnist(tmp_path, val_images=pictures[::-1])  # another archive of the same name
    frames = decode_all(tmp_path, paths, tmp_path / "cache1", framing, workers=1)
    assert np.array_equal(frames.gather(paths)[:, 0], pictures[::-1][numbers])


def test_a_file_in_a_folder_that_is_called_like_an_archive_is_a_file(tmp_path):
    from tests.trees_tiles import write_picture

    write_picture(tmp_path / "x.npz/1.png", 1)
    assert arrays.file_of(tmp_path, "x.npz/1.png") == tmp_path / "x.npz/1.png"
    assert arrays.read_picture(tmp_path, "x.npz/1.png").size == (32, 32)


GREY = np.zeros((60, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val_labels": None}, "has no array val_labels; it has test_images, test_labels, train_images"),
        ({"train_images": GREY.astype(np.uint16)}, r"train_images is uint16 of \(60, 28, 28\); it must be uint8 of"),
        (
            {"train_images": np.zeros((60, 28, 28, 28), np.uint8)},
            r"is uint8 of \(60, 28, 28, 28\); it must",
        ),
        ({"train_images": np.zeros((60, 28), np.uint8)}, r"train_images is uint8 of \(60, 28\); it must"),
        ({"train_images": np.asfortranarray(GREY)}, "train_images.npy is stored column by column"),
        ({"train_images": np.array([None] * 60)}, "train_images.npy holds Python objects, which are not read"),
        (
            {"train_labels": np.zeros((59, 1), np.uint8)},
            r"is uint8 of \(59, 1\); it must be .* of \(60, 1\)",
        ),
        (
            {"train_labels": np.zeros((60, 14), np.uint8)},
            r"is uint8 of \(60, 14\); it must be whole",
        ),
        ({"train_labels": np.zeros((60, 1), np.float32)}, "train_labels is float32 of"),
        ({"val_labels": np.full((30, 1), 2)}, "val_labels has 2 at 0; known are 0 to 1"),
        ({"val_labels": np.full((30, 1), -1)}, "val_labels has -1 at 0; known are 0 to 1"),
    ],
)
def test_arrays_that_are_not_as_published_are_named(tmp_path, changed, message):
    write_medmnist(tmp_path, **changed)
    with pytest.raises(UserError, match=rf"pneumoniamnist\.npz: .*{message}"):
        read_whole("medmnist", tmp_path)


def forge(path, declared, content=b"", *, name="train_images"):
    """Replace an array of an archive by a header that declares this shape, and by `content`."""
    with zipfile.ZipFile(path) as opened:
        members = {info.filename: opened.read(info) for info in opened.infolist()}
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": declared})
    members[f"{name}.npy"] = header.getvalue() + content
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for member, data in members.items():
            opened.writestr(member, data)


@pytest.mark.parametrize("declared", [(10**12, 28, 28), (60, 10**6, 10**6), (2**62, 2, 2), (60, 28, 29), (59, 28, 28)])
def test_a_shape_is_held_against_the_archive_before_memory_is_taken(tmp_path, declared):
    write_medmnist(tmp_path)
    forge(tmp_path / "pneumoniamnist.npz", declared, GREY.tobytes())
    with pytest.raises(UserError, match=r"train_images\.npy has 47,168 bytes and declares [0-9,]+"):
        read_whole("medmnist", tmp_path)


def test_more_pictures_than_are_read_are_refused(tmp_path):
    write_medmnist(tmp_path)
    for name in ("train_images", "train_labels"):
        shape = (1_000_001, 1, 1) if name == "train_images" else (1_000_001, 1)
        forge(tmp_path / "pneumoniamnist.npz", shape, bytes(1_000_001), name=name)
    with pytest.raises(UserError, match="train_images has 1,000,001 pictures; no more than 1,000,000 are read"):
        read_whole("medmnist", tmp_path)


def test_an_array_is_not_unpacked_where_it_is_larger_than_its_limit(tmp_path):
    write_medmnist(tmp_path)
    file = tmp_path / "pneumoniamnist.npz"
    found = arrays.find_arrays(file, ["train_images"])["train_images"]
    assert arrays.read_array(file, "train_images", found, limit=60 * 28 * 28).shape == (60, 28, 28)
    with pytest.raises(UserError, match="train_images has 47,040 bytes; no more than 47,039 are read"):
        arrays.read_array(file, "train_images", found, limit=60 * 28 * 28 - 1)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
def test_headers_of_other_versions(tmp_path, version):
    write_medmnist(tmp_path)
    file = tmp_path / "pneumoniamnist.npz"
    with zipfile.ZipFile(file) as opened:
        members = {info.filename: opened.read(info) for info in opened.infolist()}
    old = members["train_images.npy"]
    length = struct.unpack("<H", old[8:10])[0]
    size = struct.pack("<H" if version == (1, 0) else "<I", length)
    members["train_images.npy"] = b"\x93NUMPY" + bytes(version) + size + old[10:]
    with zipfile.ZipFile(file, "w") as opened:
        for member, data in members.items():
            opened.writestr(member, data)
    if version in ((1, 0), (2, 0)):
        assert len(read_whole("medmnist", tmp_path).rows) == 120
        return
    with pytest.raises(UserError, match="not a readable NumPy archive"):
        read_whole("medmnist", tmp_path)


def test_an_archive_that_is_damaged_anywhere_stops_with_its_name(tmp_path):
    """With one byte flipped, or the end cut off, every picture is right or the run stops."""
    write_medmnist(tmp_path, sizes=(20, 20, 20))
    file = tmp_path / "pneumoniamnist.npz"

    def read_all():
        rows = read_whole("medmnist", tmp_path).rows
        pictures = [np.asarray(arrays.read_picture(tmp_path, path)) for path in rows["path"]]
        return rows.to_csv(), np.stack(pictures).tobytes()

    whole, right, place = file.read_bytes(), read_all(), np.random.default_rng(0)
    damaged = [whole[: int(at)] for at in place.integers(0, len(whole), 25)]
    flips = [(int(at), 1 << int(bit)) for at, bit in place.integers(0, (len(whole), 8), (100, 2))]
    damaged += [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for at, flip in flips]
    stopped = []
    for content in damaged:
        file.write_bytes(content)
        try:
            assert read_all() == right  # a flip in a date or an attribute changes nothing
        except UserError as error:
            stopped.append(str(error))
    assert len(stopped) > 110
    assert all(str(file) in message and "\n" not in message for message in stopped)


def test_which_archive_is_meant(tmp_path):
    with pytest.raises(UserError, match=r"no archive of a two-dimensional set of MedMNIST in it, such as"):
        read_whole("medmnist", tmp_path)
    write_medmnist(tmp_path / "deep/medmnist")
    with pytest.raises(UserError, match=r"set data\.root to .*deep/medmnist$"):
        read_whole("medmnist", tmp_path)
    (tmp_path / "organmnist3d.npz").touch()
    with pytest.raises(UserError, match=r"chestmnist_64\.npz, but organmnist3d\.npz"):
        read_whole("medmnist", tmp_path)
    with pytest.raises(UserError, match=r"is a file; set data\.root to its folder, .*medmnist$"):
        read_whole("medmnist", tmp_path / "deep/medmnist/pneumoniamnist.npz")
    for name in ("pneumoniamnist.npz", "pneumoniamnist_64.npz"):
        write_medmnist(tmp_path, name)
    with pytest.raises(UserError, match=r"data\.options\.file to one of pneumoniamnist\.npz, pneumoniamnist_64\.n"):
        read_whole("medmnist", tmp_path)
    assert len(read_whole("medmnist", tmp_path, file="pneumoniamnist_64.npz").rows) == 120
    assert len(read_whole("medmnist", tmp_path, file="deep/medmnist/pneumoniamnist.npz").rows) == 120
    for name, message in (
        ("../x/pneumoniamnist.npz", "lies outside of data.root"),
        ("mine.npz", "its name is none of MedMNIST's two-dimensional sets, pathmnist"),
        ("organmnist3d.npz", "its name is none of"),
        ("octmnist.npz", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            read_whole("medmnist", tmp_path, file=name)


def test_a_link_to_an_archive_elsewhere_is_refused(tmp_path):
    write_medmnist(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/pneumoniamnist.npz").symlink_to(tmp_path / "elsewhere/pneumoniamnist.npz")
    with pytest.raises(UserError, match=r"pneumoniamnist\.npz: lies outside of data\.root"):
        read_whole("medmnist", tmp_path / "root")
