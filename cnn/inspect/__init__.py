"""Looking inside a trained network: what it computes, layer by layer, and what each layer responds to."""
