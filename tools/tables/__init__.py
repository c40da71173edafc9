"""The benchmark "a few rows of a new group": MetaLens beside what people would use in its place."""
