"""Two gloo processes under torchrun against one: same losses, same weights (8 s)."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanorecsys.data import histories
from nanorecsys.training import distributed
from nanorecsys.training.loop import train
from tests.training.sequences import SHORT, SMALL, walks
from tests.training.test_loop import fresh, weights

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from tests.training.test_distributed import train_and_resume
train_and_resume(Path(sys.argv[1]))
"""


def train_and_resume(folder):
    """Train two epochs, resume for a third; the first process writes the results."""
    # 62 rows an epoch. 5 a batch: shares of unequal size. 61 a batch: the last batch has one row,
    # so that one process has none.
    known = histories(walks(n_users=38, length=13))
    shape = replace(SMALL, dropout=0.0)
    results = {}
    with distributed.processes(torch.device("cpu")):
        for loss, batch_tokens in (("full_softmax", 40), ("in_batch", 488)):
            config = replace(SHORT, batch_tokens=batch_tokens, loss=loss)
            path = folder / f"{distributed.world()}_{loss}.pt"
            settings = {"validate": lambda model: 0.5, "checkpoint_path": path, "progress": False}
            train(fresh(shape), known, config, stop_after=2, **settings)
            model = fresh(shape, seed=5)
            trained = train(model, known, config, **settings)
            losses = trained.curve["loss"].tolist()
            results[loss] = [losses, weights(model).tolist(), trained.best_epoch]
        if distributed.rank() == 0:
            (folder / f"{distributed.world()}.json").write_text(json.dumps(results))


def test_two_processes_train_and_resume_like_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    train_and_resume(tmp_path)
    one, two = (json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2))
    for loss, (losses, trained, best_epoch) in one.items():
        assert two[loss][0] == pytest.approx(losses, rel=1e-4), loss
        assert two[loss][1] == pytest.approx(trained, abs=2e-3), loss
        assert two[loss][2] == best_epoch == 1
