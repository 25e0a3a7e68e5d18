"""Uploads a model to the Hub as one commit, fetches from it, and says in a line what went wrong.

`HfApi.upload_folder` may split a folder into several commits. Here all is in one, so that no revision has the
configuration of one model and the weights of another. Weights go first and are kept by the Hub: after an interruption
those that arrived whole are not sent again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, errors

from hub_scripts.hub.model_files import PATTERNS, belonging, others
from hub_scripts.hub.public_names import public_text


__all__ = ["fetch_model", "upload"]

# What a loader could take for a part of the model. Left behind by an earlier push it would be mixed with this one.
LOADED = ("*.safetensors", "*.bin", "*.json", "*.py", "*.jinja", "*.txt")
# Images that a card shows, besides what belongs to every model.
IMAGES = (".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")
MODULES = "[0-9]_*/*"
AGAIN = "run the command again, what has arrived is not sent again"
LONGEST_WORDS = 200
OFFLINE = "HF_HUB_OFFLINE is set, and what is needed is not in the cache: unset it"
REASONS = {
    400: "the Hub refuses what was sent",
    401: "the Hub does not know you: log in with `hf auth login`, or set HF_TOKEN to a token with write access",
    403: "your token may not do this: it needs write access to the repository, or to its organisation to create it",
    404: "there is no such repository or revision, or it is private and your token does not show it",
    409: "the Hub is busy with another change of this repository: run the command again",
    412: f"somebody has committed to the repository in the meantime, and nothing was changed: {AGAIN}",
    429: f"the Hub asks to be asked less often: wait a few minutes and {AGAIN}",
}
OF_THE_CLIENT = {
    errors.LocalTokenNotFoundError: REASONS[401],
    errors.OfflineModeIsEnabled: OFFLINE,
    errors.LocalEntryNotFoundError: OFFLINE,
}


def upload(
    folder: Path,
    repo_id: str,
    message: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """
    Makes a repository hold the model of a folder. Files that a model is not loaded from stay in it.

    Args:
        folder (`Path`): of a model, with nothing else in it but images for the card.
        repo_id (`str`): name on the Hub; the repository is made if it is not there.
        message (`str`): of the commit.
        private (`bool`, *optional*, defaults to `False`): whether a new repository is private.
        revision (`str`, *optional*): branch; it is made if it is not there.
        tag (`str`, *optional*): name for the commit.
        create_pr (`bool`, *optional*, defaults to `False`): whether to open a pull request instead.

    Returns:
        `CommitInfo`

    Raises:
        ValueError: for a tag that is taken, a repository that is public where a private one is asked for, and a file
            that does not belong to a model or is a link that leads elsewhere.
        OSError: if the Hub does not do it, with the reason and what can be done.
    """
    api, paths = HfApi(), _to_be_sent(folder)
    with _in_a_line(repo_id, api.endpoint):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _check(api, repo_id, private, tag)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.repo_info(repo_id, revision=revision)
        old = {item.rfilename for item in info.siblings or []} - paths.keys()
        operations = [CommitOperationDelete(name) for name in sorted(old) if any(fnmatch(name, p) for p in LOADED)]
        operations += [CommitOperationAdd(name, path) for name, path in paths.items()]
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,  # a model that somebody else pushes meanwhile is not overwritten unseen
        )
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit


def _check(api: HfApi, repo_id: str, private: bool, tag: str | None) -> None:
    if private and not api.repo_info(repo_id).private:
        raise ValueError(f"{repo_id} is there already and is public; --private only makes new repositories private.")
    if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repo_id).tags}:
        raise ValueError(f"{repo_id} has a tag {tag} already, and tags are not moved: choose another.")


def fetch_model(repo_id: str, revision: str | None = None, names: Sequence[str] = (*PATTERNS, MODULES)) -> Path:
    """
    Fetches the files of a model on the Hub.

    Args:
        repo_id (`str`): name on the Hub.
        revision (`str`, *optional*): branch, tag or commit.
        names (`Sequence[str]`, *optional*): of the files, or patterns of them.

    Returns:
        `Path`: their folder in the cache, which is called as the commit.

    Raises:
        OSError: if the Hub does not give them, with the reason and what can be done.
    """
    api = HfApi()
    with _in_a_line(repo_id, api.endpoint):
        return Path(api.snapshot_download(repo_id, revision=revision, allow_patterns=list(names)))


def _to_be_sent(folder: Path) -> dict[str, Path]:
    paths = belonging(folder)
    strangers = others(folder, paths)
    for name in [name for name in strangers if name.lower().endswith(IMAGES)]:
        path = folder / name
        if "/" not in name and not name.startswith(".") and path.is_file() and not path.is_symlink():
            paths[name] = path
            strangers.remove(name)
    if strangers:
        raise ValueError(f"{folder} has files that belong to no model, and is not published: {', '.join(strangers)}.")
    return paths


@contextmanager
def _in_a_line(repo_id: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except (errors.HTTPError, OSError, RuntimeError) as error:
        raise OSError(f"{repo_id}: {_reason(error, endpoint)}") from error


def _reason(error: BaseException, endpoint: str) -> str:
    """What happened and what can be done, in a sentence."""
    if error.__cause__ and isinstance(error, errors.LocalEntryNotFoundError | RuntimeError):
        # Of a download, the error is the cause; uploads run in threads, whose errors arrive as causes, too.
        return _reason(error.__cause__, endpoint)
    if isinstance(error, errors.HfHubHTTPError):
        return f"{_refusal(error, error.response.status_code)}."
    if sentence := next((said for kind, said in OF_THE_CLIENT.items() if isinstance(error, kind)), None):
        return f"{sentence}."
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"  # of this machine
    if isinstance(error, PermissionError):  # of the storage, whose errors have no numbers
        return f"{REASONS[403]} ({_words(error)})."
    return f"the connection to {endpoint} broke or never came about ({_words(error)}): {AGAIN}."


def _refusal(error: errors.HfHubHTTPError, status: int) -> str:
    if isinstance(error, errors.GatedRepoError):
        return f"who wants to load it must ask for access on its page, and be logged in (HTTP {status})"
    if isinstance(error, errors.RepositoryNotFoundError):  # which may be a 401 to who is not logged in
        return f"{REASONS[404]} (HTTP {status})"
    at_fault = f"the Hub has a fault of its own: {AGAIN}" if status >= 500 else "the Hub refuses"
    said = f": {_words(error.server_message)}" if error.server_message else ""
    return f"{REASONS.get(status, at_fault)} (HTTP {status}{said})"


def _words(said: object) -> str:
    """What a library of others said, on a line, without keys that may stand in its addresses."""
    words = public_text(" ".join(str(said).split())) or type(said).__name__
    return words if len(words) <= LONGEST_WORDS else f"{words[:LONGEST_WORDS]}…"
