"""What a model, a data set or a command is called in public: no folders of this machine, no accounts, no keys."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


__all__ = ["is_hub_id", "public_name", "public_record", "public_text"]

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# A relative path of two parts looks like a name on the Hub, but for its ending.
FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|tar|txt|ya?ml|gz|zip|zst|safetensors|bin|pt|db|png|jpe?g)$", re.I)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")

SECRET = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA)[\w-]{8,}")
SECRET_OPTION = re.compile(r"(--?[\w-]*(?:key|token|password|passwd|secret)[\w-]*(?:=|\s+))\S+", re.I)
SECRET_VARIABLE = re.compile(r"(\b\w*(?:KEY|TOKEN|PASSWORD|SECRET)\w*=)\S+")
URL = re.compile(r"\b[a-z][\w+.-]*://[^\s'\"`<>]+", re.I)
# From the root, a home, a drive or where one is; or of three parts and more; or of two that end as a file does.
PATH = re.compile(
    r"(?<![\w:/\\.~<])(?:~[\w.-]*|\.{1,2}|[A-Za-z]:)?[\\/][^\s'\"`|<>,;:]+|\b[\w.@-]+(?:[\\/][\w.@*-]+)+"
)

# Keys of a record of training: what is a path, what was typed as a prompt, and what says where things lay.
PATHS = ("model", "data", "eval_data", "teacher")
PROMPTS = ("instructions", "compression_instruction")
PLACES = ("image_root", "output_dir", "config", "logging_dir", "cache_dir")


def is_hub_id(name: str) -> bool:
    """Whether this is a name on the Hub, `org/name`, and nothing that lies here."""
    return HUB_ID.fullmatch(name) is not None and not FILE.search(name) and not Path(name).exists()


def public_name(name: str) -> str:
    """
    What a model or a data set may be called: a name on the Hub as it is, of a path or an address its last part.

    Args:
        name (`str`): as it was typed, `../home/me/pairs.jsonl` or `https://me:password@host/pairs.jsonl?key=…`.

    Returns:
        `str`: on one line.
    """
    name = CONTROL.sub(" ", name).strip()
    if "://" in name:
        parts = urlsplit(name)
        name = unquote(parts.path).strip("/") or parts.hostname or ""
    elif is_hub_id(name):
        return name
    names = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "~")]
    if names and names[-1] == "..":
        names = [Path(name).resolve().name]
    return SECRET.sub("…", names[-1]) if names else Path(name).expanduser().resolve().name


def public_text(text: str) -> str:
    """A line that may have paths, addresses and keys in it, as a command has, without the parts that are private."""
    text = CONTROL.sub(" ", text)
    text = URL.sub(lambda found: _public_url(found[0]), text)
    text = SECRET.sub("…", SECRET_VARIABLE.sub(r"\1…", SECRET_OPTION.sub(r"\1…", text)))
    return PATH.sub(lambda found: _public_path(found[0]), text)


def public_record(value: Any, key: str = "") -> Any:
    """
    A record of training as it may be published. Those of earlier versions name data by the path that was typed.

    Args:
        value (`Any`): the record, or a part of it.
        key (`str`, *optional*): what the part is called in the record.

    Returns:
        `Any`: the same, with names in place of paths, and without the places where things lay.
    """
    if key in PROMPTS:
        return value
    if isinstance(value, dict):
        return {name: public_record(part, name) for name, part in value.items() if name not in PLACES}
    if isinstance(value, list):
        return [public_record(part, key) for part in value]
    if not isinstance(value, str):
        return value
    if key in PATHS:
        return public_name(value)
    begins_like_a_path = re.match(r"(~|\.{0,2}[\\/]|[A-Za-z]:[\\/]|[a-z][\w+.-]*://)", value)
    return public_name(value) if begins_like_a_path else SECRET.sub("…", value)


def _public_url(url: str) -> str:
    """An address without the account and without what is asked of it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{parts.path.rpartition('/')[2]}".rstrip("/")


def _public_path(path: str) -> str:
    nested = len(re.findall(r"[\\/]+", path)) > 1 or path[0] in "~./\\" or path[1:2] == ":"
    return public_name(path) if nested or FILE.search(path) else path
