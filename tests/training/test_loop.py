"""The loop: resumes bit for bit after kill -9, keeps last and best, stops at the first number that is none."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdhash.methods.interface import Method
from kdhash.training.checkpoints import Checkpoints
from kdhash.training.loop import Schedule, TrainingFailed, train
from kdhash.training.mapping import data_mesh, replicate
from kdhash.training.metric_log import FILE, MetricLog, read_metrics
from kdhash.training.trace import Profile

SCHEDULE = Schedule(
    steps=6,
    batch_size=8,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    warmup_steps=0,
    clip_norm=0.0,
    checkpoint_every=2,
    log_every=1,
    keep="last",
)


def line_fit(fails_at: int | None = None) -> Method:
    """y = w x by least squares; the term 'penalty' becomes infinite where a batch holds x = fails_at."""

    def loss(outputs, batch):
        terms = {"error": jnp.mean((outputs["y"] - batch["y"]) ** 2), "penalty": jnp.float32(0)}
        if fails_at is not None:
            terms["penalty"] = jnp.where(jnp.any(batch["step"] == fails_at), jnp.inf, 0.0)
        return sum(terms.values()), terms

    return Method(
        init=lambda rng, batch: {"params": {"w": jnp.zeros(())}},
        forward=lambda variables, batch, keys, train: ({"y": variables["params"]["w"] * batch["x"]}, {}),
        loss=loss,
        encode=lambda variables, x: variables["params"]["w"] * x,
    )


class Lines:
    def __getitem__(self, step):
        x = np.random.default_rng(step).random(8, dtype=np.float32)
        return {"x": x, "y": 3 * x, "step": np.full(8, step + 1)}


def fit(folder, method=None, schedule=SCHEDULE, **kwargs):
    return train(
        method or line_fit(), Lines(), schedule, folder, label="fit", seed=0, mesh=data_mesh(), **kwargs
    )


def losses(folder):
    """What was logged, but for times."""
    times = ("idle", "steps_per_second")
    return [
        {name: value for name, value in line.items() if name not in times} for line in read_metrics(folder)
    ]


def test_learns_and_logs(tmp_path):
    variables = fit(
        tmp_path, schedule=SCHEDULE._replace(steps=300, learning_rate=0.3, log_every=50, checkpoint_every=300)
    )
    assert float(variables["params"]["w"]) == pytest.approx(3, abs=0.05)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(0 <= line["idle"] <= 1 and line["steps_per_second"] > 0 for line in lines)
    assert list((tmp_path / "tb").iterdir())


def test_resume_equals_the_run_that_was_never_stopped(tmp_path):
    whole = fit(tmp_path / "whole")
    # The same schedule, stopped after four of six steps by a batch that cannot be read.

    class Broken(Lines):
        def __getitem__(self, step):
            if step == 4:
                raise OSError("disk on fire")
            return super().__getitem__(step)

    with pytest.raises(OSError, match="fire"):
        train(line_fit(), Broken(), SCHEDULE, tmp_path / "part", label="fit", seed=0, mesh=data_mesh())
    parted = fit(tmp_path / "part")
    assert np.asarray(whole["params"]["w"]) == np.asarray(parted["params"]["w"])
    assert losses(tmp_path / "whole") == losses(tmp_path / "part")


def test_non_finite_term_is_named_with_its_step(tmp_path):
    with pytest.raises(TrainingFailed, match=r"step 3: the term 'penalty' is inf"):
        fit(tmp_path, line_fit(fails_at=3), SCHEDULE._replace(log_every=6, checkpoint_every=6))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None


def test_best_and_last_are_kept_and_best_is_returned(tmp_path):
    scores = iter([0.5, 0.9, 0.1])
    seen = []

    def validate(variables):
        seen.append(float(variables["params"]["w"]))
        return next(scores)

    best = fit(tmp_path, schedule=SCHEDULE._replace(keep="best"), validate=validate)
    assert float(best["params"]["w"]) == seen[1]
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, 4)


def test_saving_a_step_twice_is_an_error(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.ones(2)}, 0.0)
        with pytest.raises(RuntimeError, match="step 1 was not written"):
            checkpoints.save(1, {"w": jnp.zeros(2)}, 0.0)


def test_a_state_on_eight_devices_is_saved_without_compiling_and_as_it_was(tmp_path, caplog):
    mesh = data_mesh()
    state = replicate({"w": np.arange(48.0, dtype=np.float32).reshape(16, 3)}, mesh)
    with Checkpoints(tmp_path, mesh) as checkpoints:
        with jax.log_compiles():
            checkpoints.save(1, state)
            assert "Compiling" not in caplog.text
            erased = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), donate_argnums=0)(state)
        assert "Compiling" in caplog.text
        restored = checkpoints.restore(1, erased)
    np.testing.assert_array_equal(restored["w"], np.arange(48.0).reshape(16, 3))
    assert restored["w"].sharding == erased["w"].sharding
    assert (erased["w"] == 0).all()


def test_log_drops_lines_after_the_step_it_resumes_from_and_a_half_line(tmp_path):
    (tmp_path / FILE).write_text('{"step": 1, "loss": 1}\n{"step": 5, "loss": 2}\n{"step": 7, "lo')
    log = MetricLog(tmp_path, 3)
    log.write(4, {"loss": 0.5})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 4]


def test_a_validation_score_that_is_no_number_stops_the_run(tmp_path):
    scores = iter([0.2, float("nan"), 0.1])
    with pytest.raises(TrainingFailed, match="step 4: the validation score"):
        fit(tmp_path, schedule=SCHEDULE._replace(keep="best"), validate=lambda variables: next(scores))


@pytest.mark.parametrize(("mapping", "seconds"), [("jit", (0.4, 1.1)), ("pmap", (0.8,))])
def test_killed_process_ends_in_the_same_parameters_bit_for_bit(tmp_path, mapping, seconds):
    """kill -9 at several moments, start again until it is through."""
    script = Path(__file__).with_name("killed_run.py")
    environment = {
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),  # every start is of the same programs
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start(folder):
        return subprocess.Popen(
            [sys.executable, str(script), str(folder), mapping],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )

    whole = tmp_path / "whole"
    output, _ = start(whole).communicate()
    final = whole / "final.safetensors"
    assert final.exists(), output.decode()
    killed = tmp_path / "killed"
    kills = 0
    for wait in seconds:
        process = start(killed)
        already = len(read_metrics(killed))
        deadline = time.monotonic() + 120
        while process.poll() is None and len(read_metrics(killed)) <= already and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait * 0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == len(seconds), "a run was over before it could be killed"
    output, _ = start(killed).communicate()
    assert (killed / "final.safetensors").read_bytes() == final.read_bytes(), output.decode()
    assert losses(killed) == losses(whole)


def test_variables_are_on_every_device(tmp_path):
    w = fit(tmp_path)["params"]["w"]
    assert len(w.sharding.device_set) == jax.device_count()


def test_steps_are_traced(tmp_path):
    profile = Profile(steps=3, folder=tmp_path / "profile")
    fit(tmp_path, schedule=SCHEDULE._replace(steps=3, checkpoint_every=100), profile=profile)
    (trace,) = profile.folder.rglob("*.xplane.pb")  # though there are too few, and none for the warm-up
    assert trace.stat().st_size
    fit(tmp_path / "none", profile=profile._replace(steps=0))
    assert len(list(profile.folder.rglob("*.xplane.pb"))) == 1
