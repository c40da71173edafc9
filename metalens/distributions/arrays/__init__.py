"""Arrays of any shape, time series, and views of objects."""
