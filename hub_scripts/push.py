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
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import command_parser
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from torch.nn import Module

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main", "prepare"]

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# Of a saved folder, what may name files of this machine. (The base of an adapter has been checked to be on the Hub.)
CONFIGS = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json")
NAMES_A_FILE = re.compile(r"(.*_)?(name_or_path|file)")


def main(argv: list[str]) -> int:
    """Runs `coma push`; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.create_pr and (arguments.tag or arguments.revision):
        parser.error("a pull request is neither tagged nor on a branch: leave out --tag and --revision")
    _check(arguments)

    from hub_scripts.common.folders import new_folder

    if arguments.dry_run is not None:
        with new_folder(arguments.dry_run) as folder:
            prepare(arguments, folder)
            sys.stdout.write(_listing(folder))
        sys.stdout.write(f"prepared and checked, not sent: {arguments.dry_run}\n")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, arguments.repo.rpartition("/")[2])
        folder.mkdir()
        prepare(arguments, folder)
        sys.stdout.write(_listing(folder))
        sys.stdout.flush()  # who sees a file that should not go still has time
        _send(arguments, folder)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """What can be known to be wrong before anything is loaded."""
    from huggingface_hub.utils import validate_repo_id

    from hub_scripts.hub.public_names import HUB_ID

    if arguments.repo.count("/") != 1:
        raise ValueError(f"{arguments.repo!r} is no name of a repository: give ORG/NAME, or your own name for ORG.")
    validate_repo_id(arguments.repo)
    if arguments.base_model and not HUB_ID.fullmatch(arguments.base_model):
        raise ValueError(
            f"--base-model {arguments.base_model!r} is no name on the Hub, ORG/NAME, as the card needs it."
        )
    if arguments.license and not LICENSE.fullmatch(arguments.license):
        raise ValueError(f"--license {arguments.license!r} is no identifier of the Hub, as apache-2.0 or other.")


def prepare(arguments: argparse.Namespace, folder: Path) -> None:
    """
    Writes what is to be published, and proves that it loads.

    Args:
        arguments (`argparse.Namespace`): of the command line.
        folder (`Path`): an empty folder.

    Raises:
        ValueError: if the folder does not load without this package, or embeds differently, and for a link in FOLDER
            that leads out of it.
    """
    from hub_scripts.hub.golden import RELOADED, differences, load_cleanly, weight_faults, write_golden
    from hub_scripts.hub.model_files import belonging
    from hub_scripts.hub.public_names import HUB_ID
    from hub_scripts.hub.upload import fetch_model

    if not Path(arguments.folder).exists() and HUB_ID.fullmatch(arguments.folder):
        arguments.folder = str(fetch_model(arguments.folder))
    if not Path(arguments.folder).is_dir():
        raise ValueError(f"{arguments.folder} is neither a folder nor a model on the Hub.")
    belonging(Path(arguments.folder), linked_weights=True)  # before anything is read through a link that leads out
    with _space_for(folder):
        live, processor = _save_adapter(arguments, folder) if arguments.adapter else _save_whole(arguments, folder)
        write_golden(folder, live, processor, arguments.adapter)
    report = load_cleanly(str(folder), offline=not arguments.adapter)
    wrong = [f"{name} by {far:.1e}" for name, far in differences(report).items() if far > RELOADED]
    if faults := weight_faults(report) + ([f"other embeddings of {', '.join(wrong)}"] if wrong else []):
        raise ValueError(
            f"Loaded by AutoModel, this would be another model, and is not published: {'; '.join(faults)}"
        )


def _save_whole(arguments: argparse.Namespace, folder: Path) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    from hub_scripts.common.loading import is_adapter, load_model
    from hub_scripts.hub.card import CardSources, write_model_card
    from hub_scripts.merge import merge

    if is_adapter(arguments.folder):
        model, processor, _, _ = merge(arguments.folder, arguments.base)
    else:
        model, processor = load_model(arguments.folder, device="cpu")
    model.save_pretrained(folder, max_shard_size=arguments.max_shard_size)
    processor.save_pretrained(folder)
    _hide_paths(folder)
    _copy_companions(Path(arguments.folder), folder)
    write_model_card(folder, model, processor, arguments.repo, CardSources.of(arguments))
    return model, processor


def _save_adapter(arguments: argparse.Namespace, folder: Path) -> tuple["Module", "ComaProcessor"]:
    from peft import PeftConfig

    from hub_scripts.common.loading import load_adapter, load_processor
    from hub_scripts.hub.card import CardSources, write_model_card
    from trainers.adapters import complete_adapter, public_base

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
    _hide_paths(folder)
    _copy_companions(Path(arguments.folder), folder)
    model = adapted.get_base_model()
    write_model_card(folder, model, processor, arguments.repo, CardSources.of(arguments, adapter_of=base))
    return adapted, processor


def _copy_companions(source: Path, folder: Path) -> None:
    """
    The files of sentence-transformers, which may hold somebody's prompts, and of the modules that they name; a
    licence; and what training left for the card, without paths. What else lies there is named.
    """
    from hub_scripts.hub.model_files import SENTENCE_TRANSFORMERS_FILES, belonging, module_folders, others
    from hub_scripts.hub.training_record import read_training_record, write_stages

    names, modules = belonging(source, linked_weights=True), module_folders(source)
    for name, path in names.items():
        is_of_a_module = name.partition("/")[0] in modules
        if is_of_a_module or name in SENTENCE_TRANSFORMERS_FILES or name.startswith(("LICENSE", "NOTICE")):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
    if (stages := read_training_record(source)) is not None:
        write_stages(folder, stages)
    for name in others(source, names):
        sys.stdout.write(f"{'left out':>13}  {one_line(name)}\n")


def _hide_paths(folder: Path) -> None:
    """Where on this machine a model was made is nobody's business: of paths in its JSON files, the name stays."""
    from hub_scripts.hub.public_names import public_name

    def hidden(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: hidden(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [hidden(part, key) for part in value]
        return public_name(value) if isinstance(value, str) and value and NAMES_A_FILE.fullmatch(key) else value

    for file in (folder / name for name in CONFIGS):
        if file.exists():
            content = json.loads(file.read_text(encoding="utf-8"))
            if hidden(content) != content:
                text = json.dumps(hidden(content), indent=2, ensure_ascii=False)
                file.write_text(f"{text}\n", encoding="utf-8")


@contextmanager
def _space_for(folder: Path) -> Iterator[None]:
    """Says in a line what safetensors says of a full disk."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise OSError(f"The weights cannot be read, or cannot be written to {folder.parent}: {error}") from error


def _send(arguments: argparse.Namespace, folder: Path) -> None:
    from hub_scripts.hub.upload import upload

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
    revision = arguments.tag or (commit.pr_revision if arguments.create_pr else commit.oid)
    print(f"pushed  {commit.pr_url or commit.commit_url}")
    print(f"check   coma verify {arguments.repo} --revision {revision}")


def _listing(folder: Path) -> str:
    """What is sent: names and sizes."""
    from hub_scripts.hub.model_files import belonging

    sizes = {name: path.stat().st_size for name, path in belonging(folder).items()}
    lines = [f"{size / 1e6:>10.2f} MB  {one_line(name)}\n" for name, size in sizes.items()]
    return "".join([*lines, f"{sum(sizes.values()) / 1e6:>10.2f} MB  in {len(sizes)} files\n"])


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
