"""The speed of an outer step: MetaLens and other libraries and reference loops, on the same tasks."""
