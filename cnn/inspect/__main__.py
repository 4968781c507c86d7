"""`python -m cnn.inspect` is `cnn inspect`."""

import sys

from cnn import cli

if __name__ == "__main__":
    sys.exit(cli.main(["inspect", *sys.argv[1:]]))
