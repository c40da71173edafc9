"""Poses of objects: on made-up views, and on the real ones where they are."""

import sys

import numpy as np
import pytest
import torch

from metalens import KNN, MetaLensError, Pose, evaluate
from metalens.data.catalog.pose import POSE, circular_error, load_pose
from tools.render_poses import asymmetry, main, render_poses

SPLITS = ("train", "val", "test")
N, V, SIDE = 14, 30, 16


@pytest.fixture
def arrays():
    """Fourteen objects in pairs of one family; the first pixels of a view say which it is."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, V, SIDE, SIDE)).astype(np.uint8)
    images[..., 0, 0] = np.arange(N)[:, None]
    images[..., 0, 1] = np.arange(V)
    number = np.arange(N)
    return {
        "images": images,
        "azimuth": rng.uniform(0, 2 * np.pi, (N, V)).astype(np.float32),
        "objects": np.char.add("object", number.astype(str)),
        "family": np.char.add("family", (number // 2).astype(str)),
        "asymmetry": number.astype(np.float32),
        "split": np.where(number < 8, "train", "val"),
    }


@pytest.fixture
def saved(arrays, tmp_path):
    def save(**changes):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        (folder / "pose").mkdir(parents=True)
        np.savez_compressed(folder / "pose" / POSE.files[0], **(arrays | changes))
        return folder

    return save


def views_of(examples):
    return (examples.x[:, 0, 0, :2] * 255).round().long().numpy()


def test_shrunk_views_are_means_of_squares(arrays, saved):
    folder = saved()
    small, full = load_pose(folder, shrink=4), load_pose(folder)
    assert small.images.shape == (N, V, SIDE // 4, SIDE // 4)
    square = arrays["images"][3, 5, 4:8, 8:12]
    assert small.images[3, 5, 1, 2] == square.mean().round()
    assert np.array_equal(full.images, arrays["images"])
    assert not small.images.flags.writeable
    tasks = Pose("train", k_shot=4, n_query=3, shrink=4, folder=folder)
    assert tasks[0].support.x.shape == (4, 1, SIDE // 4, SIDE // 4)
    assert torch.equal(tasks[0].support.y, Pose("train", k_shot=4, n_query=3, folder=folder)[0].support.y)
    with pytest.raises(MetaLensError, match="the sides of the views, 16 and 16 pixels, got 3"):
        load_pose(folder, shrink=3)


@pytest.mark.parametrize("split", SPLITS)
def test_a_task_has_different_views_of_one_object_on_the_published_scale(arrays, saved, split):
    tasks = Pose(split, k_shot=4, n_query=3, folder=saved())
    for index in range(10):
        task = tasks[index]
        assert task.support.x.shape == (4, 1, SIDE, SIDE)
        assert 0 <= task.support.x.min() < task.support.x.max() <= 1
        views = np.concatenate([views_of(examples) for examples in task[:2]])
        assert len(set(views[:, 1])) == 7
        assert {f"object{number}" for number in views[:, 0]} == {tasks.task_name(index)}
        y = torch.cat([examples.y for examples in task[:2]])
        expected = arrays["azimuth"][tuple(views.T)] / (2 * np.pi) * 10
        np.testing.assert_allclose(y[:, 0], expected, rtol=1e-5)


def test_families_are_in_one_split_and_held_back_ones_are_divided(arrays, saved):
    parts = {split: Pose(split, folder=saved()).task_names for split in SPLITS}
    assert sorted(sum(parts.values(), ())) == sorted(arrays["objects"])
    families = {split: {int(name[6:]) // 2 for name in names} for split, names in parts.items()}
    assert families["train"] == {0, 1, 2, 3}
    assert (len(families["val"]), len(families["test"])) == (2, 1)
    assert families["val"] | families["test"] == {4, 5, 6}
    given = np.array([*SPLITS, *SPLITS, "train"]).repeat(2)
    own = {split: Pose(split, folder=saved(split=given)).task_names for split in SPLITS}
    assert [len(names) for names in own.values()] == [6, 4, 4]
    assert own["test"] == ("object10", "object11", "object4", "object5")
    mixed = arrays["split"].copy()
    mixed[0] = "val"
    with pytest.raises(MetaLensError, match="Family family0 is in two splits"):
        Pose(folder=saved(split=mixed))


def test_objects_that_look_alike_from_all_sides_can_be_left_out(saved):
    assert len(Pose(min_asymmetry=5, folder=saved()).task_names) == 3
    with pytest.raises(MetaLensError, match=r"min_asymmetry must be at most 13.0, .* got 20"):
        Pose(min_asymmetry=20, folder=saved())


def test_the_circular_error_is_that_of_angles():
    rng = np.random.default_rng(0)
    p, y = rng.uniform(-20, 30, (3, 50, 1)), rng.uniform(0, 10, (3, 50, 1))
    turned = np.angle(np.exp(2j * np.pi * (p - y) / 10), deg=True)
    ours = circular_error(torch.from_numpy(p), torch.from_numpy(y))
    np.testing.assert_allclose(ours, np.abs(turned).mean((1, 2)), rtol=1e-9)
    shifted = circular_error(torch.from_numpy(p) + 10, torch.from_numpy(y))
    torch.testing.assert_close(ours, shifted)
    assert circular_error(torch.full((1, 2, 1), torch.nan), torch.zeros(1, 2, 1)).isnan().all()


def test_the_mean_angle_is_a_baseline(saved):
    tasks = Pose("test", k_shot=10, n_query=15, folder=saved())
    rows = evaluate(KNN(n_outputs=1, n_neighbors=1000), tasks, n_tasks=3)
    assert rows.metric.unique().tolist() == ["mse", "circular_error"]
    task = tasks[1]
    expected = (task.query.y - task.support.y.mean()).square().mean().item()
    assert rows[(rows.metric == "mse") & (rows.task == 1)].value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((N, V, SIDE, SIDE))},
        {"azimuth": np.zeros((N, V + 1))},
        {"family": np.zeros(3)},
        {"objects": np.array(["same"] * N)},
    ],
)
def test_other_files_are_refused(saved, changes):
    with pytest.raises(MetaLensError, match="is no file of views: it must hold images uint8"):
        Pose(folder=saved(**changes))


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(MetaLensError, match=r"pose is not in .*; from http.*, render .* to pose_objects.npz"):
        Pose(folder=tmp_path)


@pytest.fixture
def pose_folder(data_folder):
    if not (data_folder / "pose" / POSE.files[0]).is_file():
        pytest.skip(f"no {POSE.files[0]} in {data_folder}; set METALENS_DATA")
    return data_folder


@pytest.mark.slow
def test_real_objects_share_no_family_between_splits(pose_folder):
    data = load_pose(pose_folder)
    family_of = dict(zip(data.objects.tolist(), data.family.tolist(), strict=True))
    parts = [Pose(split, folder=pose_folder) for split in SPLITS]
    assert sum(len(tasks.task_names) for tasks in parts) == 68
    assert len(parts[0].task_names) == 50
    families = [{family_of[name] for name in tasks.task_names} for tasks in parts]
    assert sum(map(len, families)) == len(set.union(*families)) == 50
    task = parts[2][0]
    assert task.support.x.shape == (15, 1, 128, 128)
    assert 0 <= task.query.y.min() < task.query.y.max() < 10


CUBE = """
v 0 0 0
v 1 0 0
v 0 2 0
v 0 0 3
f 1 3 2
f 1 2 4
f 1 4 3
f 2 3 4
"""


@pytest.fixture
def meshes(tmp_path):
    for name in ("wedge", "twin", "tower"):
        (tmp_path / f"{name}.obj").write_text(CUBE.replace("v 0 2 0", f"v 0 {len(name)} 0"))
    return {name: tmp_path / f"{name}.obj" for name in ("wedge", "twin", "tower")}


def test_meshes_become_views_that_pose_reads(meshes, tmp_path):
    pytest.importorskip("pybullet", reason="pybullet is not installed")
    settings = {"families": {"twin": "wedge"}, "n_views": 8, "size": 32}
    splits = {"wedge": "train", "twin": "train", "tower": "test"}
    render_poses(tmp_path / POSE.files[0], meshes, splits=splits, **settings)
    tasks = Pose(folder=tmp_path, k_shot=4, n_query=4)
    assert tasks.task_names == ("twin", "wedge")
    assert tasks.image_size == 32
    data = load_pose(tmp_path)
    shares = (data.images < 255).mean((1, 2, 3))
    assert ((shares > 0.03) & (shares < 0.9)).all()
    assert (data.asymmetry > 1).all()
    assert data.images[:, :, [0, -1]].min() == 255  # nothing is cut off
    render_poses(tmp_path / "again.npz", meshes, splits=splits, **settings)
    assert (np.load(tmp_path / "again.npz")["images"] == data.images).all()


def test_an_object_that_looks_the_same_from_everywhere_has_no_asymmetry():
    angles = np.linspace(0, 6, 5)
    views = np.full((5, 4, 4), 255, np.uint8)
    views[:, 1:3, 1:3] = 40
    assert asymmetry(views, angles) == 0
    views[:, 1, 1] = [0, 60, 120, 180, 240]
    assert asymmetry(views, angles) == 60 / 4


def test_what_cannot_be_rendered_is_one_sentence(meshes, tmp_path, monkeypatch):
    (tmp_path / "text.obj").write_text("no mesh")
    for name in ("text.obj", "missing.obj"):
        with pytest.raises(MetaLensError, match=rf"{name}.*(is no mesh|Wavefront file)"):
            render_poses(tmp_path / "out.npz", {"a": tmp_path / name})
    with pytest.raises(MetaLensError, match="n_views of at least 2"):
        render_poses(tmp_path / "out.npz", meshes, n_views=1)
    apart = {"families": {"wedge": "f", "twin": "f"}}
    apart["splits"] = {"wedge": "train", "twin": "test", "tower": "val"}
    with pytest.raises(MetaLensError, match="Family f is in two splits"):
        render_poses(tmp_path / "out.npz", meshes, **apart)
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(MetaLensError, match="pip install pybullet"):
        render_poses(tmp_path / "out.npz", meshes)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["other/wedge.obj"], "Two meshes have one name"),
        (["--families", "wedg=f"], "with the name of a mesh, got wedg=f"),
        (["--n-views", "1"], "n_views of at least 2"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(meshes, tmp_path, monkeypatch, capsys, arguments, said):
    paths = list(map(str, meshes.values()))
    monkeypatch.setattr(sys, "argv", ["render_poses", str(tmp_path / "out.npz"), *paths, *arguments])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


def test_the_command_line_passes_everything_on(meshes, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "tools.render_poses.render_poses", lambda *args, **settings: calls.append((args, settings))
    )
    out, paths = tmp_path / "out.npz", list(map(str, meshes.values()))
    settings = ["--families", "twin=wedge", "--n-views", "8", "--size", "32", "--up", "z"]
    monkeypatch.setattr(sys, "argv", ["render_poses", str(out), *paths, *settings])
    main()
    expected = {
        "families": {"twin": "wedge"},
        "n_views": 8,
        "size": 32,
        "elevation": 30.0,
        "up": "z",
        "seed": 0,
    }
    assert calls == [((out, meshes), expected)]
