"""An exponential moving average of the weights."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from metalens import (
    MAML,
    Machine,
    MetaLensError,
    Objective,
    Sinusoid,
    Validation,
    evaluate,
    fit,
    fit_together,
    mlp,
)

STEPS, DECAY = 12, 0.8
FIT = {"steps": STEPS, "meta_batch_size": 4, "outer_lr": 0.05}


class KilledError(Exception):
    pass


class FailsAt(Sinusoid):
    """Tasks of which those of the fourth step are no numbers."""

    def batch(self, indices):
        tasks = super().batch(indices)
        if 12 in indices:
            tasks.query.y[:] = torch.nan
        return tasks


def objective_of(seed=0):
    torch.manual_seed(seed)
    return Objective(MAML(mlp(hidden=[6]), inner_lr=0.01))


def averages(skipped=()):
    """The averages after each step of a loop by hand."""
    objective = objective_of()
    average = AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    optimizer, found = torch.optim.Adam(objective.parameters(), FIT["outer_lr"]), []
    for step in range(STEPS):
        if step not in skipped:
            sum(objective(Sinusoid().batch(range(4 * step, 4 * step + 4))).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(objective)
        found.append(copy.deepcopy(average.module))
    return found


def assert_equal(found, expected):
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_ends_with_the_average_of_a_loop_by_hand():
    found = objective_of()
    fit(found, Sinusoid(), **FIT, ema=DECAY)
    assert_equal(found, averages()[-1])
    plain = objective_of()
    fit(plain, Sinusoid(), **FIT)
    assert not torch.allclose(*(next(each.parameters()) for each in (found, plain)))


@pytest.mark.filterwarnings("ignore:.*the step is skipped")
def test_a_step_that_is_skipped_is_not_averaged():
    found = objective_of()
    fit(found, FailsAt(), **FIT, ema=DECAY, on_nonfinite="skip")
    assert_equal(found, averages(skipped=[3])[-1])


def test_validation_scores_and_keeps_averages():
    found, by_step, held_out = objective_of(), averages(), Sinusoid("val")
    curve = fit(found, Sinusoid(), **FIT, ema=DECAY, validation=Validation(held_out, n_tasks=20, every=3))
    scores = curve[(curve.split == "val") & (curve.metric == "mse")].set_index("step").value
    for step, score in scores.items():
        expected = evaluate(by_step[step - 1].learner, held_out, n_tasks=20).value.mean()
        assert score == pytest.approx(expected, rel=1e-4)
    assert len(scores) == 4
    assert_equal(found, by_step[scores.idxmin() - 1])


@pytest.mark.parametrize("validates", [False, True])
def test_an_average_is_resumed_to_the_last_bit(tmp_path, validates):
    def train(until=None, out="whole", resume=False, ema=DECAY):
        def kill(step, loss):
            if step == until:
                raise KilledError

        validation = Validation(Sinusoid("val"), n_tasks=5, every=4) if validates else None
        how = {"out": tmp_path / out, "resume": resume, "on_step": kill, "checkpoint_every": 0}
        objective = objective_of()
        fit(objective, Sinusoid(), **FIT, **how, ema=ema, validation=validation)
        return objective.state_dict()

    whole = train()
    with pytest.raises(KilledError):
        train(until=6, out="broken")
    with pytest.raises(MetaLensError, match=r"of another training: ema was 0\.8 and is 0\.5"):
        train(out="broken", resume=True, ema=0.5)
    again = train(out="broken", resume=True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    finished = train(out="broken", resume=True)
    assert all(torch.equal(finished[name], whole[name]) for name in whole)


def test_averages_side_by_side_are_those_of_each_alone():
    alone, together = [[objective_of(seed) for seed in range(3)] for _ in range(2)]
    for objective in alone:
        fit(objective, Sinusoid(), **FIT, ema=DECAY)
    validations = [Validation(Sinusoid("val"), n_tasks=5, every=STEPS)] * 3
    fit_together(together, [Sinusoid()] * 3, **FIT, ema=DECAY, validations=validations)
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)


def test_a_recipe_averages_its_weights(metalens_here, tmp_path):
    quick = ["--regularizers", "none", "--steps", "4", "--meta_batch_size", "4", "--n_val_tasks", "0"]
    quick += ["--n_test_tasks", "2", "--hidden", "4", "--seeds", "0"]
    weights = {}
    for name, more in {"plain": [], "ema": ["--ema", "0.5"]}.items():
        done = metalens_here("run", "demo", *quick, *more, "--out", name)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(next((tmp_path / name).rglob("*.safetensors")))
    assert any(not torch.equal(weights["ema"][name], weights["plain"][name]) for name in weights["plain"])
    done = metalens_here("run", "demo", *quick, "--ema", "1")
    assert "ema must be between 0 and 1" in done.stderr


@pytest.mark.parametrize("ema", [0, 1, -0.1, float("nan")])
def test_other_decays_are_refused(ema):
    with pytest.raises(MetaLensError, match=r"ema must be between 0 and 1, such as 0\.999"):
        fit(objective_of(), Sinusoid(), **FIT, ema=ema)


def test_mistakes_are_refused():
    with pytest.raises(MetaLensError, match="ema must be a number"):
        fit(objective_of(), Sinusoid(), **FIT, ema="much")
    half = Machine(accelerator="cpu", precision="bf16-true")
    with pytest.raises(MetaLensError, match=r"ema is not possible in torch\.bfloat16"):
        fit(objective_of(), Sinusoid(), **FIT, ema=DECAY, machine=half)
