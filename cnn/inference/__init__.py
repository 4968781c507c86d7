"""From raw inputs to answers with a trained network: preprocessing, tiles, predictor."""
