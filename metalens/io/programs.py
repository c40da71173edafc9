"""Modules as programs that run without their Python: of `torch.export`, and ONNX."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metalens.errors import MetaLensError, extra, reraise_as
from metalens.io.files import atomic_path, writing_into

_TOLERANCE = 1e-3  # of the largest prediction: far above rounding, far below another function


def export_program(
    module: nn.Module, example: Tensor, *, name: str, any_rows: bool = True
) -> ExportedProgram:
    """Return the program of a module, which predicts as the module does.

    Args:
        module: `(n, ...) -> (n, ...)`.
        example: inputs on which both are compared, `(n, ...)`.
        name: of the module, in errors.
        any_rows: whether the program takes any number of inputs; otherwise as many as the example has.

    Raises:
        MetaLensError: the example is empty, the module cannot be exported, or both differ.

    >>> program = export_program(nn.Linear(3, 2), torch.ones(1, 3), name="The layer")
    >>> program.module()(torch.ones(7, 3)).shape
    torch.Size([7, 2])
    """
    if len(example) == 0:
        raise MetaLensError(f"{name}: the example to export with needs one input or more, got none.")
    expected = _predictions(module, example, name)
    traced = torch.cat([example[:1]] * 2) if any_rows else example  # of one, 1 would be fixed
    try:
        with _without_words():
            program = torch.export.export(module, (traced,), dynamic_shapes=_shapes(any_rows))
    except Exception as error:  # PyTorch raises what it likes
        raise _refusal(name, "torch.export", error) from error
    with torch.no_grad(), _without_words():
        _compare(name, "torch.export", program.module()(example), expected)
    return program


def save_program(
    module: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    *,
    name: str,
    any_rows: bool = True,
    facts: Mapping[str, object],
) -> None:
    """Write the program of a module into a file, atomically.

    Args:
        module: see `export_program`.
        example: see `export_program`; an ONNX file is read again, and compared on it, too.
        path: a file that ends in `.onnx`, with the input `x` and the output `predictions`, or in `.pt2`, for
            `torch.export.load`.
        name: see `export_program`.
        any_rows: see `export_program`.
        facts: what the file says of itself, by name: as JSON in the metadata of an ONNX file, each by itself,
            and in the extra file `facts.json` of the other.

    Raises:
        MetaLensError: see `export_program`; the file has another ending, cannot be written, or ONNX is not
            installed.
    """
    target = Path(path)
    if target.suffix not in (".onnx", ".pt2"):
        raise MetaLensError(f"{target} must end in .onnx or .pt2, which says what to write.")
    program = export_program(module, example, name=name, any_rows=any_rows)
    facts = {"metalens": version("metalens"), **facts}
    with writing_into(target.parent), atomic_path(target) as partial:
        if target.suffix == ".pt2":
            with partial.open("wb") as file:
                torch.export.save(program, file, extra_files={"facts.json": json.dumps(facts)})
            return
        _write_onnx(program, partial, name, any_rows, facts)
        _compare(name, "ONNX", _run_onnx(partial, example, name), _predictions(module, example, name))


def _predictions(module: nn.Module, example: Tensor, name: str) -> Tensor:
    fails = f"{name} fails on the example of shape {tuple(example.shape)}"
    with torch.no_grad(), _without_words(), reraise_as(fails, "give inputs as those of its support"):
        return module(example)


def _shapes(any_rows: bool) -> tuple[dict[int, Dim]] | None:
    return ({0: Dim("rows")},) if any_rows else None


def _write_onnx(
    program: ExportedProgram, path: Path, name: str, any_rows: bool, facts: Mapping[str, object]
) -> None:
    with extra("onnx"):
        import onnx  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    try:
        with _without_words():
            found = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["x"],
                output_names=["predictions"],
                dynamic_shapes=_shapes(any_rows),
            )
    except Exception as error:
        raise _refusal(name, "ONNX", error) from error
    assert found is not None
    found.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    found.save(str(path), external_data=False)


def _run_onnx(path: Path, x: Tensor, name: str) -> Tensor:
    with extra("onnx"):
        import onnxruntime
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["predictions"], {"x": x.numpy(force=True)})[0])
    except Exception as error:
        raise _refusal(name, "onnxruntime", error) from error


def _compare(name: str, how: str, found: Tensor, expected: Tensor) -> None:
    expected = expected.cpu()
    limit = _TOLERANCE * (1 + expected.nan_to_num(0, 0, 0).abs().amax().item()) if expected.numel() else 0
    if found.shape != expected.shape or not torch.allclose(
        found.cpu(), expected, rtol=0, atol=limit, equal_nan=True
    ):
        raise MetaLensError(
            f"{name} cannot be exported: the program of {how} predicts otherwise for the example; look for "
            "numbers or random draws that do not come from its tensors."
        )


def _refusal(name: str, how: str, error: Exception) -> MetaLensError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    inner = [line for line in lines if line.startswith("<class ")]  # torch.onnx wraps what happened
    text = (inner or lines or [type(error).__name__])[0].rstrip(".!")
    fixes_rows = "marked rows as dynamic" in str(error)
    hint = "use x.shape[0] where it takes len(x)" if fixes_rows else "predict by tensors alone"
    return MetaLensError(f"{name} cannot be exported by {how} ({text[:300]}); {hint}.")


@contextmanager
def _without_words() -> Iterator[None]:
    """Leave out what PyTorch and its exporters log, warn of and print."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    words = StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(words), redirect_stderr(words):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
