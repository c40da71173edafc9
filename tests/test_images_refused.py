"""Images and settings that are counted, left out or refused in one sentence."""

import io
import tracemalloc
import zipfile

import pytest
from PIL import Image
from small_images import SMALL, class_folders, photo, write, write_zip

from metalens import ImageFolders, MetaLensError
from metalens.data.images import store as image_store


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    image_store._load.cache_clear()
    return tmp_path / "cache" / "images"


def bomb():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "broken": (
        {"b/1.png": photo(1)[:60]},
        r"b/1.png in .*a cannot be read as an image \(OSError\); replace or del",
    ),
    "no image": ({"b/1.png": b"text"}, r"b/1.png in .* \(UnidentifiedImageError\)"),
    "several": (
        {"a/1.png": b"", "b/1.png": b""},
        r"a/1.png in .*, and so cannot 1 others; replace or delete them",
    ),
    "bomb": ({"b/big.png": bomb()}, "b/big.png in .* it may be a decompression bomb"),
    "loose": ({"loose.png": photo(1)}, "loose.png in .* is not where images belong: class/image, "),
    "deep": ({"a/b/c/d/e.png": photo(1)}, "is not where images belong"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("as_zip", [False, True])
def test_bad_images_are_one_sentence(tmp_path, name, as_zip, own_cache):
    changes, words = BAD[name]
    members = class_folders("abc") | changes
    source = write_zip(tmp_path / "a.zip", members) if as_zip else write(tmp_path / "a", members)
    with pytest.raises(MetaLensError, match=words if not as_zip else words.replace(".*a ", ".*a.zip ")):
        ImageFolders(source, splits="train", **SMALL)
    assert not list(own_cache.glob("*")) if own_cache.exists() else True


def test_bad_sources_are_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "texts", {"a/1.txt": b"", "b/2.csv": b""})
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "half.zip").write_bytes(write_zip(tmp_path / "a.zip", class_folders("ab")).read_bytes()[:500])
    for name, words in (
        ("nowhere", "There is no folder or zip file .*nowhere"),
        ("empty", "empty has no images; it must hold class folders"),
        ("texts", "texts has no images"),
        ("empty.zip", "empty.zip cannot be read as a folder or a zip file"),
        ("half.zip", "half.zip cannot be read as a folder or a zip file"),
    ):
        with pytest.raises(MetaLensError, match=words):
            ImageFolders(tmp_path / name, **SMALL)
    with pytest.raises(MetaLensError, match="has no images of the domains oil"):
        ImageFolders(tmp_path / "a.zip", domains=["oil"], **SMALL)


@pytest.mark.parametrize("path", ["../outside/1.png", "/etc/1.png", "a/../../1.png", "a\\..\\1.png"])
def test_a_zip_that_escapes_is_refused(tmp_path, path):
    source = write_zip(tmp_path / "a.zip", class_folders("ab") | {path: photo(1)})
    with pytest.raises(MetaLensError, match="names a file outside of its own folder"):
        ImageFolders(source, **SMALL)


@pytest.mark.parametrize("target", ["..", ".", "../b"])
def test_links_to_folders_that_are_there_are_refused_at_once(tmp_path, target):
    source = write(tmp_path / "a", class_folders("abcdefghijkl"))
    for name in "abcdefghijkl":  # who follows them all never ends
        if name != "b" or target != "../b":
            (source / name / "link").symlink_to(target)
    with pytest.raises(MetaLensError, match=r"/a/\w(/link)* is a link to .*; delete the link"):
        ImageFolders(source, splits="train", **SMALL)
    (tmp_path / "elsewhere").symlink_to(write(tmp_path / "c", class_folders("abc")))
    assert ImageFolders(tmp_path / "elsewhere", splits="train", **SMALL).n_classes == 3


def test_zips_may_name_their_own_folder_and_not_be_encrypted(tmp_path):
    members = {f"./{name}": content for name, content in class_folders("abc").items()}
    source = write_zip(tmp_path / "a.zip", members)
    assert ImageFolders(source, splits="train", **SMALL).class_names == ("a", "b", "c")
    entry = b"PK\x01\x02" + bytes([20, 3, 20, 0])  # versions, before the flags
    assert source.read_bytes().count(entry) == 12
    source.write_bytes(source.read_bytes().replace(entry + b"\0", entry + b"\1"))
    with pytest.raises(MetaLensError, match=r"a\.zip is encrypted; unpack it"):
        ImageFolders(source, splits="train", **SMALL)


def test_a_member_that_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (class_folders("abc") | {"a/big.png": bytes(2**26)}).items():
            archive.writestr(name, content)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((2**26).to_bytes(4, "little"), bytes([9, 0, 0, 0])))
    tracemalloc.start()
    try:
        with pytest.raises(MetaLensError, match=r"a/big\.png in .* cannot be read as an image"):
            ImageFolders(tmp_path / "a.zip", splits="train", **SMALL)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_small_classes_are_counted_or_refused(tmp_path):
    members = class_folders("abc") | class_folders("xyz", 2, start=50)
    source = write(tmp_path / "a", members)
    with pytest.warns(
        UserWarning, match="3 of the 6 classes of the train split are left out, .* images, .*: x, y, z"
    ):
        tasks = ImageFolders(source, splits="train", **SMALL)
    assert tasks.class_names == ("a", "b", "c")
    with pytest.raises(
        MetaLensError, match=r"has 3 classes for tasks, and n_way is 4; these lack k_shot .*: x, y, z;"
    ):
        ImageFolders(source, splits="train", **SMALL | {"n_way": 4})
    with pytest.raises(
        MetaLensError, match=r"has 0 classes for tasks, .* groups that give both sets: a, b, c and 3"
    ):
        ImageFolders(source, splits="train", group=".*/", **SMALL)
    with pytest.raises(MetaLensError, match=r"The expression 't\(\.\)' of group finds nothing in a/0.png"):
        ImageFolders(source, splits="train", group="t(.)", **SMALL)


def test_small_domains_are_counted_or_refused(tmp_path):
    members = class_folders("abc", below="photo/") | class_folders("a", below="oil/", start=50)
    source = write(tmp_path / "a", members)
    two_levels = SMALL | {"folders": "domain/class"}
    with pytest.warns(UserWarning, match="1 of the 2 domains have fewer than n_way=2 classes .*: oil"):
        tasks = ImageFolders(source, splits="train", **two_levels)
    assert tasks.n_classes == 3
    with pytest.raises(MetaLensError, match="No domain of a has n_way=4 classes in its train split"):
        ImageFolders(source, splits="train", **two_levels | {"n_way": 4})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_way": 1}, "n_way must be at least 2"),
        ({"k_shot": 0}, "k_shot must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"max_images": 0}, "max_images must be at least 1"),
        ({"normalize": "none"}, "normalize must be one of symmetric, unit, imagenet"),
        ({"normalize": "imagenet", "color": False}, "for color images only"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, changes, words):
    with pytest.raises(MetaLensError, match=words):
        ImageFolders(write(tmp_path / "a", class_folders("ab")), splits="train", **SMALL | changes)
