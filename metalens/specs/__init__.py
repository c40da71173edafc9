"""Methods as text, such as MAML(inner_lr=0.1), types of settings, and presets for each kind of data."""
