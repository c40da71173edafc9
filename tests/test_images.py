"""Class folders of images: the tasks, splits and pixels of small synthetic ones."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import SMALL, class_folders, numbers, photo, write, write_zip

from metalens import ImageFolders, MetaLensError, stack_tasks
from metalens.data.images import store as image_store
from metalens.data.images.layout import find_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    image_store._load.cache_clear()
    return tmp_path / "cache" / "images"


# Tasks


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_task_has_the_images_of_its_classes(tmp_path, as_zip):
    members = {
        **class_folders(["cat", "dog", "emu"]),
        "notes.txt": b"",
        "cat/.hidden.png": b"",
        "cat/a.csv": b"",
    }
    source = write_zip(tmp_path / "a.zip", members) if as_zip else write(tmp_path / "a", members)
    tasks = ImageFolders(source, splits="train", **SMALL)
    assert tasks.class_names == ("cat", "dog", "emu")
    assert tasks.n_classes == 3
    for index in range(20):
        task = tasks[index]
        names = tasks.task_classes(index)
        assert task.support.x.shape == (2, 3, 8, 8)
        assert task.support.y.tolist() == [0, 1]
        assert task.query.y.tolist() == [0, 0, 1, 1]
        assert task.descriptors.shape == (0,)
        for examples in (task.support, task.query):
            found = [tasks.class_names[number // 4] for number in numbers(examples.x).tolist()]
            assert found == [names[label] for label in examples.y.tolist()]
        assert tasks.task_name(index) == f"{index} ({', '.join(names)})"
    pooled = tasks.with_global_labels()[3]
    assert [tasks.class_names[label] for label in pooled.support.y] == list(tasks.task_classes(3))
    assert torch.equal(pooled.query.x, tasks[3].query.x)


def test_tasks_are_a_function_of_seed_split_and_number(tmp_path):
    source = write(tmp_path / "a", class_folders("abcdefgh"))
    tasks = ImageFolders(source, splits="train", **SMALL)
    batch, stacked = tasks.batch([5, 0, 5]), stack_tasks([tasks[5], tasks[0], tasks[5]])
    assert all(torch.equal(a, b) for a, b in zip(batch.tensors, stacked.tensors, strict=True))
    again = ImageFolders(source, splits="train", **SMALL)
    assert torch.equal(again[7].support.x, tasks[7].support.x)
    other = ImageFolders(source, splits="train", seed=1, **SMALL)
    assert not torch.equal(other.batch(range(5)).support.x, tasks.batch(range(5)).support.x)
    with pytest.raises(MetaLensError, match="Task numbers must be 0 or more"):
        tasks.batch([-1])


def test_support_and_query_share_no_image(tmp_path):
    tasks = ImageFolders(write(tmp_path / "a", class_folders("abcd")), splits="test", split="test", **SMALL)
    for index in range(50):
        support, query = (set(numbers(part.x).tolist()) for part in tasks[index][:2])
        assert len(support) == 2
        assert len(query) == 4
        assert not support & query


@pytest.mark.parametrize("group", [r"t(\d+)_", lambda path: path.split("/")[-1].split("_")[0]])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1, 1), (3, 2, 1, 1), (6, 5, 4), (2, 7), (10, 3)])
def test_support_and_query_share_no_group(tmp_path, group, sizes):
    members, track_of = {}, {}
    for name in "ab":
        for track, size in enumerate(sizes):
            for frame in range(size):
                number = len(members)
                members[f"{name}/t{track}_{frame}.png"] = photo(number)
                track_of[number] = name, track
    source = write(tmp_path / "a", members)
    k_shot, n_query = (2, 2) if len(sizes) > 2 else (2, 3)
    tasks = ImageFolders(
        source, splits="train", group=group, **SMALL | {"k_shot": k_shot, "n_query": n_query}
    )
    seen = set()
    for index in range(60):
        parts = [numbers(part.x).tolist() for part in tasks[index][:2]]
        tracks = [{track_of[number] for number in part} for part in parts]
        assert [len(set(part)) for part in parts] == [2 * k_shot, 2 * n_query]
        assert not tracks[0] & tracks[1]
        seen |= tracks[0]
    assert len(seen) == 2 * len(sizes) or sizes in [(6, 5, 4), (2, 7), (10, 3)]


def test_a_support_set_has_images_of_many_groups(tmp_path):
    members = {f"{name}/{track}_{i}.png": photo(60 * "ab".index(name) + 10 * track + i)
               for name in "ab" for track in range(6) for i in range(10)}  # fmt: skip
    sizes = SMALL | {"k_shot": 3, "n_query": 20}
    tasks = ImageFolders(write(tmp_path / "a", members), splits="train", group=r"(\d)_", **sizes)
    for index in range(20):
        assert len(set((numbers(tasks[index].support.x) // 10).tolist())) == 6


def test_domains_and_superclasses_are_traits(tmp_path):
    members = class_folders("abc", below="photo/") | class_folders("abc", below="sketch/", start=12)
    source = write(tmp_path / "a", members)
    two_levels = SMALL | {"folders": "domain/class"}
    tasks = ImageFolders(source, splits="train", **two_levels)
    assert tasks.descriptor_names == ("photo", "sketch")
    assert tasks.class_names[0] == "photo/a"
    for index in range(20):
        task = tasks[index]
        domains = set((torch.cat([numbers(task.support.x), numbers(task.query.x)]) // 12).tolist())
        assert len(domains) == 1
        assert task.descriptors.tolist() == [1 - min(domains), min(domains)]
    assert tasks.metadata()["classes_by_domain"] == {"photo": 3, "sketch": 3}
    one = ImageFolders(source, splits="train", domains=["sketch"], **two_levels)
    assert one.class_names == ("a", "b", "c")
    assert one[0].descriptors.shape == (0,)
    above = ImageFolders(source, splits="train", superclasses={"a": "x", "b": "y", "c": "y"}, **two_levels)
    assert above.descriptor_names == ("x", "y")
    x = [name in above.task_classes(4) for name in "abc"]
    assert above[4].descriptors.tolist() == [x[0] / 2, (x[1] + x[2]) / 2]
    with pytest.raises(MetaLensError, match="superclasses lacks c; name"):
        ImageFolders(source, splits="train", superclasses={"a": "x", "b": "y"}, **two_levels)


# Splits


@pytest.mark.parametrize("below", ["", "photos/of/"])
def test_folders_give_the_splits(tmp_path, below):
    members = {}
    for number, split in enumerate(("train", "validation", "test")):
        names = [f"{split}{i}" for i in range(2)]
        members |= class_folders(names, below=f"{below}{split}/", start=8 * number)
    source = write(tmp_path / "a", members)
    found = {split: ImageFolders(source, split, **SMALL).class_names for split in ("train", "val", "test")}
    assert found == {
        "train": ("train0", "train1"),
        "val": ("validation0", "validation1"),
        "test": ("test0", "test1"),
    }


def test_no_class_is_in_two_splits(tmp_path):
    source = write(tmp_path / "a", class_folders([f"c{i}" for i in range(20)]))
    for splits in (None, (0.6, 0.2, 0.2), {"train": ["c1", "c2"], "val": ["c3", "c4"], "test": ["c5", "c6"]}):
        found = [set(ImageFolders(source, split, splits=splits, **SMALL).class_names)
                 for split in ("train", "val", "test")]  # fmt: skip
        assert sum(map(len, found)) == len(set.union(*found))
    both = tmp_path / "b"
    for start, split in ((0, "train"), (20, "test")):
        write(both, class_folders("abcde", below=f"{split}/", start=start))
    with pytest.raises(MetaLensError, match="one split, but a has folders in test and train; give splits as"):
        ImageFolders(both, **SMALL)
    anew = [
        set(ImageFolders(both, split, splits=(0.6, 0, 0.4), **SMALL).class_names)
        for split in ("train", "test")
    ]
    assert anew[0] | anew[1] == set("abcde")
    assert not anew[0] & anew[1]
    with pytest.raises(
        MetaLensError, match="one split, but a is listed in train and val; list each class once"
    ):
        ImageFolders(both, splits={"train": ["a", "b"], "val": ["a"]}, **SMALL)


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ((0.5, 0.5), "three shares that add up to 1"),
        ((0.5, 0.5, 0.5), "three shares that add up to 1"),
        ({"training": ["a"]}, "must name the classes of train, val and test, got 'training'"),
        ({"train": ["a", "z"]}, "no images of z, which splits names"),
        ("all", "splits must be one of train, val, test, got 'all'"),
        ("val", "has no classes in its train split"),
    ],
)
def test_wrong_splits_are_one_sentence(tmp_path, splits, words):
    with pytest.raises(MetaLensError, match=words):
        ImageFolders(write(tmp_path / "a", class_folders("abc")), splits=splits, **SMALL)


def test_equal_images_are_on_one_side_only(tmp_path):
    members = class_folders("abc", 6)
    members["a/copy.png"] = members["a/0.png"]
    members["c/conflict.png"] = members["b/1.png"]
    source = write(tmp_path / "a", members)
    with pytest.warns(UserWarning, match=r"3 of the 20 images in a are left out: .* \(first: a/copy.png\)"):
        tasks = ImageFolders(source, splits="train", **SMALL)
    assert [len(of.images) for of in tasks.classes] == [6, 5, 6]
    assert tasks.metadata() == {"classes": 3, "images": 17, "copies_left_out": 3}


# Images


def test_every_mode_and_size_is_brought_to_one(tmp_path):
    grey16 = io.BytesIO()
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(grey16, "PNG")
    clear = io.BytesIO()
    Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(clear, "PNG")
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    half = np.zeros((16, 16, 3), np.uint8)
    half[:8] = 255
    Image.fromarray(half).save(turned, "JPEG", exif=exif, quality=95)
    members = {
        "a/0.jpg": photo(0, size=(30, 20), kind="JPEG"),
        "a/1.png": photo(1, size=(9, 40), mode="L"),
        "a/2.gif": photo(2, mode="P", kind="GIF"),
        "b/0.png": grey16.getvalue(),
        "b/1.png": clear.getvalue(),
        "b/2.jpg": turned.getvalue(),
        "b/3.bmp": photo(3, mode="1", kind="BMP"),
        "b/4.webp": photo(4, kind="WEBP"),
    }
    source = write(tmp_path / "a", members)
    store = {}
    for color in (True, False):
        files = [image.file for image in find_images(source)]
        store[color] = image_store.load_images(source, files, side=8, color=color).pixels
    assert store[True].shape == (8, 3, 8, 8)
    assert store[False].shape == (8, 1, 8, 8)
    white, clear_pixels, turned_pixels = (store[True][number] for number in (3, 4, 5))
    assert (white == 255).all()
    assert (clear_pixels == 255).all()
    assert turned_pixels[0, :, -1].min() > 200  # the upper half is now on the right
    assert turned_pixels[0, :, 0].max() < 50


@pytest.mark.parametrize(("normalize", "low"), [("symmetric", -1.0), ("unit", 0.0), ("imagenet", None)])
def test_normalization_is_by_constants(tmp_path, normalize, low):
    source = write(tmp_path / "a", class_folders("ab"))
    x = ImageFolders(source, splits="train", normalize=normalize, **SMALL)[0].support.x
    unit = ImageFolders(source, splits="train", normalize="unit", **SMALL)[0].support.x
    if low is None:
        expected = (unit - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
    else:
        expected = unit * (1 - low) + low
    torch.testing.assert_close(x, expected)


def test_the_cache_is_used_checked_and_not_needed(tmp_path, own_cache, monkeypatch):
    source = write_zip(tmp_path / "a.zip", class_folders("abc"))

    def first():
        image_store._load.cache_clear()
        return ImageFolders(source, splits="train", **SMALL)[0].support.x

    expected = first()
    cache, digests = sorted(own_cache.glob("*.npy"), key=lambda path: "digests" in path.name)
    content = cache.read_bytes()
    cache.write_bytes(content[:128] + bytes(len(content) - 128))
    assert (first() == -1).all()  # it is what is read
    for damaged, bad in ((cache, content[:-1]), (cache, b""), (digests, b"no"), (digests, None)):
        if bad is None:
            damaged.unlink()
        else:
            damaged.write_bytes(bad)
        cache.write_bytes(content if damaged == digests else cache.read_bytes())
        assert torch.equal(first(), expected)
        assert cache.read_bytes() == content
    assert len(list(own_cache.iterdir())) == 2  # nothing half-written
    moved = source.rename(tmp_path / "b.zip")
    moved.rename(source)
    monkeypatch.setattr(image_store, "_decode", None)
    assert torch.equal(first(), expected)
    monkeypatch.undo()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("METALENS_CACHE", str(blocked / "cache"))
    assert torch.equal(first(), expected)


def test_another_image_in_a_file_is_seen(tmp_path):
    source = write(tmp_path / "a", class_folders("ab"))
    before = ImageFolders(source, splits="train", **SMALL)[0]
    write(source, {"a/0.png": photo(99), "a/1.png": photo(98), "a/2.png": photo(97)})
    after = ImageFolders(source, splits="train", **SMALL)[0]
    assert not torch.equal(before.query.x, after.query.x)


def test_labels_and_max_images(tmp_path):
    members = {f"images/{i}.png": photo(i) for i in range(12)}
    labels = {f"{i}.png": "ab"[i % 2] for i in range(10)}
    source = write(tmp_path / "a", members)
    with pytest.warns(UserWarning, match="a: 2 of the 12 images have no label and are left out"):
        tasks = ImageFolders(source, labels=labels, splits={"train": ["a", "b"]}, max_images=4, **SMALL)
    assert tasks.class_names == ("a", "b")
    assert [len(of.images) for of in tasks.classes] == [4, 4]
    assert all((numbers(tasks[i].support.x) < 8).all() for i in range(10))
