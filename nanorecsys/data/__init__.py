"""The data chapter: data sets by name or path, their interactions, splits and what describes them."""

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Histories, Interactions, expand, histories
from nanorecsys.data.load import DEFAULT_DATASET, load_dataset
from nanorecsys.data.prepared import Prepared, load_prepared, save_prepared
from nanorecsys.data.registry import DATASETS, Published
from nanorecsys.data.sample import sample_users
from nanorecsys.data.split import (
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    global_temporal,
    leave_one_out,
    warm,
)

__all__ = [
    "DATASETS",
    "DEFAULT_DATASET",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "DataError",
    "Dataset",
    "Histories",
    "Interactions",
    "Prepared",
    "Published",
    "Split",
    "expand",
    "global_temporal",
    "histories",
    "leave_one_out",
    "load_dataset",
    "load_prepared",
    "sample_users",
    "save_prepared",
    "warm",
]
