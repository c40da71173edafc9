"""Classification of rows and images in your own tasks, with shared or new classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metalens.data import TaskDistribution
from metalens.data.base import Split
from metalens.data.images.layout import Folders
from metalens.data.splits import SHARES
from metalens.data.tables.columns import ColumnOptions, Columns
from metalens.data.tables.division import Division
from metalens.data.tables.reading import check_columns, class_numbers, naming_file
from metalens.data.tables.targets import check_classes, classes_of
from metalens.errors import MetaLensError
from metalens.estimators.base import MetaEstimator
from metalens.estimators.choice import Draw
from metalens.estimators.cross_fitting import Fold, divide_table
from metalens.estimators.episodes import Sizes, fit_episodes, new_episodes
from metalens.estimators.images import ImageReader, image_network, image_tasks, new_image_sizes
from metalens.estimators.models import FEATURE_MEAN, Candidate, Ensemble, for_classes
from metalens.estimators.rows import as_new_rows, as_new_table, as_table, check_options
from metalens.estimators.tables import TableReader
from metalens.estimators.time_limit import TimeLimit
from metalens.estimators.training import ProgressOf
from metalens.io.json import is_of
from metalens.learners import Learner, LinearProbe, ProtoNet
from metalens.learners.classification import MIN_PROBABILITY
from metalens.metrics import task_metrics
from metalens.networks import Network, mlp
from metalens.networks.backbone import Backbone
from metalens.tasks import Examples

if TYPE_CHECKING:
    from metalens.estimators.adapted_classifier import AdaptedClassifier

_OF_RARE_CLASSES = ("balanced_accuracy", "average_precision", "roc_auc")  # of tasks that share their classes
_READERS = {reader.kind: reader for reader in (TableReader, ImageReader)}


@dataclass(eq=False, repr=False, kw_only=True)
class MetaClassifier(MetaEstimator):
    """Learn from many small tasks to classify in a new task, from few examples.

    There are three kinds of data:

    - Class folders of images, or a table without a column of tasks. A task is then to classify examples of a
      few of the classes; training, validation, comparison and new tasks have different classes.
    - A table with a column of tasks that share their classes, such as active and inactive.
    - The same with `new_classes=True`: each task has its own classes.

    The rest is as in `MetaRegressor`; models are compared by accuracy. Where tasks share their classes, the
    comparison also has `balanced_accuracy` and `average_precision`, for rare classes. The baselines fitted to
    single tasks are the most frequent class, nearest class mean, logistic regression, nearest neighbors and
    random forest. Those that learn from all tasks are `ProfileRidge` and `JointModel` if tasks share their
    classes; for new classes, a network trained to classify all training classes, with a logistic regression
    on its features (`LinearProbe`) or the nearest class mean (`NearestFeatureMean`).

    Settings of both estimators: see `EstimatorSettings`. The default learner is ProtoNet for new classes, as
    it takes any number of them, and R2D2 with a learned prior if tasks share their classes, as ProtoNet never
    predicts a class that a support lacks. A learner with a head for a fixed number of classes adapts to that
    number only. The network for images is `conv4` with 32 filters and group normalization.

    Args:
        n_way: classes of an episode; `None` for 5, or as many as the data have.
        backbone: model of timm for images in place of `conv4`, such as `"resnet18"`.
        weights: file of its pretrained weights, whose normalization statistics are kept; images are
            normalized as they expect. A saved estimator does not need the file.

    Attributes:
        chosen_: name of what adapts to `k_shot_` support rows.
        weights_: of the models in the mean that adapts, by the number of support rows.
        comparison_: scores on the held-out tasks: rows `model, task, metric, value`, the meta-learner first.
        predictions_: what adapts predicts for the queries of held-out tasks: rows `task, true, predicted`,
            with probabilities of `probability_of_`, and 1 where it was true. `save` does not write it.
        curve_: learning curves: rows `model, seed, step, split, metric, value`; with folds also `fold`.
        n_folds_: of tasks that share their classes, see `MetaRegressor`.
        k_shot_: support rows of a training task, or of each of its classes if these are new.
        left_out_: what was left out or cut short to keep to `time_limit`, and how.
        reader_: the fitted encoding of rows or images.
        feature_names_in_: columns that new rows must have; empty for images.

    >>> import warnings
    >>> rng = np.random.default_rng(0)
    >>> kind = np.repeat([f"kind {number}" for number in range(12)], 8)
    >>> table = pd.DataFrame({"kind": kind, "length": rng.random(96) + np.arange(96) // 8})
    >>> with warnings.catch_warnings():  # two steps are too few, and a warning says so
    ...     warnings.simplefilter("ignore")
    ...     model = MetaClassifier(steps=2, hidden=[8], baselines=["KNN"], fallback=False)
    ...     _ = model.fit(table, target="kind")
    >>> task = model.adapt(pd.DataFrame({"kind": ["oak", "elm", "fir"], "length": [20.0, 30.0, 40.0]}))
    >>> task.classes_.tolist(), task.predict_proba(pd.DataFrame({"length": [21.0]})).shape
    (['elm', 'fir', 'oak'], (1, 3))
    """

    n_way: int | None = None
    backbone: str | None = None
    weights: str | None = None

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "cross_entropy", "brier_score", *_OF_RARE_CLASSES)
    kind = "classifier"
    reader_: TableReader | ImageReader = field(init=False)
    _backbone: Backbone | None = field(init=False, default=None)

    @property
    def classes_(self) -> np.ndarray:
        """The classes that all tasks share."""
        if not (shared := self._shared_classes()):
            raise AttributeError("The classes of a new task are new; its adapted model has classes_.")
        return np.array(shared)

    def predict_proba(self, data: Any) -> np.ndarray:
        """Return probabilities of `classes_` for rows of a task of which none are known; see `predict`."""
        check_is_fitted(self)
        return self.adapt().predict_proba(as_new_rows(data, self.reader_))

    def fit(
        self,
        data: Any,
        y: Any = None,
        groups: Any = None,
        *,
        target: str | None = None,
        task: str | None = None,
        new_classes: bool = False,
        image_size: int = 32,
        color: bool = True,
        folders: Folders | None = None,
        white: float | None = None,
        splits: str | Sequence[float] | Mapping[str, Sequence[str]] | None = None,
        split_seed: int | None = None,
        families: str | None = None,
        time_limit: float | None = None,
        progress: ProgressOf | None = None,
        **columns: Unpack[ColumnOptions],
    ) -> Self:
        """Train on the tasks of a table or of class folders.

        Args:
            data: a table as for `MetaRegressor.fit`; or the path of a directory or zip file with a
                folder of images for each class, see `ImageFolders`.
            y: targets, `(n,)`, if `data` holds only the inputs, as in scikit-learn: a data frame, or an array
                `(n, d)`.
            groups: the task of each row, `(n,)`, beside `y`; without, tasks are subsets of the classes.
            target: the column with the classes; `None` for images, and with `wide`.
            task: the column that names the task of a row; `None` if tasks are subsets of the classes, and
                with `wide`.
            new_classes: whether each task of the column has its own classes, or all share theirs.
            image_size: height and width in pixels to which images are resized, at least 16; time is
                proportional to their area.
            color: whether images have three channels, or one of grey.
            folders: what two levels of folders are, see `ImageFolders`.
            white: the value of white in images of more than 8 bits, see `ImageFolders`.
            splits: as in `MetaRegressor.fit`; without tasks the shares are of classes. For images also
                folders named train, val and test, or a mapping from these to the names of classes.
            split_seed: as in `MetaRegressor.fit`, for tables.
            families: as in `MetaRegressor.fit`, for tables; without tasks, of classes.
            time_limit: as in `MetaRegressor.fit`.
            progress: as in `MetaRegressor.fit`.
            columns: as in `MetaRegressor.fit`; `group` of images is a regular expression on their paths.

        Returns:
            The estimator itself.

        Raises:
            MetaLensError: the data cannot be used, there are too few tasks, classes or examples, or a setting
                is out of range.
            ValueError: of scikit-learn, if `y` or an array has another shape, or holds nan or infinity.
        """
        limit = TimeLimit(time_limit)
        self._reset()
        check_options(self, columns)
        self._backbone = Backbone.of(self.backbone, self.weights)
        data, target, task = as_table(data, y, groups, target, task, classes=True, **columns)
        if target is None and columns.get("wide", False) is False:
            given = {"split_seed": split_seed, "families": families} | columns
            if stray := sorted(name for name in given if name != "group" and given[name] is not None):
                raise MetaLensError(f"Images need no {', '.join(stray)}; leave it out, or give target.")
            self.reader_, folds = ImageReader(image_size, color, columns.get("group"), folders, white), ()
            wanted = self.n_way, self.k_shot, self.n_query, self.random_state
            tasks, self._sizes = image_tasks(data, self.reader_, splits, *wanted)
        elif self._backbone is not None:
            raise MetaLensError(f"backbone={self.backbone!r} is for images; leave it out for a table.")
        elif isinstance(splits, Mapping):
            raise MetaLensError("splits of a table must be a column or three shares, got a mapping.")
        else:
            roles = Columns(task=task, target=target or "", **columns)
            division = Division(splits=splits or SHARES, split_seed=split_seed, families=families)
            roles.refuse_for_wide(division.task_columns)
            with naming_file(data):
                frame = roles.read(data)
                check_columns(frame, [roles.target])
                check_classes(frame[roles.target])
                shared = roles.task is not None and not new_classes
                may_fold = limit.seconds is None
                tasks, folds = self._table_tasks(roles, frame, division, shared=shared, may_fold=may_fold)
        if self.metric_ in _OF_RARE_CLASSES and not self._shared_classes():
            raise MetaLensError(
                f"metric={self.metric_!r} is for tasks that share their classes; use another."
            )
        self._n_pooled = tasks["train"].with_global_labels().n_classes
        self.k_shot_ = self._sizes.k_shot
        self._finish(tasks, folds, self._sizes.n_way, progress, limit)
        return self

    def adapt(self, support: Any = None, y: Any = None) -> AdaptedClassifier:
        """Return the model of one new task, adapted to its labeled rows or images.

        Args:
            support: rows of one task with their classes, or class folders with images; `None` before there
                are any, for tasks that share their classes.
            y: the classes of the rows, if `support` holds only the inputs.

        Raises:
            MetaLensError: the support cannot be used, or has a single class.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self)
        if support is not None:
            return self._adapted(*self.reader_.support(as_new_table(support, y, None, self.reader_)))
        if not self._shared_classes():
            raise MetaLensError("The classes of a new task are new, so give support, examples of each.")
        assert isinstance(self.reader_, TableReader)  # images have new classes
        return self._adapted(torch.zeros(0, len(self.reader_.encoding.names)), pd.Series(dtype=object), None)

    def _adapted(self, x: Tensor, targets: pd.Series, task: str | None) -> AdaptedClassifier:
        """Return the model adapted to inputs and their classes."""
        from metalens.estimators.adapted_classifier import AdaptedClassifier  # which loads this class

        shared = self._shared_classes()
        classes = np.array(shared or classes_of(targets))
        if len(classes) < 2:
            raise MetaLensError(f"The support has one class, {classes[0]}; give examples of two or more.")
        y = torch.from_numpy(class_numbers(targets, classes.tolist()))
        candidate = self._adapting(len(x) if shared else self.k_shot_, len(classes))
        models = candidate.adapt(Examples(x.float(), y))
        return AdaptedClassifier(
            estimator=self, model=candidate.name, task=task, classes_=classes, _x=x, _targets=targets,
            _models=models,
        )  # fmt: skip

    def _table_tasks(
        self, columns: Columns, frame: pd.DataFrame, division: Division, *, shared: bool, may_fold: bool
    ) -> tuple[Mapping[Split, TaskDistribution], Sequence[Fold]]:
        if not shared:
            self.reader_, tasks, self._sizes = fit_episodes(
                columns, frame, division, n_way=self.n_way, k_shot=self.k_shot, n_query=self.n_query,
                seed=self.random_state,
            )  # fmt: skip
            return tasks, ()
        if self.n_way is not None:
            raise MetaLensError("n_way is for new classes; all tasks share theirs, so leave it out.")
        self.reader_, tasks, folds = divide_table(
            columns, frame, division, may_fold=may_fold, k_shot=self.k_shot, n_query=self.n_query,
            seed=self.random_state, classes=True,
        )  # fmt: skip
        train = tasks["train"]
        if train.warn_of_rare_classes() and self.metric is None:
            self.metric_ = "average_precision"
        self._sizes = Sizes(train.n_outputs, train.k_shot, train.n_query or 1)
        return tasks, folds

    def _new_tasks(
        self, data: Any, k_shot: int | None, n_query: int | None
    ) -> tuple[TaskDistribution, int, int]:
        reader, sizes = self.reader_, self._sizes
        k_shot = sizes.k_shot if k_shot is None else k_shot
        if isinstance(reader, TableReader) and reader.classes:
            return reader.tasks(data, k_shot, n_query, self.random_state), k_shot, sizes.n_way
        n_query = sizes.n_query if n_query is None else n_query
        if isinstance(reader, ImageReader):
            sizes = new_image_sizes(data, reader, Sizes(sizes.n_way, k_shot, n_query))
            return reader.tasks(data, "test", "test", sizes, self.random_state), self.k_shot_, sizes.n_way
        frame, array = reader.episode_rows(data)
        sizes = Sizes(min(sizes.n_way, frame[reader.columns.target].nunique()), k_shot, n_query)
        return new_episodes(reader, frame, array, sizes, self.random_state), self.k_shot_, sizes.n_way

    def _predict(self, models: Ensemble, x: Tensor) -> Tensor:
        return models(x, classes=True)

    def _in_units(self, y: Tensor) -> Tensor:
        return y

    def _targets(self, y: Tensor, predictions: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(y, predictions.shape[1]).double()

    @property
    def probability_of_(self) -> str:
        """What the probabilities in `predictions_` are of: the second of two shared classes, or the best."""
        shared = self._shared_classes()
        return str(shared[1]) if len(shared) == 2 else "the most probable class"

    def _rows(self, draw: Draw, predictions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        if len(self._shared_classes()) == 2:
            return draw.targets[:, 1].numpy(), predictions[:, 1].numpy()
        chances, best = predictions.max(1)
        return (draw.y == best).double().numpy(), chances.numpy()

    def _reported(self, draw: Draw) -> Sequence[str]:
        # New classes have equally many queries each.
        of_rare = ("balanced_accuracy", "average_precision") if self._shared_classes() else ()
        return "accuracy", "cross_entropy", *of_rare

    def _scores_by(self, draw: Draw, predictions: Tensor, names: Sequence[str]) -> dict[str, float]:
        if (draw.y == draw.y[0]).all():  # of queries of one class they say nothing
            names = [name for name in names if name not in _OF_RARE_CLASSES]
        logits = predictions.clamp(min=MIN_PROBABILITY).log()
        scores = task_metrics(logits[None], draw.y[None], draw.known[None], names)
        return {name: scores[name].item() for name in names}

    def _state(self) -> dict[str, Any]:
        facts = {"data": self.reader_.kind, "sizes": self._sizes._asdict(), "n_pooled": self._n_pooled}
        sha256 = None if self._backbone is None else self._backbone.sha256
        return facts | {"reader": asdict(self.reader_), "weights_sha256": sha256}

    def _restore(self, facts: dict[str, Any]) -> None:
        if not is_of(facts, {"sizes": dict.fromkeys(Sizes._fields, int), "n_pooled": (int, NoneType)}):
            raise ValueError("its sizes are not as expected")
        self.reader_ = _READERS[facts["data"]].from_json(facts["reader"])
        self._sizes, self._n_pooled = Sizes(**facts["sizes"]), facts["n_pooled"]
        found = Backbone.of(self.backbone, self.weights, facts.get("weights_sha256"))
        self._backbone = None if found is None else replace(found, is_saved=True)
        self.k_shot_ = self._sizes.k_shot

    def _network(self) -> Network:
        reader, n_way = self.reader_, self._sizes.n_way
        if isinstance(reader, TableReader):
            return mlp(len(reader.encoding.names), n_way, self.hidden)
        return image_network(reader, n_way, self._backbone)

    def _shared_classes(self) -> tuple[str | int | float | bool, ...]:
        return self.reader_.classes if isinstance(self.reader_, TableReader) else ()

    def _learner(self) -> str:
        return self.learner or ("R2D2(prior_mean=True)" if self._shared_classes() else "ProtoNet")

    def _usual_baselines(self) -> Sequence[str]:
        shared = self._shared_classes()
        of_all = ("ProfileRidge", "JointModel") if shared else (FEATURE_MEAN, "LinearProbe")
        return *of_all, "MeanPredictor", "NearestCentroid", "LogisticRegression", "KNN", "RandomForest"

    def _tuned(self, learner: str) -> dict[str, Any]:
        if learner == "LinearProbe" and not self._shared_classes():
            return {"n_classes": self._n_pooled}
        return super()._tuned(learner)

    def _candidate(self, name: str, n_outputs: int) -> Candidate:
        if name != FEATURE_MEAN:
            return super()._candidate(name, n_outputs)
        probes = (objective.learner for objective in self._trained["LinearProbe"])
        networks = [probe.network for probe in probes if isinstance(probe, LinearProbe)]
        return Candidate.of_one_kind(name, [ProtoNet(network, n_way=n_outputs) for network in networks])

    def _resized(self, learner: Learner, n_outputs: int) -> Learner:
        return learner if self._shared_classes() else for_classes(learner, n_outputs)
