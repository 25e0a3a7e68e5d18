"""Publishes a model on the Hub, ready for AutoModel, AutoProcessor and SentenceTransformer (trust_remote_code=True).

FOLDER is a model, or an adapter, which is merged unless --adapter says otherwise. Weights, code, tokenizer, processor,
the files of sentence-transformers, the model card and golden vectors go into one commit; nothing else that lies in the
folder does. What will be sent is listed first. Before anything leaves this machine, it is loaded in a process that has
only torch and transformers, and must give the same embeddings.

  coma push my-coma org/my-coma --license apache-2.0 --tag v1
  coma push outputs/checkpoint-1500 org/my-coma --private --results mmeb.json
  coma push outputs/checkpoint-1500 org/my-coma-adapter --adapter --base org/my-coma
  coma push my-coma org/my-coma --dry-run out             # prepared and checked, and nothing is sent
  coma verify org/my-coma

Interrupted, the same command goes on: weights that have arrived are not sent again. What is sent is prepared in the
temporary folder (TMPDIR), which must have room for the weights.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub_scripts.common.arguments import command_parser
from hub_scripts.common.terminal import flush, one_line


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


__all__ = ["Publication", "main", "publish_model"]

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
NO_PLACE = "a pull request is neither tagged nor on a branch: leave out --tag and --revision"


def main(argv: list[str]) -> int:
    """Runs `coma push`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.create_pr and (arguments.tag or arguments.revision):
        parser.error(NO_PLACE)
    commit = publish_model(**vars(arguments), before_upload=_print_files).commit
    if commit is None:
        print(f"prepared and checked, not sent: {one_line(arguments.dry_run)}")
        return 0
    revision = arguments.tag or (commit.pr_revision if arguments.create_pr else commit.oid)
    print(f"pushed  {one_line(commit.pr_url or commit.commit_url)}")
    print(f"check   coma verify {one_line(arguments.repo_id)} --revision {one_line(revision)}")
    return 0


class Publication(NamedTuple):
    """
    What was published, or prepared for it.

    Args:
        files (`dict[str, int]`): the files of the repository, and their sizes in bytes.
        left_out (`list[str]`): what lies in the folder of the model and does not belong to it.
        commit (`CommitInfo`, *optional*): with `commit_url`, `oid` and `pr_url`; none if nothing was sent.
    """

    files: dict[str, int]
    left_out: list[str]
    commit: "CommitInfo | None" = None


