"""The checker of signatures: beartype under PEP 484, where an int is a fine float."""

from beartype import BeartypeConf, beartype

__all__ = ["checked"]

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
