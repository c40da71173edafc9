"""The speed of an outer step: MetaLens beside other libraries and reference loops, on the same tasks."""
