"""Data sets as uint8 tensors, and augmentation on the device."""

from snp_lib.data.load import DATASETS, LABELS, DataError, Dataset, Split, load

__all__ = ["DATASETS", "LABELS", "DataError", "Dataset", "Split", "load"]
