"""Write the correctness page: the meta-gradient of every learner through every kind of normalization layer.

    python tools/correctness.py docs/explanation/correctness.md

For each learner of `tests/catalogue.py` and network of `tests/small_networks.py`, in double precision, the
whole gradient of the outer loss is computed by loop, by `torch.vmap` and compiled, and compared with finite
differences of the loss in every parameter. The errors are kept beside the page
(`docs/explanation/correctness.csv`), each with its commit; an interrupted run resumes from this file, and
everything is measured again without it.
"""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from catalogue import LEARNERS  # noqa: E402
from combinations import Case  # noqa: E402

from metalens import MetaLensError, Objective  # noqa: E402
from metalens.execution.compiling import CompiledObjective  # noqa: E402
from metalens.io.provenance import commit  # noqa: E402
from metalens.objective import outer_loss  # noqa: E402
from metalens.testing.objectives import draws_by_shape  # noqa: E402

NETWORKS = {
    "mlp": "none",
    "conv-norm": "TransductiveBatchNorm",
    "stock-batch-norm": "batch",
    "stock-layer-norm": "layer",
    "stock-instance-norm": "instance",
    "stock-group-norm": "group",
    "attention": "attention, layer",
    "mlp-weight-norm": "weight",
    "mlp-spectral-norm": "spectral",
}
PLANS = {"loop": "Loop over tasks", "vmap": "`torch.vmap`", "compiled": "`torch.vmap`, compiled"}
STEP = 1e-4
COLUMNS = ["learner", "network", "plan", "error", "commit"]


def main() -> None:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown file to write, such as docs/correctness.md")
    page = parser.parse_args().page
    torch.set_num_threads(1)
    torch.rand_like = draws_by_shape  # masks of MT-net: the same for every plan
    source = commit()
    kept = page.with_suffix(".csv")
    cells = pd.read_csv(kept, dtype=str) if kept.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(zip(cells.learner, cells.network, cells.plan, strict=True))
    for learner, entry in LEARNERS.items():
        if not (entry.exact_gradient and entry.trains):
            continue
        for network in NETWORKS:
            missing = [plan for plan in PLANS if (learner, network, plan) not in known]
            if not missing:
                continue
            case = Case(learner, "none", network, "classification")
            reference = finite_differences(case)
            for plan in missing:
                error = relative_error(case, plan, reference)
                cells.loc[len(cells)] = [learner, network, plan, error, source]
                cells.to_csv(kept, index=False)
                print(*cells.iloc[-1], flush=True)
    page.write_text(text(cells), encoding="utf-8")


def relative_error(case: Case, plan: str, reference: torch.Tensor) -> str:
    """Return `||g - g_fd|| / ||g_fd||`, or the reason why the plan is refused."""
    torch._dynamo.reset()
    try:
        objective = case.objective("loop" if plan == "loop" else "vmap")
    except MetaLensError:
        return "refused"
    outer = CompiledObjective(objective) if plan == "compiled" else objective
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = outer_loss(outer(case.tasks))
    gradients = torch.autograd.grad(loss, list(objective.parameters()), materialize_grads=True)
    gradient = torch.cat([g.flatten() for g in gradients])
    return f"{((gradient - reference).norm() / reference.norm()).item():.0e}"


@torch.no_grad()
def finite_differences(case: Case) -> torch.Tensor:
    """Return the gradient of the outer loss by the five-point rule in each parameter, one at a time."""
    objective: Objective = case.objective()
    slopes = []
    for parameter in objective.parameters():
        entries = parameter.view(-1)
        for place in range(len(entries)):
            value, losses = entries[place].item(), {}
            for step in (-2, -1, 1, 2):
                entries[place] = value + step * STEP
                losses[step] = case.loss(objective)
            entries[place] = value
            slopes.append((8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * STEP))
    return torch.stack(slopes)


def text(cells: pd.DataFrame) -> str:
    """Return the page."""
    worst = pd.to_numeric(cells.error, errors="coerce").max()
    lines = [
        "# Correctness",
        "",
        "Is the meta-gradient right? This page is made by one command:",
        "",
        "```sh",
        "python tools/correctness.py docs/explanation/correctness.md",
        "```",
        "",
        "For every learner and every kind of normalization, the gradient of the outer loss is computed",
        "in double precision and compared with finite differences of that loss (the five-point rule with",
        f"steps of {STEP:g}, in every single meta-parameter). A cell is the relative error",
        "`||g - g_fd|| / ||g_fd||` over all meta-parameters together; about 1e-9 is what the differences",
        f"themselves can tell. The largest of all cells is {worst:.0e}.",
        "",
        "The networks are small and smooth (kinks of ReLU and max-pooling spoil differences): a perceptron",
        "without normalization, convolutions with `TransductiveBatchNorm` or one of PyTorch's layers made "
        "safe by",
        "`metalens.wrap`, and a transformer layer; then a perceptron with weight or spectral",
        "normalization. Tasks are classification, 4 to a batch.",
        "First-order MAML and Reptile do not follow the gradient of their outer loss, and are compared with",
        "reference loops in `tests/oracles` instead; `FromScratch` has no meta-gradient. IMAML is run to",
        "convergence of its inner loop, where its gradient is exact.",
        "",
        f"Made with Python {platform.python_version()} and torch {torch.__version__}, one thread of "
        f"{platform.machine()}, at commit {' and '.join(cells.commit.unique())}. No GPU was tried.",
        "",
    ]
    for plan, title in PLANS.items():
        table = cells[cells.plan == plan].pivot(index="learner", columns="network", values="error")
        table = table.reindex(index=cells.learner.unique(), columns=list(NETWORKS))
        table = table.rename(columns=NETWORKS).fillna("not measured")
        lines += [f"## {title}", "", "| learner | " + " | ".join(table.columns) + " |"]
        lines += ["|---" * (len(NETWORKS) + 1) + "|"]
        lines += ["| " + " | ".join([str(learner), *row]) + " |" for learner, row in table.iterrows()]
        lines += [""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
