"""Every result with the inputs that made it."""

from snp_lib.store.disk import OutdatedError as OutdatedError, StoreError as StoreError
from snp_lib.store.make import run as run
from snp_lib.store.runs import (
    Place as Place,
    Run as Run,
    Unit as Unit,
    find as find,
    read as read,
    root as root,
)
