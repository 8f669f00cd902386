"""The models of this machine: those that ship and the user's own; found, written, removed.

The user's own lie in a folder of their own, each in a folder of its name or in a zip of it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from deepscan.errors import ModelError, OutputError, UsageError, system_errors_as
from deepscan.files import sync
from deepscan.models.card import FOLDER, NAME, SUFFIXES, Card, Member, card_at

VARIABLE = "DEEPSCAN_MODELS"
_PART = ".part"  # ends the name of a folder that is being written


def models_folder() -> Path:
    """Where the user's own models lie; it need not exist.

    It is what the environment variable DEEPSCAN_MODELS names, else `deepscan/models` in the
    platform's folder for data of programs.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Application Support"
    else:
        root = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return root / "deepscan" / "models"


def read_card(model: str, folder: Path | None = None) -> Card:
    """Find a model's card; cheap, reads neither weights nor torch.

    Args:
        model: the name of a model that ships or lies in the user's folder; or the path of a folder,
            zip or card, which holds a separator or ends in .zip or .json.
        folder: where to look for a name, in place of these.

    Raises:
        ModelError: there is no such model, or its card is damaged.
    """
    if is_path(model):
        return _card_of(Path(model))
    if NAME.fullmatch(model) is None:
        raise ModelError(
            f"no model can be called {model!r}: give the name of one, or a path such as ./{model}"
        )
    places = (FOLDER, models_folder()) if folder is None else (folder,)
    for place in places:
        if (card := _card_in(place, model)) is not None:
            return card
    there = ", ".join(sorted({card.name for card in _cards(places)})) or "none"
    where = places[-1] if folder is not None else f"deepscan or in {places[-1]}"
    near = f"; for the one in this folder give ./{model}" if Path(model).exists() else ""
    raise ModelError(f"no model {model!r} with weights in {where}; there is: {there}{near}")


def is_path(model: str) -> bool:
    """Whether a text means a place and not a name."""
    separators = {os.sep, os.altsep} - {None}
    return any(sep in model for sep in separators if sep) or model.endswith((".zip", ".json"))


def list_cards() -> tuple[tuple[Card, bool], ...]:
    """Every model that a name finds, with whether it ships; damaged ones are left out."""
    shipped = {card.name: (card, True) for card in _cards((FOLDER,))}
    own = {card.name: (card, False) for card in _cards((models_folder(),))}
    return tuple({**own, **shipped}.values())


def save_model(
    name: str, values: Mapping[str, Any], weights: bytes, *, force: bool = False
) -> Card:
    """Write a model into the user's folder: whole, or not at all.

    Args:
        name: what it will be called.
        values: the card's JSON, with the `sha256` of the weights; the name is added.
        weights: the bytes of the weights file.
        force: take the place of a model of that name.

    Raises:
        UsageError: the name cannot be, is taken, or is that of a model that ships.
        OutputError: the disk is full, or the folder may not be written.
        ModelError: the values are no card.
    """
    target = models_folder() / name
    check_name(name, force=force)
    part = target.with_name(f".{name}.{secrets.token_hex(4)}{_PART}")
    try:
        with system_errors_as(OutputError, f"the model {target} cannot be written"):
            part.mkdir(parents=True, mode=0o755)
            path = part / f"{name}{SUFFIXES[values.get('kind', 'network')]}"
            path.write_bytes(weights)
            text = json.dumps({**values, "name": name}, indent=1, sort_keys=True, allow_nan=False)
            (part / f"{name}.json").write_text(text + "\n", "utf-8")
            card_at(part / f"{name}.json", name)
            for written in (path, part / f"{name}.json", part):
                sync(written)
            old = part.with_name(f"{part.name}.old{_PART}")
            if target.exists():
                target.rename(old)
            part.rename(target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return read_card(name, target.parent)


def check_name(name: str, *, force: bool = False) -> None:
    """See that a model may be written under a name.

    Raises:
        UsageError: it may not; says why.
    """
    if NAME.fullmatch(name) is None or name.endswith((".zip", ".json")):
        raise UsageError(f"no model can be called {name!r}: give letters, digits and . _ - only")
    if (FOLDER / f"{name}.json").exists():
        raise UsageError(f"{name} is a model that ships with deepscan: give another name")
    target = models_folder() / name
    if target.with_name(f"{name}.zip").exists() or (target.exists() and not force):
        raise UsageError(f"a model {name} is there already: give another name, or --force")


def remove_model(name: str) -> Path:
    """Remove a model from the user's folder; gives what was removed.

    Raises:
        UsageError: it ships with deepscan, or there is no such model.
        OutputError: it cannot be removed.
    """
    if NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name of a model: `deepscan model list` names those here")
    folder = models_folder()
    for path in (folder / name, folder / f"{name}.zip"):
        if path.exists():
            with system_errors_as(OutputError, f"{path} cannot be removed"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            return path
    ships = (FOLDER / f"{name}.json").exists()
    why = "ships with deepscan and stays" if ships else f"does not lie in {folder}"
    raise UsageError(f"the model {name} {why}: `deepscan model list` names those here")


def _card_in(folder: Path, name: str) -> Card | None:
    """The card of a name in a folder of models: by itself, in a folder of its own, or in a zip."""
    for path in (folder / name / f"{name}.json", folder / f"{name}.json"):
        if path.is_file():
            return card_at(path, name)
    packed = folder / f"{name}.zip"
    return _card_of(packed) if packed.is_file() else None


def _cards(folders: tuple[Path, ...]) -> Iterator[Card]:
    for folder in folders:
        names = {path.stem for path in folder.glob("*.json")}
        names |= {path.name for path in folder.glob("*/") if (path / f"{path.name}.json").is_file()}
        names |= {path.stem for path in folder.glob("*.zip")}
        for name in sorted(each for each in names if NAME.fullmatch(each)):
            try:
                card = _card_in(folder, name)
            except ModelError:
                continue
            if card is not None:
                yield card


def _card_of(path: Path) -> Card:
    """The card that lies at a path: a folder, a zip, or the card itself."""
    try:
        if path.is_dir():
            found = _only_card(path)
        elif path.suffix == ".zip":
            file = zipfile.ZipFile(path)
            outside = [name for name in file.namelist() if ".." in PurePosixPath(name).parts]
            if outside:
                raise ModelError(f"{path} is no model: it names a file outside of it, {outside[0]}")
            packed = zipfile.Path(file)
            inner = [each for each in packed.iterdir() if each.is_dir()]
            found = _only_card(inner[0] if len(inner) == 1 and not _jsons(packed) else packed)
        elif path.suffix == ".json":
            found = path
        else:
            raise ModelError(f"{path} is no model: give a folder, a zip of it, or the card in it")
        return card_at(found, found.name.removesuffix(".json"))
    except FileNotFoundError:
        raise ModelError(f"no model at {path}: there is no such file or folder") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"the model {path} cannot be read: {error}") from error


def _jsons(folder: Member) -> list[Member]:
    return [each for each in folder.iterdir() if each.name.endswith(".json")]


def _only_card(folder: Member) -> Member:
    cards = _jsons(folder)
    if len(cards) != 1:
        raise ModelError(
            f"{folder} holds {len(cards)} cards (.json): a model's folder has one, beside its "
            "weights. For the weights themselves run: deepscan model import"
        )
    return cards[0]
