"""`python -m cnnrs`: the command line."""

import sys

from cnnrs.cli import main

if __name__ == "__main__":
    sys.exit(main())
