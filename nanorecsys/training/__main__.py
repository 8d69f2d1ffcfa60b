"""Train a retriever on the command line, in one process or under torchrun.

python -m nanorecsys.training --dataset ml-20m --out data/cache/retriever
torchrun --nproc-per-node 2 -m nanorecsys.training --dataset ml-20m --out data/cache/retriever
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from nanorecsys.data import DEFAULT_DATASET, leave_one_out, load_dataset
from nanorecsys.evaluation import make_task
from nanorecsys.models.retriever import RetrieverConfig, save_retriever
from nanorecsys.system.errors import NanorecsysError
from nanorecsys.training import distributed
from nanorecsys.training.fit import fit_retriever
from nanorecsys.training.loop import TrainingConfig, best_device


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset", default=DEFAULT_DATASET, help="a registered name, a folder or a file"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of retriever.pt and of the checkpoint"
    )
    settings = {field.name: field for field in (*fields(RetrieverConfig), *fields(TrainingConfig))}
    for name, field in settings.items():
        if field.type in (int, float, str) or isinstance(field.default, str):
            parser.add_argument(
                f"--{name.replace('_', '-')}", type=type(field.default), default=field.default
            )
    arguments = vars(parser.parse_args())
    try:
        with distributed.processes(best_device()):
            _train(arguments)
    except NanorecsysError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _train(arguments: dict) -> None:
    dataset = load_dataset(arguments["dataset"])
    task = make_task(dataset.interactions, leave_one_out(dataset.interactions), "validation")
    model, training = (
        config(
            **{
                field.name: arguments[field.name]
                for field in fields(config)
                if field.name in arguments
            }
        )
        for config in (RetrieverConfig, TrainingConfig)
    )
    fitted = fit_retriever(
        task,
        dataset.items,
        model,
        training,
        validate=True,
        checkpoint_path=arguments["out"] / "checkpoint.pt",
    )
    if distributed.rank() == 0:
        save_retriever(arguments["out"] / "retriever.pt", fitted.model)
        print(fitted.trained.curve)


if __name__ == "__main__":
    sys.exit(main())
