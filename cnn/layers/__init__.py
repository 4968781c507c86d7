"""Building blocks that know no model: convolution, normalisation, pooling, dropout. Any spatial rank."""
