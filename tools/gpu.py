"""Check and time MetaLens on one GPU, in at most eight minutes, and write the table of the performance page.

    python -m tools.gpu
    python -m tools.gpu --device cpu --quick    # to see it work without one

Gradients of the contract suite are compared with those in double precision on the CPU, a training is
interrupted and resumed, steps are timed beside other libraries, where they are installed
(`tools/speed/requirements.txt`), and peak memory and bf16 are measured. What a part found is written to
--out at its end, also if it failed or had to stop. Without a GPU it says so, and ends.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import shlex
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalens import Machine, MetaLensError, Objective, Sinusoid, fit
from metalens.tasks import place
from tools import precision
from tools.speed.clone_loop import CloneLoop
from tools.speed.equality import DiffersError, Reference, flat
from tools.speed.implementation import TorchImplementation, load
from tools.speed.machine import ROOT, metadata
from tools.speed.memory import PROCESS, held
from tools.speed.ours import Compiled, Loop, Vmap
from tools.speed.report import replace_tables
from tools.speed.timing import interleaved
from tools.speed.workloads import WORKLOADS, Workload

Found = dict[str, Any]

PAGE = ROOT / "docs" / "explanation" / "performance.md"
LIMIT = 480.0  # seconds of all parts
TOLERANCE = 1e-7  # of gradients in double precision, relative
TIMED = ("sinusoid-maml-1", "conv4-maml-1")
ROUGH = (
    "MAML, perceptron",
    "MAML, Conv4",
    "MAML, Conv4, `vmap`",
    "ProtoNet, Conv4",
)  # cases of tools/precision.py


class OutOfTimeError(Exception):
    """A part took more than its share."""


class CompiledToo(Compiled):
    """On a GPU also with images, of which it vectorizes the tasks."""

    @classmethod
    def refusal(cls, workload: Workload) -> str | None:
        return None if torch.cuda.is_available() else super().refusal(workload)


class Graphs(CompiledToo):
    """The program as a CUDA graph: what `mode="reduce-overhead"` of `torch.compile` sets."""

    def backward(self) -> Tensor:
        from torch._inductor import config

        torch.compiler.cudagraph_mark_step_begin()
        with config.patch({"triton.cudagraphs": True}):  # read when the first step is compiled
            return super().backward().clone()


class Mixed(Loop):
    """The inner loop in mixed mode."""

    def make_objective(self) -> Objective:
        objective = super().make_objective()
        objective.learner.differentiation = "mixed"
        return objective


class LoopBf16(Loop):
    """With automatic mixed precision in bf16."""

    def backward(self) -> Tensor:
        with torch.autocast(next(self.module.parameters()).device.type, torch.bfloat16):
            loss = self.module(self.tasks)["query"]
        loss.backward()
        return loss.detach().float()


class VmapBf16(LoopBf16):
    """The same in one vectorized call."""

    batching = "vmap"


def implementations() -> dict[str, type[TorchImplementation] | None]:
    """Return who is timed, by name; `None` if not installed."""
    others = ("higher", "TorchOpt, MetaSGD", "TorchOpt, functional under vmap")
    return {
        "MetaLens, loop": Loop,
        "MetaLens, vmap": Vmap,
        "plain PyTorch, clone and adapt": CloneLoop,
        **{name: load(name) for name in others},  # pyright: ignore[reportReturnType]
        "MetaLens, compiled": CompiledToo,  # last, as compiling takes minutes
        "MetaLens, reduce-overhead": Graphs,
    }


def small(workload: Workload) -> Workload:
    """Return a workload that takes no time."""
    return replace(workload, n_tasks=3, width=4, image_size=16 if workload.images else 28)


def gradients(found: Found, device: str, *, quick: bool) -> None:
    """Compare gradients of the contract suite with those in double precision on the CPU."""
    sys.path.insert(0, str(ROOT / "tests"))
    from combinations import MEANINGFUL  # pyright: ignore[reportMissingImports]

    cases = [
        case
        for case in MEANINGFUL
        if case.entry.trains and not case.entry.random and not case.regularizer_entry.random
    ]
    # Every kind of network soon, as there may be no time for all.
    cases.sort(key=lambda case: (case.regularizer != "none", case.learner == "ADKF", case.network != "mlp"))
    found |= {"cases": len(cases[:: 60 if quick else 1]), "checked": 0, "worst": 0.0, "failures": []}
    single: list[float] = []
    for case in cases[:: 60 if quick else 1]:
        exact = _gradient(case, "cpu", torch.float64)
        try:
            error = _error(_gradient(case, device, torch.float64), exact)
            single.append(_error(_gradient(case, device, torch.float32), exact))
        except (RuntimeError, ValueError) as failure:
            found["failures"].append(f"{case}: {str(failure).splitlines()[0]}")
            continue
        finally:
            found["checked"] += 1
        found["worst"] = max(found["worst"], error)
        if not error <= TOLERANCE:
            found["failures"].append(f"{case}: relative error {error:.1e}")
        found["single precision, median"] = statistics.median(single)


def _gradient(case: Any, device: str, dtype: torch.dtype) -> Tensor:
    objective = case.objective().to(device, dtype)
    torch.manual_seed(3)
    terms = objective(place(case.tasks, torch.device(device), dtype))
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    total = torch.stack(list(terms.values())).sum()
    return flat(list(torch.autograd.grad(total, weights, materialize_grads=True)))


def _error(one: Tensor, exact: Tensor) -> float:
    return ((one - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def resumed(found: Found, device: str, *, quick: bool) -> None:
    """Compare a training that was interrupted and resumed with one that was not."""

    class StoppedError(Exception):
        pass

    def stop(step: int, loss: float) -> None:
        if step == 10:
            raise StoppedError

    def trained(**how: Any) -> Tensor:
        objective = Objective(small(WORKLOADS["sinusoid-maml-1"]).learner())
        machine = Machine(accelerator=device, compile=False)
        fit(objective, Sinusoid(), steps=20, meta_batch_size=4, machine=machine, **how)
        return flat(list(objective.parameters()))

    whole = trained()
    with tempfile.TemporaryDirectory() as folder:
        with suppress(StoppedError):
            trained(out=folder, checkpoint_every=0, on_step=stop)
        again = trained(out=folder, checkpoint_every=0, resume=True)
    found |= {"steps": 20, "resumed at": 10, "largest difference": (whole - again).abs().max().item()}


def bf16(found: Found, device: str, *, quick: bool) -> None:
    """Measure the error of meta-gradients in bf16, and the time of a step."""
    for name in ROUGH:
        make, draw = precision.CASES[name]
        found[name] = {}
        for how in ("32-true", "bf16-mixed"):
            errors = []
            for seed in range(1 if quick else 3):
                exact = precision.gradient(make, draw(seed), "64-true", seed)
                with suppress(MetaLensError, RuntimeError):
                    errors.append(_error(precision.gradient(make, draw(seed), how, seed, device), exact))
            found[name][how] = statistics.median(errors) if errors else "not possible"
    workload = WORKLOADS["conv4-maml-1"]
    workload, runs = small(workload) if quick else workload, {}
    for cls in (Loop, LoopBf16, Vmap, VmapBf16):
        with suppress(MetaLensError, RuntimeError):
            implementation = cls(workload, device=device)
            implementation.run(1)
            runs[cls.__name__] = implementation.run
    found["ms of a step of Conv4, MAML"] = _medians(runs, quick)


def memory(found: Found, device: str, *, quick: bool) -> None:
    """Measure the peak of two outer steps above what was held before, in MiB."""
    for inner_steps in (1, 5, 10):
        workload = replace(WORKLOADS["conv4-maml-1"], inner_steps=inner_steps, n_tasks=4)
        workload = small(workload) if quick else workload
        for name, cls in {"loop": Loop, "loop, mixed mode": Mixed, "vmap": Vmap}.items():
            found[f"Conv4, {inner_steps} inner steps, 4 tasks, {name}"] = peak(cls, workload, device)


def peak(cls: type[TorchImplementation], workload: Workload, device: str) -> float | None:
    """Return the MiB of two steps on top; `None` where the system does not tell."""
    implementation = cls(workload, device=device)
    implementation.run(1)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        implementation.run(2)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not (PROCESS / "clear_refs").exists():
        return None
    (PROCESS / "clear_refs").write_text("5")
    start = held("VmRSS")
    implementation.run(2)
    return held("VmHWM") - start


def steps(found: Found, device: str, *, quick: bool) -> None:
    """Time outer steps in single precision, after a check that all compute the same."""
    for name in TIMED:
        workload = small(WORKLOADS[name]) if quick else WORKLOADS[name]
        reference, runs = Reference.of(workload), {}
        found[name] = times = {}
        for title, cls in implementations().items():
            reason = "not installed" if cls is None else cls.refusal(workload)
            if cls is None or reason is not None:
                times[title] = reason
                continue
            implementation = cls(workload, device=device)
            try:
                reference.check(title, implementation)
            except (DiffersError, RuntimeError) as error:
                times[title] = str(error).splitlines()[0]
                continue
            runs[title] = implementation.run
            times[title] = _medians({title: implementation.run}, quick)[title]  # if there is no time for all
        times |= _medians(runs, quick)


def _medians(runs: dict[str, Callable[[int], object]], quick: bool) -> dict[str, float]:
    """Return milliseconds of a step."""
    times = interleaved(runs, rounds=3 if quick else 7, seconds=0.01 if quick else 0.3)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


PARTS: dict[str, tuple[Callable[..., None], float]] = {  # with the share of the time that is left
    "gradients": (gradients, 0.3),
    "resumed": (resumed, 0.3),
    "bf16": (bf16, 0.3),
    "memory": (memory, 0.3),
    "steps": (steps, 1.0),
}


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End the block by an `OutOfTimeError` after some seconds, where the system has such an alarm."""

    def end(*_: object) -> None:
        raise OutOfTimeError

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1.0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(results: Found) -> str:
    """Return what was found as a table."""
    lines = ["| part | what | found |", "|---|---|--:|"]
    for part in PARTS:
        for what, value in _flat(results.get(part, {})):
            shown = "not measured" if value is None else f"{value:.3g}" if isinstance(value, float) else value
            lines.append(f"| {part} | {what} | {shown} |")
    return "\n".join(lines)


