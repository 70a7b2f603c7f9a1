"""Data sets as uint8 tensors, and augmentation on the device."""

from snp_lib.data.load import DATASETS, DataError, Dataset, Split, load

__all__ = ["DATASETS", "DataError", "Dataset", "Split", "load"]
