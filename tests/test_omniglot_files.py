"""Omniglot's files: damaged, found, cached, downloaded, and the real ones where they are."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from small_omniglot import BACKGROUND, CHARACTERS, EVALUATION, drawing, member, png, write_zips

from metalens.data.catalog import omniglot_images
from metalens.data.catalog.omniglot import split_characters
from metalens.data.catalog.omniglot_images import ZIPS, load_images
from metalens.errors import MetaLensError

DATA = Path(os.environ.get("METALENS_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALENS_DATA", raising=False)
    omniglot_images._load.cache_clear()
    return tmp_path / "cache" / "omniglot"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return write_zips(tmp_path_factory.mktemp("omniglot"))


# Damaged files


def spoil_png(members, name):
    if name == EVALUATION:
        members[member(1599, 7, "ULOG")] = drawing(1599, 7)[:60]


def enlarge_png(members, name):
    if name == EVALUATION:
        members[member(1599, 7, "ULOG")] = png(np.zeros((1, 5000), dtype=np.uint8))


def fatten_png(members, name):
    if name == EVALUATION:
        members[member(1599, 7, "ULOG")] = drawing(1599, 7) + bytes(2_000_000)


def drop_drawing(members, name):
    if name == BACKGROUND:
        del members[member(685, 20)]


def repeat_drawing(members, name):
    if name == BACKGROUND:
        members["elsewhere/" + member(685, 20)] = drawing(685, 20)


def renumber(members, name):
    if name == EVALUATION:
        members.update({member(1999, drawer, "ULOG"): drawing(1, drawer) for drawer in range(1, 21)})


def empty_layout(members, name):
    if name == BACKGROUND:
        members.clear()
        members["cats/1.png"] = drawing(1, 1)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (spoil_png, ["1599_07.png in", EVALUATION, "is damaged"]),
        (enlarge_png, ["1599_07.png in", EVALUATION, "DecompressionBombError"]),
        (fatten_png, ["1599_07.png in", EVALUATION, "DecompressionBombError"]),
        (drop_drawing, ["0685_20", BACKGROUND, "missing"]),
        (repeat_drawing, ["0685_20", BACKGROUND, "twice"]),
        (renumber, ["1999_01", EVALUATION, "unknown"]),
        (empty_layout, [BACKGROUND, "is not Omniglot"]),
    ],
)
def test_a_damaged_member_is_named_with_its_remedy(tmp_path, own_cache, change, parts):
    with pytest.raises(MetaLensError) as caught:
        load_images(write_zips(tmp_path / "data", change))
    message = str(caught.value)
    assert all(part in message for part in [*parts, "delete the zip file and download it again"])
    assert not list(own_cache.glob("*"))


def test_a_truncated_zip_is_named(tmp_path):
    path = write_zips(tmp_path / "data") / BACKGROUND
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(MetaLensError, match=r"images_background\.zip is damaged .*\(BadZipFile\)"):
        load_images(path.parent)


def test_a_wrong_crc_is_named(tmp_path):
    path = write_zips(tmp_path / "data") / BACKGROUND
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 255
    path.write_bytes(content)
    with pytest.raises(MetaLensError, match=r"\d_\d\d\.png in .*images_background\.zip is damaged"):
        load_images(path.parent)


def test_the_same_zip_twice_is_refused(tmp_path):
    folder = write_zips(tmp_path / "data")
    (folder / EVALUATION).write_bytes((folder / BACKGROUND).read_bytes())
    with pytest.raises(MetaLensError, match="there twice"):
        load_images(folder)


# Finding files


def test_an_explicit_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(
        MetaLensError,
        match=r"omniglot is not in .*; from http.*, put images_background.zip and images_evaluation.zip",
    ):
        load_images(tmp_path)


@pytest.mark.parametrize("place", ["", "omniglot"])
def test_the_environment_variable_is_found(tmp_path, monkeypatch, place):
    write_zips(tmp_path / "data" / place)
    monkeypatch.setenv("METALENS_DATA", str(tmp_path / "data"))
    assert load_images().numbers.tolist() == sorted(number for number, _, _ in CHARACTERS)


def test_drawings_are_in_the_order_of_numbers_and_drawers(synthetic):
    images = load_images(synthetic)
    assert images.alphabets[[0, 3, -1]].tolist() == ["Hebrew", "Latin", "ULOG"]
    ink = images.pixels.astype(int) // 255
    assert (ink[..., 1].sum(-1) == np.arange(1, 21)).all()
    assert (ink[..., 0].sum(-1) == 2 + images.numbers[:, np.newaxis] % 16).all()


# Cache


def test_the_cache_is_written_once_and_used(synthetic, own_cache, monkeypatch):
    first = load_images(synthetic)
    (file,) = own_cache.iterdir()
    omniglot_images._load.cache_clear()
    monkeypatch.setattr(omniglot_images, "_decode", None)
    again = load_images(synthetic)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert list(own_cache.iterdir()) == [file]


def flip(content):
    content[len(content) // 2] ^= 255
    return content


@pytest.mark.parametrize("damage", [flip, lambda c: c[:1000], lambda c: b"", lambda c: b"\x93NUMPY"])
def test_a_damaged_cache_is_rebuilt(synthetic, own_cache, damage):
    first = load_images(synthetic)
    (file,) = own_cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(bytearray(good)))
    omniglot_images._load.cache_clear()
    again = load_images(synthetic)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert omniglot_images._read_cache(file) is not None


def test_a_cache_of_other_shapes_is_rebuilt(synthetic, own_cache):
    load_images(synthetic)
    (file,) = own_cache.iterdir()
    np.savez(file, pixels=np.zeros(3), numbers=np.zeros(()), alphabets=np.zeros(2))
    omniglot_images._load.cache_clear()
    assert load_images(synthetic).pixels.shape == (14, 20, 28, 28)


def test_other_files_get_another_cache(tmp_path, synthetic, own_cache):
    load_images(synthetic)
    load_images(write_zips(tmp_path / "data", lambda members, name: members.update({"note.txt": name})))
    assert len(list(own_cache.iterdir())) == 2


def test_an_unwritable_cache_does_no_harm(synthetic, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "file"))
    assert load_images(synthetic).pixels.shape == (14, 20, 28, 28)


def test_a_failed_write_leaves_no_file(synthetic, own_cache, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    assert load_images(synthetic).pixels.shape == (14, 20, 28, 28)
    assert not list(own_cache.iterdir())


# Download


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Keep the test's output clean."""


