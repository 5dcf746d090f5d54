"""`sextet data`: list, verify, fetch, adopt."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sextet.data import OPEN, DataError, Passport, adopt, fetch, state, verify
from sextet.recipe import suggestion
from sextet_bench.house import House, all_passports, tables_of_datasets


def act(house: House, action: Literal["list", "verify", "fetch", "adopt"], name: str, folder: Path | None) -> None:
    """Carry out one action and print what came of it.

    Raises:
        DataError: unknown dataset, or what the action itself raises.
    """
    known = all_passports(house, OPEN)
    if action == "list":
        users = tables_of_datasets(house)
        for passport in known.values():
            status = state(passport, house.data_root)
            print(f"{passport.name:16} {status:8} {passport.size:>8}  {passport.title} (licence: {passport.licence})")
            print(f"{'':26}for {', '.join(users.get(passport.name, ['no table']))}")
        return
    passport = _named(known, name)
    if action == "verify":
        print(f"{name}: whole, content {verify(passport, house.data_root)}")
    elif action == "fetch":
        print(f"{name}: in {fetch(passport, house.data_root)}")
    else:
        if folder is None:
            raise DataError("adopt: expected the folder or archive that holds the data after the name")
        print(f"{name}: in {adopt(passport, folder, house.data_root)}")


def _named(known: dict[str, Passport], name: str) -> Passport:
    if name not in known:
        raise DataError(f"unknown dataset {name!r}{suggestion(name, known)}")
    return known[name]
