"""Omniglot: on a small synthetic copy, and on the real files where they are."""

import io
import os
import threading
import warnings
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from PIL import Image

from metalens.data.catalog import omniglot_images
from metalens.data.catalog.omniglot import Omniglot, split_characters
from metalens.data.catalog.omniglot_images import ZIPS, load_images
from metalens.errors import MetaLensError

DATA = Path(os.environ.get("METALENS_DATA") or Path(__file__).parents[2] / "shared" / "data")
BACKGROUND, EVALUATION = ZIPS

# Number, alphabet and zip file: 8 characters of the Vinyals train split, 3 of val, 3 of test.
CHARACTERS = (
    [(number, "Latin", BACKGROUND) for number in range(683, 691)]
    + [(number, "Hebrew", BACKGROUND) for number in range(466, 469)]
    + [(number, "ULOG", EVALUATION) for number in range(1598, 1601)]
)
PARTIAL = "Found 14 of Omniglot's 1623 characters"


def member(number, drawer, alphabet="Latin"):
    return f"images/{alphabet}/character{number % 100:02}/{number:04}_{drawer:02}.png"


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def drawing(number, drawer):
    """Draw a light page whose first column's ink tells the character, and its second's the drawer."""
    page = np.full((28, 28), 255, dtype=np.uint8)
    page[: 2 + number % 16, 0] = 0
    page[:drawer, 1] = 0
    return png(page)


def write_zips(folder, change=lambda members, name: None):
    folder.mkdir(parents=True, exist_ok=True)
    for name in ZIPS:
        members = {
            member(number, drawer, alphabet): drawing(number, drawer)
            for number, alphabet, home in CHARACTERS
            if home == name
            for drawer in range(1, 21)
        }
        change(members, name)
        with zipfile.ZipFile(folder / name, "w") as archive:
            for path, content in reversed(members.items()):  # No order may be relied on.
                archive.writestr(path, content)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METALENS_DATA", raising=False)
    omniglot_images._load.cache_clear()
    return tmp_path / "cache" / "omniglot"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return write_zips(tmp_path_factory.mktemp("omniglot"))


@pytest.fixture
def make(synthetic):
    def build(split="train", **settings):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", PARTIAL)
            return Omniglot(split, **{"folder": synthetic, "n_query": 5, **settings})

    return build


def drawers_of(images):
    """Read the drawer off unrotated synthetic images, `(..., 28, 28)`."""
    return images[..., 1].round().sum(-1)


def upright(images):
    """Undo the rotation of synthetic images: three turns of four have no ink in the top left corner."""
    images = images.flatten(0, -3)
    turns = torch.stack([images.rot90(-turn, (-2, -1)) for turn in range(4)], 1)
    which = turns[:, :, 0, 0].argmax(1)
    return turns[torch.arange(len(turns)), which], which


# Splits


def test_the_vinyals_splits_have_the_published_sizes():
    # The five alphabets' first and last numbers upstream.
    val = {"Armenian": (27, 67), "Bengali": (132, 177), "Early_Aramaic": (251, 272), "Hebrew": (466, 487)}
    val["Mkhedruli_(Georgian)"] = (729, 769)
    numbers = np.arange(1, 1624)
    alphabets = np.full(1623, "Other", dtype="U40")
    for name, (first, last) in val.items():
        alphabets[first - 1 : last] = name
    masks = [split_characters(numbers, alphabets, split, "vinyals") for split in ("train", "val", "test")]
    assert [int(mask.sum()) for mask in masks] == [1028, 172, 423]
    assert (np.sum(masks, axis=0) == 1).all()


def test_the_finn_splits_have_the_published_sizes_and_do_not_depend_on_the_other_characters():
    numbers = np.arange(1, 1624)
    alphabets = np.full(1623, "Any")
    masks = [split_characters(numbers, alphabets, split, "finn") for split in ("train", "val", "test")]
    assert [int(mask.sum()) for mask in masks] == [1100, 100, 423]
    assert (np.sum(masks, axis=0) == 1).all()
    some = slice(100, 900, 3)
    assert (split_characters(numbers[some], alphabets[some], "train", "finn") == masks[0][some]).all()


