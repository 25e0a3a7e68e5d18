"""The commands behind `coma`, a file for each, and the functions behind the commands for Python.

Example:

    >>> from hub_scripts import embed_table, search_index
    >>> embed_table("my-coma", "photos/", "photos.parquet")
    >>> search_index("photos.parquet", "a red bicycle", model="my-coma")
"""

from typing import Any


# Public functions, and the commands that are made of them.
FUNCTIONS = {
    "ask_index": "ask",
    "build_index": "index",
    "convert_model": "convert",
    "convert_to_multi_vector": "convert",
    "create_model": "create",
    "delete_rows": "index",
    "embed_table": "embed",
    "evaluate_model": "evaluate",
    "generate_dialogues": "generate_qa",
    "list_recipes": "recipes",
    "merge_model": "merge",
    "mine_negatives": "mine",
    "open_app": "app",
    "publish_model": "push",
    "search_index": "search",
    "serve_model": "serve",
    "verify_model": "verify",
    "verify_server": "verify",
}

__all__ = list(FUNCTIONS)


def __getattr__(name: str) -> Any:
    from trainers._lazy import lazy  # not before `coma` has looked whether another folder hides `trainers`

    return lazy(__name__, FUNCTIONS)[0](name)


def __dir__() -> list[str]:
    return __all__
