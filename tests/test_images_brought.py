"""Images as people bring them: read rightly, left out with a count, or refused in one sentence."""

from __future__ import annotations

import io
import os
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from metalens import ImageFolders, MetaClassifier, MetaLensError
from metalens.data.images import store
from metalens.data.images.layout import find_images
from metalens.data.images.store import list_files, load_images

SETTINGS = {"n_way": 2, "k_shot": 1, "n_query": 1, "image_size": 8, "splits": "train"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    store._load.cache_clear()


def encoded(pixels, kind="png", **settings):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **settings)
    return buffer.getvalue()


def photo(seed, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def fill(folder, paths, content=None):
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encoded(photo(number)) if content is None else content(number))
    return folder


def classes(n=4, each=3, ending="png"):
    return [f"c{number}/{i}.{ending}" for number in range(n) for i in range(each)]


# Files that are not read


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (["c0/9.heic", "c1/9.HEIC"], r"2 of the 14 files .* \(2 \.heic; first: c0/9\.heic\); save them"),
        (["c0/scan.dcm"], r"1 of the 13 files .* \(1 \.dcm; first: c0/scan\.dcm\)"),
        (["raw/1.cr2", "raw/2.nef"], r"\(1 \.cr2, 1 \.nef; first: raw/1\.cr2\), and nothing else is in raw"),
        (["c0/without"], r"\(1 without extension; first: c0/without\)"),
        (["c2/a.svg", "c2/film.mp4"], r"2 of the 14 files in photos are left out"),
        (["c3/x.jxl", "d/x.jxl", "e/x.jxl"], r"nothing else is in d, e; save them as PNG or JPEG"),
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_files_that_are_not_read_are_counted_and_named(tmp_path, others, told, as_zip):
    source = fill(tmp_path / "photos", [*classes(), *others])
    if as_zip:
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
            for file in list_files(source):
                archive.write(source / file.path, file.path)
        source, told = tmp_path / "photos.zip", told.replace("in photos ", r"in photos\.zip ")
    with pytest.warns(UserWarning, match=told):
        tasks = ImageFolders(source, **SETTINGS)
    assert tasks.metadata() == {"classes": 4, "images": 12}


def test_hidden_files_and_companions_are_no_images(tmp_path, recwarn):
    files = ["README.md", "labels.csv", ".DS_Store", "c0/Thumbs.db", "c0/notes.txt", "__MACOSX/c0/1.heic"]
    ImageFolders(fill(tmp_path / "photos", [*classes(), *files]), **SETTINGS)
    assert not recwarn.list


