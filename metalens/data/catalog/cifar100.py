"""CIFAR-100: its classes and superclasses, the few-shot splits made of them, and the download."""

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from metalens.data.catalog.base import fetched
from metalens.errors import extra
from metalens.io.files import atomic_path, cache_folder

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
_SIDE = 32

SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
SUPERCLASS_OF = {name: above for above, names in SUPERCLASSES.items() for name in names}

_CIFAR_FS_VAL = (
    "beaver", "beetle", "butterfly", "camel", "cattle", "crab", "crocodile", "flatfish", "lamp", "maple_tree",
    "motorcycle", "otter", "sea", "shark", "television", "tractor",
)  # fmt: skip
_CIFAR_FS_TEST = (
    "baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy",
    "rocket", "rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm",
)  # fmt: skip
CIFAR_FS = {
    "train": sorted(SUPERCLASS_OF.keys() - {*_CIFAR_FS_VAL, *_CIFAR_FS_TEST}),
    "val": list(_CIFAR_FS_VAL),
    "test": list(_CIFAR_FS_TEST),
}

_FC100_VAL = "large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals"
_FC100_TEST = "aquatic_mammals", "insects", "medium_mammals", "people"
FC100 = {
    "train": [name for above, names in SUPERCLASSES.items() if above not in _FC100_VAL + _FC100_TEST
              for name in names],
    "val": [name for above in _FC100_VAL for name in SUPERCLASSES[above]],
    "test": [name for above in _FC100_TEST for name in SUPERCLASSES[above]],
}  # fmt: skip


def fetch() -> Path:
    """Download CIFAR-100 into the cache, and return the path of a zip file with a folder for each class."""
    folder = cache_folder() / "datasets" / "images"
    target = folder / "cifar100.zip"
    if target.is_file():
        return target
    by_hand = f"download {URL} on another machine, and make the class folders cifar100/CLASS/ of its images"
    archive = fetched("CIFAR-100", {URL: MD5}, folder, by_hand)
    write_class_folders(archive, target)
    archive.unlink()
    return target


def write_class_folders(archive: Path, target: Path) -> None:
    """Write the images of upstream's binary archive into a zip file with a folder for each class."""
    with extra("cli"):
        from PIL import Image

    with tarfile.open(archive) as tar:
        content = {Path(member.name).name: tar.extractfile(member) for member in tar if member.isfile()}
        parts = {name: file.read() for name, file in content.items() if file is not None}
    names = parts["fine_label_names.txt"].decode().split()
    rows = np.frombuffer(parts["train.bin"] + parts["test.bin"], np.uint8).reshape(-1, 2 + 3 * _SIDE**2)
    seen: Counter[str] = Counter()
    with atomic_path(target) as partial, zipfile.ZipFile(partial, "w") as out:
        for row in rows:
            name = names[row[1]]  # the first byte is the superclass
            buffer = io.BytesIO()
            Image.fromarray(row[2:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0).copy()).save(buffer, "PNG")
            out.writestr(f"cifar100/{name}/{seen[name]:03}.png", buffer.getvalue())
            seen[name] += 1
