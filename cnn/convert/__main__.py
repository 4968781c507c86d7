"""`python -m cnn.convert` is `cnn convert`."""

import sys

from cnn import cli

if __name__ == "__main__":
    sys.exit(cli.main(["convert", *sys.argv[1:]]))
