"""`python -m cnn.data` is `cnn data`."""

import sys

from cnn import cli

if __name__ == "__main__":
    sys.exit(cli.main(["data", *sys.argv[1:]]))
