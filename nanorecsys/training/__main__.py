"""Train a retriever on the command line, in one process or under torchrun.

python -m nanorecsys.training --dataset ml-20m --out data/cache/retriever
torchrun --nproc-per-node 2 -m nanorecsys.training --dataset ml-20m --out data/cache/retriever
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

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
    parser.add_argument("--dataset", default=DEFAULT_DATASET, help="name, folder or file")
    parser.add_argument("--columns", help="column names, as user=uid,item=sku,timestamp=t")
    parser.add_argument("--duplicates", default="error", help="error, or keep_first of each event")
    parser.add_argument("--out", type=Path, required=True, help="folder for model and checkpoint")
    for config in (RetrieverConfig, TrainingConfig):
        for field in fields(config):
            if not isinstance(field.default, bool):
                option = f"--{field.name.replace('_', '-')}"
                parser.add_argument(option, type=type(field.default), default=field.default)
    arguments = vars(parser.parse_args())

    def configured(config: type) -> Any:
        return config(**{f.name: arguments[f.name] for f in fields(config) if f.name in arguments})

    try:
        with distributed.processes(best_device()):
            dataset = load_dataset(
                arguments["dataset"], arguments["columns"], arguments["duplicates"]
            )
            split = leave_one_out(dataset.interactions)
            trained = fit_retriever(
                make_task(dataset.interactions, split, "validation"),
                dataset.items,
                configured(RetrieverConfig),
                configured(TrainingConfig),
                validate=True,
                checkpoint_path=arguments["out"] / "checkpoint.pt",
            )
            if distributed.rank() == 0:
                save_retriever(arguments["out"] / "retriever.pt", trained.model)
                print(trained.curve.to_string(index=False))
    except NanorecsysError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
