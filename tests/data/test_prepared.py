"""A saved data set loads unchanged, and a damaged one is refused. 1 s."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nanorecsys.data import (
    DataError,
    Dataset,
    Split,
    global_temporal,
    leave_one_out,
    load_dataset,
    load_prepared,
    save_prepared,
)

FILES = ("interactions.parquet", "users.parquet", "items.parquet")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Dataset, list[Split]]:
    """The bundled data set, prepared in a folder that does not exist before."""
    data = load_dataset()
    splits = [leave_one_out(data.interactions), global_temporal(data.interactions)]
    save_prepared(tmp_path / "01" / "prepared", data, splits)
    return tmp_path / "01" / "prepared", data, splits


def test_round_trip(saved: tuple[Path, Dataset, list[Split]]) -> None:
    folder, data, splits = saved
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    prepared = load_prepared(folder)
    assert prepared.dataset.name == data.name
    pd.testing.assert_frame_equal(prepared.dataset.users, data.users)
    pd.testing.assert_frame_equal(prepared.dataset.items, data.items)
    assert prepared.dataset.interactions.ids_sha256 == data.interactions.ids_sha256
    for column in ("user", "item", "rating", "timestamp"):
        before, after = (getattr(d.interactions, column) for d in (data, prepared.dataset))
        assert before.dtype == after.dtype
        assert before.flags.writeable
        assert after.flags.writeable
        np.testing.assert_array_equal(before, after)
    assert list(prepared.splits) == ["leave_one_out", "global_temporal"]
    for split in splits:
        assert prepared.splits[split.name].sha256 == split.sha256
        np.testing.assert_array_equal(prepared.splits[split.name].part, split.part)
        assert prepared.splits[split.name].part.dtype == np.int8


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(
    saved: tuple[Path, Dataset, list[Split]], name: str
) -> None:
    path = saved[0] / name
    content = path.read_bytes()
    for damaged in (content[:-10], content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as error:
            load_prepared(saved[0])
        assert error.value.message.startswith(str(path))
        assert "prepare the data again" in error.value.remedy
    path.unlink()
    with pytest.raises(DataError, match="not a whole parquet file") as error:
        load_prepared(saved[0])
    assert error.value.message.startswith(str(path))


def test_a_failed_save_keeps_the_last_one(
    saved: tuple[Path, Dataset, list[Split]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data, splits = saved

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_prepared(folder, data, splits)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert load_prepared(folder).splits["leave_one_out"].sha256 == splits[0].sha256
