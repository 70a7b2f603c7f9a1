"""Names of sites, the places in a network where features are read: ``block3.ff`` is of encoder 3 and of the kind ff."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def split_site(site: str) -> tuple[int, str]:
    """``block3.ff`` to ``(3, "ff")``, ``block3`` to ``(3, "block")`` and ``stem``, what the first block reads, to ``(0, "block")``."""
    if site == "stem":
        return 0, "block"
    block, _, kind = site.removeprefix("block").partition(".")
    return int(block), kind or "block"


def chosen_sites(sites: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The sites asked for, in the order of the forward pass; raises ValueError for an unknown one."""
    wanted, available = set(sites or ()), list(known)
    if unknown := sorted(wanted.difference(available)):
        raise ValueError(f"unknown site {unknown[0]!r}; this model has {', '.join(available)}")
    return [site for site in available if site in wanted]
