"""Omniglot's splits and tasks, on a small synthetic copy."""

import warnings

import numpy as np
import pytest
import torch
from small_omniglot import CHARACTERS, PARTIAL, write_zips

from metalens.data.catalog import omniglot_images
from metalens.data.catalog.omniglot import Omniglot, split_characters
from metalens.errors import MetaLensError


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


def test_all_distributions_of_a_process_share_the_drawings(make):
    assert np.shares_memory(make()._drawings, make("val")._drawings)


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
