"""The catalogue of data sets: small copies in the published formats, and the real ones where they are."""

import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalens import MetaLensError
from metalens.data.catalog.cifar100 import CIFAR_FS, FC100, SUPERCLASS_OF, write_class_folders
from metalens.data.catalog.datasets import DATASETS, image_dataset
from metalens.data.catalog.images import IMAGE_DATASETS
from metalens.data.images import store as image_store

SPLITS = ("train", "val", "test")


def photo(number):
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, paths, **texts):
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(photo(number))
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def classes(dataset, folder, **settings):
    """Return the names of the classes of every split."""
    settings = {"n_way": 2, "n_query": 1, "image_size": 8, "folder": folder, **settings}
    return {split: dataset.tasks(split, **settings).class_names for split in SPLITS}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALENS_DATA", raising=False)
    image_store._load.cache_clear()


# Published formats


def test_cifar_fs_and_fc100_divide_the_classes_of_cifar_100():
    for splits, sizes in ((CIFAR_FS, (64, 16, 20)), (FC100, (60, 20, 20))):
        assert tuple(len(splits[split]) for split in SPLITS) == sizes
        assert sorted(name for names in splits.values() for name in names) == sorted(SUPERCLASS_OF)
    above = [{SUPERCLASS_OF[name] for name in FC100[split]} for split in SPLITS]
    assert [len(names) for names in above] == [12, 4, 4]
    assert len(set.union(*above)) == 20


def test_cifar_100_as_class_folders(tmp_path):
    names = sorted(SUPERCLASS_OF)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 3072), dtype=np.uint8)
    rows = np.concatenate(
        [np.tile(np.stack([np.zeros(100), np.arange(100)], 1), (3, 1)).astype(np.uint8), pixels], 1
    )
    parts = {
        "fine_label_names.txt": "\n".join(names).encode(),
        "train.bin": rows[:200].tobytes(),
        "test.bin": rows[200:].tobytes(),
    }
    archive = tmp_path / "cifar-100-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    write_class_folders(archive, tmp_path / "cifar100.zip")
    with zipfile.ZipFile(tmp_path / "cifar100.zip") as found:
        assert len(found.namelist()) == 300
        image = np.asarray(Image.open(io.BytesIO(found.read("cifar100/bee/002.png"))))
    number = 200 + names.index("bee")
    np.testing.assert_array_equal(image.transpose(2, 0, 1).ravel(), pixels[number])
    for name, splits in (("cifarfs", CIFAR_FS), ("fc100", FC100)):
        found = classes(image_dataset(name), tmp_path)
        assert {split: sorted(of_split) for split, of_split in splits.items()} == {
            split: list(of_split) for split, of_split in found.items()
        }
    assert image_dataset("fc100").tasks(n_query=1, folder=tmp_path).descriptor_names == tuple(sorted(set(
        SUPERCLASS_OF.values())))  # fmt: skip


def test_a_copy_of_cifar_fs_without_test_classes_says_so(tmp_path):
    paths = [
        f"{split}/{name}/{i}.png" for split in ("train", "val") for name in CIFAR_FS[split] for i in (1, 2)
    ]
    write(tmp_path / "cifar_fs", paths)
    found = classes(image_dataset("cifarfs"), tmp_path)
    assert list(found["test"]) == sorted(CIFAR_FS["val"])
    assert len(found["val"]) == 12
    assert sorted(found["train"] + found["val"]) == CIFAR_FS["train"]
    facts = image_dataset("cifarfs").tasks("test", n_query=1, image_size=8, folder=tmp_path).metadata()
    assert "testing is on the 16 published validation classes" in facts["remark"]


@pytest.mark.filterwarnings("ignore:miniimagenet. 1 of the 19 images have no label")
def test_mini_imagenet_is_read_from_the_lists_of_ravi(tmp_path):
    lists, paths = {}, []
    for number, split in enumerate(SPLITS):
        rows = ["filename,label"]
        for name in range(2):
            label = f"n0{number}{name}"
            rows += [f"{label}{i:08}.jpg,{label}" for i in range(3)]
        lists[f"{split}__csv"] = "\n".join(rows)
        paths += [f"images/{row.split(',')[0]}" for row in rows[1:]]
    write(tmp_path / "miniimagenet", [*paths, "images/other.jpg"], **lists)
    found = classes(image_dataset("miniimagenet"), tmp_path)
    assert found == {"train": ("n000", "n001"), "val": ("n010", "n011"), "test": ("n020", "n021")}
    (tmp_path / "miniimagenet" / "images" / "n00000000001.jpg").unlink()
    with pytest.raises(
        MetaLensError, match=r"lacks 1 of the 18 images that its lists name: n00000000001\.jpg"
    ):
        image_dataset("miniimagenet").check(tmp_path)
    (tmp_path / "miniimagenet" / "val.csv").write_text("a,b\n")
    with pytest.raises(MetaLensError, match=r"val.csv in .* must begin with filename,label"):
        classes(image_dataset("miniimagenet"), tmp_path)
    (tmp_path / "miniimagenet" / "val.csv").write_bytes(b"\xff\xfe,a\n")
    with pytest.raises(MetaLensError, match=r"val.csv in .* is not UTF-8"):
        classes(image_dataset("miniimagenet"), tmp_path)
    (tmp_path / "miniimagenet" / "val.csv").unlink()
    with pytest.raises(MetaLensError, match=r"lacks the published lists val.csv"):
        classes(image_dataset("miniimagenet"), tmp_path)


