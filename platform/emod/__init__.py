"""EMOD: one representation of emotional EEG, learned from corpora that disagree.

Import rooms, not this module: ``emod.corpora``, ``emod.shards``, ``emod.model``, ``emod.objective``,
``emod.sampling``. Importing ``emod`` itself costs nothing.
"""

__version__ = "0.1.0"
