"""`python -m cnn VERB ...`, the same as `cnn VERB ...`."""

import sys

from cnn import cli

if __name__ == "__main__":
    sys.exit(cli.main())