class Interrupted(Quiet):
    """A server that breaks off half way."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read(1000))


@pytest.fixture
def serve(synthetic, monkeypatch):
    """Serve the synthetic files where the library expects upstream's."""
    servers = []

    def start(handler=Quiet):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=synthetic))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(omniglot_images, "URL", f"http://127.0.0.1:{server.server_port}/")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_is_kept_and_used_again(serve, synthetic, own_cache, monkeypatch, tmp_path):
    serve()
    sums = {name: pooch.file_hash(synthetic / name, alg="md5") for name in ZIPS}
    monkeypatch.setattr(omniglot_images, "ZIPS", sums)
    monkeypatch.setenv("METALENS_DATA", str(tmp_path / "nothing"))  # Lacks the files: falls through.
    assert len(load_images().numbers) == 14
    assert {path.name for path in own_cache.glob("*.zip")} == set(ZIPS)
    monkeypatch.setattr(omniglot_images, "URL", "http://127.0.0.1:9/")
    omniglot_images._load.cache_clear()
    assert len(load_images().numbers) == 14


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (Quiet, "Omniglot's download does not have the published MD5 sum, so it was not kept;"),
        (Interrupted, "Omniglot is not on this machine and could not be downloaded (ChunkedEncodingError);"),
    ],
)
def test_a_bad_download_leaves_no_file(serve, own_cache, handler, message):
    serve(handler)
    with pytest.raises(MetaLensError) as caught:
        load_images()
    assert str(caught.value).startswith(message)
    assert "METALENS_DATA" in str(caught.value)
    assert not list(own_cache.iterdir())


def test_without_a_network_the_message_says_what_to_do(monkeypatch):
    def retrieve(*arguments, **settings):
        raise ConnectionError("no route")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(MetaLensError) as caught:
        load_images()
    message = str(caught.value)
    assert message.startswith("Omniglot is not on this machine and could not be downloaded (ConnectionError)")
    assert "download images_background.zip and images_evaluation.zip from https://github.com/" in message
    assert message.endswith("set the environment variable METALENS_DATA to that folder.")


# Real files


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    if not all((DATA / "omniglot" / name).is_file() for name in ZIPS):
        pytest.skip("METALENS_DATA names no folder with omniglot/images_background.zip and _evaluation.zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield load_images(DATA)


@pytest.mark.slow
def test_the_real_drawings(real_images):
    # The background file is complete; a copy of the evaluation file may not be.
    assert 964 < len(real_images.numbers) <= 1623
    assert real_images.numbers[:964].tolist() == list(range(1, 965))
    assert real_images.pixels.shape == (len(real_images.numbers), 20, 28, 28)
    assert real_images.pixels.min() == 0
    assert real_images.pixels.max() == 255
    assert 0.03 < real_images.pixels.mean() / 255 < 0.15
    assert len(np.unique(real_images.pixels)) > 100  # Antialiased.
    assert real_images.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean() < 5  # Corners are empty.


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["vinyals", "finn"])
def test_the_real_splits_share_no_character(real_images, scheme):
    masks = [split_characters(*real_images[1:], split, scheme) for split in ("train", "val", "test")]
    assert (np.sum(masks, axis=0) == 1).all()
    if scheme == "vinyals":
        assert masks[1].sum() == 172
    if len(real_images.numbers) == 1435:
        sizes = {"vinyals": [935, 172, 328], "finn": [971, 93, 371]}
        assert [int(mask.sum()) for mask in masks] == sizes[scheme]
