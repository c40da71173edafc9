"""The hourly series of the M4 competition."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from metalens.data.base import Split
from metalens.data.catalog.base import TaskDataSet
from metalens.data.series import Scaling, SeriesTasks, read_series


class M4Hourly(SeriesTasks):
    """The hourly series of the M4 competition: the next two days from the last week.

    414 series of 748 or 1,008 values, divided by `hashed_order` of their names into 290, 62 and 62. The
    queries of validation and test tasks are the last periods of two days of a series; the very last one is
    the test period of the competition.

    Args:
        split: `"train"`, `"val"` or `"test"`.
        length: hours that are seen.
        k_shot: support windows per task.
        n_query: query windows per task.
        n_train_tasks: how many series to train on, chosen at random by the seed; `None` for all.
        scale: `"window"`, `"train"` or `"none"`, see `SeriesTasks`.
        seed: see `TaskDistribution`.
        folder: a folder with `m4_hourly.csv.gz` (columns series, hour, value), in itself or in its folder
            `tables`; `None` for the one that METALENS_DATA names.

    Raises:
        MetaLensError: the table is missing or damaged, or a setting is out of range.

    >>> M4Hourly("test")[0].query.y.shape  # doctest: +SKIP
    torch.Size([3, 48])

    Source: S. Makridakis, E. Spiliotis, V. Assimakopoulos, "The M4 Competition: 100,000 time series and 61
    forecasting methods", International Journal of Forecasting 36, 2020. Deviations: methods there forecast
    each series once, from all of its history; here from one window, and models are tested on new series.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        length: int = 168,
        k_shot: int = 5,
        n_query: int = 3,
        n_train_tasks: int | None = None,
        scale: Scaling = "window",
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        series = load_m4_hourly(M4_HOURLY.require(folder))
        super().__init__(series, split, length=length, horizon=48, season=24, k_shot=k_shot, n_query=n_query,
                         queries="random" if split == "train" else "last", n_train_tasks=n_train_tasks,
                         scale=scale, seed=seed)  # fmt: skip


M4_HOURLY = TaskDataSet(
    name="m4-hourly",
    description="M4 competition: 414 hourly time series",
    license="not stated",
    source="https://github.com/Mcompetitions/M4-methods",
    steps="write the rows of Hourly-train.csv, each with its row of Hourly-test.csv behind it, into "
    "m4_hourly.csv.gz with the columns series, hour and value",
    files=("m4_hourly.csv.gz",),
    tasks=lambda split, folder: M4Hourly(split, k_shot=1, n_query=1, folder=folder),
    md5="5fa5a2035a097ebaa05beca9c8cb88dc",
)


@lru_cache(maxsize=2)
def load_m4_hourly(path: Path) -> dict[str, np.ndarray]:
    """Return the hourly series of M4 by name; callers must not change them."""
    return {name: values for name, (values, _) in read_series(path, "series", "hour", "value").items()}
