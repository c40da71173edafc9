"""Samplers that evaluate the model; none of them did better than uniform sampling in our experiments."""
