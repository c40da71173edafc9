"""Data sets by name: where they come from, where they are on this machine, and what is in them."""

from metalens.data.catalog.base import DataSet
from metalens.data.catalog.entries import TASK_DATASETS
from metalens.data.catalog.images import IMAGE_DATASETS, ImageDataSet
from metalens.data.catalog.omniglot_entry import OMNIGLOT
from metalens.errors import MetaLensError

DATASETS: dict[str, DataSet] = {
    dataset.name: dataset for dataset in (OMNIGLOT, *IMAGE_DATASETS, *TASK_DATASETS)
}


def image_dataset(name: str) -> ImageDataSet:
    """Return a data set of images by name.

    Raises:
        MetaLensError: there is none of that name.

    >>> image_dataset("gtsrb").license
    'for research'
    """
    dataset = DATASETS.get(name)
    if not isinstance(dataset, ImageDataSet):
        names = (each.name for each in IMAGE_DATASETS)
        raise MetaLensError(f"There is no data set of images {name!r}; choose from {', '.join(names)}.")
    return dataset


__all__ = ["DATASETS", "DataSet", "ImageDataSet", "image_dataset"]