@pytest.mark.slow
def test_the_estimator_tells_it_too(tmp_path):
    source = fill(tmp_path / "photos", classes(9, 4), lambda n: encoded(photo(n, 24)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MetaClassifier(steps=2, n_way=2, k_shot=1, n_query=1, baselines=["NearestCentroid"])
        model.fit(
            source,
            image_size=16,
            splits={"train": ["c0", "c1", "c2"], "val": ["c3", "c4"], "test": ["c5", "c6"]},
        )
    few = fill(tmp_path / "few", classes(2, 2))
    new = fill(tmp_path / "new", ["1.png", "2.heic", "3.png"])
    with pytest.warns(UserWarning, match=r"1 of the 3 files in new are left out.*first: 2\.heic"):
        assert len(model.adapt(few).predict(new)) == 2


# Two levels of folders


def patients(n_classes=4, n_patients=3, each=2):
    return [f"f{c}/p{c}{p}/{i}.png" for c in range(n_classes) for p in range(n_patients) for i in range(each)]


def test_two_levels_without_a_setting_say_how_they_are_read(tmp_path):
    source = fill(tmp_path / "scans", patients())
    with pytest.warns(UserWarning, match="scans are read as domain/class, 4 domains such as f0 with 12"):
        tasks = ImageFolders(source, **SETTINGS)
    assert tasks.n_classes == 12


@pytest.mark.parametrize(
    "paths",
    [
        patients(),
        [f"scans/{path}" for path in patients()],
        [path.replace(".png", "/deep.png") for path in patients()],
        [*patients(), "f0/alone.png", "f1/alone.png"],
        [f"{part}/{path}" for part, path in zip(["train"] * 24, patients(), strict=True)],
    ],
    ids=["plain", "below", "deeper", "uneven", "split"],
)
def test_groups_of_a_class_are_on_one_side_of_a_task(tmp_path, paths):
    source = fill(tmp_path / "scans", paths)
    settings = SETTINGS | {"k_shot": 2, "n_query": 2}
    tasks = ImageFolders(source, folders="class/group", **settings)
    assert tasks.class_names == ("f0", "f1", "f2", "f3")
    of_image = {
        image: (of.name, group)
        for of in tasks.classes
        for image, group in zip(of.images, of.groups, strict=True)
    }
    for number in range(10):
        _, images = tasks._draw(number)
        for of_class in images:
            support, query = ({of_image[image] for image in part} for part in (of_class[:2], of_class[2:]))
            assert not support & query


def test_two_levels_as_domains_are_silent_if_asked_for(tmp_path, recwarn):
    tasks = ImageFolders(fill(tmp_path / "scans", patients()), folders="domain/class", **SETTINGS)
    assert tasks.n_classes == 12
    assert not recwarn.list
    with pytest.raises(MetaLensError, match="folders must be one of domain/class, class/group, got 'deep'"):
        ImageFolders(tmp_path / "scans", folders="deep", **SETTINGS)
    with pytest.raises(MetaLensError, match="give folders='class/group' if the first folder is the class"):
        find_images(fill(tmp_path / "uneven", ["a/1.png", "b/c/2.png"]))


# Labels by the names of files


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (r"^(\w+)_", {"cat", "dog", "emu"}),
        (r"[a-z]+(?=_)", {"cat", "dog", "emu"}),
        (lambda name: name.split("_")[0].upper(), {"CAT", "DOG", "EMU"}),
        ({f"{of}_{i}.png": of[0] for of in ("cat", "dog", "emu") for i in range(3)}, {"c", "d", "e"}),
        (lambda name: "x" if name[0] == "c" else "y", {"x", "y"}),
    ],
)
def test_labels_by_file_name(tmp_path, labels, expected):
    source = fill(tmp_path / "flat", [f"{of}_{i}.png" for of in ("cat", "dog", "emu") for i in range(3)])
    assert set(ImageFolders(source, labels=labels, **SETTINGS).class_names) == expected


def test_labels_that_fit_no_file_are_counted_or_refused(tmp_path):
    source = fill(tmp_path / "flat", [f"{i}.png" for i in range(6)])
    labels = {f"{i}.png": "ab"[i % 2] for i in range(4)} | {"7.png": "a", "8.jpg": "b"}
    told = (
        r"flat: 2 of the 6 images have no label and are left out; 2 files that labels names are not there: 7"
    )
    with pytest.warns(UserWarning, match=told):
        ImageFolders(source, labels=labels, **SETTINGS)
    with pytest.raises(MetaLensError, match=r"labels names no file of .*flat, such as 0\.png"):
        ImageFolders(source, labels={"0.jpg": "a"}, **SETTINGS)


# Zip files of Windows


def zipped(path, names, content=None):
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            member = zipfile.ZipInfo("_")
            member.filename = name
            archive.writestr(member, b"" if name[-1] in "/\\" else encoded(photo(number)))
    return path


@pytest.mark.parametrize(
    "rename",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: "birds\\" + path.replace("/", "\\"),
        lambda path: "birds/" + path.replace("/", "\\"),
        lambda path: path.replace("c0/", "c0\\"),
        lambda path: "train\\" + path.replace("/", "\\"),
    ],
)
def test_backslashes_are_folders(tmp_path, rename):
    source = zipped(tmp_path / "birds.zip", ["c0\\", *map(rename, classes())])
    tasks = ImageFolders(source, **SETTINGS)
    plain = ImageFolders(fill(tmp_path / "c", classes(), lambda n: encoded(photo(n + 1))), **SETTINGS)
    assert tasks.class_names == plain.class_names
    torch.testing.assert_close(tasks[3].support.x, plain[3].support.x)


@pytest.mark.parametrize(
    "name", ["..\\x.png", "a\\..\\..\\x.png", "\\x\\y.png", "C:\\x\\y.png", "/x/y.png", "a/../y.png"]
)
def test_places_outside_are_refused_with_either_slash(tmp_path, name):
    with pytest.raises(MetaLensError, match="names a file outside of its own folder"):
        list_files(zipped(tmp_path / "birds.zip", [*classes(), name]))


# Depth and palettes


def shades(kind, white):
    values = np.linspace(0, white, 64).reshape(8, 8)
    return Image.fromarray(values.astype(kind))


