"""Adapted models as programs: from the columns of a table, or from images, to predictions in their units."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metalens.data.tables.encoding import NumberColumn, TableInputs
from metalens.data.tables.reading import MAX_DEVIATIONS
from metalens.errors import MetaLensError
from metalens.estimators.images import ImageReader
from metalens.estimators.models import Ensemble
from metalens.estimators.tables import TableReader


class TableProgram(nn.Module):
    """The inputs of models from the numbers of a table, as `TableInputs` encodes them.

    Args:
        encoding: as fitted to the training tasks.

    Attributes:
        names: of the columns that it reads: a column of numbers as it is, with nan for missing ones; a column
            of words as one column of 0 and 1 for each category; a molecule as the numbers of its fingerprint.

    >>> from metalens.data.tables.encoding import CategoryColumn
    >>> columns = NumberColumn("dose", 2.0, 0.5, marks_missing=True), CategoryColumn("dye", ("blue", "red"))
    >>> program = TableProgram(TableInputs(columns, missing="mean"))
    >>> program.names
    ['dose', 'dye=blue', 'dye=red']
    >>> inputs, usable = program(torch.tensor([[3.0, 0, 1], [torch.nan, 1, 0]], dtype=torch.float64))
    >>> inputs.tolist(), usable.tolist()
    ([[2.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]], [True, True])
    """

    source: Tensor
    mean: Tensor
    deviation: Tensor
    marks: Tensor

    def __init__(self, encoding: TableInputs) -> None:
        super().__init__()
        self.fills = encoding.missing == "mean"
        self.names: list[str] = []
        of_inputs: list[tuple[int, float, float, bool]] = []
        for column in encoding.columns:
            if isinstance(column, NumberColumn):
                scale = len(self.names), column.mean, column.deviation
                of_inputs += [(*scale, is_mark) for is_mark in (False, True)[: 1 + column.marks_missing]]
                self.names.append(column.name)
            else:
                of_inputs += [
                    (len(self.names) + place, 0.0, 1.0, False) for place in range(len(column.categories))
                ]
                self.names += column.input_names
        for bit in encoding.names[len(of_inputs) :]:
            of_inputs.append((len(self.names), 0.0, 1.0, False))
            self.names.append(bit)
        source, mean, deviation, is_mark = zip(*of_inputs, strict=True)
        self.register_buffer("source", torch.tensor(source))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float64))
        self.register_buffer("marks", torch.tensor(is_mark))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs `(n, d)` of rows `(n, k)`, and which rows a model can predict for, `(n,)`."""
        z = (x.index_select(1, self.source) - self.mean) / self.deviation
        if self.fills:
            missing = z.isnan()
            z = torch.where(self.marks, missing.double(), torch.where(missing, 0.0, z))
        return z.float(), (z.abs() <= MAX_DEVIATIONS).all(1)

    @property
    def example(self) -> Tensor:
        """Two rows: at the mean of the training tasks, and a deviation above it."""
        rows = torch.zeros(2, len(self.names), dtype=torch.float64)
        own = ~self.marks
        rows[0, self.source[own]] = self.mean[own]
        rows[1, self.source[own]] = (self.mean + self.deviation)[own]
        return rows


class PixelProgram(nn.Module):
    """The inputs of models from images `(n, channels, size, size)` with pixels in [-1, 1]: as they are."""

    names = ("images with pixels in [-1, 1]",)

    def __init__(self, reader: ImageReader) -> None:
        super().__init__()
        self.example = torch.zeros(2, 3 if reader.color else 1, reader.image_size, reader.image_size)
        self.example[1] = 1.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.ones_like(x[:, 0, 0, 0], dtype=torch.bool)


class EnsembleProgram(nn.Module):
    """Models adapted to one task, from their inputs as people have them to predictions in their units.

    Args:
        models: that adapted.
        reader: of the data that they were trained on.
        classes: whether it predicts probabilities; otherwise, targets in their own units.

    Raises:
        MetaLensError: a model cannot be exported; the error names it.
    """

    def __init__(self, models: Ensemble, reader: TableReader | ImageReader, *, classes: bool) -> None:
        super().__init__()
        self.encode = (
            PixelProgram(reader) if isinstance(reader, ImageReader) else TableProgram(reader.encoding)
        )
        self.models = nn.ModuleList(model.detached() for model in models.models)
        self.weights, self.classes = models.weights, classes
        self.mean, self.deviation = 0.0, 1.0
        if isinstance(reader, TableReader) and not classes:
            self.mean, self.deviation = reader.mean, reader.deviation

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions `(n, c)` in double precision; nan for rows that `predict` refuses."""
        z, usable = self.encode(x)
        models: tuple = tuple(self.models)
        predictions = Ensemble(models, self.weights).mean(z, classes=self.classes)
        return torch.where(usable.unsqueeze(1), predictions * self.deviation + self.mean, torch.nan)


def refuse_parts(name: str, models: Ensemble, able: Sequence[str]) -> None:
    """Raise `MetaLensError` if a model of a mean cannot be exported; `able` names other models that can."""
    for learner in (model.learner for model in models.models):
        if learner.export_refusal is not None:
            part = type(learner).__name__
            where = f", as {part} is a part of it" if part != name else ""
            remedy = (
                f"set chosen_ of the estimator to {able[0]}" if able else "fit with a learner such as R2D2"
            )
            raise MetaLensError(
                f"{name} cannot be exported{where}: {learner.export_refusal.rstrip('.')}; {remedy}, and "
                "adapt again."
            )