@pytest.mark.parametrize(("rotations", "sizes"), [(True, [32, 12, 12]), (False, [8, 3, 3])])
def test_a_rotated_character_stays_in_its_split(make, rotations, sizes):
    splits = [make(split, rotations=rotations, n_way=2) for split in ("train", "val", "test")]
    assert [split.n_classes for split in splits] == sizes
    assert [split.n_characters for split in splits] == [8, 3, 3]
    assert sorted(np.concatenate([split._characters for split in splits])) == list(range(14))


def test_a_partial_copy_warns_once_with_both_counts(synthetic):
    with pytest.warns(UserWarning, match=f"{PARTIAL}; the val split keeps 12 classes") as caught:
        Omniglot("val", folder=synthetic)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_seed_chooses_characters_to_train_on(make):
    few = [make(n_train_characters=3, n_way=2, seed=seed) for seed in (0, 0, 1)]
    chosen = [set(tasks._characters) for tasks in few]
    assert chosen[0] == chosen[1] != chosen[2]
    assert few[0].n_classes == 12
    everything = make(n_way=2)
    assert chosen[0] < set(everything._characters)
    drawn = few[2].batch(range(200)).query.x
    expected = everything._drawings[[c * 20 for c in chosen[2]]][:, :, 0]
    ink = upright(drawn)[0][..., 0].sum(-1).unique().round().int().tolist()
    assert ink == sorted((expected > 0).sum(1).tolist())
    assert make("test", n_train_characters=3, n_way=2).n_characters == 3
    with pytest.raises(MetaLensError, match=r"n_train_characters must be between 1 and 8, .* got 9"):
        make(n_train_characters=9)


# Tasks


def test_a_batch_equals_its_single_tasks_in_any_order(make):
    indices = [3, 700, 0, 3, 1200, 511]
    batch = make(k_shot=2).batch(indices)
    again = make(k_shot=2)
    for row in reversed(range(len(indices))):
        task = again[indices[row]]
        for together, alone in zip((*batch.support, *batch.query), (*task.support, *task.query), strict=True):
            assert torch.equal(together[row], alone)


def test_seeds_and_splits_differ(make):
    assert not torch.equal(make(seed=0)[0].support.x, make(seed=1)[0].support.x)
    assert not torch.equal(make("val")[0].support.x, make("test")[0].support.x)


def test_shapes_types_values_and_class_major_labels(make):
    batch = make(n_way=3, k_shot=2, n_query=4).batch(range(7))
    assert batch.support.x.shape == (7, 6, 1, 28, 28)
    assert batch.query.x.shape == (7, 12, 1, 28, 28)
    assert batch.support.x.dtype == torch.float32
    assert batch.support.y.dtype == torch.int64
    assert batch.support.x.min() == 0
    assert batch.support.x.max() == 1
    assert (batch.support.y == torch.tensor([0, 0, 1, 1, 2, 2])).all()
    assert (batch.query.y == torch.arange(3).repeat_interleave(4)).all()
    assert batch.query.x.mean() < 0.2  # Strokes are bright and few.


def test_support_and_query_of_a_class_share_no_drawer(make):
    batch = make(rotations=False, n_way=4, k_shot=5, n_query=15).batch(range(20))
    drawers = torch.cat(
        [
            drawers_of(part.x[:, :, 0]).reshape(20, 4, -1)  # One row per class.
            for part in batch[:2]
        ],
        dim=-1,
    )
    assert (drawers.sort(-1).values == torch.arange(1, 21)).all()


