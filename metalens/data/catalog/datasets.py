"""All data sets by name."""

from metalens.data.catalog.assays import CHEMBL, FS_MOL, KIBA, PQSAR_DATA
from metalens.data.catalog.base import DataSet
from metalens.data.catalog.images import IMAGE_DATASETS, ImageDataSet
from metalens.data.catalog.m4 import M4_HOURLY
from metalens.data.catalog.omniglot_images import OMNIGLOT
from metalens.data.catalog.parkinsons import PARKINSONS
from metalens.data.catalog.pose import POSE
from metalens.errors import MetaLensError

_TASK_DATASETS = KIBA, CHEMBL, PQSAR_DATA, FS_MOL, PARKINSONS, M4_HOURLY, POSE
DATASETS: dict[str, DataSet] = {each.name: each for each in (OMNIGLOT, *IMAGE_DATASETS, *_TASK_DATASETS)}


def image_dataset(name: str) -> ImageDataSet:
    """Return a data set of images by name, or raise a `MetaLensError`."""
    dataset = DATASETS.get(name)
    if not isinstance(dataset, ImageDataSet):
        names = (each.name for each in IMAGE_DATASETS)
        raise MetaLensError(f"There is no data set of images {name!r}; choose from {', '.join(names)}.")
    return dataset
