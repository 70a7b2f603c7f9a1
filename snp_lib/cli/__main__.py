"""``python -m snp_lib.cli`` is the command ``snp``."""

import sys

from snp_lib.cli import main

sys.exit(main())