def test_traits_are_the_shares_of_the_alphabets(make):
    tasks = make(n_way=4, scheme="finn")  # its train split has characters of two alphabets
    names = dict(enumerate(alphabet for _, alphabet, _ in sorted(CHARACTERS)))
    classes = tasks._block(0).support.x // 20
    for of_task, descriptors in zip(classes.tolist(), tasks.batch(range(20)).descriptors, strict=False):
        alphabets = [names[tasks._characters[number // 4]] for number in of_task]
        assert descriptors.tolist() == [alphabets.count(name) / 4 for name in ("Hebrew", "Latin", "ULOG")]
    assert tasks.batch(range(100)).descriptors.unique(dim=0).shape[0] > 2
    assert torch.equal(tasks.with_global_labels()[3].descriptors, tasks[3].descriptors)


def test_the_images_of_a_slot_show_one_class_and_slots_differ(make):
    batch = make(n_way=5, k_shot=3).batch(range(20))
    images, turns = upright(batch.support.x[:, :, 0])
    characters = images[..., 0].round().sum(-1)
    classes = (characters * 4 + turns).reshape(20, 5, 3)
    assert (classes == classes[..., :1]).all()
    assert all(len(set(task[:, 0].tolist())) == 5 for task in classes)


def test_rotations_turn_the_images(make):
    images, turns = upright(make().batch(range(50)).query.x[:, :, 0])
    assert set(turns.tolist()) == {0, 1, 2, 3}
    assert set(images[..., 0].round().sum(-1).tolist()) <= {2 + n % 16 for n in range(683, 691)}
    straight = make(rotations=False).batch(range(50)).query.x[:, :, 0]
    assert (upright(straight)[1] == 0).all()


@pytest.mark.parametrize(("slots", "several"), [("fixed", False), ("random", True)])
def test_only_with_fixed_slots_does_a_class_keep_its_label(make, slots, several):
    distribution = make(n_way=3, slots=slots)
    batch = distribution.draw(np.random.default_rng(0), 300)
    labels = {}
    for image, label in zip(batch.query.x.flatten().tolist(), batch.query.y.flatten().tolist(), strict=True):
        labels.setdefault(image // 20, set()).add(label)
    assert len(labels) == distribution.n_classes
    assert all((len(seen) > 1) == several for seen in labels.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 0}, "n_way must be at least 2, got 0."),
        ({"n_way": 33}, "n_way must be at most 32, the number of classes of the train split, got 33."),
        ({"k_shot": 0}, "k_shot must be at least 1, got 0."),
        ({"n_query": 0}, "n_query must be at least 1, got 0."),
        ({"k_shot": 6, "n_query": 15}, "k_shot + n_query must be at most 20,"),
        ({"scheme": "lake"}, "scheme must be one of vinyals, finn, got 'lake'."),
        ({"slots": "free"}, "slots must be one of random, fixed, got 'free'."),
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'."),
    ],
)
def test_wrong_settings_are_refused_by_name(make, settings, message):
    with pytest.raises(MetaLensError) as caught:
        make(**settings)
    assert str(caught.value).startswith(message)


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


def test_all_distributions_of_a_process_share_the_drawings(make):
    assert np.shares_memory(make()._drawings, make("val")._drawings)


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


def test_pooled_tasks_show_the_same_images_with_the_classes_of_the_split(make):
    tasks = make("train", n_way=3, k_shot=2, n_query=3, rotations=True)
    before = tasks.batch(range(6))
    pooled = tasks.with_global_labels()
    after = pooled.batch(range(6))
    assert pooled.n_classes == tasks.n_classes
    for slots, classes in zip(before[:2], after[:2], strict=True):
        assert torch.equal(slots.x, classes.x)
        assert classes.y.max() < tasks.n_classes
        assert classes.y.unique().numel() > 3
        # One class to each slot of a task, whichever set.
        per_slot = classes.y.unflatten(1, (3, -1))
        assert (per_slot == per_slot[..., :1]).all()
    assert torch.equal(
        after.support.y.unflatten(1, (3, -1))[..., 0], after.query.y.unflatten(1, (3, -1))[..., 0]
    )
    assert torch.equal(tasks.batch(range(6)).query.y, before.query.y)
