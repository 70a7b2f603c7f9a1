"""Names of things in a hundred languages, as Unicode's CLDR has them in the package babel: which language is this name?

The names are those of territories, languages, currencies, months and days. A name that several languages share stays in each of
them, so that no classifier of names can be perfect: :func:`snp_lib.data.dataset.ceiling` says how far it could get.
"""

from __future__ import annotations

import hashlib

from babel import Locale

from snp_lib.data.dataset import DataError

TRAIN, TEST = 500, 100
"""Names of each language to train on and to test with."""

FAMILIES = {
    "Germanic": "af da de en fy gsw is lb nb nl nn sv",
    "Romance": "ast ca es fr gl it pt rm ro sc vec",
    "Slavic": "be bg bs cs dsb hr hsb mk pl ru sk sl sr uk",
    "Baltic": "lt lv",
    "Celtic": "br cy ga gd",
    "Greek": "el",
    "Albanian": "sq",
    "Armenian": "hy",
    "Indo-Aryan": "bn ccp gu hi ks mr ne or pa si ur",
    "Iranian": "fa ku",
    "Dravidian": "kn ml ta te",
    "Turkic": "az cv kk ky tr ug uz",
    "Mongolic": "mn",
    "Uralic": "et fi hu",
    "Semitic": "am ar he ti",
    "Berber": "kab",
    "Bantu": "sw zu",
    "Igboid": "ig",
    "Austronesian": "fil id ms to",
    "Tai-Kadai": "lo th",
    "Austroasiatic": "vi",
    "Sinitic": "yue zh",
    "Tibeto-Burman": "brx my",
    "Japonic": "ja",
    "Koreanic": "ko",
    "Kartvelian": "ka",
    "Basque": "eu",
    "Tupian": "yrl",
    "Jê": "kgp",
    "constructed": "ia",
}
"""Language families, those of Indo-European and its largest neighbours by branch (after Glottolog), to the codes of their languages.

They are the languages that CLDR names most things in, without those whose names are another's, Norwegian as such and Haitian Creole.
"""

FEW = ("cs", "de", "dsb", "es", "fr", "hsb", "it", "nl", "pl", "pt")
"""Ten of them, of three families, all in Latin script."""


def families() -> dict[str, str]:
    """The family of each language, by its code, codes in order."""
    return dict(sorted((code, family) for family, codes in FAMILIES.items() for code in codes.split()))


def names(code: str) -> tuple[list[str], list[str]]:
    """Names in a language to train on and to test with, by the order of their hash: the split of seed 0.

    Raises:
        DataError: this version of babel has too few names in the language.
    """
    locale = Locale.parse(code)
    every = {
        str(name).strip()
        for table in (locale.territories, locale.languages, locale.currencies)
        for key, name in table.items()
        if key != name
    }
    every |= {
        str(name).strip() for table in (locale.months, locale.days) for form in table.values() for name in form.get("wide", {}).values()
    }
    spelled = (name for name in every if any(character.isalpha() for character in name))
    drawn = sorted(spelled, key=lambda name: hashlib.sha256(f"0 {code} {name}".encode()).digest())[: TRAIN + TEST]
    if len(drawn) < TRAIN + TEST:
        raise DataError(f"cldr: {len(drawn)} names in {code!r}, expected {TRAIN + TEST}: install the version of babel in constraints.txt")
    return drawn[:TRAIN], drawn[TRAIN:]


def title(code: str) -> str:
    """The English name of a language."""
    return str(Locale.parse(code).english_name)
