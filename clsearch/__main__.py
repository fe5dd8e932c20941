"""`python -m clsearch`: the command line."""

import sys

from clsearch.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
