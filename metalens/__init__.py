"""MetaLens: meta-learning as a function from a task to a model, with relation-aware regularization.

The public names stand in `__init__.pyi`; each is imported when it is first used, as PyTorch takes seconds.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
