"""Methods as text, such as MAML(inner_lr=0.1), and their usual settings on each kind of data."""
