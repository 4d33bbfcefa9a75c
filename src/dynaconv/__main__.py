"""The command line, for ``python -m dynaconv`` and launchers such as torchrun."""

import sys

from dynaconv.cli import main

sys.exit(main())
