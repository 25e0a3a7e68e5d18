"""Publishes a model on the Hub, ready for AutoModel, AutoProcessor and SentenceTransformer (trust_remote_code=True).

FOLDER is a model, or an adapter, which is merged unless --adapter says otherwise. Weights, code, tokenizer, processor,
the files of sentence-transformers, the model card and golden vectors go into one commit. Before anything leaves this
machine, the folder is loaded in a process that has only torch and transformers, and must give the same embeddings.

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
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hub_scripts.arguments import command_parser


if TYPE_CHECKING:
    from torch.nn import Module

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main", "prepare"]

LARGEST_DIFFERENCE = 1e-5  # of the same weights, on the same machine, in another process


def main(argv: list[str]) -> int:
    """Runs `coma push`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.create_pr and (arguments.tag or arguments.revision):
        parser.error("a pull request is neither tagged nor on a branch: leave out --tag and --revision")

    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", arguments.repo):
        raise ValueError(f"{arguments.repo!r} is no name of a repository: give ORG/NAME, or your own name for ORG.")

    from hub_scripts.folders import new_folder

    if arguments.dry_run is not None:
        with new_folder(arguments.dry_run) as folder:
            prepare(arguments, folder)
        sys.stdout.write(_listing(arguments.dry_run) + f"prepared and checked, not sent: {arguments.dry_run}\n")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, arguments.repo.rpartition("/")[2])
        folder.mkdir()
        prepare(arguments, folder)
        _send(arguments, folder)
    return 0


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """
    Writes what is to be published, and proves that it loads.

    Args:
        arguments (`argparse.Namespace`): of the command line.
        folder (`Path`): an empty folder.

    Raises:
        ValueError: if the folder does not load without this package, or embeds differently.
    """
    from hub_scripts.golden import differences, load_cleanly, weight_faults, write_golden

    live, processor = _save_adapter(arguments, folder) if arguments.adapter else _save_whole(arguments, folder)
    write_golden(folder, live, processor, arguments.adapter)
    report = load_cleanly(str(folder), offline=not arguments.adapter)
    wrong = [f"{name} by {distance:.1e}" for name, distance in differences(report) if distance > LARGEST_DIFFERENCE]
    if faults := weight_faults(report) + ([f"other embeddings of {', '.join(wrong)}"] if wrong else []):
        raise ValueError(
            f"Loaded by AutoModel, this would be another model, and is not published: {'; '.join(faults)}"
        )


def _save_whole(arguments: argparse.Namespace, folder: Path) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    from hub_scripts.card import CardSources, write_model_card
    from hub_scripts.loading import is_adapter, load_model
    from hub_scripts.merge import merge

    if is_adapter(arguments.folder):
        model, processor, _, _ = merge(arguments.folder, arguments.base)
    else:
        model, processor = load_model(arguments.folder, device="cpu")
    backbone = model.config.backbone_config
    if Path(backbone._name_or_path).is_absolute():  # where it lay is nobody's business
        backbone._name_or_path = Path(backbone._name_or_path).name
    model.save_pretrained(folder, max_shard_size=arguments.max_shard_size)
    processor.save_pretrained(folder)
    _copy_companions(Path(arguments.folder), folder)
    write_model_card(folder, model, processor, arguments.repo, CardSources.of(arguments))
    return model, processor


def _save_adapter(arguments: argparse.Namespace, folder: Path) -> tuple["Module", "ComaProcessor"]:
    from peft import PeftConfig

    from hub_scripts.card import CardSources, write_model_card
    from hub_scripts.loading import load_adapter, load_processor
    from trainers.adapter_files import complete_adapter, public_base

    config = PeftConfig.from_pretrained(arguments.folder)
    local = config.base_model_name_or_path
    # What the adapter was trained on, if it is still there: the published base must be the same.
    adapted, base = load_adapter(arguments.folder, local if local and Path(local).exists() else arguments.base)
    processor = load_processor(arguments.folder, base)
    published = adapted.peft_config[adapted.active_adapter]
    published.base_model_name_or_path = arguments.base or local
    base = public_base(published)
    adapted.save_pretrained(folder)
    complete_adapter(folder)
    processor.save_pretrained(folder)
    _copy_companions(Path(arguments.folder), folder)
    model = adapted.get_base_model()
    write_model_card(folder, model, processor, arguments.repo, CardSources.of(arguments, adapter_of=base))
    return adapted, processor


def _copy_companions(source: Path, folder: Path) -> None:
    """The files of sentence-transformers, which may hold somebody's prompts, and what training left for the card."""
    from hub_scripts.training_record import TRAINING_FILE

    names = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", TRAINING_FILE)
    for name in names:
        if (source / name).exists():
            shutil.copy(source / name, folder)
    for module in source.glob("[0-9]_*"):  # as "1_Normalize", further modules of sentence-transformers
        shutil.copytree(module, folder / module.name)


def _send(arguments: argparse.Namespace, folder: Path) -> None:
    from hub_scripts.hub import upload

    message = arguments.message or f"Upload {'adapter' if arguments.adapter else 'model'} with coma push"
    commit = upload(
        folder,
        arguments.repo,
        message,
        arguments.private,
        arguments.revision,
        arguments.tag,
        arguments.create_pr,
    )
    sys.stdout.write(_listing(folder))
    revision = arguments.tag or (commit.pr_revision if arguments.create_pr else commit.oid)
    print(f"pushed  {commit.pr_url or commit.commit_url}")
    print(f"check   coma verify {arguments.repo} --revision {revision}")


def _listing(folder: Path) -> str:
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=str)
    return "".join(f"{file.stat().st_size / 1e6:>10.2f} MB  {file.relative_to(folder)}\n" for file in files)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("push", __doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="a model, or an adapter, as training or `coma create` leaves it")
    add("repo", metavar="REPO", help="name on the Hub, ORG/NAME; made if it is not there")
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
