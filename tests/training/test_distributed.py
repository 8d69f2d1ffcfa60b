"""Two gloo processes under torchrun against one: same batches, same losses, same weights (15 s)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# 62 rows an epoch. 5 a batch: shares of unequal size. 61 a batch: one row for the last, so that a
# process has none.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from nanorecsys.data import histories
from nanorecsys.training import distributed
from nanorecsys.training.loop import train
from tests.training.sequences import SHORT, SMALL, walks
from tests.training.test_loop import fresh, weights

known = histories(walks(n_users=38, length=13))
results = {}
with distributed.processes(torch.device("cpu")):
    for loss, batch_tokens in (("full_softmax", 40), ("in_batch", 488)):
        config = replace(SHORT, batch_tokens=batch_tokens, loss=loss)
        path = Path(sys.argv[1]) / f"{distributed.world()}_{loss}.pt"
        shape = replace(SMALL, dropout=0.0)
        settings = {"validate": lambda model: 0.5, "checkpoint_path": path, "progress": False}
        train(fresh(shape), known, config, stop_after=2, **settings)
        model = fresh(shape, seed=5)
        trained = train(model, known, config, **settings)
        losses = trained.curve["loss"].tolist()
        results[loss] = [losses, weights(model).tolist(), trained.best_epoch]
    if distributed.rank() == 0:
        print(json.dumps(results))
"""


def run(command, script, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command, script, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_processes_train_and_resume_like_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one = run([], script, tmp_path)
    two = run(
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], script, tmp_path
    )
    for loss, (losses, weights, best_epoch) in one.items():
        assert two[loss][0] == pytest.approx(losses, rel=1e-4), loss
        assert two[loss][1] == pytest.approx(weights, abs=2e-3), loss
        assert two[loss][2] == best_epoch == 1
