"""A small page and a JSON end point for a trained model, on this machine."""
