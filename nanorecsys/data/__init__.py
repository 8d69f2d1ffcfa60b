"""The data chapter: data sets by name or path, their interactions and their splits."""

from nanorecsys.data.errors import DataError
from nanorecsys.data.interactions import Dataset, Histories, Interactions, expand, histories
from nanorecsys.data.load import check_size, load_dataset, load_second, sample_users
from nanorecsys.data.prepared import load_prepared, save_prepared
from nanorecsys.data.registry import DATASETS, DEFAULT_DATASET, SECOND_DATASET
from nanorecsys.data.split import TEST, TRAIN, VALIDATION, Split, global_temporal, leave_one_out
