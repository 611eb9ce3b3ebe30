"""`python -m jaxql` is `jaxql`."""

import sys

from jaxql.cli import main

sys.exit(main())
