"""From raw inputs to predictions with a trained network: preprocessing, tiles, predictor."""
