"""Tables: one task per value of a column, examples by row."""
