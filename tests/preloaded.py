"""The last module that the server of `running.py` imports: what each forked command would do again.

All of them run the code of this tree, so its hash is taken once. What is there by now is never garbage, and a
collection that looks through it takes up to a second of a core: theirs look through their own objects alone.
"""

import functools
import gc

from reid.config.schema import register
from reid.tracking import sources

register()
sources.tree_hash = functools.cache(sources.tree_hash)
sources.code()
gc.collect()
gc.freeze()
