"""Uploads a folder to the Hub as one commit, and says in a line what went wrong.

`HfApi.upload_folder` may split a folder into several commits. Here all is in one, so that no revision has the
configuration of one model and the weights of another. Weights go first and are kept by the Hub: after an interruption
those that arrived whole are not sent again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError


__all__ = ["upload"]

# What a loader could take for a part of the model. Left behind by an earlier push it would be mixed with this one.
LOADED = ("*.safetensors", "*.bin", "*.json", "*.py", "*.jinja", "*.txt")
AGAIN = "run the command again, what has arrived is not sent again"
REASONS = {
    400: "the Hub refuses what was sent",
    401: "the Hub does not know you: log in with `hf auth login`, or set HF_TOKEN to a token with write access",
    403: "your token may not do this: it needs write access to the repository, or to its organisation to create it",
    404: "there is no such repository or revision, or it is private and your token does not show it",
    409: "the Hub is busy with another change of this repository: run the command again",
    412: f"somebody has committed to the repository in the meantime, and nothing was changed: {AGAIN}",
    429: f"the Hub asks to be asked less often: wait a few minutes and {AGAIN}",
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
        folder (`Path`): everything in it is uploaded.
        repo_id (`str`): name on the Hub; the repository is made if it is not there.
        message (`str`): of the commit.
        private (`bool`, *optional*, defaults to `False`): whether a new repository is private.
        revision (`str`, *optional*): branch; it is made if it is not there.
        tag (`str`, *optional*): name for the commit.
        create_pr (`bool`, *optional*, defaults to `False`): whether to open a pull request instead.

    Returns:
        `CommitInfo`

    Raises:
        ValueError: for a tag that is taken, and a repository that is public where a private one is asked for.
        OSError: if the Hub does not do it, with the reason and what can be done.
    """
    api = HfApi()
    with _in_a_line(repo_id, api.endpoint):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        _check(api, repo_id, private, tag)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        info = api.repo_info(repo_id, revision=revision)
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
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


@contextmanager
def _in_a_line(repo_id: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OSError(f"{repo_id}: {REASONS[401]}.") from error
    except (HTTPError, RuntimeError) as error:
        # Uploads run in threads, whose errors arrive as the cause of a RuntimeError.
        cause = error if isinstance(error, HTTPError) else error.__cause__ or error
        raise OSError(f"{repo_id}: {_reason(cause, endpoint)}") from error


def _reason(error: BaseException, endpoint: str) -> str:
    if not isinstance(error, HfHubHTTPError):
        what = str(error) or type(error).__name__
        return f"the connection to {endpoint} broke or never came about ({what}): {AGAIN}."
    status, said = error.response.status_code, error.server_message or ""
    reason = REASONS.get(status, f"the Hub has a fault of its own: {AGAIN}" if status >= 500 else "the Hub refuses")
    return f"{reason} (HTTP {status}{': ' + ' '.join(said.split()) if said else ''})."
