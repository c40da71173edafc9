"""Tables with a row per example and a column that names its task."""