@pytest.mark.parametrize(
    ("kind", "of_file", "white", "setting"),
    [
        (np.uint8, "png", 255, None),
        (np.uint16, "png", 65535, None),
        (np.uint16, "tiff", 65535, None),
        (np.uint16, "png", 4095, 4095),
        (np.uint16, "tiff", 1023, 1023),
        (np.int32, "tiff", 65535, None),
        (np.float32, "tiff", 1.0, 1.0),
        (np.float32, "tiff", 255.0, 255.0),
    ],
)
def test_images_of_any_depth_use_the_whole_range(tmp_path, kind, of_file, white, setting):
    source = tmp_path / "deep"
    fill(source, [f"c/0.{of_file}"], lambda _: encoded(shades(kind, white), of_file))
    found = load_images(source, list_files(source), side=8, color=False, white=setting).pixels
    np.testing.assert_allclose(found.reshape(8, 8), np.linspace(0, 255, 64).reshape(8, 8), atol=1.01)


@pytest.mark.parametrize(
    ("kind", "of_file", "white", "setting", "words"),
    [
        (np.uint16, "png", 4095, None, r"The 1 images of 16 bits .* no value above 4095, .*give white=4095"),
        (np.uint16, "tiff", 1023, None, r"no value above 1023, as if they had 12"),
        (
            np.float32,
            "tiff",
            1.0,
            None,
            r"its pixels are fractions; give the value of white",
        ),
        (
            np.float32,
            "tiff",
            1.0,
            0.5,
            r"its pixels are 0 to 1 and must be 0 to 0.5; give",
        ),
        (np.uint16, "png", 65535, 4095, r"its pixels are 0 to 65535 and must be 0 to 4095"),
        (np.int32, "tiff", 70000, None, r"its pixels are 0 to 70000 and must be 0 to 65535"),
    ],
)
def test_a_depth_that_does_not_fit_is_refused(tmp_path, kind, of_file, white, setting, words):
    source = fill(tmp_path / "deep", [f"c/0.{of_file}"], lambda _: encoded(shades(kind, white), of_file))
    with pytest.raises(MetaLensError, match=words):
        load_images(source, list_files(source), side=8, color=False, white=setting)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB", "RGBA", "LA", "CMYK", "I;16"])
@pytest.mark.parametrize("color", [False, True])
def test_modes_keep_black_and_white(tmp_path, mode, color):
    black_and_white = np.zeros((8, 8), np.uint8)
    black_and_white[:, 4:] = 255
    image = Image.fromarray(black_and_white)
    image = (
        Image.fromarray(black_and_white.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    )
    source = fill(tmp_path / "modes", ["c/0.tiff"], lambda _: encoded(image, "tiff"))
    found = load_images(source, list_files(source), side=8, color=color).pixels[0]
    np.testing.assert_array_equal(found, np.broadcast_to(black_and_white, found.shape))


# What the cache knows of a file


@pytest.mark.parametrize("change", ["another folder", "replaced", "written in place", "renamed", "linked"])
def test_files_of_one_name_size_and_time_are_told_apart(tmp_path, change):
    """Bitmaps of one shape have one size, and unpacking sets the time."""

    def bitmap(folder, seed):
        fill(folder, ["c/0.bmp"], lambda _: encoded(photo(seed), "bmp"))
        os.utime(folder / "c/0.bmp", ns=(10**18, 10**18))
        return folder

    def pixels(folder):
        return np.array(load_images(folder, list_files(folder), side=8, color=False).pixels)

    first = bitmap(tmp_path / "one" / "data", 0)
    before = pixels(first)
    second = first
    if change == "another folder":
        second = bitmap(tmp_path / "two" / "data", 1)
    elif change == "replaced":
        os.replace(bitmap(tmp_path / "new", 1) / "c/0.bmp", first / "c/0.bmp")
    elif change == "written in place":
        bitmap(first, 1)
    elif change == "renamed":
        first.rename(tmp_path / "away")
        bitmap(tmp_path / "new", 1).rename(first)
    else:
        (tmp_path / "two").mkdir()
        second = tmp_path / "two" / "data"
        second.symlink_to(bitmap(tmp_path / "real", 1))
    store._load.cache_clear()
    np.testing.assert_array_equal(pixels(second)[0, 0], photo(1))
    np.testing.assert_array_equal(before[0, 0], photo(0))