def test_tiered_imagenet_is_read_from_its_lists(tmp_path):
    lists = {f"{split}__csv": f"n{split}1,above\nn{split}2,other\n" for split in SPLITS}
    paths = [f"n{split}{which}/{i}.jpg" for split in SPLITS for which in (1, 2) for i in range(3)]
    write(tmp_path / "tieredimagenet", paths, **lists)
    assert classes(image_dataset("tieredimagenet"), tmp_path)["val"] == ("nval1", "nval2")
    tasks = image_dataset("tieredimagenet").tasks(n_way=2, n_query=1, image_size=8, folder=tmp_path)
    assert tasks.descriptor_names == ("above", "other")
    (tmp_path / "tieredimagenet" / "val.csv").write_text("nval1,above\nntrain1,above\n")
    with pytest.raises(MetaLensError, match="one split, but ntrain1 is listed in train and val"):
        classes(image_dataset("tieredimagenet"), tmp_path)


def test_meta_dataset_is_read_from_its_file(tmp_path):
    lists = {"train": ["a b", "c"], "valid": ["d", "e"], "test": ["f", "g"]}
    write(
        tmp_path / "dtd",
        [f"images/{name}/{i}.jpg" for names in lists.values() for name in names for i in range(3)],
    )
    with pytest.raises(MetaLensError, match=r"must hold one file \*_splits.json of Meta-Dataset, got 0"):
        classes(image_dataset("metadataset-dtd"), tmp_path)
    (tmp_path / "dtd" / "dtd_splits.json").write_text(json.dumps(lists))
    assert classes(image_dataset("metadataset-dtd"), tmp_path)["train"] == ("a b", "c")
    (tmp_path / "dtd" / "dtd_splits.json").write_text("{}")
    with pytest.raises(MetaLensError, match="must list the classes of train, valid and test"):
        classes(image_dataset("metadataset-dtd"), tmp_path)


def test_classes_with_a_slash_lie_in_folders_without(tmp_path):
    lists = {"train": ["F/A-18", "c"], "valid": ["d", "F-16A/B"], "test": ["f", "g"]}
    paths = [
        f"{name.replace('/', '_')}/{i}.jpg" for names in lists.values() for name in names for i in range(3)
    ]
    write(tmp_path / "aircraft", paths)
    (tmp_path / "aircraft" / "aircraft_splits.json").write_text(json.dumps(lists))
    found = classes(image_dataset("metadataset-aircraft"), tmp_path)
    assert found == {"train": ("F_A-18", "c"), "val": ("F-16A_B", "d"), "test": ("f", "g")}


@pytest.mark.parametrize("below", ["", "places365standard_easyformat/"])
def test_places_is_found_as_its_archive_unpacks(tmp_path, below):
    paths = [f"{below}places365_standard/train/p{name}/{i}.jpg" for name in range(8) for i in range(3)]
    write(tmp_path, paths)
    assert classes(image_dataset("places"), tmp_path)["train"] == ("p0", "p2", "p4", "p6")


def test_cub_takes_classes_by_turns(tmp_path):
    names = [f"{i:03}.bird" for i in range(1, 9)]
    write(tmp_path / "CUB_200_2011" / "images", [f"{name}/{i}.jpg" for name in names for i in range(3)])
    found = classes(image_dataset("cub"), tmp_path)
    assert found == {"train": tuple(names[::2]), "val": tuple(names[1::4]), "test": tuple(names[3::4])}


