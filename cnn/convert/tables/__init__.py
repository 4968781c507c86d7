"""One file per family, named like the file of the family in `cnn.models`; how to write one: `cnn.convert.rules`."""
