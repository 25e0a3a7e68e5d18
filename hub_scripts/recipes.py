"""Lists the recipes that come with the package, or prints one: settings for `coma pretrain` and `coma finetune`.

A recipe is a YAML file with a line for each setting. It is used by its name, and what is given on the command line
goes first; or it is printed to a file, and changed there.

  coma recipes
  coma recipes pairs-finetune
  coma recipes pairs-finetune > my.yaml
  coma finetune --config my.yaml
  coma finetune --config emoji-finetune --model my-coma --max_steps 50

Recipes for large models on several GPUs say so, and which lines to change elsewhere.
"""

import argparse
import sys
from pathlib import Path

from hub_scripts.common.arguments import command_parser, did_you_mean


__all__ = ["FOLDER", "list_recipes", "main"]

FOLDER = Path(__file__).with_name("recipes")


def main(argv: list[str]) -> int:
    """Runs `coma recipes`; returns the exit code."""
    parser = _parser()
    name, recipes = parser.parse_args(argv).name, list_recipes()
    if name is None:
        width = max(map(len, recipes))
        sys.stdout.writelines(f"{name:<{width}}  {_first_line(path)}\n" for name, path in recipes.items())
        return 0
    if name not in recipes:
        parser.error(f"there is no recipe {name!r}{did_you_mean(name, recipes)} There are {', '.join(recipes)}")
    sys.stdout.write(recipes[name].read_text(encoding="utf-8"))
    return 0


def list_recipes(command: str | None = None) -> dict[str, Path]:
    r"""
    The recipes that come with the package, as `coma recipes` lists them.

    Args:
        command (`str`, *optional*): `"pretrain"` or `"finetune"`, for those of one stage; by default all.

    Returns:
        `dict[str, Path]`: the file of each, by its name.

    Example:

        >>> list_recipes("finetune")["pairs-finetune"].read_text()
    """
    return {path.stem: path for path in sorted(FOLDER.glob(f"*-{command or '*'}.yaml"))}


def _first_line(path: Path) -> str:
    """What a recipe begins with: a sentence about it."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("recipes", __doc__)
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe to be printed (default: all are listed)")
    return parser