@pytest.mark.parametrize(
    "pattern", ["GTSRB/Final_Training/Images/{:05}/{:05}_{:05}.ppm", "gtsrb/s{}/t{}_{}.png"]
)
def test_gtsrb_has_tracks(tmp_path, pattern):
    write(
        tmp_path,
        [pattern.format(name, track, i) for name in range(3) for track in range(3) for i in range(4)],
    )
    tasks = image_dataset("gtsrb").tasks("test", n_way=2, n_query=4, image_size=8, folder=tmp_path)
    assert [len(np.unique(of.groups)) for of in tasks.classes] == [3, 3, 3]


# The catalogue


def test_every_data_set_says_what_it_is():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.source.startswith("http")
        for text in (dataset.description, dataset.license, dataset.steps):
            assert text
            assert not text.endswith(".")
        with pytest.raises(
            MetaLensError, match=f"{name} is not in any folder, as METALENS_DATA names none; from http"
        ):
            dataset.require()
        with pytest.raises(MetaLensError, match=f"{name} is not in /nowhere; from http"):
            dataset.check("/nowhere")
    with pytest.raises(
        MetaLensError, match="There is no data set of images 'omniglot'; choose from cifarfs, "
    ):
        image_dataset("omniglot")


def test_without_an_address_fetch_says_what_to_do():
    for dataset in IMAGE_DATASETS:
        if dataset.download is None:
            with pytest.raises(MetaLensError, match=f"{dataset.name} cannot be fetched, .* from http"):
                dataset.fetch()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out", "ignore:Found")
@pytest.mark.parametrize("name", ["omniglot", "cifarfs", "tinyimagenet", "gtsrb", "pacs"])
def test_the_real_copy_is_as_described(name, data_folder):
    dataset = DATASETS[name]
    if dataset.find(data_folder) is None:
        pytest.skip(f"{name} is not in {data_folder}")
    facts = dataset.check(data_folder)
    assert facts["test"]["classes"] >= 16
    assert facts["test"]["images"] >= 1500


def patients(folder, names):
    rows = [f"{name},{day},{day % 3},{day + 20}" for name in names for day in range(4)]
    (folder / "parkinsons_updrs.csv.gz").write_bytes(
        gzip.compress("\n".join(["patient,test_time,HNR,motor_UPDRS", *rows, ""]).encode())
    )


def test_tasks_are_counted_and_another_file_is_told_from_that_of_the_results(tmp_path):
    patients(tmp_path, range(42))
    facts = DATASETS["parkinsons"].check(tmp_path)
    assert [facts[split]["tasks"] for split in SPLITS] == [26, 8, 8]
    assert facts["test"]["rows"] == 32
    assert facts["file"].startswith("not the one")
    (tmp_path / "other").mkdir()
    patients(tmp_path / "other", ["a", "b,"])
    with pytest.raises(MetaLensError, match=r"Cannot read .* as a table"):
        DATASETS["parkinsons"].check(tmp_path / "other")
    (tmp_path / "pose_objects.npz").write_bytes(b"no array")
    with pytest.raises(MetaLensError, match=r"pose_objects\.npz is damaged"):
        DATASETS["pose"].check(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("kiba", [110, 20, 20]),
        ("parkinsons", [26, 8, 8]),
        ("m4-hourly", [290, 62, 62]),
        ("pose", [50, 6, 12]),
    ],
)
def test_the_real_tasks_are_those_of_the_results(name, tasks, data_folder):
    dataset = DATASETS[name]
    if dataset.find(data_folder) is None:
        pytest.skip(f"{name} is not in {data_folder}")
    facts = dataset.check(data_folder)
    assert [facts[split]["tasks"] for split in SPLITS] == tasks
    assert facts["file"].startswith("the one")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*left out")
def test_support_and_query_of_real_signs_share_no_track(data_folder):
    dataset = image_dataset("gtsrb")
    if dataset.find(data_folder) is None:
        pytest.skip(f"gtsrb is not in {data_folder}")
    tasks = dataset.tasks("test", k_shot=5, n_query=15, folder=data_folder)
    track_of = {image: (of.name, group) for of in tasks.classes
                for image, group in zip(of.images.tolist(), of.groups.tolist(), strict=True)}  # fmt: skip
    for index in range(100):
        images = tasks._draw(index)[1]
        sides = [
            {track_of[image] for image in part.ravel().tolist()} for part in (images[:, :5], images[:, 5:])
        ]
        assert not sides[0] & sides[1]
        assert len(np.unique(images)) == 5 * 20


def test_the_page_of_data_sets_tells_of_each_how_it_is_verified():
    page = (Path(__file__).parents[1] / "docs" / "reference" / "datasets.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == list(DATASETS)
    assert all(how.startswith(("real file", "by layout", "not verified")) for how in rows.values())
