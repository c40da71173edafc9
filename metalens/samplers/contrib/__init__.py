"""Samplers that ask the model; none of them did better than uniform sampling in our runs."""