def publish_model(  # noqa: PLR0913 - what can be set
    model: str | Path,
    repo_id: str,
    *,
    adapter: bool = False,
    base: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    results: Sequence[str | Path] = (),
    max_shard_size: str = "5GB",
    dry_run: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    before_upload: Callable[[Publication], None] | None = None,
) -> Publication:
    """
    Publishes a model on the Hub in one commit, after it was loaded in a process that has only torch and transformers.

    Args:
        model (`str` or `Path`): folder of a model or of an adapter, or the name of a model on the Hub.
        repo_id (`str`): `org/name` on the Hub; made if it is not there.
        adapter (`bool`, *optional*, defaults to `False`): publish an adapter as it is, unmerged.
        base (`str`, *optional*): base of an adapter, if it is not where, or what, the adapter says.
        license (`str`, *optional*): for the card, as the Hub names it.
        base_model (`str`, *optional*): backbone on the Hub, for the card; by default what the model was made of.
        results (`Sequence[str | Path]`, *optional*): files of evaluations, for the card.
        max_shard_size (`str`, *optional*, defaults to `"5GB"`): of a file of weights.
        dry_run (`str` or `Path`, *optional*): a folder to be made of what would be sent; then nothing is sent.
        private (`bool`, *optional*, defaults to `False`): whether a new repository is private.
        revision (`str`, *optional*): branch to commit to; made if it is not there.
        tag (`str`, *optional*): name for the commit.
        create_pr (`bool`, *optional*, defaults to `False`): whether to open a pull request instead.
        message (`str`, *optional*): of the commit.
        before_upload (`Callable`, *optional*): gets the [`Publication`] before it is sent, and may raise.

    Returns:
        [`Publication`]

    Raises:
        ValueError: for a name that the Hub does not take, a folder that is no model or leads out of itself, a tag that
            is taken, and a model that does not load without this package or embeds differently then.
        OSError: if the Hub does not do it, with the reason and what can be done.

    Example:

        >>> from hub_scripts.push import publish_model
        >>> published = publish_model("my-coma", "org/my-coma", license="apache-2.0", tag="v1")
        >>> print(published.commit.commit_url, sum(published.files.values()))
    """
    _check_names(repo_id, base_model, license)
    if create_pr and (tag or revision):
        raise ValueError(f"{repo_id}: {NO_PLACE}.")

    from hub_scripts.common.folders import new_folder
    from hub_scripts.hub.model_files import belonging
    from hub_scripts.hub.publish import prepare_model
    from hub_scripts.hub.upload import upload

    with tempfile.TemporaryDirectory() if dry_run is None else new_folder(Path(dry_run)) as prepared:
        folder = Path(prepared)
        card = {"license": license, "base_model": base_model, "results_files": [Path(file) for file in results]}
        left_out = prepare_model(str(model), folder, repo_id, adapter, base, max_shard_size, **card)
        files = {name: path.stat().st_size for name, path in belonging(folder).items()}
        published = Publication(files, left_out)
        if before_upload is not None:
            before_upload(published)
        if dry_run is not None:
            return published
        message = message or f"Upload {'adapter' if adapter else 'model'} with coma push"
        return published._replace(commit=upload(folder, repo_id, message, private, revision, tag, create_pr))


def _check_names(repo_id: str, base_model: str | None, license: str | None) -> None:
    """What can be known to be wrong before anything is loaded."""
    from huggingface_hub.utils import validate_repo_id

    from hub_scripts.hub.public_names import HUB_ID

    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no name of a repository: give ORG/NAME, or your own name for ORG.")
    validate_repo_id(repo_id)
    if base_model and not HUB_ID.fullmatch(base_model):
        raise ValueError(f"--base-model {base_model!r} is no name on the Hub, ORG/NAME, as the card needs it.")
    if license and not LICENSE.fullmatch(license):
        raise ValueError(f"--license {license!r} is no identifier of the Hub, as apache-2.0 or other.")


def _print_files(published: Publication) -> None:
    """What is sent, names and sizes: who sees a file that should not go still has time."""
    for name in published.left_out:
        print(f"{'left out':>13}  {one_line(name)}")
    for name, size in published.files.items():
        print(f"{size / 1e6:>10.2f} MB  {one_line(name)}")
    print(f"{sum(published.files.values()) / 1e6:>10.2f} MB  in {len(published.files)} files")
    flush()


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("push", __doc__)
    add = parser.add_argument
    add("model", metavar="FOLDER", help="a model, or an adapter, as training or `coma create` leaves it")
    add("repo_id", metavar="REPO", help="name on the Hub, ORG/NAME; made if it is not there")
    add("--private", action="store_true", help="a new repository is private")
    add("--revision", metavar="BRANCH", help="branch to commit to; made if it is not there (default: main)")
    add("--tag", help="name for the commit")
    add("--create-pr", action="store_true", help="open a pull request instead of committing")
    add("--message", help="of the commit")
    add("--dry-run", metavar="OUT", type=Path, help="write to this folder what would be sent, and send nothing")
    add("--adapter", action="store_true", help="publish an adapter as an adapter; its base must be on the Hub")
    add("--base", metavar="MODEL", help="base of an adapter, if it is not where, or what, the adapter says")
    add("--max-shard-size", default="5GB", metavar="SIZE", help="of a file of weights (default: %(default)s)")
    add("--license", help="for the card, as the Hub names it: apache-2.0, other …")
    add("--base-model", metavar="NAME", help="backbone on the Hub, for the card (default: what the model was made of)")
    add("--results", nargs="+", type=Path, default=[], metavar="JSON", help="results of evaluations, for the card")
    return parser