def _flat(found: Found, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", (", ".join(value) or "none") if isinstance(value, list) else value


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="few cases and small networks, to see it work")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--page", help="to write the table to; - prints it, as it does for a CPU")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use here, and nothing was measured.")
        return
    warnings.simplefilter("ignore")
    torch.backends.cudnn.allow_tf32 = False  # single precision is compared
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    results: Found = {"device": name, "quick": options.quick, "machine": metadata()}
    started = time.perf_counter()
    for part in options.parts:
        measure, share = PARTS[part]
        found = results[part] = {}
        begun = time.perf_counter()
        try:
            with at_most(share * (LIMIT - (begun - started))):
                measure(found, options.device, quick=options.quick)
        except OutOfTimeError:
            found["stopped"] = "out of time"
        except Exception as error:  # the other parts are measured all the same
            found["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found["seconds"] = time.perf_counter() - begun
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    command = f"python -m tools.gpu {shlex.join(sys.argv[1:])}".strip()
    origin = (
        f"`{command}` on {name}, {datetime.date.today().isoformat()}, commit {results['machine']['commit']}, "
    )
    text = f"{origin}{results['machine']['versions']}.\n\n{table(results)}"
    page = options.page or (str(PAGE) if options.device == "cuda" and not options.quick else "-")
    if page == "-":
        print(text)
    else:
        replace_tables(Path(page), text, "gpu")


if __name__ == "__main__":
    main()
