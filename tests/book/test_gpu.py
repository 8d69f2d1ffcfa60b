"""The table of training on a GPU says what the records beside it say."""

import csv
import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "book" / "gpu"


def record(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def test_the_table_is_that_of_the_records():
    wanted = []
    for targets in (2000, 20000):
        found = record(f"training-batch-{targets}")
        for row in found["table"]:
            rates = (f"{row[name]:,.0f}" for name in ("tokens_per_s", "lowest", "highest"))
            wanted.append(
                [
                    f"{found['machine']['device']}: bundled data, {targets} targets a step",
                    row["variant"],
                    "{} ({} to {})".format(*rates),
                    f"{row['times_padded']:.2f}",
                ]
            )
    scale = record("scale")
    size = f"{scale['ratings']:,} ratings, {scale['items']:,} items"
    minutes = 60 * scale["hours_an_epoch"]
    wanted.append(
        [
            f"{scale['device']}: generated, {size}, 2000 targets a step",
            "packed, bf16",
            f"{scale['tokens_per_s']:,.0f} (an epoch in {minutes:.1f} minutes)",
            "",
        ]
    )
    assert list(csv.reader((FOLDER / "training.csv").read_text().splitlines()))[1:] == wanted
